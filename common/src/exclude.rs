//! Which paths of a tree are outside of publishing: gitignore-style patterns of a site.
//!
//! An excluded path is outside the diff and outside the version, and is left alone on servers. The
//! CCM and the servers must agree on what is excluded, so both ask here.

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::path::ContentPath;

/// Most patterns a site can have.
pub const PATTERNS_MAX: usize = 1000;
/// Most patterns of a tree on a server: those of its site, and single paths that a server leaves alone.
pub const TREE_PATTERNS_MAX: usize = 6000;

/// A pattern that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum ExcludeError {
    /// The pattern's syntax is wrong.
    #[error("the exclude pattern {pattern:?} is not understood")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: ignore::Error,
    },
    /// More than [`PATTERNS_MAX`], or of a tree [`TREE_PATTERNS_MAX`].
    #[error("{count} exclude patterns are more than the {max} that there can be")]
    TooMany {
        /// How many there are.
        count: usize,
        /// How many there can be.
        max: usize,
    },
}

/// Patterns ready to be asked. The default excludes nothing.
#[derive(Debug, Clone)]
pub struct Exclude {
    matcher: Gitignore,
}

impl Default for Exclude {
    fn default() -> Self {
        Self { matcher: Gitignore::empty() }
    }
}

impl Exclude {
    /// Reads patterns in the syntax of a `.gitignore` file, one each; `!` takes back.
    ///
    /// # Errors
    /// [`ExcludeError`] names the first pattern that is not understood.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, ExcludeError> {
        Self::at_most(PATTERNS_MAX, patterns)
    }

    /// As [`Self::new`] for what a tree on a server leaves alone: the patterns of its site, and paths of
    /// its own ([`pattern_of`]).
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_tree<S: AsRef<str>>(patterns: &[S]) -> Result<Self, ExcludeError> {
        Self::at_most(TREE_PATTERNS_MAX, patterns)
    }

    fn at_most<S: AsRef<str>>(max: usize, patterns: &[S]) -> Result<Self, ExcludeError> {
        if patterns.len() > max {
            return Err(ExcludeError::TooMany { count: patterns.len(), max });
        }
        let mut builder = GitignoreBuilder::new("");
        builder.allow_unclosed_class(false);
        for pattern in patterns {
            let pattern = pattern.as_ref();
            builder
                .add_line(None, pattern)
                .map_err(|source| ExcludeError::Pattern { pattern: pattern.to_owned(), source })?;
        }
        let matcher = builder.build().map_err(|source| ExcludeError::Pattern { pattern: String::new(), source })?;
        Ok(Self { matcher })
    }

    /// Whether this path itself is excluded. A walk that does not descend into excluded directories
    /// need ask only this.
    #[must_use]
    pub fn matches(&self, path: &ContentPath, is_directory: bool) -> bool {
        self.matcher.matched(path.as_str(), is_directory).is_ignore()
    }

    /// Whether this path or a directory above it is excluded.
    #[must_use]
    pub fn covers(&self, path: &ContentPath, is_directory: bool) -> bool {
        let mut found = self.matcher.matched(path.as_str(), is_directory);
        let mut above = path.parent();
        // The root is above every path and no path of a tree: a pattern such as `/` says nothing about it.
        while found.is_none()
            && let Some(directory) = above
        {
            found = self.matcher.matched(directory.as_str(), true);
            above = directory.parent();
        }
        found.is_ignore()
    }

    /// Whether nothing is excluded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.matcher.is_empty()
    }
}

/// The pattern that matches just this path, and what is below it.
#[must_use]
pub fn pattern_of(path: &ContentPath) -> String {
    let text = path.as_str();
    let mut pattern = String::with_capacity(text.len() + 8);
    pattern.push('/');
    for (at, letter) in text.char_indices() {
        let is_last = at + letter.len_utf8() == text.len();
        if is_last && letter.is_whitespace() {
            // At the end of a pattern white space is cut off, whatever stands before it.
            pattern.push('{');
            pattern.push(letter);
            pattern.push('}');
            continue;
        }
        if matches!(letter, '\\' | '*' | '?' | '[' | ']' | '{' | '}' | '!' | '#') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_of_a_path_matches_it_and_what_is_below_and_nothing_else() {
        let path = |text: &str| text.parse::<ContentPath>().expect("good path");
        let odd = [
            "a",
            "a/b.c",
            "*",
            "a*b",
            "?",
            "[a]",
            "{a,b}",
            "a\\b",
            "\\",
            "!a",
            "#a",
            " a",
            "a ",
            "a b",
            "x/ ",
            "a\u{3000}",
            "a\u{a0}",
            "**",
            "a/**/b",
            "-",
            "[!a]",
            "a]",
            "\u{1f600}",
        ];
        for text in odd {
            let exclude = Exclude::new(&[pattern_of(&path(text))]).expect("a good pattern");
            for is_directory in [false, true] {
                assert!(exclude.covers(&path(text), is_directory), "{text:?}");
            }
            assert!(exclude.covers(&path(text).join("below").expect("good"), false), "{text:?}");
            let deeper = path("deeper").join(text.split('/').next().unwrap_or(text)).expect("good");
            assert!(!exclude.covers(&deeper, false), "{text:?}");
            for other in odd.iter().filter(|other| **other != text) {
                let is_below = other.starts_with(&format!("{text}/"));
                assert_eq!(exclude.covers(&path(other), false), is_below, "{text:?} {other:?}");
            }
        }
    }

    #[test]
    fn patterns_mean_what_they_mean_in_a_gitignore_file() {
        let exclude = Exclude::new(&["*.log", "/uploads/", "!keep.log"]).expect("good patterns");
        let path = |text: &str| text.parse::<ContentPath>().expect("good path");
        assert!(exclude.matches(&path("deep/in/x.log"), false));
        assert!(!exclude.matches(&path("keep.log"), false));
        assert!(exclude.matches(&path("uploads"), true));
        assert!(!exclude.matches(&path("uploads"), false));
        assert!(!exclude.matches(&path("a/uploads"), true));
        assert!(exclude.covers(&path("uploads/a/b"), false));
        assert!(Exclude::new(&["a[".to_owned()]).is_err());
    }

    #[test]
    fn a_pattern_that_is_the_root_alone_excludes_nothing() {
        for pattern in ["/", "//", "{,x}"] {
            let exclude = Exclude::new(&[pattern]).expect("a good pattern");
            for path in ["a", "a/b"].map(|text| text.parse::<ContentPath>().expect("good path")) {
                assert!(!exclude.matches(&path, false), "{pattern} {path}");
                assert!(!exclude.covers(&path, false), "{pattern} {path}");
            }
        }
    }

    #[test]
    fn what_a_pattern_takes_back_below_an_excluded_directory_is_not_covered() {
        let exclude = Exclude::new(&["/logs/", "!/logs/keep", "*.tmp"]).expect("good patterns");
        let path = |text: &str| text.parse::<ContentPath>().expect("good path");
        assert!(!exclude.covers(&path("logs/keep"), false));
        assert!(!exclude.covers(&path("logs/keep/deep"), false));
        assert!(exclude.covers(&path("logs/other/deep"), false));
        assert!(exclude.covers(&path("x.tmp/deep/er"), false));
    }
}
