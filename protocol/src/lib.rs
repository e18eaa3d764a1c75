//! The LAN protocols as pure state machines: election, registration, multicast session, report collection
