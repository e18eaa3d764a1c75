use std::cell::Cell;
use std::io::Cursor;
use std::sync::atomic::Ordering;

use common::assignment::{AssignmentReader, Codec, Kind, LivePolicy, Stretch};
use common::ids::{AssignmentNumber, ClusterId, RunNumber, Sequence, ServerId};
use common::keys::{PublishKeys, SecretKey};
use common::manifest::Entry;
use common::time::WallTime;
use proptest::prelude::*;

use super::*;
use crate::ingest::content::ContentStore;
use crate::ingest::inventory::{MissingError, build_inventory, needed_of};
use crate::ingest::order::build_order;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory(u32),
    File(u32, Vec<u8>),
    Link(String),
}

/// A content tree with its contents.
type Tree = BTreeMap<ContentPath, Node>;

fn path(text: &str) -> ContentPath {
    text.parse().unwrap()
}

fn tree(nodes: &[(&str, Node)]) -> Tree {
    nodes.iter().map(|(at, node)| (path(at), node.clone())).collect()
}

fn file(content: &[u8]) -> Node {
    Node::File(0o644, content.to_vec())
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

/// Text that packs, without repeating itself.
fn prose(seed: u64, words: usize) -> Vec<u8> {
    let words = noise(seed, words).into_iter().map(|byte| format!("word{} ", byte % 97));
    words.collect::<String>().into_bytes()
}

struct Bench {
    dir: tempfile::TempDir,
    store: ContentStore,
    key: PublishKey,
    level: Level,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(&dir.path().join("store")).unwrap();
        Self { dir, store, key: PublishKey { epoch: 1, key: SecretKey::from_bytes(&[9; 32]) }, level: Level::Balanced }
    }

    /// The manifest of a tree whose contents are in the store.
    fn manifest(&self, tree: &Tree) -> Manifest {
        let batch = self.store.batch();
        let entry = |node: &Node| match node {
            Node::Directory(mode) => Entry::Directory { mode: *mode },
            Node::Link(target) => Entry::Symlink { target: target.clone() },
            Node::File(mode, content) => Entry::File {
                mode: *mode,
                size: content.len() as u64,
                digest: batch.take_bytes(content).unwrap(),
                mtime: 7,
            },
        };
        let manifest = Manifest { entries: tree.iter().map(|(path, node)| (path.clone(), entry(node))).collect() };
        batch.commit().unwrap();
        manifest
    }

    fn draft(&self, kind: Kind) -> Draft {
        Draft {
            cluster: ClusterId([1; 16]),
            site: "shop".parse().unwrap(),
            group: "all".parse().unwrap(),
            number: AssignmentNumber(4),
            run: RunNumber(3),
            kind,
            sequence: Sequence(2),
            targets: vec![ServerId([2; 16])],
            live: LivePolicy { directory: "/srv/www/shop".into(), ..LivePolicy::default() },
            created: WallTime(1),
            expires: WallTime(2),
            extra: common::assignment::Extra::Remove,
            linger_seconds: 0,
        }
    }

    fn output(&self) -> PathBuf {
        self.dir.path().join("assignment")
    }

    fn build(
        &self,
        base: Option<&Manifest>,
        result: &Manifest,
        needed: Option<&BTreeSet<Digest>>,
    ) -> Result<Built, BuildError> {
        let base = base.map(|base| base as &dyn crate::ingest::tree::Tree);
        let request = BuildRequest { draft: self.draft(Kind::Prepare), base, result, needed, level: self.level };
        build(&request, &self.store, &self.key, &self.output(), &|_| (), &AtomicBool::new(false))
    }

    /// Builds from one tree to the other, has it carried out, and compares.
    fn publish(&self, base: &Tree, result: &Tree) -> (Built, Reader) {
        let (old, new) = (self.manifest(base), self.manifest(result));
        let built = self.build(Some(&old), &new, None).unwrap();
        let mut reader = self.read(&built);
        assert_eq!(reader.header().base, Base::Version(old.version()));
        assert_eq!(carry_out(&mut reader, base, &BTreeMap::new()), *result);
        (built, reader)
    }

    fn read(&self, built: &Built) -> Reader {
        let bytes = fs::read(&built.path).unwrap();
        assert_eq!((Digest::of(&bytes), bytes.len() as u64), (built.object, built.length));
        self.open(bytes)
    }

    fn open(&self, bytes: Vec<u8>) -> Reader {
        let keys = PublishKeys { keys: vec![(1, self.key.key.public())] };
        AssignmentReader::open(Cursor::new(bytes), &keys, &Limits::default()).unwrap()
    }

    /// Names of the files beside the store.
    fn left(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).filter(|name| name != "store").collect()
    }
}

type Reader = AssignmentReader<Cursor<Vec<u8>>>;

/// Does what a server does, on a tree in memory, as strictly as a file system would: parents must be
/// there, only empty directories go.
fn carry_out(reader: &mut Reader, base: &Tree, local: &BTreeMap<Digest, Vec<u8>>) -> Tree {
    let commands = reader.commands().to_vec();
    let mut live = base.clone();
    for command in &commands {
        let at = command.path();
        if let Some(parent) = at.parent() {
            assert!(matches!(live.get(&parent), Some(Node::Directory(_))), "{command:?} has no directory to be in");
        }
        match command {
            Command::MakeDirectory { mode, .. } => {
                assert_eq!(live.insert(at.clone(), Node::Directory(*mode)), None, "{command:?}");
            }
            Command::MakeSymlink { target, .. } => {
                let before = live.insert(at.clone(), Node::Link(target.clone()));
                assert!(!matches!(before, Some(Node::Directory(_))), "{command:?}");
            }
            Command::WriteFile { mode, mtime, size, digest, content, .. } => {
                let bytes = contents(reader, content, *digest, base, local);
                assert_eq!((bytes.len() as u64, *mtime), (*size, 7), "{command:?}");
                assert!(digest.is_none_or(|digest| digest == Digest::of(&bytes)), "{command:?}");
                let before = live.insert(at.clone(), Node::File(*mode, bytes));
                assert!(!matches!(before, Some(Node::Directory(_))), "{command:?}");
            }
            Command::SetMode { mode, .. } => match live.get_mut(at) {
                Some(Node::Directory(present) | Node::File(present, _)) => *present = *mode,
                Some(Node::Link(_)) | None => panic!("{command:?} finds nothing"),
            },
            Command::Remove { .. } => {
                assert!(!live.keys().any(|other| other.is_below(at)), "{command:?} removes what is not empty");
                assert!(live.remove(at).is_some(), "{command:?} finds nothing");
            }
        }
    }
    live
}

fn contents(
    reader: &mut Reader,
    content: &Content,
    digest: Option<Digest>,
    base: &Tree,
    local: &BTreeMap<Digest, Vec<u8>>,
) -> Vec<u8> {
    match content {
        Content::Local => local[&digest.expect("said of what is local")].clone(),
        Content::Copy { from } => match &base[from] {
            Node::File(_, bytes) => bytes.clone(),
            other @ (Node::Directory(_) | Node::Link(_)) => panic!("{other:?} is no source"),
        },
        Content::Blocks(extents) => {
            let mut bytes = Vec::new();
            for extent in extents {
                let raw = block(reader, extent.block, base);
                bytes.extend_from_slice(&raw[extent.offset as usize..][..extent.length as usize]);
            }
            bytes
        }
    }
}

fn block(reader: &mut Reader, block: u32, base: &Tree) -> Vec<u8> {
    let old: Vec<&Vec<u8>> = base
        .values()
        .filter_map(|node| match node {
            Node::File(_, bytes) => Some(bytes),
            Node::Directory(_) | Node::Link(_) => None,
        })
        .collect();
    let mut reference = Vec::new();
    for stretch in &reader.blocks()[block as usize].reference {
        match *stretch {
            Stretch::Files { first, count } => {
                old[first as usize..][..count as usize].iter().for_each(|bytes| reference.extend_from_slice(bytes));
            }
            Stretch::Part { file, offset, length } => {
                let begin = usize::try_from(offset).unwrap();
                reference.extend_from_slice(&old[file as usize][begin..][..length as usize]);
            }
        }
    }
    reader.read_block(block, (!reference.is_empty()).then_some(&reference[..])).unwrap()
}

/// The old files that blocks refer to, by number, and how many bytes of each.
fn referred(reader: &Reader) -> BTreeMap<u32, u64> {
    let mut files = BTreeMap::new();
    for stretch in reader.blocks().iter().flat_map(|info| &info.reference) {
        match *stretch {
            Stretch::Files { first, count } => files.extend((first..first + count).map(|file| (file, u64::MAX))),
            Stretch::Part { file, length, .. } => *files.entry(file).or_default() += u64::from(length),
        }
    }
    files
}

/// Where the content of a written file comes from.
fn content_of<'a>(reader: &'a Reader, at: &str) -> &'a Content {
    let write = reader.commands().iter().find_map(|command| match command {
        Command::WriteFile { path, content, .. } if path.as_str() == at => Some(content),
        Command::WriteFile { .. }
        | Command::MakeDirectory { .. }
        | Command::MakeSymlink { .. }
        | Command::SetMode { .. }
        | Command::Remove { .. } => None,
    });
    write.unwrap_or_else(|| panic!("{at} is not written"))
}

/// A random tree over few names and contents, so that trees have much in common.
fn any_tree() -> impl Strategy<Value = Tree> {
    let names = prop::collection::vec(prop::sample::select(vec!["a", "b", "app.1a2b3c.js", "app.9f8e7d.js"]), 1..4);
    let mode = prop::sample::select(vec![0o644, 0o600, 0o755]);
    let content = prop::sample::select(vec![
        Vec::new(),
        b"short".to_vec(),
        prose(1, 400),
        [prose(1, 300), b"edited".to_vec(), prose(2, 90)].concat(),
        prose(3, 2000),
        noise(4, 3000),
    ]);
    let node = prop_oneof![
        4 => (mode.clone(), content).prop_map(|(mode, content)| Node::File(mode, content)),
        1 => mode.prop_map(Node::Directory),
        1 => prop::sample::select(vec!["x", "./y", "a/b"]).prop_map(|target| Node::Link(target.into())),
    ];
    prop::collection::vec((names, node), 0..12).prop_map(|nodes| {
        let mut tree = Tree::new();
        for (names, node) in nodes {
            let at = path(&names.join("/"));
            for depth in 1..names.len() {
                let parent = path(&names[..depth].join("/"));
                if !matches!(tree.get(&parent), Some(Node::Directory(_))) {
                    tree.insert(parent, Node::Directory(0o755));
                }
            }
            tree.retain(|other, _| !other.is_below(&at));
            tree.insert(at, node);
        }
        tree
    })
}

#[test]
fn any_tree_becomes_any_other_exactly() {
    let mut bench = Bench::new();
    for level in [Level::Small, Level::Balanced, Level::Fast] {
        bench.level = level;
        proptest!(ProptestConfig::with_cases(96), |(base in any_tree(), result in any_tree())| {
            bench.publish(&base, &result);
        });
    }
}

#[test]
fn any_tree_is_made_from_nothing_with_data_for_just_what_is_needed() {
    let bench = Bench::new();
    proptest!(ProptestConfig::with_cases(96), |(result in any_tree(), chosen in any::<u64>())| {
        let manifest = bench.manifest(&result);
        let digests: BTreeSet<Digest> = manifest.files().map(|(_, _, digest)| *digest).collect();
        let needed: BTreeSet<Digest> =
            digests.iter().enumerate().filter(|(n, _)| chosen >> (n % 64) & 1 == 1).map(|(_, digest)| *digest).collect();
        let local: BTreeMap<Digest, Vec<u8>> = digests
            .difference(&needed)
            .map(|digest| (*digest, bench.store.read(*digest).unwrap()))
            .collect();
        let built = bench.build(None, &manifest, Some(&needed)).unwrap();
        let mut reader = bench.read(&built);
        prop_assert_eq!(reader.header().base, Base::Any);
        prop_assert_eq!(reader.commands().len(), manifest.entries.len());
        prop_assert_eq!(carry_out(&mut reader, &Tree::new(), &local), result.clone());

        let built = bench.build(None, &manifest, None).unwrap();
        let mut reader = bench.read(&built);
        prop_assert_eq!(carry_out(&mut reader, &Tree::new(), &BTreeMap::new()), result);
    });
}

#[test]
fn every_type_becomes_every_other_type() {
    let bench = Bench::new();
    let shapes = [
        tree(&[]),
        tree(&[("x", file(b"a file"))]),
        tree(&[("x", Node::Link("y".into()))]),
        tree(&[("x", Node::Directory(0o755))]),
        tree(&[("x", Node::Directory(0o700)), ("x/d", Node::Directory(0o755)), ("x/d/f", file(b"a file"))]),
        tree(&[("x", Node::Directory(0o755)), ("x/d", file(b""))]),
    ];
    for base in &shapes {
        for result in &shapes {
            bench.publish(base, result);
        }
    }
}

#[test]
fn the_header_says_what_it_takes() {
    let bench = Bench::new();
    let base = tree(&[("a", file(b"a")), ("b", file(b"b"))]);
    let result = tree(&[("a", file(&noise(1, 5000))), ("b", file(b"b")), ("d", Node::Directory(0o755))]);
    let (built, reader) = bench.publish(&base, &result);
    let header = reader.header();
    assert_eq!(header.result, bench.manifest(&result).version());
    assert_eq!((header.result_entries, header.result_bytes, header.space_bytes), (3, 5001, 8192 + 4096));
    assert_eq!((header.number, header.sequence, header.kind), (AssignmentNumber(4), Sequence(2), Kind::Prepare));
    assert_eq!((built.blocks, built.data_bytes), (1, 5000));
    assert_eq!(bench.left(), ["assignment"]);
}

#[test]
fn nothing_to_do_is_an_assignment_without_commands() {
    let bench = Bench::new();
    let same = tree(&[("a", file(b"a"))]);
    let (built, reader) = bench.publish(&same, &same);
    assert_eq!((reader.commands().len(), built.blocks, built.data_bytes), (0, 0, 0));
}

#[test]
fn a_change_of_mode_carries_no_data() {
    let bench = Bench::new();
    let base = tree(&[("d", Node::Directory(0o755)), ("f", file(&noise(1, 9000)))]);
    let result = tree(&[("d", Node::Directory(0o700)), ("f", Node::File(0o600, noise(1, 9000)))]);
    let (built, reader) = bench.publish(&base, &result);
    assert_eq!(built.blocks, 0);
    assert!(reader.commands().iter().all(|command| matches!(command, Command::SetMode { .. })));
}

#[test]
fn an_edit_costs_about_what_was_edited() {
    let bench = Bench::new();
    let old = noise(1, 300_000);
    let mut new = old.clone();
    new.splice(150_000..150_000, b"inserted in the middle".iter().copied());
    let (built, reader) = bench.publish(&tree(&[("f.bin", file(&old))]), &tree(&[("f.bin", file(&new))]));
    assert!(built.data_bytes < 1000, "{} bytes for a sentence", built.data_bytes);
    assert_eq!(reader.blocks()[0].codec, Codec::ZstdPrefix);
}

#[test]
fn a_bundle_that_was_renamed_and_edited_is_a_delta_of_the_old_one() {
    let bench = Bench::new();
    let old = prose(1, 20_000);
    let new = [&old[..60_000], b"one more statement", &old[60_000..]].concat();
    let base = tree(&[("app.1a2b3c.js", file(&old)), ("other.js", file(&prose(2, 20_000)))]);
    let result = tree(&[("app.9f8e7d.js", file(&new)), ("other.js", file(&prose(2, 20_000)))]);
    let (built, reader) = bench.publish(&base, &result);
    assert!(built.data_bytes < 500, "{} bytes", built.data_bytes);
    assert_eq!(referred(&reader).into_keys().collect::<Vec<_>>(), [0], "app.1a2b3c.js is the first file of the base");
}

#[test]
fn content_finds_what_it_was_made_from_whatever_that_was_called() {
    let base = tree(&[
        ("a", file(&prose(1, 20_000))),
        ("b", Node::Directory(0o755)),
        ("b/same.js", file(&noise(7, 50_000))),
        ("old-chunk.js", file(&prose(2, 20_000))),
        ("z.js", file(&prose(3, 20_000))),
    ]);
    let merged = [&prose(3, 20_000)[..], b"between", &prose(2, 20_000)].concat();
    let result =
        tree(&[("b", Node::Directory(0o755)), ("b/same.js", file(&noise(7, 50_000))), ("index-Q.js", file(&merged))]);
    for level in [Level::Small, Level::Balanced, Level::Fast] {
        let bench = Bench { level, ..Bench::new() };
        let (built, reader) = bench.publish(&base, &result);
        assert!(built.data_bytes < 800, "{level:?}: {} bytes", built.data_bytes);
        assert_eq!(referred(&reader).into_keys().collect::<Vec<_>>(), [2, 3], "{level:?}");
    }
}

#[test]
fn a_thousand_small_changes_cost_a_few_bytes_each_beside_their_data() {
    let bench = Bench { level: Level::Small, ..Bench::new() };
    let (mut base, mut result) = (Tree::new(), Tree::new());
    for n in 0..1000 {
        let at = path(&format!("icon-{n}.svg"));
        let old = [&b"<svg>"[..], &noise(n, 500), b"version 1</svg>"].concat();
        let new = [&old[..old.len() - 7], b"2</svg>"].concat();
        base.insert(at.clone(), file(&old));
        result.insert(at, file(&new));
    }
    let (built, reader) = bench.publish(&base, &result);
    assert!(
        built.length - built.data_bytes < 8 * 1000 + 512,
        "{} bytes beside the data",
        built.length - built.data_bytes
    );
    assert_eq!(reader.blocks()[0].reference, [Stretch::Files { first: 0, count: 1000 }]);
}

#[test]
fn a_rewrite_is_sent_as_data_not_as_a_delta() {
    let bench = Bench::new();
    let (built, reader) =
        bench.publish(&tree(&[("f", file(&noise(1, 50_000)))]), &tree(&[("f", file(&noise(2, 50_000)))]));
    assert_eq!(built.data_bytes, 50_000);
    assert_eq!(reader.blocks()[0].codec, Codec::Stored);
}

#[test]
fn what_moved_or_was_copied_carries_no_data() {
    let bench = Bench::new();
    let bundle = noise(1, 100_000);
    let base = tree(&[("d", Node::Directory(0o755)), ("d/old.js", file(&bundle)), ("stays", file(b"stays"))]);
    let result = tree(&[
        ("e", Node::Directory(0o755)),
        ("e/new.js", file(&bundle)),
        ("stays", file(b"stays")),
        ("stays.copy", file(b"stays")),
    ]);
    let (built, reader) = bench.publish(&base, &result);
    assert_eq!((built.blocks, built.data_bytes), (0, 0));
    assert!(matches!(content_of(&reader, "e/new.js"), Content::Copy { from } if from.as_str() == "d/old.js"));
}

#[test]
fn files_that_trade_places_are_copied_from_the_base() {
    let bench = Bench::new();
    let base = tree(&[("a", file(b"first")), ("b", file(b"second"))]);
    let result = tree(&[("a", file(b"second")), ("b", file(b"first"))]);
    assert_eq!(bench.publish(&base, &result).0.data_bytes, 0);
}

#[test]
fn a_content_that_two_files_share_is_sent_once() {
    let bench = Bench::new();
    let twice = noise(1, 30_000);
    let result = tree(&[("a.bin", file(&twice)), ("b.bin", file(&twice))]);
    assert_eq!(bench.publish(&Tree::new(), &result).0.data_bytes, 30_000);
}

#[test]
fn small_files_are_packed_together_and_apart_from_what_is_packed_already() {
    let bench = Bench::new();
    let mut result = Tree::new();
    for n in 0..60 {
        result.insert(path(&format!("p{n}.html")), file(&[b"<html><body>".to_vec(), prose(n, 50)].concat()));
        result.insert(path(&format!("i{n}.png")), file(&noise(n, 1000)));
    }
    let (built, reader) = bench.publish(&Tree::new(), &result);
    let codecs: Vec<Codec> = reader.blocks().iter().map(|block| block.codec).collect();
    assert_eq!(codecs, [Codec::Zstd, Codec::Stored]);
    assert_eq!(built.blocks, 2);
}

#[test]
fn blocks_stay_within_their_bound() {
    let bench = Bench::new();
    let result: Tree = (0..12).map(|n| (path(&format!("f{n}.bin")), file(&noise(n, 3 << 20)))).collect();
    let (built, reader) = bench.publish(&Tree::new(), &result);
    assert_eq!(built.blocks, 3);
    assert!(reader.blocks().iter().all(|block| block.raw_bytes <= 16 << 20));
}

#[test]
fn large_files_are_cut_and_a_shift_does_not_defeat_the_delta() {
    let bench = Bench::new();
    let old = noise(1, 40 << 20);
    // More comes in front than a block's reference is long.
    let new = [noise(2, 30 << 20), old.clone()].concat();
    let (built, reader) = bench.publish(&tree(&[("disk.img", file(&old))]), &tree(&[("disk.img", file(&new))]));
    assert!(reader.blocks().iter().all(|block| block.raw_bytes <= 16 << 20));
    assert!(built.data_bytes < 31 << 20, "{} bytes", built.data_bytes);

    let (built, reader) = bench.publish(&Tree::new(), &tree(&[("disk.img", file(&new))]));
    assert_eq!((built.data_bytes, built.blocks), (70 << 20, 5));
    assert!(matches!(content_of(&reader, "disk.img"), Content::Blocks(extents) if extents.len() == 5));
    assert_eq!(bench.left(), ["assignment"], "no spool is left");
}

#[test]
fn damaged_or_missing_content_is_named_and_nothing_is_left() {
    let bench = Bench::new();
    let result = bench.manifest(&tree(&[("f", file(b"content"))]));
    let digest = Digest::of(b"content");
    let stored = bench.store.content_path(digest);
    fs::write(&stored, b"c0ntent").unwrap();
    let damaged = bench.build(None, &result, None);
    assert!(
        matches!(damaged, Err(BuildError::Content(ContentError::Damaged { digest: named })) if named == digest),
        "{damaged:?}"
    );
    fs::remove_file(&stored).unwrap();
    let missing = bench.build(None, &result, None);
    assert!(
        matches!(missing, Err(BuildError::Content(ContentError::Missing { digest: named })) if named == digest),
        "{missing:?}"
    );
    assert_eq!(bench.left(), Vec::<String>::new());
}

#[test]
fn an_old_file_that_is_damaged_in_the_store_is_not_used_for_a_delta() {
    let bench = Bench::new();
    let old = prose(1, 2000);
    let new = [old.clone(), b"more".to_vec()].concat();
    let (base, result) = (tree(&[("f", file(&old))]), tree(&[("f", file(&new))]));
    let manifests = (bench.manifest(&base), bench.manifest(&result));
    let stored = bench.store.content_path(Digest::of(&old));
    // So little that a delta against it would still be the cheapest, and wrong on every server.
    let mut damaged = old.clone();
    damaged[100] ^= 1;
    fs::write(&stored, damaged).unwrap();
    let built = bench.build(Some(&manifests.0), &manifests.1, None).unwrap();
    let mut reader = bench.read(&built);
    assert_eq!(carry_out(&mut reader, &base, &BTreeMap::new()), result);
    assert!(referred(&reader).is_empty());
}

#[test]
fn a_result_that_is_no_tree_is_not_built() {
    let bench = Bench::new();
    let orphan = Manifest { entries: [(path("no/where"), Entry::Symlink { target: "x".into() })].into() };
    assert!(matches!(bench.build(None, &orphan, None), Err(BuildError::Apply(_))));
    assert_eq!(bench.left(), Vec::<String>::new());
}

#[test]
fn a_cancelled_build_leaves_what_was_there() {
    let bench = Bench::new();
    fs::write(bench.output(), b"before").unwrap();
    let result = bench.manifest(&(0..9).map(|n| (path(&format!("f{n}")), file(&noise(n, 200_000)))).collect());
    let cancel = AtomicBool::new(false);
    let calls = Cell::new(0);
    let progress = |_| {
        calls.set(calls.get() + 1);
        cancel.store(calls.get() == 4, Ordering::Relaxed);
    };
    let request = BuildRequest {
        draft: bench.draft(Kind::Prepare),
        base: None,
        result: &result,
        needed: None,
        level: Level::Fast,
    };
    let stopped = build(&request, &bench.store, &bench.key, &bench.output(), &progress, &cancel);
    assert!(matches!(stopped, Err(BuildError::Cancelled)), "{stopped:?}");
    assert_eq!(fs::read(bench.output()).unwrap(), b"before");
    assert_eq!(bench.left(), ["assignment"]);
}

#[test]
fn progress_ends_at_its_totals() {
    let bench = Bench::new();
    let base = bench.manifest(&tree(&[("a", file(&noise(1, 400_000))), ("b", file(&prose(1, 400)))]));
    let result =
        bench.manifest(&tree(&[("a", file(&noise(2, 400_000))), ("b", file(&prose(2, 400))), ("c", file(b"c"))]));
    let last = Cell::new(Progress::default());
    let request = BuildRequest {
        draft: bench.draft(Kind::Prepare),
        base: Some(&base),
        result: &result,
        needed: None,
        level: Level::Fast,
    };
    let progress = |progress: Progress| {
        assert!(progress.bytes_done >= last.get().bytes_done && progress.bytes_done <= progress.bytes_total);
        last.set(progress);
    };
    build(&request, &bench.store, &bench.key, &bench.output(), &progress, &AtomicBool::new(false)).unwrap();
    let last = last.get();
    assert_eq!((last.files_done, last.files_total), (3, 3));
    assert_eq!(last.bytes_done, last.bytes_total);
}

#[test]
fn an_inventory_names_every_entry_and_its_answers_name_contents() {
    let bench = Bench::new();
    let manifest = bench.manifest(&tree(&[
        ("a", file(b"a")),
        ("d", Node::Directory(0o755)),
        ("d/b", file(b"b")),
        ("d/c", file(b"a")),
        ("e", file(b"")),
    ]));
    let built = build_inventory(bench.draft(Kind::Prepare), &manifest, &bench.key, &bench.output()).unwrap();
    let reader = bench.read(&built);
    assert_eq!((reader.header().kind, reader.header().base, built.blocks), (Kind::Inventory, Base::Any, 0));
    assert_eq!(reader.header().result, manifest.version());
    let order: Vec<&ContentPath> = reader.commands().iter().map(Command::path).collect();
    assert_eq!(order, manifest.entries.keys().collect::<Vec<_>>());
    for at in ["a", "d/b", "d/c", "e"] {
        assert_eq!(content_of(&reader, at), &Content::Local);
    }

    assert_eq!(needed_of(&manifest, &[]).unwrap(), BTreeSet::new());
    assert_eq!(needed_of(&manifest, &[(0, 1), (3, 2)]).unwrap(), [Digest::of(b"a"), Digest::of(b"")].into());
    assert_eq!(needed_of(&manifest, &[(2, 1)]).unwrap(), [Digest::of(b"b")].into());
    let no_file = needed_of(&manifest, &[(0, 2)]);
    assert!(matches!(&no_file, Err(MissingError::NotAFile { path }) if path.as_str() == "d"), "{no_file:?}");
    let beyond = needed_of(&manifest, &[(4, 2)]);
    assert!(matches!(beyond, Err(MissingError::OutOfRange { first: 4, count: 2, commands: 5 })), "{beyond:?}");
    assert!(needed_of(&manifest, &[(u32::MAX, u32::MAX)]).is_err());
    for runs in [[(2, 1), (2, 1)], [(3, 1), (0, 1)], [(0, 1), (2, 0)]] {
        assert!(matches!(needed_of(&manifest, &runs), Err(MissingError::NotAscending { .. })), "{runs:?}");
    }
}

#[test]
fn an_inventory_and_then_what_was_missing_make_the_tree() {
    let bench = Bench::new();
    let result = tree(&[("a", file(b"known")), ("b", file(&prose(1, 90))), ("c", file(b""))]);
    let manifest = bench.manifest(&result);
    let needed = needed_of(&manifest, &[(1, 2)]).unwrap();
    let built = bench.build(None, &manifest, Some(&needed)).unwrap();
    let mut reader = bench.read(&built);
    let local = [(Digest::of(b"known"), b"known".to_vec())].into();
    assert_eq!(carry_out(&mut reader, &Tree::new(), &local), result);
    assert_eq!(reader.header().space_bytes, 4096, "what is taken for present needs no space");
}

#[test]
fn an_order_is_a_small_assignment_without_commands() {
    let bench = Bench::new();
    let prepared = AssignmentNumber(3);
    for kind in [Kind::Commit { prepared }, Kind::Undo { prepared }, Kind::Rollback] {
        let version = Version(Digest([3; 32]));
        let order = build_order(bench.draft(kind), version, &bench.key);
        assert!(order.len() < 600, "{} bytes", order.len());
        let reader = bench.open(order);
        assert_eq!((reader.header().kind, reader.header().number), (kind, AssignmentNumber(4)));
        assert_eq!((reader.header().base, reader.header().result), (Base::Any, version));
        assert!(reader.commands().is_empty() && reader.blocks().is_empty());
    }
}
