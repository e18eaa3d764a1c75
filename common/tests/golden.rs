//! Assignment files of every format that was ever written, as they were written: they are read, or
//! refused by the name of their format.
//!
//! `golden/assignment-3.pressrun` was written by [`write_anew`] below, `assignment-2.pressrun` by what it was
//! then; a new format gets a new file, and the old ones stay.

#![allow(clippy::unwrap_used, reason = "what goes wrong in it is a failed test")]

use std::io::Cursor;

use pressrun_common::assignment::{
    AssignmentError, AssignmentReader, Base, BlockInfo, Codec, Command, Content, Draft, Effect, Extent, Extra, FORMAT,
    Kind, Limits, LivePolicy, Stretch, head, pack,
};
use pressrun_common::digest::{Digest, Version};
use pressrun_common::ids::{AssignmentNumber, ClusterId, RunNumber, Sequence, ServerId};
use pressrun_common::keys::{PublishKey, PublishKeys, SecretKey};
use pressrun_common::path::ContentPath;
use pressrun_common::time::WallTime;

/// The file of the newest format.
fn golden() -> Vec<u8> {
    golden_of(FORMAT)
}

fn golden_of(format: u16) -> Vec<u8> {
    let name = format!("{}/tests/golden/assignment-{format}.pressrun", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(name).unwrap()
}

const OLD: &[u8] = b"The old text, which is long enough to be worth referring to, and to be changed a little.";
const NEW: &[u8] = b"The new text, which is long enough to be worth referring to, and to be changed a little.";

fn key() -> PublishKey {
    PublishKey { epoch: 3, key: SecretKey::from_bytes(&[42; 32]) }
}

fn path(text: &str) -> ContentPath {
    text.parse().unwrap()
}

fn write(at: &str, size: u64, digest: Option<Digest>, content: Content) -> Command {
    Command::WriteFile { path: path(at), mode: 0o644, mtime: 1_700_000_000, size, digest, content }
}

/// One of everything.
fn commands() -> Vec<Command> {
    let extent = |block, offset, length| Extent { block, offset, length };
    let whole = NEW.len() as u64;
    let length = u32::try_from(NEW.len()).unwrap();
    vec![
        Command::Remove { path: path("gone/file") },
        Command::Remove { path: path("gone") },
        Command::MakeDirectory { path: path("d"), mode: 0o755 },
        Command::MakeSymlink { path: path("d/link"), target: "../moved".into() },
        Command::SetMode { path: path("d/mode"), mode: 0o600 },
        write("moved", 5, None, Content::Copy { from: path("from") }),
        write("local", 5, Some(Digest::of(b"local")), Content::Local),
        write("empty", 0, None, Content::Blocks(Vec::new())),
        write("d/changed", whole, None, Content::Blocks(vec![extent(0, 0, length)])),
        write("d/stored", 6, None, Content::Blocks(vec![extent(1, 0, 6)])),
        write("again", 4, None, Content::Blocks(vec![extent(1, 2, 4)])),
    ]
}

fn draft() -> Draft {
    Draft {
        cluster: ClusterId([1; 16]),
        site: "shop".parse().unwrap(),
        group: "all".parse().unwrap(),
        number: AssignmentNumber(12),
        run: RunNumber(7),
        kind: Kind::Prepare,
        sequence: Sequence(12),
        targets: vec![ServerId([2; 16]), ServerId([3; 16])],
        live: LivePolicy {
            directory: "/srv/www/{server}".into(),
            exclude: vec!["*.tmp".into()],
            ..LivePolicy::default()
        },
        created: WallTime(1_700_000_000_000),
        expires: WallTime(1_700_086_400_000),
        extra: Extra::Keep,
        linger_seconds: 600,
    }
}

fn effect() -> Effect {
    Effect {
        base: Base::Version(Version(Digest([4; 32]))),
        result: Version(Digest([5; 32])),
        result_entries: 9,
        result_bytes: 4096,
        space_bytes: 8192,
    }
}

fn write_anew() -> Vec<u8> {
    let (delta, packed) = pack(NEW, Some(OLD), 19).unwrap();
    let length = u32::try_from(OLD.len() - 4).unwrap();
    let reference = vec![Stretch::Part { file: 2, offset: 0, length: 4 }, Stretch::Part { file: 2, offset: 4, length }];
    let blocks = [BlockInfo { reference, ..delta }, BlockInfo::of(Codec::Stored, b"stored", 6)];
    let mut file = head(draft(), effect(), &commands(), &blocks, &key()).unwrap();
    file.extend_from_slice(&packed);
    file.extend_from_slice(b"stored");
    file
}

/// A file is read as it was meant: these were its draft, effect, commands and blocks.
fn assert_read(file: Vec<u8>, draft: &Draft) {
    let keys = PublishKeys { keys: vec![(3, key().key.public())] };
    let mut reader = AssignmentReader::open(Cursor::new(file), &keys, &Limits::default()).unwrap();
    assert_eq!(reader.commands(), commands());
    let header = reader.header();
    // Each field of what was said stands in the header as it is.
    let read = serde_json::to_value(header).unwrap();
    for said in [serde_json::to_value(draft).unwrap(), serde_json::to_value(effect()).unwrap()] {
        for (field, value) in said.as_object().unwrap() {
            assert_eq!(&read[field], value, "{field}");
        }
    }
    assert_eq!((header.commands, header.blocks), (11, 2));
    assert_eq!(reader.blocks()[0].reference.len(), 2);
    assert_eq!(reader.read_block(0, Some(OLD)).unwrap(), NEW);
    assert_eq!(reader.read_block(1, None).unwrap(), b"stored");
}

#[test]
fn an_assignment_of_format_3_is_read_as_it_was_meant() {
    assert_read(golden_of(3), &draft());
}

#[test]
fn an_assignment_of_format_2_says_nothing_of_what_nobody_published_or_lingers() {
    assert_read(golden_of(2), &Draft { extra: Extra::Remove, linger_seconds: 0, ..draft() });
}

#[test]
fn what_is_written_now_has_the_format_of_the_newest_golden_file() {
    let anew = write_anew();
    if let Some(path) = std::env::var_os("PRESSRUN_WRITE_GOLDEN") {
        std::fs::write(path, &anew).unwrap();
    }
    // The compressor's bytes may differ from release to release; what it says may not.
    assert_eq!(anew[..10], golden()[..10]);
    let keys = PublishKeys { keys: vec![(3, key().key.public())] };
    let open = |bytes: Vec<u8>| AssignmentReader::open(Cursor::new(bytes), &keys, &Limits::default()).unwrap();
    assert_eq!(open(anew).commands(), open(golden()).commands());
}

#[test]
fn other_formats_are_refused_by_name() {
    // A file that says it is of another format than it is has a header that is too short or too long.
    for (really, said) in [(2, 3), (3, 2)] {
        let mut other = golden_of(really);
        other[8..10].copy_from_slice(&u16::to_le_bytes(said));
        let keys = PublishKeys { keys: vec![(3, key().key.public())] };
        let refused = AssignmentReader::open(Cursor::new(other), &keys, &Limits::default());
        assert!(matches!(refused, Err(AssignmentError::Malformed { part: "header" })), "{really} as {said}");
    }
    for format in [0, 1, FORMAT + 1, u16::MAX] {
        let mut other = golden();
        other[8..10].copy_from_slice(&format.to_le_bytes());
        let refused = AssignmentReader::open(Cursor::new(other), &PublishKeys::default(), &Limits::default());
        assert!(matches!(refused, Err(AssignmentError::Format { found }) if found == format));
    }
}
