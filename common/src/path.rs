//! Paths inside a content tree: relative, canonical, and free of everything that ever let a file
//! land outside its tree.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest component, in bytes: what Linux file systems accept.
pub const COMPONENT_BYTES_MAX: usize = 255;
/// Longest path, in bytes: `PATH_MAX` with room for the roots that stand before it on a server.
pub const PATH_BYTES_MAX: usize = 3072;
/// Deepest nesting.
pub const DEPTH_MAX: usize = 128;

/// A path relative to the root of a content tree, never empty: components joined by single `/`,
/// none of them empty, `.` or `..`, UTF-8 without control characters.
///
/// Ordered by components, not by bytes: a directory is followed at once by what it contains.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ContentPath(Box<str>);

/// Why a path cannot be part of a content tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The empty path, which would be the tree itself.
    #[error("an empty path names the whole tree")]
    Empty,
    /// Begins with `/`.
    #[error("the path {path:?} is absolute")]
    Absolute {
        /// The path as given.
        path: String,
    },
    /// Has an empty, `.` or `..` component.
    #[error("the path {path:?} has an empty, '.' or '..' component")]
    NotCanonical {
        /// The path as given.
        path: String,
    },
    /// Holds a control character, which would corrupt logs and terminals.
    #[error("the path {path:?} holds a control character")]
    ControlCharacter {
        /// The path as given.
        path: String,
    },
    /// Is not UTF-8.
    #[error("the path {path:?} is not UTF-8")]
    NotUtf8 {
        /// The path, with replacement characters.
        path: String,
    },
    /// A component, the path or its depth is over the limit.
    #[error(
        "the path {path:?}… is too long: at most {COMPONENT_BYTES_MAX} bytes a component, {PATH_BYTES_MAX} in all, {DEPTH_MAX} levels"
    )]
    TooLong {
        /// The beginning of the path.
        path: String,
    },
}

impl ContentPath {
    /// Checks and takes a path.
    ///
    /// # Errors
    /// [`PathError`] for anything but a canonical relative path.
    pub fn new(path: impl Into<String>) -> Result<Self, PathError> {
        let path = path.into();
        if path.is_empty() {
            return Err(PathError::Empty);
        }
        if path.starts_with('/') {
            return Err(PathError::Absolute { path });
        }
        let mut depth = 0;
        for component in path.split('/') {
            if matches!(component, "" | "." | "..") {
                return Err(PathError::NotCanonical { path });
            }
            if component.len() > COMPONENT_BYTES_MAX {
                return Err(PathError::TooLong { path: path.chars().take(80).collect() });
            }
            depth += 1;
        }
        if path.len() > PATH_BYTES_MAX || depth > DEPTH_MAX {
            return Err(PathError::TooLong { path: path.chars().take(80).collect() });
        }
        if path.chars().any(char::is_control) {
            return Err(PathError::ControlCharacter { path });
        }
        Ok(Self(path.into()))
    }

    /// A path below this one.
    ///
    /// # Errors
    /// [`PathError`] when the joined path is not acceptable.
    pub fn join(&self, component: &str) -> Result<Self, PathError> {
        Self::new(format!("{self}/{component}"))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components, outermost first. Never empty.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The directory that holds this entry, `None` at the top of the tree.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.into()))
    }

    /// The last component.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&*self.0, |(_, name)| name)
    }

    /// Whether this entry lies below `other`.
    #[must_use]
    pub fn is_below(&self, other: &Self) -> bool {
        self.0.strip_prefix(&*other.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl PartialOrd for ContentPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ContentPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // As the components would compare: where two paths part, the one whose component ends comes first.
        // A byte at a time, because maps of whole trees are made of such comparisons.
        let (one, two) = (self.0.as_bytes(), other.0.as_bytes());
        match one.iter().zip(two).find(|(one, two)| one != two) {
            Some((b'/', _)) => Ordering::Less,
            Some((_, b'/')) => Ordering::Greater,
            Some((one, two)) => one.cmp(two),
            None => one.len().cmp(&two.len()),
        }
    }
}

impl fmt::Display for ContentPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContentPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl FromStr for ContentPath {
    type Err = PathError;
    fn from_str(path: &str) -> Result<Self, PathError> {
        Self::new(path)
    }
}

impl Serialize for ContentPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ContentPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Whether a symbolic link at `link` with this target stays inside the tree, however it is
/// followed: relative, and never climbing above the root even for a moment.
#[must_use]
pub fn symlink_is_contained(link: &ContentPath, target: &str) -> bool {
    if target.is_empty()
        || target.starts_with('/')
        || target.len() > PATH_BYTES_MAX
        || target.chars().any(char::is_control)
    {
        return false;
    }
    let mut depth = link.components().count() - 1;
    for component in target.split('/') {
        match component {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(shallower) => depth = shallower,
                None => return false,
            },
            _ => depth += 1,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_tree_are_refused() {
        for bad in [
            "",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a/..",
            ".",
            "./a",
            "a/.",
            "a//b",
            "a/",
            "a\0b",
            "a\nb",
            "a\u{1b}[0m",
            "a\u{85}b",
        ] {
            assert!(ContentPath::new(bad).is_err(), "{bad:?} must be refused");
        }
        assert!(ContentPath::new("x".repeat(256)).is_err());
        assert!(ContentPath::new("x".repeat(255)).is_ok());
        assert!(ContentPath::new(vec!["d"; DEPTH_MAX + 1].join("/")).is_err());
        assert!(ContentPath::new(vec!["d"; DEPTH_MAX].join("/")).is_ok());
    }

    #[test]
    fn a_directory_is_followed_by_what_it_contains() {
        let mut paths: Vec<ContentPath> =
            ["a-b", "a/z", "a", "a/b/c", "a.html"].iter().map(|p| p.parse().expect("good path")).collect();
        paths.sort();
        let sorted: Vec<&str> = paths.iter().map(ContentPath::as_str).collect();
        assert_eq!(sorted, ["a", "a/b/c", "a/z", "a-b", "a.html"]);
    }

    #[test]
    fn links_that_climb_out_are_not_contained() {
        let link: ContentPath = "a/b/link".parse().expect("good path");
        for inside in ["x", "../x", "../../x", "./x", "c/../d"] {
            assert!(symlink_is_contained(&link, inside), "{inside:?} stays inside");
        }
        for outside in ["/etc", "../../../x", "../../../a/x", "", "x\0y", "c/../../../../a"] {
            assert!(!symlink_is_contained(&link, outside), "{outside:?} leaves the tree");
        }
    }

    #[test]
    fn paths_are_in_the_order_of_their_components() {
        let parts = ["a", "a!", "a.b", "a0", "ab", "b", "\u{7f51}", "-"];
        let mut paths: Vec<String> = parts.map(str::to_owned).to_vec();
        for one in parts {
            for two in parts {
                paths.push(format!("{one}/{two}"));
                paths.push(format!("{one}/{two}/{one}"));
            }
        }
        for one in &paths {
            for other in &paths {
                let (one, other) = (ContentPath::new(one.as_str()), ContentPath::new(other.as_str()));
                let (one, other) = (one.expect("a good path"), other.expect("a good path"));
                assert_eq!(one.cmp(&other), one.components().cmp(other.components()), "{one} and {other}");
            }
        }
    }
}
