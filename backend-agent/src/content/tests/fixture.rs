//! A hosted site in a temporary directory, and the CCM's side of making assignments for it.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use common::assignment::{
    Base, BlockInfo, Command, Content, Draft, Effect, Extent, Extra, Kind, LivePolicy, Stretch, apply, head, pack,
};
use common::digest::{Digest, Version};
use common::ids::{AssignmentNumber, ClusterId, RunNumber, Sequence, ServerId};
use common::keys::{PublishKey, PublishKeys, SecretKey};
use common::manifest::{Entry, Manifest};
use common::outcome::{Outcome, RefusalCode};
use common::path::ContentPath;
use common::time::WallTime;

use super::SWITCH;
use crate::content::journal::Place;
use crate::content::{Journal, OpenError, SiteTrees, Switch, TreePolicy, unseal};

pub(super) const CLUSTER: ClusterId = ClusterId([1; 16]);
pub(super) const OWN: ServerId = ServerId([2; 16]);
pub(super) const NOW: WallTime = WallTime(1_000_000);

pub(super) fn path(text: &str) -> ContentPath {
    text.parse().expect("good path")
}

pub(super) fn key() -> PublishKey {
    PublishKey { epoch: 1, key: SecretKey::from_bytes(&[9; 32]) }
}

pub(super) fn keys() -> PublishKeys {
    PublishKeys { keys: vec![(1, key().key.public())] }
}

/// What a tree should be, with the bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TreeContent(pub(super) BTreeMap<ContentPath, Item>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Dir(u32),
    File(u32, i64, Vec<u8>),
    Link(String),
}

impl TreeContent {
    pub(super) fn dir(mut self, at: &str) -> Self {
        self.0.insert(path(at), Item::Dir(0o755));
        self
    }
    pub(super) fn file(self, at: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.file_with(at, bytes, 0o644, 1_700_000_000)
    }
    pub(super) fn file_with(mut self, at: &str, bytes: impl AsRef<[u8]>, mode: u32, mtime: i64) -> Self {
        self.0.insert(path(at), Item::File(mode, mtime, bytes.as_ref().to_vec()));
        self
    }
    pub(super) fn link(mut self, at: &str, target: &str) -> Self {
        self.0.insert(path(at), Item::Link(target.to_owned()));
        self
    }
    pub(super) fn without(mut self, at: &str) -> Self {
        self.0.remove(&path(at)).expect("was there");
        self
    }

    pub(super) fn manifest(&self) -> Manifest {
        let entry = |item: &Item| match item {
            Item::Dir(mode) => Entry::Directory { mode: *mode },
            Item::File(mode, mtime, bytes) => {
                Entry::File { mode: *mode, size: bytes.len() as u64, digest: Digest::of(bytes), mtime: *mtime }
            }
            Item::Link(target) => Entry::Symlink { target: target.clone() },
        };
        Manifest { entries: self.0.iter().map(|(path, item)| (path.clone(), entry(item))).collect() }
    }

    pub(super) fn version(&self) -> Version {
        self.manifest().version()
    }

    /// What stands in a directory, apart from the top-level names given.
    pub(super) fn read(dir: &Path, without: &[&str]) -> Self {
        let mut found = Self::default();
        read_into(dir, None, without, &mut found);
        found
    }

    /// Puts it on disk, as another tool would.
    pub(super) fn put(&self, dir: &Path) {
        std::fs::create_dir_all(dir).unwrap();
        for (path, item) in &self.0 {
            let at = dir.join(path.as_str());
            match item {
                Item::Dir(mode) => {
                    std::fs::create_dir(&at).unwrap();
                    std::fs::set_permissions(&at, PermissionsExt::from_mode(*mode)).unwrap();
                }
                Item::File(mode, mtime, bytes) => {
                    std::fs::write(&at, bytes).unwrap();
                    std::fs::set_permissions(&at, PermissionsExt::from_mode(*mode)).unwrap();
                    set_mtime(&at, *mtime);
                }
                Item::Link(target) => std::os::unix::fs::symlink(target, &at).unwrap(),
            }
        }
    }
}

pub(super) fn set_mtime(at: &Path, mtime: i64) {
    let file = std::fs::File::options().write(true).open(at).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(mtime).unwrap());
    file.set_modified(time).unwrap();
}

fn read_into(dir: &Path, at: Option<&ContentPath>, without: &[&str], found: &mut TreeContent) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if at.is_none() && without.contains(&name.as_str()) {
            continue;
        }
        let path = at.map_or_else(|| path(&name), |at| at.join(&name).unwrap());
        let meta = std::fs::symlink_metadata(entry.path()).unwrap();
        let item = if meta.is_dir() {
            read_into(&entry.path(), Some(&path), without, found);
            Item::Dir(meta.mode() & 0o7777)
        } else if meta.is_symlink() {
            Item::Link(std::fs::read_link(entry.path()).unwrap().into_os_string().into_string().unwrap())
        } else {
            // Published times are whole seconds; anything else is to differ from all of them.
            let mtime = if meta.mtime_nsec() == 0 { meta.mtime() } else { -1 };
            Item::File(meta.mode() & 0o7777, mtime, std::fs::read(entry.path()).unwrap())
        };
        found.0.insert(path, item);
    }
}

/// Where one content version comes from, and how the commands to it are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Changes, with copies for what moved and deltas for what was edited.
    Delta,
    /// The whole tree in data blocks.
    Whole,
    /// The whole tree, content taken for present.
    Local,
}

/// A packed block with its row.
pub(super) type Packed = (BlockInfo, Vec<u8>);

/// The whole file of an assignment, signed by the key that the sites trust.
pub(super) fn signed(draft: Draft, effect: Effect, commands: &[Command], blocks: &[Packed]) -> Vec<u8> {
    let infos: Vec<BlockInfo> = blocks.iter().map(|(info, _)| info.clone()).collect();
    let mut file = head(draft, effect, commands, &infos, &key()).unwrap();
    file.extend(blocks.iter().flat_map(|(_, packed)| packed));
    file
}

/// The commands and blocks from one tree to another.
pub(super) fn commands(from: &TreeContent, to: &TreeContent, style: Style) -> (Vec<Command>, Vec<Packed>) {
    let (mut commands, mut blocks) = (Vec::new(), Vec::new());
    let mut add = |block: Packed| {
        let extent = Extent { block: u32::try_from(blocks.len()).unwrap(), offset: 0, length: block.0.raw_bytes };
        blocks.push(block);
        Content::Blocks(vec![extent])
    };
    let base = if style == Style::Delta { from.clone() } else { TreeContent::default() };
    for (at, _) in base.0.iter().rev().filter(|(at, item)| {
        let kept = to.0.get(*at);
        kept.is_none_or(|kept| std::mem::discriminant(kept) != std::mem::discriminant(*item))
    }) {
        commands.push(Command::Remove { path: at.clone() });
    }
    for (at, item) in &to.0 {
        let old = base.0.get(at);
        if old == Some(item) {
            continue;
        }
        match (old, item) {
            (Some(Item::Dir(_)), Item::Dir(mode)) => commands.push(Command::SetMode { path: at.clone(), mode: *mode }),
            (_, Item::Dir(mode)) => commands.push(Command::MakeDirectory { path: at.clone(), mode: *mode }),
            (_, Item::Link(target)) => {
                commands.push(Command::MakeSymlink { path: at.clone(), target: target.clone() });
            }
            (Some(Item::File(_, old_mtime, old_bytes)), Item::File(mode, mtime, bytes))
                if old_bytes == bytes && old_mtime == mtime =>
            {
                commands.push(Command::SetMode { path: at.clone(), mode: *mode });
            }
            (old, Item::File(mode, mtime, bytes)) => {
                let same = base.0.iter().find(|(_, item)| matches!(item, Item::File(_, _, other) if other == bytes));
                let content = match (style, same, old) {
                    (Style::Local, _, _) => Content::Local,
                    (_, Some((from, _)), _) => Content::Copy { from: from.clone() },
                    (Style::Delta, None, Some(Item::File(_, _, old))) if old.len() > 100 => {
                        let (info, packed) = pack(bytes, Some(old), 3).unwrap();
                        let files = base.0.iter().filter(|(_, item)| matches!(item, Item::File(..)));
                        let file = u32::try_from(files.take_while(|(path, _)| *path != at).count()).unwrap();
                        let length = u32::try_from(old.len()).unwrap();
                        let reference = vec![Stretch::Part { file, offset: 0, length }];
                        add((BlockInfo { reference, ..info }, packed))
                    }
                    _ if bytes.is_empty() => Content::Blocks(vec![]),
                    _ => add(pack(bytes, None, 3).unwrap()),
                };
                commands.push(Command::WriteFile {
                    path: at.clone(),
                    mode: *mode,
                    mtime: *mtime,
                    size: bytes.len() as u64,
                    digest: Some(Digest::of(bytes)),
                    content,
                });
            }
        }
    }
    (commands, blocks)
}

/// An agent's root with one site.
pub(super) struct Site {
    pub(super) root: tempfile::TempDir,
    pub(super) live: PathBuf,
    pub(super) state: PathBuf,
    pub(super) trees: Option<SiteTrees>,
    pub(super) next: u64,
    pub(super) policy: LivePolicy,
    pub(super) extra: Extra,
    pub(super) linger_seconds: u32,
    pub(super) now: WallTime,
}

impl Site {
    /// With an empty live directory.
    pub(super) fn new() -> Self {
        let site = Self::without_live();
        site.make_live();
        site
    }

    /// Makes an empty live tree.
    pub(super) fn make_live(&self) {
        match SWITCH {
            Switch::Exchange => std::fs::create_dir(&self.live).unwrap(),
            Switch::Symlink => {
                std::fs::create_dir(self.root.path().join(".shop.pressrun.1")).unwrap();
                std::os::unix::fs::symlink(".shop.pressrun.1", &self.live).unwrap();
            }
        }
    }

    /// Somebody removes live.
    pub(super) fn remove_live(&self) {
        match SWITCH {
            Switch::Exchange => std::fs::remove_dir_all(&self.live).unwrap(),
            Switch::Symlink => std::fs::remove_file(&self.live).unwrap(),
        }
    }

    pub(super) fn without_live() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    pub(super) fn at(root: tempfile::TempDir) -> Self {
        let live = root.path().join("shop");
        let state = root.path().join(".shop.pressrun");
        Self {
            root,
            live,
            state,
            trees: None,
            next: 1,
            policy: LivePolicy::default(),
            extra: Extra::Remove,
            linger_seconds: 0,
            now: NOW,
        }
    }

    /// With this content published and committed.
    pub(super) fn with(content: &TreeContent) -> Self {
        let mut site = Self::new();
        site.publish(&TreeContent::default(), content, Style::Whole);
        site
    }

    pub(super) fn open(&self) -> Result<SiteTrees, OpenError> {
        let name = "shop".parse().unwrap();
        let server = "web1".parse().unwrap();
        let policy = TreePolicy { switch: SWITCH };
        SiteTrees::open(&name, &server, &self.live, &[self.root.path().to_owned()], policy)
    }

    /// The trees that a link can point to.
    fn slots(&self) -> Vec<PathBuf> {
        (1..=3).map(|number| self.root.path().join(format!(".shop.pressrun.{number}"))).collect()
    }

    /// Where the staged tree is, or will be.
    pub(super) fn temp(&mut self) -> PathBuf {
        let staged = self.trees().place_path(Place::Temp).expect("can be told");
        staged.unwrap_or_else(|| self.slots().into_iter().find(|slot| !slot.exists()).expect("one is free"))
    }

    /// Where the tree is that was live before.
    pub(super) fn backup(&mut self) -> PathBuf {
        self.trees().place_path(Place::Backup).expect("can be told").expect("there is one")
    }

    pub(super) fn trees(&mut self) -> &mut SiteTrees {
        if self.trees.is_none() {
            self.trees = Some(self.open().expect("opens"));
        }
        self.trees.as_mut().expect("was just opened")
    }

    pub(super) fn reopen(&mut self) -> &mut SiteTrees {
        self.trees = None;
        self.trees()
    }

    /// What the next assignment says of itself; the caller changes what it wants.
    pub(super) fn draft(&mut self, kind: Kind) -> Draft {
        let number = self.next;
        self.next += 1;
        Draft {
            cluster: CLUSTER,
            site: "shop".parse().unwrap(),
            group: "all".parse().unwrap(),
            number: AssignmentNumber(number),
            run: RunNumber(1),
            kind,
            sequence: Sequence(number),
            targets: vec![OWN],
            live: self.policy.clone(),
            created: WallTime(0),
            expires: self.now.after(std::time::Duration::from_secs(60)),
            extra: self.extra,
            linger_seconds: self.linger_seconds,
        }
    }

    pub(super) fn prepare_file(
        &mut self,
        from: &TreeContent,
        to: &TreeContent,
        style: Style,
    ) -> (AssignmentNumber, Vec<u8>) {
        self.prepare_file_with(from, to, style, |_, _| {})
    }

    pub(super) fn prepare_file_with(
        &mut self,
        from: &TreeContent,
        to: &TreeContent,
        style: Style,
        change: impl FnOnce(&mut Draft, &mut Effect),
    ) -> (AssignmentNumber, Vec<u8>) {
        let (commands, blocks) = commands(from, to, style);
        let base = if style == Style::Delta { Base::Version(from.version()) } else { Base::Any };
        let before = if style == Style::Delta { from.manifest() } else { Manifest::default() };
        let result = apply(&before, &commands).expect("the fixture's commands fit");
        assert_eq!(result.version(), to.version(), "the fixture's commands lead there");
        let mut draft = self.draft(Kind::Prepare);
        let mut effect = Effect::of_tree(base, &result, 0);
        change(&mut draft, &mut effect);
        (draft.number, signed(draft, effect, &commands, &blocks))
    }

    pub(super) fn handle(&mut self, file: &[u8]) -> Outcome {
        let now = self.now;
        self.trees().handle(Cursor::new(file), CLUSTER, OWN, &keys(), now)
    }

    /// What changes the first content, signed without a question whether it leads where it says.
    pub(super) fn change_file(&mut self, result: &Manifest, commands: &[Command], blocks: &[Packed]) -> Vec<u8> {
        let effect = Effect::of_tree(Base::Version(first().version()), result, 0);
        signed(self.draft(Kind::Prepare), effect, commands, blocks)
    }

    /// An order without data.
    pub(super) fn order_file(&mut self, kind: Kind, result: Version) -> Vec<u8> {
        signed(self.draft(kind), Effect::of_order(result), &[], &[])
    }

    /// Prepares going back to what is in the backup.
    pub(super) fn rollback_file(&mut self, to: Version) -> (AssignmentNumber, Vec<u8>) {
        let number = AssignmentNumber(self.next);
        (number, self.order_file(Kind::Rollback, to))
    }

    pub(super) fn prepare(&mut self, from: &TreeContent, to: &TreeContent, style: Style) -> AssignmentNumber {
        let (number, file) = self.prepare_file(from, to, style);
        assert_eq!(self.handle(&file), Outcome::Prepared { version: to.version() });
        number
    }

    pub(super) fn commit(&mut self, prepared: AssignmentNumber, version: Version) -> Outcome {
        let file = self.order_file(Kind::Commit { prepared }, version);
        self.handle(&file)
    }

    pub(super) fn undo(&mut self, prepared: AssignmentNumber) -> Outcome {
        let file = self.order_file(Kind::Undo { prepared }, TreeContent::default().version());
        self.handle(&file)
    }

    pub(super) fn publish(&mut self, from: &TreeContent, to: &TreeContent, style: Style) -> AssignmentNumber {
        let number = self.prepare(from, to, style);
        assert_eq!(self.commit(number, to.version()), Outcome::Committed { version: to.version() });
        assert_eq!(self.live_content(), *to, "live is what was published");
        number
    }

    pub(super) fn live_content(&self) -> TreeContent {
        TreeContent::read(&self.live, &[])
    }

    /// Nothing but the agent's own files, and no tree being staged.
    pub(super) fn nothing_staged(&self) -> bool {
        let journal = std::fs::read(self.state.join("journal")).ok();
        let journal: Option<Journal> = journal.map(|bytes| unseal(&bytes).expect("a whole journal"));
        let has_backup = journal.is_some_and(|journal| journal.current().backup.is_some());
        let there = self.slots().iter().filter(|slot| slot.exists()).count();
        match SWITCH {
            Switch::Exchange => !self.state.join("temp").exists(),
            Switch::Symlink => there == usize::from(has_backup) + usize::from(self.live.exists()),
        }
    }
}

pub(super) fn refusal(outcome: &Outcome) -> RefusalCode {
    match outcome {
        Outcome::Refused(refusal) => {
            assert!(!refusal.reason.is_empty());
            refusal.code
        }
        Outcome::Received
        | Outcome::Missing(_)
        | Outcome::Prepared { .. }
        | Outcome::Committed { .. }
        | Outcome::CommittedHookFailed { .. }
        | Outcome::Undone { .. }
        | Outcome::Audited(_) => panic!("not refused: {outcome:?}"),
    }
}

pub(super) fn inode(at: &Path) -> u64 {
    std::fs::symlink_metadata(at).unwrap().ino()
}

/// Bytes that do not pack.
pub(super) fn noise(seed: u32, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[1]
        })
        .collect()
}

/// A small tree with one of everything.
pub(super) fn first() -> TreeContent {
    TreeContent::default()
        .file("index.html", "<h1>one</h1>")
        .dir("img")
        .file("img/logo.png", noise(1, 5000))
        .dir("img/deep")
        .file("img/deep/a.txt", "a")
        .link("img/current", "deep/a.txt")
        .file("empty", "")
        .file_with("run.cgi", "#!/bin/sh", 0o755, 1_600_000_000)
        .file("page.html", noise(2, 3000))
}

/// The tree after edits of every kind.
pub(super) fn second() -> TreeContent {
    let mut page = noise(2, 3000);
    page[1500] ^= 1;
    first()
        .without("index.html")
        .file("index.html", "<h1>two</h1>")
        .file("page.html", page)
        .without("img/deep/a.txt")
        .without("img/deep")
        .file("moved.txt", "a")
        .without("img/current")
        .link("img/current", "../moved.txt")
        .file_with("run.cgi", "#!/bin/sh", 0o700, 1_600_000_000)
        .dir("new")
        .file("new/file", "new")
}

impl Site {
    /// Prepares the whole tree with these files in data blocks and all else taken for present.
    pub(super) fn prepare_mixed(&mut self, to: &TreeContent, sent: &[&str]) -> AssignmentNumber {
        let (mut local, _) = commands(&TreeContent::default(), to, Style::Local);
        let (whole, blocks) = commands(&TreeContent::default(), to, Style::Whole);
        for (command, whole) in local.iter_mut().zip(whole) {
            if sent.contains(&command.path().as_str()) {
                *command = whole;
            }
        }
        let draft = self.draft(Kind::Prepare);
        let number = draft.number;
        let file = signed(draft, Effect::of_tree(Base::Any, &to.manifest(), 0), &local, &blocks);
        assert_eq!(self.handle(&file), Outcome::Prepared { version: to.version() });
        number
    }
}

impl Site {
    /// The trees opened anew, with failures to come.
    pub(super) fn reopen_with(&mut self, fault: impl crate::content::Fault + 'static) -> SiteTrees {
        self.trees = None;
        self.open().expect("opens").with_fault(Box::new(fault))
    }
}

/// Tells a test that it runs inside, and where.
const INSIDE: &str = "PRESSRUN_TEST_MOUNTED";

/// Runs the calling test again in a mount namespace of its own, where a file system in memory with these
/// options is mounted on a directory; there `inside` gets the directory. Skipped where no namespace can be
/// made or nothing mounted.
pub(super) fn on_a_mounted_disk(options: &str, inside: impl FnOnce(&Path)) {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return inside(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o \"$1\" tmpfs \"$2\" || exit 77; exec \"$3\" --exact \"$4\" --nocapture";
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh", options])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .arg(std::thread::current().name().expect("the harness names its threads"))
        .env(INSIDE, dir.path())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(77) || (!output.status.success() && wrong.contains("unshare")) {
        return eprintln!("skipped: no mount namespace can be made here");
    }
    assert!(output.status.success() && said.contains("1 passed"), "{said}{wrong}");
}
