//! A whole fleet on this machine.
use std::path::PathBuf;
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) dir: Option<PathBuf>,
    pub(crate) segments: u8,
    pub(crate) servers: u8,
    pub(crate) once: bool,
    pub(crate) json: bool,
}
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error("this build has no demonstration")]
    Missing,
}
pub(crate) async fn run(_plan: Plan) -> Result<(), DemoError> {
    Err(DemoError::Missing)
}
