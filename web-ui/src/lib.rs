//! The administrator's console, embedded
