//! Rigs that try to break the content interpreter: killed at every system call, failed by every
//! call, cut off from its power, read from and written to while it swaps.
//!
//! In reading order: [`tree`] and [`shapes`] (what is published), [`publisher`] (the CCM's side, with
//! its real builder), [`site`] (a hosted site in a directory of its own), [`step`] (one operation of
//! the interpreter, in this process or in one that may be killed), [`strace`] (how it is killed and
//! failed), [`operation`] (what is interrupted, and what must be true afterwards); then the campaigns:
//! [`kill`], [`failing`], [`lost`], [`readers`], [`uploads`], [`power`], [`speed`].
//!
//! Never part of the product.

pub mod error;
pub mod failing;
pub mod kill;
pub mod lost;
pub mod operation;
pub mod power;
pub mod publisher;
pub mod readers;
pub mod shapes;
pub mod site;
pub mod speed;
pub mod step;
pub mod strace;
pub mod tree;
pub mod uploads;
