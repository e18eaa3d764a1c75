//! A back-end server: the content interpreter and the member side of the LAN protocols.

pub mod content;
