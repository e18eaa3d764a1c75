//! Assignments and manifests.

use std::io::Cursor;

use common::assignment::{
    AssignmentReader, Base, BlockInfo, Command, Content, Extent, Extra, FORMAT, HEADER_DOMAIN, Header, Kind, Limits,
    LivePolicy, MAGIC, Stretch, apply, encode_commands, pack,
};
use common::digest::Digest;
use common::ids::{AssignmentNumber, ClusterId, RunNumber, Sequence, ServerId};
use common::manifest::{Entry, Manifest};
use common::time::WallTime;

use super::segment::{publish_key, publish_keys};
use super::{assert_same_again, encoded};
use crate::{Shape, Target};

/// Small, so that what goes beyond them is found before memory is.
const LIMITS: Limits = Limits {
    header_bytes_max: 4_096,
    commands_max: 1_000,
    commands_packed_bytes_max: 64 << 10,
    commands_raw_bytes_max: 256 << 10,
    blocks_max: 100,
    blocks_raw_bytes_max: 64 << 10,
    result_bytes_max: 1 << 30,
};
const CONTENT: &[u8] = b"hello, hello, hello, hello, hello";

/// What the input of the target consists of: parts with their lengths in front.
struct Parts {
    /// Bit 0: counts and digests of the header are made right; bit 1: the file is taken as it is.
    how: u8,
    parts: [Vec<u8>; 4],
}

impl Parts {
    fn of(input: &[u8]) -> Self {
        let (how, mut rest) = input.split_first().map_or((0, input), |(how, rest)| (*how, rest));
        let parts = std::array::from_fn(|_| {
            let Some((length, behind)) = rest.split_first_chunk::<2>() else {
                return std::mem::take(&mut rest).to_vec();
            };
            let length = usize::from(u16::from_le_bytes(*length)).min(behind.len());
            let (part, behind) = behind.split_at(length);
            rest = behind;
            part.to_vec()
        });
        Self { how, parts }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.how];
        for part in &self.parts {
            bytes.extend_from_slice(&u16::try_from(part.len()).expect("samples are small").to_le_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }

    /// A file that is rightly signed, whatever stands in it.
    fn to_file(&self) -> Vec<u8> {
        let [header, commands, table, data] = &self.parts;
        let pack = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).expect("memory is there");
        let (packed, table_packed) = (pack(commands), pack(table));
        // The commands begin with the list of their kinds, the table with its length.
        let count = |bytes: &[u8]| postcard::take_from_bytes::<u32>(bytes).map(|(count, _)| count);
        let header = match postcard::from_bytes::<Header>(header) {
            Ok(header) if self.how & 1 != 0 => encoded(&Header {
                commands: count(commands).unwrap_or(header.commands),
                commands_packed_bytes: packed.len() as u64,
                commands_raw_bytes: commands.len() as u64,
                commands_digest: Digest::of(&packed),
                blocks: count(table).unwrap_or(header.blocks),
                blocks_digest: Digest::of(&table_packed),
                data_bytes: data.len() as u64,
                ..header
            }),
            Ok(_) | Err(_) => header.clone(),
        };
        let signature = publish_key().key.sign(HEADER_DOMAIN, &header);
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&FORMAT.to_le_bytes());
        file.extend_from_slice(&u32::try_from(header.len()).unwrap_or(u32::MAX).to_le_bytes());
        file.extend_from_slice(&header);
        file.extend_from_slice(&1_u32.to_le_bytes());
        file.extend_from_slice(&signature.0);
        file.extend_from_slice(&packed);
        file.extend_from_slice(&(table_packed.len() as u64).to_le_bytes());
        file.extend_from_slice(&table_packed);
        file.extend_from_slice(data);
        file
    }
}

fn header() -> Header {
    Header {
        cluster: ClusterId([1; 16]),
        site: "shop".parse().expect("good"),
        group: "all".parse().expect("good"),
        number: AssignmentNumber(1),
        run: RunNumber(1),
        kind: Kind::Prepare,
        sequence: Sequence(1),
        base: Base::Any,
        result: Manifest::default().version(),
        targets: vec![ServerId([2; 16])],
        live: LivePolicy { directory: "/srv/www/shop".into(), ..LivePolicy::default() },
        result_entries: 2,
        result_bytes: CONTENT.len() as u64,
        space_bytes: CONTENT.len() as u64,
        commands: 0,
        commands_packed_bytes: 0,
        commands_raw_bytes: 0,
        commands_digest: Digest([0; 32]),
        blocks: 0,
        blocks_digest: Digest([0; 32]),
        data_bytes: 0,
        created: WallTime(0),
        expires: WallTime(1),
        extra: Extra::Remove,
        linger_seconds: 0,
    }
}

fn commands() -> Vec<Command> {
    let path = |text: &str| text.parse().expect("good");
    let write = |at: &str, content| Command::WriteFile {
        path: path(at),
        mode: 0o644,
        mtime: 1,
        size: CONTENT.len() as u64,
        digest: Some(Digest::of(CONTENT)),
        content,
    };
    vec![
        Command::MakeDirectory { path: path("d"), mode: 0o755 },
        write("d/new", Content::Blocks(vec![Extent { block: 0, offset: 0, length: 33 }])),
        write("d/local", Content::Local),
        write("d/copy", Content::Copy { from: path("old") }),
        Command::MakeSymlink { path: path("d/link"), target: "../d/new".into() },
        Command::SetMode { path: path("old"), mode: 0o600 },
        Command::Remove { path: path("gone") },
    ]
}

pub(super) fn base() -> Manifest {
    let file = || Entry::File { mode: 0o644, size: 33, digest: Digest::of(CONTENT), mtime: 1 };
    let entries = ["gone", "old"].map(|path| (path.parse().expect("good"), file()));
    Manifest { entries: entries.into() }
}

pub(super) fn assignment() -> Target {
    let (block, packed) = pack(CONTENT, None, 3).expect("packs");
    let (stored, bytes) = pack(b"xy", None, 3).expect("packs");
    let (refers, delta) = pack(CONTENT, Some(CONTENT), 3).expect("packs");
    let refers = BlockInfo { reference: vec![Stretch::Files { first: 0, count: 1 }], ..refers };
    let (blocks, data) = ([block, stored, refers], [packed, bytes, delta].concat());
    let sample = |how, commands: &[Command]| Parts {
        how,
        parts: [encoded(&header()), encode_commands(commands, &blocks), encoded(&blocks.to_vec()), data.clone()],
    };
    let whole = sample(1, &commands());
    let mut as_it_is = vec![2];
    as_it_is.extend(whole.to_file());
    Target {
        name: "assignment",
        what: "assignment files that are rightly signed, and whole ones that are damaged",
        bytes_max: 32 << 10,
        samples: vec![whole.to_bytes(), sample(0, &commands()).to_bytes(), sample(1, &[]).to_bytes(), as_it_is],
        check: Box::new(|input| {
            let parts = Parts::of(input);
            let file = if parts.how & 2 == 0 { parts.to_file() } else { input[1..].to_vec() };
            let mut reader = match AssignmentReader::open(Cursor::new(&file), &publish_keys(), &LIMITS) {
                Ok(reader) => reader,
                Err(error) => return Shape::refused(&error),
            };
            assert!(reader.commands().len() <= LIMITS.commands_max as usize);
            assert!(reader.blocks().len() <= LIMITS.blocks_max as usize);
            assert_same_again(reader.header());
            assert_same_again(&reader.commands().to_vec());
            let mut unpacked = Vec::new();
            for block in 0..=u32::try_from(reader.blocks().len()).expect("few") {
                let bytes = reader.read_block(block, Some(CONTENT));
                if let (Ok(bytes), Some(info)) = (&bytes, reader.blocks().get(block as usize)) {
                    assert_eq!(bytes.len(), info.raw_bytes as usize, "a block has the length that it says");
                }
                unpacked.push(bytes.map(|bytes| bytes.len()).map_err(|error| error.to_string()));
            }
            let applied = apply(&base(), reader.commands());
            if let Ok(tree) = &applied {
                assert_eq!(tree.check(), Ok(()), "what is applied to a tree leaves a tree");
            }
            Shape::decoded(&(applied.map(|_| ()), unpacked, reader.commands()))
        }),
    }
}

pub(super) fn manifest() -> Target {
    let mut tree = base();
    tree.entries.insert("d".parse().expect("good"), Entry::Directory { mode: 0o755 });
    tree.entries.insert("d/link".parse().expect("good"), Entry::Symlink { target: "../old".into() });
    Target {
        name: "manifest",
        what: "manifests",
        bytes_max: 16 << 10,
        samples: vec![encoded(&tree), encoded(&Manifest::default())],
        check: Box::new(|input| match postcard::from_bytes::<Manifest>(input) {
            Ok(tree) => {
                assert_same_again(&tree);
                let (checked, version) = (tree.check(), tree.version());
                assert_eq!(version, tree.version());
                if checked.is_ok() {
                    let bytes = tree.files().fold(0_u64, |sum, (_, size, _)| sum.saturating_add(size));
                    if bytes < u64::MAX {
                        assert_eq!(bytes, tree.content_bytes());
                    }
                }
                Shape::decoded(&(checked, tree))
            }
            Err(error) => Shape::refused(&error),
        }),
    }
}
