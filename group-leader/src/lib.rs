//! The group leader: its connection to the content control manager, store-and-forward between
//! leaders, and the sending side of multicast sessions.
//!
//! In reading order: [`uplink`] (the control connection), [`forward`] (which object to get from
//! whom and whom to serve next), [`audience`] (which members still need it), [`distribute`] (one
//! multicast session on the data channel).
//!
//! Absences: no content is ever read here; a leader carries assignments and cannot alter them.

pub mod audience;
pub mod distribute;
pub mod forward;
pub mod uplink;
