//! What changed inside a text file, as people read it.

use std::io::Read as _;
use std::time::Duration;

use common::digest::Digest;
use common::path::ContentPath;
use similar::TextDiff;

use super::content::ContentStore;

/// Longest text that is compared, in bytes. Longer ones are shown as changed, without lines.
pub const TEXT_BYTES_MAX: u64 = 1 << 20;
/// After this the comparison settles for a correct but longer answer.
const EFFORT: Duration = Duration::from_millis(500);
/// Unchanged lines shown around a change.
const CONTEXT_LINES: usize = 3;

/// The unified difference of two contents of the file at `path`; empty when they are equal. The
/// digest of no bytes stands for a file that is not there.
///
/// `None` when there is nothing to show: one of the two is longer than [`TEXT_BYTES_MAX`], is no
/// text (not UTF-8, or with a zero byte), or cannot be read from the store.
#[must_use]
pub fn text_hunks(store: &ContentStore, old: Digest, new: Digest, path: &ContentPath) -> Option<String> {
    let old = text(store, old)?;
    let new = text(store, new)?;
    let diff = TextDiff::configure().timeout(EFFORT).diff_lines(&*old, &*new);
    let (before, after) = (format!("a/{path}"), format!("b/{path}"));
    Some(diff.unified_diff().context_radius(CONTEXT_LINES).header(&before, &after).to_string())
}

fn text(store: &ContentStore, digest: Digest) -> Option<String> {
    if digest == Digest::of(b"") {
        return Some(String::new());
    }
    let file = store.open_content(digest).ok()?;
    if file.metadata().ok()?.len() > TEXT_BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(TEXT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hunks_show_the_changed_line_with_its_context() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let lines = |changed: &str| -> String {
            (0..20)
                .map(|n| {
                    if n == 10 {
                        format!(
                            "{changed}
"
                        )
                    } else {
                        format!(
                            "{n}
"
                        )
                    }
                })
                .collect()
        };
        let old = store.put_bytes(lines("before").as_bytes()).unwrap();
        let new = store.put_bytes(lines("after").as_bytes()).unwrap();
        let path = "a.txt".parse().unwrap();
        let hunks = text_hunks(&store, old, new, &path).unwrap();
        assert_eq!(hunks, "--- a/a.txt\n+++ b/a.txt\n@@ -8,7 +8,7 @@\n 7\n 8\n 9\n-before\n+after\n 11\n 12\n 13\n");
        assert_eq!(text_hunks(&store, old, old, &path).as_deref(), Some(""));
        let added = text_hunks(&store, Digest::of(b""), old, &path).unwrap();
        assert!(added.contains("@@ -0,0 +1,20 @@") && added.contains("+before\n"), "{added}");
    }

    #[test]
    fn what_is_no_text_or_too_long_or_not_there_has_no_hunks() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let text = store.put_bytes(b"text\n").unwrap();
        let long = vec![b'x'; usize::try_from(TEXT_BYTES_MAX).unwrap() + 1];
        let path = "a".parse().unwrap();
        for other in [
            store.put_bytes(b"\xff\xfe").unwrap(),
            store.put_bytes(b"a\0b").unwrap(),
            store.put_bytes(&long).unwrap(),
            Digest::of(b"never put"),
        ] {
            assert_eq!(text_hunks(&store, text, other, &path), None);
        }
        assert!(text_hunks(&store, text, store.put_bytes(&long[1..]).unwrap(), &path).is_some());
    }
}
