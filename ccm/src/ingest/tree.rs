//! Content trees that are told entry by entry: of a tree of any size only what is looked at is in memory.

use std::cmp::Ordering;
use std::fmt::Debug;
use std::iter::Peekable;

use common::digest::Version;
use common::manifest::{Entry, Manifest};
use common::path::ContentPath;

use super::content::{ContentError, file_digest};

/// The entries of a tree, in path order. After an error there are no more.
pub type Entries<'a> = Box<dyn Iterator<Item = Result<(ContentPath, Entry), ContentError>> + 'a>;

/// A content tree that can be told as often as asked.
pub trait Tree: Debug + Sync {
    /// Its version.
    fn version(&self) -> Version;

    /// Its entries from the first on.
    ///
    /// # Errors
    /// [`ContentError`] when it cannot be read.
    fn entries(&self) -> Result<Entries<'_>, ContentError>;

    /// Sum of the file sizes, in bytes.
    ///
    /// # Errors
    /// [`ContentError`] when it cannot be read.
    fn content_bytes(&self) -> Result<u64, ContentError> {
        self.entries()?.try_fold(0_u64, |sum, entry| Ok(sum.saturating_add(bytes_of(&entry?.1))))
    }
}

/// A tree in memory.
impl Tree for Manifest {
    fn version(&self) -> Version {
        Self::version(self)
    }

    fn entries(&self) -> Result<Entries<'_>, ContentError> {
        Ok(Box::new(self.entries.iter().map(|(path, entry)| Ok((path.clone(), entry.clone())))))
    }
}

/// What an entry adds to the size of its tree, in bytes.
pub(super) fn bytes_of(entry: &Entry) -> u64 {
    file_digest(entry).map_or(0, |(size, _)| size)
}

/// What two trees have at one path; at least one of them has something.
pub(super) struct Pair {
    pub(super) path: ContentPath,
    pub(super) before: Option<Entry>,
    pub(super) after: Option<Entry>,
}

/// Goes through two trees side by side, in path order.
pub(super) fn paired<E>(
    old: impl Iterator<Item = Result<(ContentPath, Entry), ContentError>>,
    new: impl Iterator<Item = Result<(ContentPath, Entry), E>>,
) -> impl Iterator<Item = Result<Pair, E>>
where
    E: From<ContentError>,
{
    let (mut old, mut new) = (old.peekable(), new.peekable());
    std::iter::from_fn(move || {
        let order = match (old.peek(), new.peek()) {
            // An error comes first, whichever tree it is of.
            (Some(Err(_)), _) | (Some(Ok(_)), None) => Ordering::Less,
            (_, Some(Err(_))) | (None, _) => Ordering::Greater,
            (Some(Ok((before, _))), Some(Ok((after, _)))) => before.cmp(after),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        Some(match (before, after) {
            (None, None) => return None,
            (Some(Err(error)), _) => Err(error.into()),
            (_, Some(Err(error))) => Err(error),
            (Some(Ok((path, before))), None) => Ok(Pair { path, before: Some(before), after: None }),
            (None, Some(Ok((path, after)))) => Ok(Pair { path, before: None, after: Some(after) }),
            (Some(Ok((path, before))), Some(Ok((_, after)))) => {
                Ok(Pair { path, before: Some(before), after: Some(after) })
            }
        })
    })
}

/// A tree in which `new` takes the place of `old`, which is a part of it.
pub(super) fn patched<'a>(base: Entries<'a>, old: &'a Manifest, new: &'a Manifest) -> Entries<'a> {
    let mut left = old.entries.keys().peekable();
    let stays = base.filter(move |entry| match entry {
        Ok((path, _)) => left.next_if(|gone| *gone == path).is_none(),
        Err(_) => true,
    });
    merged(stays.peekable(), new.entries.iter().peekable())
}

fn merged<'a>(
    mut stays: Peekable<impl Iterator<Item = Result<(ContentPath, Entry), ContentError>> + 'a>,
    mut comes: Peekable<impl Iterator<Item = (&'a ContentPath, &'a Entry)> + 'a>,
) -> Entries<'a> {
    Box::new(std::iter::from_fn(move || {
        let first = match (stays.peek(), comes.peek()) {
            (Some(Ok((stays, _))), Some((comes, _))) => *comes < stays,
            (None, Some(_)) => true,
            (Some(Err(_)), _) | (_, None) => false,
        };
        if first { comes.next().map(|(path, entry)| Ok((path.clone(), entry.clone()))) } else { stays.next() }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[(&str, u32)]) -> Manifest {
        let entry = |mode: &u32| Entry::Directory { mode: *mode };
        Manifest { entries: paths.iter().map(|(path, mode)| (path.parse().unwrap(), entry(mode))).collect() }
    }

    #[test]
    fn a_part_of_a_tree_is_replaced_where_it_stands() {
        let base = tree(&[("a", 1), ("b", 1), ("b/c", 1), ("d", 1)]);
        let (old, new) = (tree(&[("b", 1), ("b/c", 1)]), tree(&[("aa", 2), ("b", 2), ("e", 2)]));
        let found: Result<_, ContentError> = patched(Tree::entries(&base).unwrap(), &old, &new).collect();
        assert_eq!(Manifest { entries: found.unwrap() }, tree(&[("a", 1), ("aa", 2), ("b", 2), ("d", 1), ("e", 2)]));
    }

    #[test]
    fn an_error_of_either_tree_ends_the_comparison() {
        let good = || vec![Ok(("a".parse().unwrap(), Entry::Directory { mode: 0o755 }))];
        let bad = || vec![Err(ContentError::Missing { digest: common::digest::Digest::of(b"") })];
        for (old, new) in [(good(), bad()), (bad(), good()), (bad(), bad()), (Vec::new(), bad()), (bad(), Vec::new())] {
            let first = paired::<ContentError>(old.into_iter(), new.into_iter()).next();
            assert!(matches!(first, Some(Err(ContentError::Missing { .. }))));
        }
    }
}
