//! Files that only their owner may read, written whole or not at all.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::TrustError;

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> TrustError + 'a {
    move |source| TrustError::File { doing, path: path.to_owned(), source }
}

/// Makes a directory that only its owner enters; one that is there is made so.
pub(super) fn make_private_directory(path: &Path) -> Result<(), TrustError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed("protect", path))
}

/// Writes a file that only its owner reads, durably, replacing what was there in one step.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), TrustError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // A left-over of an interrupted write could have other permissions.
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed("replace", &new)(e)),
        Ok(()) | Err(_) => (),
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(failed("create", &new))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write", &new))?;
    std::fs::rename(&new, path).map_err(failed("replace", path))?;
    let parent = path.parent().unwrap_or(path);
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(failed("sync", parent))
}

/// Reads a small text file.
pub(super) fn read_text(path: &Path) -> Result<String, TrustError> {
    std::fs::read_to_string(path).map_err(failed("read", path))
}
