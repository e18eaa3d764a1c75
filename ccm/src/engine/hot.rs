//! Hot publish, the rules of it: what a tree becomes when some paths of staging are laid over it, and
//! which servers are taken when only their number is said.
//!
//! Both are pure: same inputs, same answer.

use std::collections::BTreeSet;

use common::ids::{ServerId, ServerName};
use common::manifest::{Entry, Manifest, ManifestError};
use common::path::ContentPath;

/// Why paths of staging cannot be laid over a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// Neither tree has it.
    #[error("{path} is neither in staging nor live; `pressrun diff` shows what differs")]
    Nowhere {
        /// The path.
        path: ContentPath,
    },
    /// What a named path lies in is a directory in staging and something else on the servers, or the other
    /// way round.
    #[error("{path} cannot go live alone: {above} is a directory on one side only; name {above} instead")]
    Above {
        /// The path.
        path: ContentPath,
        /// What it lies in.
        above: ContentPath,
    },
    /// The outcome is no tree.
    #[error("with these paths alone the servers would not have a content tree")]
    Result(#[from] ManifestError),
}

/// `base` with these paths as they are in `staging`: a directory with all that it holds; what is not there
/// any more goes. Directories that a path lies in come along if `base` does not have them.
///
/// # Errors
/// [`OverlayError`] names the first path that does not fit.
pub(super) fn overlay(
    base: &Manifest,
    staging: &Manifest,
    paths: &BTreeSet<ContentPath>,
) -> Result<Manifest, OverlayError> {
    let mut result = base.clone();
    for path in paths {
        let is_of = |candidate: &ContentPath| candidate == path || candidate.is_below(path);
        let (before, after) = (base.entries.contains_key(path), staging.entries.get(path));
        if !before && after.is_none() {
            return Err(OverlayError::Nowhere { path: path.clone() });
        }
        result.entries.retain(|candidate, _| !is_of(candidate));
        if after.is_none() {
            continue;
        }
        let mut above = path.parent();
        while let Some(directory) = above {
            let in_staging = staging.entries.get(&directory);
            match (result.entries.get(&directory), in_staging) {
                (Some(Entry::Directory { .. }), _) => {}
                (None, Some(entry @ Entry::Directory { .. })) => {
                    result.entries.insert(directory.clone(), entry.clone());
                }
                (Some(Entry::File { .. } | Entry::Symlink { .. }), _)
                | (None, None | Some(Entry::File { .. } | Entry::Symlink { .. })) => {
                    return Err(OverlayError::Above { path: path.clone(), above: directory });
                }
            }
            above = directory.parent();
        }
        let named = staging.entries.iter().filter(|(candidate, _)| is_of(candidate));
        result.entries.extend(named.map(|(path, entry)| (path.clone(), entry.clone())));
    }
    result.check()?;
    Ok(result)
}

/// A server that could be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) id: ServerId,
    pub(super) name: ServerName,
    /// Load average of the last minute, in hundredths.
    pub(super) load_percent: u32,
    pub(super) cpus: u16,
}

/// The `count` least busy: by load for each processor, then by name. `None` when there are fewer.
pub(super) fn least_busy(mut candidates: Vec<Candidate>, count: usize) -> Option<Vec<ServerId>> {
    let load = |candidate: &Candidate| u64::from(candidate.load_percent) * 1000 / u64::from(candidate.cpus.max(1));
    candidates.sort_by(|a, b| load(a).cmp(&load(b)).then_with(|| a.name.cmp(&b.name)));
    (candidates.len() >= count).then(|| candidates.into_iter().take(count).map(|candidate| candidate.id).collect())
}

#[cfg(test)]
mod tests {
    use common::digest::Digest;

    use super::*;

    fn path(text: &str) -> ContentPath {
        text.parse().expect("good path")
    }

    /// A tree from words: `d/` is a directory, `f=text` a file.
    fn tree(words: &str) -> Manifest {
        let entry = |word: &str| match word.split_once('=') {
            Some((at, text)) => {
                let entry = Entry::File { mode: 0o644, size: 1, digest: Digest::of(text.as_bytes()), mtime: 0 };
                (path(at), entry)
            }
            None => (path(word.trim_end_matches('/')), Entry::Directory { mode: 0o755 }),
        };
        Manifest { entries: words.split_whitespace().map(entry).collect() }
    }

    fn laid(base: &str, staging: &str, paths: &[&str]) -> Result<Manifest, OverlayError> {
        overlay(&tree(base), &tree(staging), &paths.iter().map(|text| path(text)).collect())
    }

    #[test]
    fn named_paths_are_as_in_staging_and_all_others_as_they_were() {
        let base = "a=1 b=1 d/ d/x=1 d/y=1";
        let staging = "a=2 b=2 d/ d/x=2 d/z=2 new/ new/deep/ new/deep/f=2";
        assert_eq!(laid(base, staging, &["a"]), Ok(tree("a=2 b=1 d/ d/x=1 d/y=1")));
        assert_eq!(laid(base, staging, &["d"]), Ok(tree("a=1 b=1 d/ d/x=2 d/z=2")));
        assert_eq!(laid(base, staging, &["d/y"]), Ok(tree("a=1 b=1 d/ d/x=1")));
        let deep = "a=1 b=1 d/ d/x=1 d/y=1 new/ new/deep/ new/deep/f=2";
        assert_eq!(laid(base, staging, &["new/deep/f"]), Ok(tree(deep)));
        assert_eq!(laid(base, staging, &["a", "b", "d", "new"]), Ok(tree(staging)));
        assert_eq!(laid(base, "", &["d"]), Ok(tree("a=1 b=1")));
    }

    #[test]
    fn paths_that_do_not_fit_are_named() {
        assert_eq!(laid("a=1", "a=1", &["b"]), Err(OverlayError::Nowhere { path: path("b") }));
        let above = Err(OverlayError::Above { path: path("a/f"), above: path("a") });
        assert_eq!(laid("a=1", "a/ a/f=2", &["a/f"]), above);
        assert_eq!(laid("a=1", "a/ a/f=2", &["a"]), Ok(tree("a/ a/f=2")), "the directory itself can");
        assert_eq!(laid("a/ a/f=1", "a=2", &["a"]), Ok(tree("a=2")));
    }

    #[test]
    fn the_least_busy_servers_are_taken() {
        let candidate = |number: u8, load_percent, cpus| Candidate {
            id: ServerId([number; 16]),
            name: format!("web{number}").parse().expect("good"),
            load_percent,
            cpus,
        };
        let servers = vec![candidate(1, 50, 1), candidate(2, 72, 8), candidate(3, 10, 1), candidate(4, 10, 1)];
        let taken = |count| least_busy(servers.clone(), count);
        let ids = |numbers: &[u8]| Some(numbers.iter().map(|number| ServerId([*number; 16])).collect::<Vec<_>>());
        assert_eq!(taken(1), ids(&[2]), "busy, but with many processors");
        assert_eq!(taken(3), ids(&[2, 3, 4]));
        assert_eq!(taken(5), None);
    }
}
