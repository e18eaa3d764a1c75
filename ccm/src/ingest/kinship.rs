//! Which old file a new one was probably made from.
//!
//! Build tools put a hash of the content into file names: `app.1a2b3c.js` is followed by
//! `app.9f8e7d.js`. Names without their hashes are compared; a wrong guess costs some work of the
//! builder and no byte, because a delta is taken only when it is smaller than the data.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use common::digest::Digest;
use common::manifest::Manifest;
use common::path::ContentPath;

/// Old files by what their names have in common.
#[derive(Debug)]
pub(super) struct Kinship<'a> {
    base: &'a Manifest,
    result: &'a Manifest,
    /// By stem without hashes and extension. Made when it is first needed: most changed files are
    /// where they were.
    by_name: OnceCell<BTreeMap<(String, &'a str), Vec<Old<'a>>>>,
}

/// A file of the base tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Old<'a> {
    pub(super) path: &'a ContentPath,
    pub(super) size: u64,
    pub(super) digest: Digest,
}

/// Most candidates that are compared for one new file. Names that more files share say little.
const CANDIDATES_MAX: usize = 64;

impl<'a> Kinship<'a> {
    pub(super) fn new(base: &'a Manifest, result: &'a Manifest) -> Self {
        Self { base, result, by_name: OnceCell::new() }
    }

    fn by_name(&self) -> &BTreeMap<(String, &'a str), Vec<Old<'a>>> {
        self.by_name.get_or_init(|| {
            let mut by_name: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for (path, size, digest) in self.base.files() {
                if size > 0
                    && let Some(key) = key(path)
                {
                    by_name.entry(key).or_default().push(Old { path, size, digest: *digest });
                }
            }
            by_name
        })
    }

    /// The old file at the same path, else the likeliest of those with the same extension and the
    /// same stem but for hashes: first those that are gone, then those in the same directory, then
    /// those of similar length.
    pub(super) fn ancestor(&self, path: &ContentPath, size: u64) -> Option<Old<'a>> {
        if let Some((known, common::manifest::Entry::File { size, digest, .. })) = self.base.entries.get_key_value(path)
            && *size > 0
        {
            return Some(Old { path: known, size: *size, digest: *digest });
        }
        let candidates = self.by_name().get(&key(path)?)?;
        let unlikeliness = |old: &&Old<'a>| {
            let stays = self.result.entries.contains_key(old.path);
            (stays, old.path.parent() != path.parent(), old.size.abs_diff(size))
        };
        candidates.iter().take(CANDIDATES_MAX).min_by_key(unlikeliness).copied()
    }
}

/// Stem without hashes, and extension. `None` when nothing is left to compare.
fn key(path: &ContentPath) -> Option<(String, &str)> {
    let (stem, extension) = path.file_name().rsplit_once('.')?;
    let words: Vec<&str> = stem.split(['.', '-', '_']).filter(|word| !word.is_empty() && !is_hash(word)).collect();
    (!words.is_empty()).then(|| (words.join("-"), extension))
}

/// Whether a word of a file name looks like a hash: long enough, and with digits or capitals where a
/// word of a language has none.
fn is_hash(word: &str) -> bool {
    let is_capital = |c: char| c.is_ascii_uppercase();
    word.len() >= 5
        && word.chars().all(|c| c.is_ascii_alphanumeric())
        && (word.chars().any(|c| c.is_ascii_digit())
            || (word.chars().skip(1).any(is_capital) && word.chars().any(|c| c.is_ascii_lowercase())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::manifest::Entry;

    fn path(text: &str) -> ContentPath {
        text.parse().unwrap()
    }

    fn tree(files: &[(&str, u64)]) -> Manifest {
        let entry = |size| Entry::File { mode: 0o644, size, digest: Digest::of(b"x"), mtime: 0 };
        Manifest { entries: files.iter().map(|(at, size)| (path(at), entry(*size))).collect() }
    }

    fn ancestor(base: &[(&str, u64)], result: &[(&str, u64)], of: &str) -> Option<String> {
        let (base, result) = (tree(base), tree(result));
        let size = result.files().find(|(at, _, _)| at.as_str() == of).unwrap().1;
        Kinship::new(&base, &result).ancestor(&path(of), size).map(|old| old.path.to_string())
    }

    #[test]
    fn a_file_descends_from_the_one_at_its_path_else_from_its_namesake() {
        let base = [("app.1a2b3c.js", 90), ("app.css", 9), ("main.77aa11.js", 9), ("z/app.0f0f0f.js", 90)];
        assert_eq!(ancestor(&base, &[("app.css", 10)], "app.css").as_deref(), Some("app.css"));
        assert_eq!(ancestor(&base, &[("app.9f8e7d.js", 95)], "app.9f8e7d.js").as_deref(), Some("app.1a2b3c.js"));
        assert_eq!(ancestor(&base, &[("z/app.9f8e7d.js", 95)], "z/app.9f8e7d.js").as_deref(), Some("z/app.0f0f0f.js"));
        assert_eq!(ancestor(&base, &[("index-BxYzQkaP.js", 9)], "index-BxYzQkaP.js"), None);
        assert_eq!(ancestor(&base, &[("README", 9)], "README"), None);
    }

    #[test]
    fn a_namesake_that_is_gone_is_likelier_than_one_that_stays() {
        let base = [("app.11111a.js", 90), ("app.22222b.js", 10)];
        let result = [("app.11111a.js", 90), ("app.33333c.js", 90)];
        assert_eq!(ancestor(&base, &result, "app.33333c.js").as_deref(), Some("app.22222b.js"));
    }

    #[test]
    fn hashes_are_told_from_words() {
        for hash in ["1a2b3c", "9f8e7d6c5b", "BxYzQkaP", "d41d8"] {
            assert!(is_hash(hash), "{hash}");
        }
        for word in ["app", "vendors", "Chunk", "README", "v2", "main"] {
            assert!(!is_hash(word), "{word}");
        }
    }
}
