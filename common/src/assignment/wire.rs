//! Commands as they stand in the file: by columns, because what stands below each other is alike.
//!
//! Paths leave out what they have in common with the path before, modes and times are differences
//! from the ones before, and files whose content stands in the blocks one after the other say
//! nothing about where. A file of a thousand small changes costs a few bytes for each. Layout:
//! `docs/formats.md`.

use serde::{Deserialize, Serialize};

use super::{BlockInfo, Command, Content, Extent};
use crate::digest::Digest;
use crate::path::ContentPath;

const MAKE_DIRECTORY: u8 = 0;
const MAKE_SYMLINK: u8 = 1;
const SET_MODE: u8 = 2;
const REMOVE: u8 = 3;
/// A file whose content is what follows in the blocks.
const WRITE_NEXT: u8 = 4;
/// A file whose content is said to be somewhere in the blocks.
const WRITE_EXTENTS: u8 = 5;
const WRITE_COPY: u8 = 6;
const WRITE_LOCAL: u8 = 7;
/// Added to the kind of a written file whose digest is given.
const WITH_DIGEST: u8 = 16;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Columns {
    kinds: Vec<u8>,
    paths: Paths,
    modes: Vec<u32>,
    mtimes: Vec<i64>,
    sizes: Vec<u64>,
    targets: Vec<String>,
    sources: Paths,
    extents: Vec<Vec<Extent>>,
    digests: Vec<Digest>,
}

/// Paths without what each has in common with the one before.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Paths {
    /// Bytes in common.
    shared: Vec<u16>,
    /// The rest of each, ended by a line feed, which no path can hold.
    rests: String,
}

/// The wire form of commands, before it is compressed. `blocks` is the table that extents refer to.
///
/// # Panics
/// Never: commands are plain data.
#[must_use]
pub fn encode_commands(commands: &[Command], blocks: &[BlockInfo]) -> Vec<u8> {
    let mut columns = Columns::default();
    let (mut path_before, mut source_before, mut mode_before, mut mtime_before) = ("", "", 0, 0_i64);
    let mut cursor = Cursor::default();
    let mut mode_column = Vec::new();
    for command in commands {
        columns.paths.push(&mut path_before, command.path());
        let mut mode_of = |mode: u32| {
            mode_column.push(mode ^ mode_before);
            mode_before = mode;
        };
        let kind = match command {
            Command::MakeDirectory { mode, .. } => {
                mode_of(*mode);
                MAKE_DIRECTORY
            }
            Command::MakeSymlink { target, .. } => {
                columns.targets.push(target.clone());
                MAKE_SYMLINK
            }
            Command::SetMode { mode, .. } => {
                mode_of(*mode);
                SET_MODE
            }
            Command::Remove { .. } => REMOVE,
            Command::WriteFile { mode, mtime, size, digest, content, .. } => {
                mode_of(*mode);
                columns.mtimes.push(mtime.wrapping_sub(mtime_before));
                mtime_before = *mtime;
                columns.sizes.push(*size);
                columns.digests.extend(digest);
                let kind = match content {
                    Content::Blocks(extents) => match cursor.take(*size, blocks) {
                        Some((following, next)) if following == *extents => {
                            cursor = next;
                            WRITE_NEXT
                        }
                        Some(_) | None => {
                            columns.extents.push(extents.clone());
                            WRITE_EXTENTS
                        }
                    },
                    Content::Copy { from } => {
                        columns.sources.push(&mut source_before, from);
                        WRITE_COPY
                    }
                    Content::Local => WRITE_LOCAL,
                };
                kind + if digest.is_some() { WITH_DIGEST } else { 0 }
            }
        };
        columns.kinds.push(kind);
    }
    columns.modes = mode_column;
    postcard::to_stdvec(&columns).expect("commands are plain data")
}

/// Reads the wire form of `count` commands. `None` when it is none: a column too long or too short, a path that
/// is none, content beyond the last block, or paths of more than `path_bytes_max` together.
pub(super) fn decode_commands(
    bytes: &[u8],
    count: usize,
    blocks: &[BlockInfo],
    path_bytes_max: u64,
) -> Option<Vec<Command>> {
    let (columns, rest) = postcard::take_from_bytes::<Columns>(bytes).ok()?;
    if !rest.is_empty() || columns.kinds.len() != count {
        return None;
    }
    let mut paths = columns.paths.read(path_bytes_max);
    let mut sources = columns.sources.read(path_bytes_max);
    let mut modes = columns.modes.iter();
    let mut mtimes = columns.mtimes.iter();
    let mut sizes = columns.sizes.iter();
    let mut targets = columns.targets.into_iter();
    let mut extents = columns.extents.into_iter();
    let mut digests = columns.digests.iter();
    let (mut mode_before, mut mtime_before, mut cursor) = (0, 0_i64, Cursor::default());
    let mut commands = Vec::with_capacity(count);
    for kind in columns.kinds {
        let path = paths.next()?;
        let mut next_mode = || {
            mode_before ^= modes.next()?;
            Some(mode_before)
        };
        commands.push(match kind {
            MAKE_DIRECTORY => Command::MakeDirectory { path, mode: next_mode()? },
            MAKE_SYMLINK => Command::MakeSymlink { path, target: targets.next()? },
            SET_MODE => Command::SetMode { path, mode: next_mode()? },
            REMOVE => Command::Remove { path },
            _ => {
                let mode = next_mode()?;
                mtime_before = mtime_before.wrapping_add(*mtimes.next()?);
                let size = *sizes.next()?;
                let digest = if kind & WITH_DIGEST == 0 { None } else { Some(*digests.next()?) };
                let content = match kind & !WITH_DIGEST {
                    WRITE_NEXT => {
                        let (following, next) = cursor.take(size, blocks)?;
                        cursor = next;
                        Content::Blocks(following)
                    }
                    WRITE_EXTENTS => Content::Blocks(extents.next()?),
                    WRITE_COPY => Content::Copy { from: sources.next()? },
                    // Without a digest nobody could say which content is meant.
                    WRITE_LOCAL if digest.is_some() => Content::Local,
                    _ => return None,
                };
                Command::WriteFile { path, mode, mtime: mtime_before, size, digest, content }
            }
        });
    }
    let all_used = paths.is_done()
        && sources.is_done()
        && modes.next().is_none()
        && mtimes.next().is_none()
        && sizes.next().is_none()
        && targets.next().is_none()
        && extents.next().is_none()
        && digests.next().is_none();
    all_used.then_some(commands)
}

impl Paths {
    fn push<'a>(&mut self, before: &mut &'a str, path: &'a ContentPath) {
        let path = path.as_str();
        let mut shared = path.bytes().zip(before.bytes()).take_while(|(one, other)| one == other).count();
        while !path.is_char_boundary(shared) {
            shared -= 1;
        }
        self.shared.push(u16::try_from(shared).expect("paths are short"));
        self.rests.push_str(&path[shared..]);
        self.rests.push('\n');
        *before = path;
    }

    fn read(&self, bytes_max: u64) -> PathReader<'_> {
        PathReader { shared: self.shared.iter(), rests: &self.rests, before: String::new(), bytes_left: bytes_max }
    }
}

struct PathReader<'a> {
    shared: std::slice::Iter<'a, u16>,
    rests: &'a str,
    before: String,
    bytes_left: u64,
}

impl PathReader<'_> {
    fn next(&mut self) -> Option<ContentPath> {
        let shared = usize::from(*self.shared.next()?);
        let (rest, others) = self.rests.split_once('\n')?;
        self.rests = others;
        let mut path = self.before.get(..shared)?.to_owned();
        path.push_str(rest);
        // What is left out grows again in memory.
        self.bytes_left = self.bytes_left.checked_sub(path.len() as u64)?;
        self.before.clone_from(&path);
        ContentPath::new(path).ok()
    }

    fn is_done(&self) -> bool {
        self.shared.as_slice().is_empty() && self.rests.is_empty()
    }
}

/// Where in the unpacked blocks the content of the next file begins.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    block: usize,
    offset: u32,
}

impl Cursor {
    /// The next `size` bytes, and where they end. `None` when there are fewer.
    fn take(mut self, size: u64, blocks: &[BlockInfo]) -> Option<(Vec<Extent>, Self)> {
        let mut extents = Vec::new();
        let mut left = size;
        while left > 0 {
            let info = blocks.get(self.block)?;
            let here = u64::from(info.raw_bytes.checked_sub(self.offset)?);
            if here == 0 {
                self = Self { block: self.block + 1, offset: 0 };
                continue;
            }
            let length = u32::try_from(here.min(left)).expect("at most the rest of a block");
            let block = u32::try_from(self.block).ok()?;
            extents.push(Extent { block, offset: self.offset, length });
            self.offset += length;
            left -= u64::from(length);
        }
        Some((extents, self))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Codec;
    use super::*;

    fn blocks(raw: &[u32]) -> Vec<BlockInfo> {
        let info = |raw: &u32| BlockInfo {
            codec: Codec::Stored,
            packed_bytes: *raw,
            raw_bytes: *raw,
            digest: Digest([0; 32]),
            reference: Vec::new(),
        };
        raw.iter().map(info).collect()
    }

    fn write(path: &str, size: u64, content: Content) -> Command {
        let path = path.parse().expect("good path");
        let digest = (content == Content::Local).then_some(Digest([7; 32]));
        Command::WriteFile { path, mode: 0o644, mtime: 1_700_000_000, size, digest, content }
    }

    fn extent(block: u32, offset: u32, length: u32) -> Extent {
        Extent { block, offset, length }
    }

    fn back(commands: &[Command], blocks: &[BlockInfo]) -> Option<Vec<Command>> {
        decode_commands(&encode_commands(commands, blocks), commands.len(), blocks, 1 << 20)
    }

    #[test]
    fn files_that_follow_each_other_in_the_blocks_say_nothing_about_where() {
        let blocks = blocks(&[10, 0, 5]);
        let following = [
            write("a", 8, Content::Blocks(vec![extent(0, 0, 8)])),
            write("b", 7, Content::Blocks(vec![extent(0, 8, 2), extent(2, 0, 5)])),
        ];
        let scattered = [
            write("a", 8, Content::Blocks(vec![extent(0, 1, 8)])),
            write("b", 7, Content::Blocks(vec![extent(2, 0, 5), extent(0, 0, 2)])),
        ];
        assert_eq!(back(&following, &blocks).as_deref(), Some(&following[..]));
        assert_eq!(back(&scattered, &blocks).as_deref(), Some(&scattered[..]));
        assert!(encode_commands(&following, &blocks).len() + 10 < encode_commands(&scattered, &blocks).len());
        // The same bytes mean nothing where the blocks end earlier.
        let bytes = encode_commands(&following, &blocks);
        assert_eq!(decode_commands(&bytes, 2, &blocks[..2], 1 << 20), None);
        assert_eq!(decode_commands(&bytes, 2, &blocks, 1), None, "two bytes of paths");
        assert_eq!(decode_commands(&bytes, 1, &blocks, 1 << 20), None);
    }

    fn any_command() -> impl Strategy<Value = Command> {
        let path = "[aé]{1,3}(/[bc]{1,2}){0,2}".prop_map(|text| text.parse::<ContentPath>().expect("good path"));
        let content = prop_oneof![
            prop::collection::vec((0..3_u32, 0..4_u32, 1..4_u32), 0..3)
                .prop_map(|all| Content::Blocks(all.into_iter().map(|(b, o, l)| extent(b, o, l)).collect())),
            path.clone().prop_map(|from| Content::Copy { from }),
            Just(Content::Local),
        ];
        prop_oneof![
            (path.clone(), any::<u32>()).prop_map(|(path, mode)| Command::MakeDirectory { path, mode }),
            (path.clone(), any::<String>()).prop_map(|(path, target)| Command::MakeSymlink { path, target }),
            (path.clone(), any::<u32>()).prop_map(|(path, mode)| Command::SetMode { path, mode }),
            path.clone().prop_map(|path| Command::Remove { path }),
            (path, any::<u32>(), any::<i64>(), 0..12_u64, any::<bool>(), content).prop_map(
                |(path, mode, mtime, size, with, content)| {
                    let digest = (with || content == Content::Local).then_some(Digest([3; 32]));
                    Command::WriteFile { path, mode, mtime, size, digest, content }
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn commands_are_read_as_they_were_written(commands in prop::collection::vec(any_command(), 0..20)) {
            prop_assert_eq!(back(&commands, &blocks(&[4, 0, 9])), Some(commands));
        }

        #[test]
        fn what_is_no_wire_form_is_refused_or_read_without_harm(
            commands in prop::collection::vec(any_command(), 0..8),
            at in any::<prop::sample::Index>(),
            with in any::<u8>(),
        ) {
            let blocks = blocks(&[4, 0, 9]);
            let mut bytes = encode_commands(&commands, &blocks);
            let at = at.index(bytes.len());
            bytes[at] = with;
            if let Some(read) = decode_commands(&bytes, commands.len(), &blocks, 1 << 20) {
                prop_assert_eq!(read.len(), commands.len());
            }
        }
    }
}
