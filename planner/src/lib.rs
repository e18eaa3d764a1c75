//! Who copies what from whom over the WAN, and how fast (001; the store-and-forward tree of 002).
//!
//! In: the network with its capacities, what each site wants and holds, which grants stand, and the
//! time. Out: grants, each for one source, one destination, some chunks of one object, one rate and
//! a time at which it ends by itself. Holds: no resource is ever booked over its capacity, and the
//! same inputs give the same plan.
//!
//! Absences: no clock, no sockets, no files, no chance. A driver reports what sites say, asks for a
//! plan, tells the sites, and decides nothing.
//!
//! In reading order: what there is ([`network`], [`calendar`]), what is wanted ([`demand`],
//! [`chunks`]), what may be used ([`ledger`], [`faults`]), what is allowed ([`grant`]), how a plan is
//! made ([`policy`], [`cost`], `rates`, `forest`, `mesh`, [`plan`], [`issue`]), 002's tree
//! ([`tree`]), what a leader chooses itself ([`pick`]), and who looks over the planner's shoulder
//! ([`check`]).

pub mod calendar;
pub mod check;
pub mod chunks;
pub mod cost;
pub mod demand;
pub mod faults;
mod forest;
pub mod grant;
pub mod issue;
pub mod ledger;
mod mesh;
pub mod network;
pub mod pick;
pub mod plan;
pub mod policy;
mod rates;
pub mod tree;
