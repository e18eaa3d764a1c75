//! A process that writes into an excluded directory while versions are swapped and rolled back.
//!
//! It does what web applications do: uploads under a temporary name and renames, writes in place,
//! appends, replaces, makes directories, deletes, reads back what it just wrote, holds a directory open.
//! It keeps account of what must be there; at the end that is compared with what is.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::error::{Result, RigError};
use crate::kill::Tally;
use crate::readers::Swapper;
use crate::shapes::Shape;
use crate::site::Way;

/// Files that the writer keeps at most.
const FILES_MAX: usize = 150;
/// Operations between two openings of the held directory.
const HELD_FOR: u32 = 40;

/// What the writer says at its end.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Account {
    /// Operations.
    pub operations: u64,
    /// What must be there, by path below the directory.
    pub files: BTreeMap<String, String>,
    /// Operations that the system refused: in the moment between two exchanges a name that was just
    /// made may not be there yet.
    pub refused: Vec<String>,
    /// What read back other than it was written.
    pub trouble: Vec<String>,
}

struct Writer {
    dir: PathBuf,
    chance: ChaCha8Rng,
    account: Account,
    log: File,
    held: OwnedFd,
}

/// Writes below `dir` until the line on standard input ends, then prints the account.
///
/// # Errors
/// When it cannot begin or cannot print.
pub fn write(dir: &Path, seed: u64) -> io::Result<()> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut line = String::new();
            // Any end of the input is the sign.
            let _ = io::stdin().lock().read_line(&mut line);
            done.store(true, Ordering::Release);
        });
        let log = OpenOptions::new().create(true).append(true).open(dir.join("log"))?;
        let mut writer = Writer {
            dir: dir.to_owned(),
            chance: ChaCha8Rng::seed_from_u64(seed),
            account: Account::default(),
            log,
            held: hold(dir)?,
        };
        writer.account.files.insert("log".to_owned(), String::new());
        println!("writing");
        while !done.load(Ordering::Acquire) {
            writer.operation();
        }
        println!("{}", serde_json::to_string(&writer.account)?);
        Ok(())
    })
}

fn hold(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

impl Writer {
    fn operation(&mut self) {
        self.account.operations += 1;
        let number = self.account.operations;
        let which = self.chance.random_range(0..8);
        let full = self.account.files.len() >= FILES_MAX;
        let name = format!("{}file-{number}", if number.is_multiple_of(3) { "sub/" } else { "" });
        let text = format!("written by operation {number}");
        let result = match which {
            0 | 1 if !full => self.upload(&name, &text),
            2 if !full => fs::write(self.dir.join(&name), &text).map(|()| self.note(&name, &text)),
            3 if !full => self.in_held(&format!("held-{number}"), &text),
            4 => self.append(number),
            5 => self.replace(&text),
            6 if !full => self.in_new_directory(number, &text),
            _ => self.delete(),
        };
        if let Err(error) = result {
            let what = format!("operation {number}, of kind {which}: {error}");
            let missing = error.kind() == io::ErrorKind::NotFound;
            let list = if missing { &mut self.account.refused } else { &mut self.account.trouble };
            list.push(what);
        }
    }

    fn note(&mut self, name: &str, text: &str) {
        self.account.files.insert(name.to_owned(), text.to_owned());
    }

    fn any(&mut self) -> Option<String> {
        let count = self.account.files.len();
        let at = self.chance.random_range(0..count);
        self.account.files.keys().filter(|name| *name != "log").nth(at).cloned()
    }

    /// Under a temporary name, then renamed, then read back.
    fn upload(&mut self, name: &str, text: &str) -> io::Result<()> {
        let (temporary, at) = (self.dir.join("uploading"), self.dir.join(name));
        fs::create_dir_all(self.dir.join("sub"))?;
        fs::write(&temporary, text)?;
        fs::rename(temporary, &at)?;
        self.note(name, text);
        let found = fs::read_to_string(at)?;
        if found == text { Ok(()) } else { Err(io::Error::other(format!("reads back {found:?}"))) }
    }

    /// In a directory that was opened a while ago.
    fn in_held(&mut self, name: &str, text: &str) -> io::Result<()> {
        if self.account.operations.is_multiple_of(u64::from(HELD_FOR)) {
            self.held = hold(&self.dir)?;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = rustix::fs::openat(&self.held, name, flags, Mode::RUSR | Mode::WUSR)?;
        File::from(file).write_all(text.as_bytes())?;
        self.note(name, text);
        Ok(())
    }

    fn append(&mut self, number: u64) -> io::Result<()> {
        let line = format!("line {number}\n");
        if number.is_multiple_of(2) {
            self.log.write_all(line.as_bytes())?;
        } else {
            OpenOptions::new().append(true).open(self.dir.join("log"))?.write_all(line.as_bytes())?;
        }
        self.account.files.entry("log".to_owned()).or_default().push_str(&line);
        Ok(())
    }

    fn replace(&mut self, text: &str) -> io::Result<()> {
        let Some(name) = self.any() else { return Ok(()) };
        let temporary = self.dir.join("replacing");
        fs::write(&temporary, text)?;
        fs::rename(temporary, self.dir.join(&name))?;
        self.note(&name, text);
        Ok(())
    }

    fn in_new_directory(&mut self, number: u64, text: &str) -> io::Result<()> {
        let name = format!("dir-{}", number % 16);
        fs::create_dir_all(self.dir.join(&name))?;
        let name = format!("{name}/file-{number}");
        fs::write(self.dir.join(&name), text)?;
        self.note(&name, text);
        Ok(())
    }

    fn delete(&mut self) -> io::Result<()> {
        let Some(name) = self.any() else { return Ok(()) };
        fs::remove_file(self.dir.join(&name))?;
        self.account.files.remove(&name);
        Ok(())
    }
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// Operations of the writer.
    pub operations: u64,
    /// Those of them that the system refused.
    pub refused: u64,
    /// Files that came back after they were deleted.
    pub returned: u64,
    /// Swaps under it.
    pub swaps: u32,
    /// What was lost, came back, or failed.
    pub tally: Tally,
}

/// Swaps while a process writes. `program` is the one with the command `uploads-writer`.
///
/// # Errors
/// When the rig fails.
pub fn run(dir: &Path, way: Way, program: &Path, swaps: u32, seed: u64) -> Result<Found> {
    let mut swapper = Swapper::new(dir, way, Shape::Mixed.versions(0), &["/uploads/"])?;
    let uploads = swapper.site.live.join("uploads");
    fs::create_dir(&uploads).map_err(RigError::io("making uploads"))?;
    let mut child = Command::new(program)
        .arg("uploads-writer")
        .arg(&uploads)
        .arg(seed.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(RigError::io("starting a writer"))?;
    let mut output = io::BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = String::new();
    output.read_line(&mut line).map_err(RigError::io("waiting for the writer"))?;
    for at in 0..swaps {
        // A publish now and then, so that the tree that mirrored the directory goes for good.
        swapper.swap(at % 5 == 4)?;
    }
    drop(child.stdin.take());
    let mut text = String::new();
    output.read_to_string(&mut text).map_err(RigError::io("reading the writer's account"))?;
    child.wait().map_err(RigError::io("waiting for the writer"))?;
    let account: Account = serde_json::from_str(&text).map_err(|error| RigError::setup("reading an account", error))?;
    swapper.clean()?;
    let mut tally = Tally { interruptions: swaps, violations: account.trouble };
    for (name, text) in &account.files {
        match fs::read_to_string(uploads.join(name)) {
            Ok(found) if found == *text => {}
            Ok(found) => {
                let lines = |text: &str| text.lines().count();
                let (found, expected) = (lines(&found), lines(text));
                tally.violations.push(format!("{name} has other content: {found} lines, expected {expected}"));
            }
            Err(error) => tally.violations.push(format!("{name} is lost: {error}")),
        }
    }
    let unknown = |name: &String| !account.files.contains_key(name) && name != "uploading" && name != "replacing";
    let returned = list(&uploads, "")?.into_iter().filter(unknown).count() as u64;
    // One that was replaced after it was mirrored and is deleted in the moment between the two exchanges;
    // a busy machine makes that moment long. More than one for each swap is no accident.
    if returned > u64::from(swaps) {
        tally.violations.push(format!("{returned} files came back after they were deleted"));
    }
    let refused = account.refused.len() as u64;
    Ok(Found { operations: account.operations, refused, returned, swaps, tally })
}

fn list(dir: &Path, below: &str) -> Result<Vec<String>> {
    let failed = || RigError::io(format!("listing {}", dir.display()));
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type().map_err(failed())?.is_dir() {
            names.extend(list(&entry.path(), &format!("{name}/"))?);
        } else {
            names.push(name);
        }
    }
    Ok(names)
}
