//! The web console: its files, built into the program.
use std::borrow::Cow;
/// The console's files.
#[must_use]
pub fn asset(_path: &str) -> Option<(Cow<'static, [u8]>, &'static str)> {
    None
}
