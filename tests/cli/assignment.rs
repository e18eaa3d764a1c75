//! Assignments in files: from two directories to one change package and back, by the binary alone.

#![allow(clippy::unwrap_used, reason = "what goes wrong in it is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use crate::fake::{Ended, run};

/// What a tree consists of: contents with modes, link targets, directories with modes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory(u32),
    File(u32, Vec<u8>),
    Link(String),
}

type Tree = BTreeMap<PathBuf, Node>;

fn write(tree: &Tree, to: &Path) {
    fs::create_dir(to).unwrap();
    for (path, node) in tree {
        let at = to.join(path);
        match node {
            Node::Directory(_) => fs::create_dir(&at).unwrap(),
            Node::File(mode, content) => {
                fs::write(&at, content).unwrap();
                fs::set_permissions(&at, fs::Permissions::from_mode(*mode)).unwrap();
            }
            Node::Link(target) => symlink(target, &at).unwrap(),
        }
    }
    for (path, node) in tree.iter().rev() {
        if let Node::Directory(mode) = node {
            fs::set_permissions(to.join(path), fs::Permissions::from_mode(*mode)).unwrap();
        }
    }
}

fn read(from: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(from.join(&directory)).unwrap() {
            let path = directory.join(entry.unwrap().file_name());
            let at = from.join(&path);
            let found = fs::symlink_metadata(&at).unwrap();
            let mode = found.permissions().mode() & 0o777;
            let node = if found.is_symlink() {
                Node::Link(fs::read_link(&at).unwrap().into_os_string().into_string().unwrap())
            } else if found.is_dir() {
                open.push(path.clone());
                Node::Directory(mode)
            } else {
                Node::File(mode, fs::read(&at).unwrap())
            };
            tree.insert(path, node);
        }
    }
    tree
}

/// Two trees that have something in common, over few names, with names that are odd but allowed.
fn any_tree(chance: &mut impl rand::Rng) -> Tree {
    let mut tree = Tree::new();
    for _ in 0..chance.random_range(0..14) {
        let names = ["a", "b c", "-x", "ünï", "app.1f2e3d.js", "..."];
        let depth = chance.random_range(1..4);
        let path: PathBuf = (0..depth).map(|_| *names.choose(chance).unwrap()).collect();
        let parents: Vec<PathBuf> = path
            .ancestors()
            .skip(1)
            .filter(|parent| parent.components().next().is_some())
            .map(Path::to_owned)
            .collect();
        if parents.iter().any(|parent| !matches!(tree.get(parent), None | Some(Node::Directory(_)))) {
            continue;
        }
        for parent in parents {
            tree.entry(parent).or_insert(Node::Directory(0o755));
        }
        if matches!(tree.get(&path), Some(Node::Directory(_))) {
            continue;
        }
        let mode = *[0o644, 0o600, 0o755].choose(chance).unwrap();
        let text: Vec<u8> = (0..chance.random_range(0..3000_u32)).map(|n| b'a' + (n * n % 23) as u8).collect();
        let edit = format!("{}", chance.random_range(0..9));
        let node = match chance.random_range(0..8) {
            0 => Node::Directory(if mode == 0o600 { 0o700 } else { 0o755 }),
            1 => Node::Link("nowhere".into()),
            2 => Node::File(mode, Vec::new()),
            _ => Node::File(mode, [&text[..text.len() / 2], edit.as_bytes(), &text[text.len() / 2..]].concat()),
        };
        tree.insert(path, node);
    }
    tree
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).into_os_string().into_string().unwrap()
    }

    fn write(&self, name: &str, tree: &Tree) -> String {
        write(tree, Path::new(&self.at(name)));
        self.at(name)
    }

    fn build(&self, more: &[&str]) -> Ended {
        let (base, target, output) = (self.at("base"), self.at("target"), self.at("file"));
        let words = ["assignment", "build", "--base", &base, "--target", &target, "--output", &output, "--json"];
        run(&[&words[..], more].concat(), &[])
    }

    fn apply(&self, live: &str, more: &[&str]) -> Ended {
        run(&[&["assignment", "apply", &self.at("file"), "--live", &self.at(live), "--json"][..], more].concat(), &[])
    }
}

fn file(content: &str) -> Node {
    Node::File(0o644, content.as_bytes().to_vec())
}

fn tree(nodes: &[(&str, Node)]) -> Tree {
    nodes.iter().map(|(at, node)| (at.into(), node.clone())).collect()
}

fn simple() -> Place {
    let place = Place::new();
    place.write("base", &tree(&[("a.html", file("the old page")), ("gone", file("x"))]));
    place.write("live", &tree(&[("a.html", file("the old page")), ("gone", file("x"))]));
    place.write("target", &tree(&[("a.html", file("the new page")), ("new", file("y"))]));
    place
}

#[test]
fn any_directory_becomes_any_other_exactly() {
    for seed in 0..24 {
        let mut chance = rand::rngs::StdRng::seed_from_u64(seed);
        let (old, new) = (any_tree(&mut chance), any_tree(&mut chance));
        let place = Place::new();
        place.write("base", &old);
        place.write("live", &old);
        place.write("target", &new);
        let level = ["small", "balanced", "fast"][usize::try_from(seed % 3).unwrap()];
        let built = place.build(&["--level", level]);
        assert_eq!(built.code, 0, "seed {seed}: {built:?}");
        let applied = place.apply("live", &["--unsigned"]);
        assert_eq!(applied.code, 0, "seed {seed}: {applied:?}");
        assert_eq!(read(Path::new(&place.at("live"))), new, "seed {seed}");
        assert_eq!(read(Path::new(&place.at(".live.pressrun/backup"))), old, "seed {seed}: what was there is kept");
    }
}

#[test]
fn nobody_signed_it_and_so_it_is_taken_only_by_who_says_so() {
    let place = simple();
    let built: Value = serde_json::from_str(&place.build(&[]).out).unwrap();
    assert_eq!(built["signed"], false);
    assert_eq!(place.apply("live", &[]).code, 2, "whom to believe must be said");
    let key = "11".repeat(32);
    fs::write(place.at("root"), format!(r#"{{"publish_keys":[{{"epoch":1,"key":"{key}"}}]}}"#)).unwrap();
    let refused = place.apply("live", &["--trust", &place.at("root")]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert_eq!(fs::read(place.at("live/a.html")).unwrap(), b"the old page");
    assert_eq!(place.apply("live", &["--unsigned"]).code, 0);
    assert_eq!(fs::read(place.at("live/a.html")).unwrap(), b"the new page");
}

#[test]
fn what_a_publish_key_signed_is_believed_by_who_trusts_that_key() {
    let place = simple();
    let key = common::keys::SecretKey::from_bytes(&[7; 32]);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    fs::write(place.at("key"), format!("2 {}\n", hex(&key.to_bytes()))).unwrap();
    let public = hex(&key.public().0);
    fs::write(place.at("root"), format!(r#"{{"publish_keys":[{{"epoch":2,"key":"{public}"}}]}}"#)).unwrap();
    assert_eq!(place.build(&["--key", &place.at("key")]).code, 0);
    let unsigned = place.apply("live", &["--unsigned"]);
    assert_eq!(unsigned.code, 5, "a signed one is no unsigned one: {unsigned:?}");
    let applied = place.apply("live", &["--trust", &place.at("root")]);
    assert_eq!(applied.code, 0, "{applied:?}");
    assert_eq!(read(Path::new(&place.at("live"))), read(Path::new(&place.at("target"))));
    let again = place.apply("live", &["--trust", &place.at("root")]);
    assert_eq!(again.code, 0, "it was applied: {again:?}");
}

#[test]
fn a_live_directory_that_is_not_the_base_is_left_as_it_is() {
    let place = simple();
    assert_eq!(place.build(&[]).code, 0);
    fs::write(place.at("live/a.html"), "somebody else's page").unwrap();
    let refused = place.apply("live", &["--unsigned"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("starts from version"), "{refused:?}");
    assert_eq!(fs::read(place.at("live/a.html")).unwrap(), b"somebody else's page");
}

#[test]
fn without_a_base_it_holds_everything_and_makes_the_directory() {
    let place = simple();
    let words = ["assignment", "build", "--target", &place.at("target"), "--output", &place.at("file")];
    let built = run(&words, &[]);
    assert_eq!(built.code, 0, "{built:?}");
    assert!(built.out.contains("--unsigned"), "{built:?}");
    assert_eq!(place.apply("elsewhere", &["--unsigned"]).code, 0);
    assert_eq!(read(Path::new(&place.at("elsewhere"))), read(Path::new(&place.at("target"))));
}

#[test]
fn an_assignment_shows_what_it_will_do() {
    let place = simple();
    assert_eq!(place.build(&[]).code, 0);
    let shown = run(&["assignment", "show", &place.at("file"), "--json"], &[]);
    let value: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!((&value["kind"], &value["unsigned"]), (&"prepare".into(), &true.into()));
    let steps = value["commands"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["remove"] == "gone"), "{value}");
    assert!(steps.iter().any(|step| step["write"] == "a.html" && step["size"] == 12), "{value}");
    let people = run(&["assignment", "show", &place.at("file")], &[]);
    assert!(people.out.contains("by nobody") && people.out.contains("remove   gone"), "{people:?}");
}

#[test]
fn what_is_damaged_or_missing_is_named() {
    let place = simple();
    assert_eq!(place.build(&[]).code, 0);
    let mut bytes = fs::read(place.at("file")).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(place.at("file"), &bytes).unwrap();
    let damaged = place.apply("live", &["--unsigned"]);
    assert_eq!(damaged.code, 1, "{damaged:?}");
    assert!(damaged.err.contains("data block is damaged"), "{damaged:?}");
    fs::write(place.at("file"), "something else entirely").unwrap();
    let other = run(&["assignment", "show", &place.at("file")], &[]);
    assert!(other.code == 1 && other.err.contains("is no assignment"), "{other:?}");
    fs::remove_dir_all(place.at("base")).unwrap();
    let missing = place.build(&[]);
    assert!(missing.code == 1 && missing.err.contains("base"), "{missing:?}");
    let unknown = place.build(&["--level", "tiny"]);
    assert!(unknown.code == 2 && unknown.err.contains("small, balanced or fast"), "{unknown:?}");
}
