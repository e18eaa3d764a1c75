//! From a staging tree to an assignment.
