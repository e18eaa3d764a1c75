//! What the content interpreter promises, on real directories.

mod audit;
mod bad_input;
mod crash;
mod excluded;
mod fixture;
mod hostile;
mod leftover;
mod lone;
mod publish;
mod references;
mod try_out;
mod undo;
