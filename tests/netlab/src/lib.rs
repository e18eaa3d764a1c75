//! A test network of namespaces: one content control manager (CCM), segments of servers, a WAN
//! between them; and a farm of real processes on it.
//!
//! ```text
//!            [ccm] 10.77.0.2
//!              |
//!            [wan]                      routes between the CCM and the segments
//!            /    \
//!         [s1]    [s2]                  one router per segment: its interface `wan0` is the
//!         /  \    /  \                  segment's WAN link, its bridge `lan0` the segment's LAN
//!    [s1w1][s1w2][s2w1][s2w2]           servers, 10.77.<segment>.<10 + server>
//! ```
//! Each name in brackets is a namespace; nothing is added to the machine's own network. Multicast
//! stays in its segment, because the routers forward only unicast. Links are slowed by `tbf`,
//! multicast is lost by nftables, and every link has counters.
//!
//! [`lab`] is the network, [`multicast`] what it does not carry, [`farm`] the processes on it, [`hammer`] the
//! visitors of the pages, [`hold`] what holds their hooks up, [`wait`] how tests wait, [`moment`] what logs tell of time.
//! The crate knows the product only by its command line.

pub mod address;
mod command;
pub mod farm;
pub mod hammer;
pub mod hold;
pub mod lab;
pub mod moment;
pub mod multicast;
pub mod process;
pub mod releases;
pub mod trees;
pub mod wait;

pub use address::{Host, Rate};
pub use command::LabError;
pub use lab::{Counters, Lab, Spec};
pub use multicast::Cut;
