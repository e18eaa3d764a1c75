//! How long preparing and swapping take, and how much disk three trees take.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use crate::error::{Result, RigError};
use crate::readers::{Swapper, percentile};
use crate::site::Way;
use crate::tree::Tree;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// How live is switched.
    pub way: Way,
    /// Files of the tree.
    pub files: usize,
    /// Files that differ between its versions.
    pub changed: usize,
    /// Bytes of a file.
    pub file_bytes: usize,
    /// Publishes to measure.
    pub publishes: usize,
    /// Swaps by rollback to measure.
    pub swaps: usize,
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// Prepares with data: median and longest.
    pub prepare: [Duration; 2],
    /// Processor time of these prepares: median.
    pub prepare_worked: Duration,
    /// Whole commits, with all that is made durable: median and 99th percentile.
    pub commit: [Duration; 2],
    /// The exchange alone: median, 99th percentile.
    pub exchange: [Duration; 2],
    /// Disk that live takes, and live, backup and temp together, in bytes. What several names share
    /// counts once.
    pub disk: [u64; 2],
    /// Bytes of the changed files.
    pub changed_bytes: u64,
}

/// Measures.
///
/// # Errors
/// When publishing fails.
pub fn measure(dir: &Path, load: &Load) -> Result<Measured> {
    let mut one = Tree::default();
    for at in 0..load.files {
        if at % 100 == 0 {
            one = one.directory(&format!("section-{}", at / 100), 0o755);
        }
        let mut text = format!("page {at} ");
        text.extend(std::iter::repeat_n('x', load.file_bytes.saturating_sub(text.len())));
        one = one.file(&format!("section-{}/page-{at}.html", at / 100), text);
    }
    let mut two = one.clone();
    let every = (load.files / load.changed.max(1)).max(1);
    for at in (0..load.files).step_by(every) {
        let mut text = format!("page {at}, changed ");
        text.extend(std::iter::repeat_n('y', load.file_bytes.saturating_sub(text.len())));
        two = two.file(&format!("section-{}/page-{at}.html", at / 100), text);
    }
    let mut swapper = Swapper::new(dir, load.way, [one, two], &[])?;
    // The first ones fill empty places.
    swapper.worked.clear();
    for _ in 0..load.publishes {
        swapper.swap(true)?;
    }
    // Of each publish the prepare and the commit.
    let mut worked: Vec<Duration> = swapper.worked.iter().copied().step_by(2).collect();
    worked.sort_unstable();
    for _ in 0..load.swaps {
        swapper.swap(false)?;
    }
    swapper.stage()?;
    let mut seen = BTreeSet::new();
    let live = blocks(&swapper.site.live, &mut seen)?;
    let all = live + blocks(&swapper.site.state, &mut seen)?;
    let [mut prepare, _, mut commit] = std::mem::take(&mut swapper.times);
    prepare.remove(0);
    prepare.sort_unstable();
    commit.sort_unstable();
    let exchange = swapper.exchanges.sorted();
    Ok(Measured {
        prepare: [percentile(&prepare, 50), percentile(&prepare, 100)],
        prepare_worked: percentile(&worked, 50),
        commit: [percentile(&commit, 50), percentile(&commit, 99)],
        exchange: [percentile(&exchange, 50), percentile(&exchange, 99)],
        disk: [live, all],
        changed_bytes: (load.changed * load.file_bytes) as u64,
    })
}

fn blocks(dir: &Path, seen: &mut BTreeSet<u64>) -> Result<u64> {
    let failed = || RigError::io(format!("measuring {}", dir.display()));
    let mut bytes = fs::symlink_metadata(dir).map_err(failed())?.blocks() * 512;
    for entry in fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let meta = entry.metadata().map_err(failed())?;
        if meta.is_dir() {
            bytes += blocks(&entry.path(), seen)?;
        } else if seen.insert(meta.ino()) {
            bytes += meta.blocks() * 512;
        }
    }
    Ok(bytes)
}
