//! A hosted site in a temporary directory, and the CCM's side of making assignments for it.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use common::assignment::{Base, Command, Content, Extent, Header, Kind, LivePolicy, Stretch, apply, head, pack};
use common::digest::{Digest, Version};
use common::ids::{AssignmentNumber, ClusterId, RunNumber, Sequence, ServerId};
use common::keys::{PublishKey, PublishKeys, SecretKey};
use common::manifest::{Entry, Manifest};
use common::outcome::{Outcome, RefusalCode};
use common::path::ContentPath;
use common::time::WallTime;

use crate::content::{OpenError, SiteTrees};

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

/// The commands and blocks from one tree to another.
pub(super) fn commands(
    from: &TreeContent,
    to: &TreeContent,
    style: Style,
) -> (Vec<Command>, Vec<Vec<u8>>, Vec<common::assignment::BlockInfo>) {
    let (mut commands, mut packed, mut infos) = (Vec::new(), Vec::new(), Vec::new());
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
                        let (mut info, packed_bytes) = pack(bytes, Some(old), 3).unwrap();
                        let files = base.0.iter().filter(|(_, item)| matches!(item, Item::File(..)));
                        let number = files.take_while(|(path, _)| *path != at).count();
                        let length = u32::try_from(old.len()).unwrap();
                        info.reference =
                            vec![Stretch::Part { file: u32::try_from(number).unwrap(), offset: 0, length }];
                        let length = info.raw_bytes;
                        infos.push(info);
                        packed.push(packed_bytes);
                        let block = u32::try_from(infos.len()).unwrap() - 1;
                        Content::Blocks(vec![Extent { block, offset: 0, length }])
                    }
                    _ if bytes.is_empty() => Content::Blocks(vec![]),
                    _ => {
                        let (info, packed_bytes) = pack(bytes, None, 3).unwrap();
                        let length = info.raw_bytes;
                        infos.push(info);
                        packed.push(packed_bytes);
                        let block = u32::try_from(infos.len()).unwrap() - 1;
                        Content::Blocks(vec![Extent { block, offset: 0, length }])
                    }
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
    (commands, packed, infos)
}

/// An agent's root with one site.
pub(super) struct Site {
    pub(super) root: tempfile::TempDir,
    pub(super) live: PathBuf,
    pub(super) state: PathBuf,
    pub(super) trees: Option<SiteTrees>,
    pub(super) next: u64,
    pub(super) policy: LivePolicy,
    pub(super) now: WallTime,
}

impl Site {
    /// With an empty live directory.
    pub(super) fn new() -> Self {
        let site = Self::without_live();
        std::fs::create_dir(&site.live).unwrap();
        site
    }

    pub(super) fn without_live() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    pub(super) fn at(root: tempfile::TempDir) -> Self {
        let live = root.path().join("shop");
        let state = root.path().join(".shop.pressrun");
        Self { root, live, state, trees: None, next: 1, policy: LivePolicy::default(), now: NOW }
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
        SiteTrees::open(&name, &server, &self.live, &[self.root.path().to_owned()])
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

    /// The next assignment's header; the caller changes what it wants.
    pub(super) fn draft(&mut self, kind: Kind, base: Base, result: Version) -> Header {
        let number = self.next;
        self.next += 1;
        Header {
            cluster: CLUSTER,
            site: "shop".parse().unwrap(),
            group: "all".parse().unwrap(),
            number: AssignmentNumber(number),
            run: RunNumber(1),
            kind,
            sequence: Sequence(number),
            base,
            result,
            targets: vec![OWN],
            live: self.policy.clone(),
            result_entries: 0,
            result_bytes: 0,
            space_bytes: 0,
            commands: 0,
            commands_packed_bytes: 0,
            commands_raw_bytes: 0,
            commands_digest: Digest([0; 32]),
            blocks: 0,
            blocks_digest: Digest([0; 32]),
            data_bytes: 0,
            created: WallTime(0),
            expires: NOW.after(std::time::Duration::from_secs(60)),
        }
    }

    pub(super) fn prepare_file(
        &mut self,
        from: &TreeContent,
        to: &TreeContent,
        style: Style,
    ) -> (AssignmentNumber, Vec<u8>) {
        self.prepare_file_with(from, to, style, |_| {})
    }

    pub(super) fn prepare_file_with(
        &mut self,
        from: &TreeContent,
        to: &TreeContent,
        style: Style,
        change: impl FnOnce(&mut Header),
    ) -> (AssignmentNumber, Vec<u8>) {
        let (commands, packed, infos) = commands(from, to, style);
        let base = if style == Style::Delta { Base::Version(from.version()) } else { Base::Any };
        let before = if style == Style::Delta { from.manifest() } else { Manifest::default() };
        let result = apply(&before, &commands).expect("the fixture's commands fit");
        assert_eq!(result.version(), to.version(), "the fixture's commands lead there");
        let mut header = self.draft(Kind::Prepare, base, to.version());
        header.result_entries = result.entries.len() as u64;
        header.result_bytes = result.content_bytes();
        change(&mut header);
        let number = header.number;
        let mut file = head(header, &commands, &infos, &key()).unwrap();
        file.extend(packed.concat());
        (number, file)
    }

    pub(super) fn handle(&mut self, file: &[u8]) -> Outcome {
        let now = self.now;
        self.trees().handle(Cursor::new(file), CLUSTER, OWN, &keys(), now)
    }

    /// An order without data.
    pub(super) fn order_file(&mut self, kind: Kind, result: Version) -> Vec<u8> {
        let header = self.draft(kind, Base::Any, result);
        head(header, &[], &[], &key()).unwrap()
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
        !self.state.join("temp").exists()
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
        | Outcome::Undone { .. } => panic!("not refused: {outcome:?}"),
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
        let (mut local, _, _) = commands(&TreeContent::default(), to, Style::Local);
        let (whole, packed, infos) = commands(&TreeContent::default(), to, Style::Whole);
        for (command, whole) in local.iter_mut().zip(whole) {
            if sent.contains(&command.path().as_str()) {
                *command = whole;
            }
        }
        let manifest = to.manifest();
        let mut header = self.draft(Kind::Prepare, Base::Any, to.version());
        header.result_entries = manifest.entries.len() as u64;
        header.result_bytes = manifest.content_bytes();
        let number = header.number;
        let mut file = head(header, &local, &infos, &key()).unwrap();
        file.extend(packed.concat());
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
