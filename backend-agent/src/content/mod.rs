//! The content interpreter.
