//! The trees that campaigns publish: two versions each, changed in every way a release changes.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::tree::{Item, Tree};

/// A kind of tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// One of everything: links, empty directories, odd names and modes.
    Mixed,
    /// Many small files.
    Many,
    /// A few files of hundreds of kilobytes, edited a little: deltas.
    Large,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mixed, Self::Many, Self::Large];

    /// The two versions. `scale` says how many files the shape of many has.
    #[must_use]
    pub fn versions(self, scale: usize) -> [Tree; 2] {
        match self {
            Self::Mixed => mixed(),
            Self::Many => many(scale),
            Self::Large => large(),
        }
    }
}

/// Bytes that do not pack.
#[must_use]
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut noise = vec![0; bytes];
    chance.fill(&mut noise[..]);
    noise
}

fn mixed() -> [Tree; 2] {
    let mut page = noise(2, 3000);
    let mut one = Tree::default()
        .file("index.html", "<h1>one</h1>")
        .directory("img", 0o755)
        .file("img/logo.png", noise(1, 5000))
        .directory("img/deep", 0o750)
        .file("img/deep/a.txt", "a")
        .link("img/current", "deep/a.txt")
        .file("empty", "")
        .file("page.html", &page)
        .directory("nothing in here", 0o700)
        .file("-rf", "a name like an option")
        .file("*", "a pattern")
        .file("$(id) \"><script>'", "a name for shells and pages")
        .file("e\u{301}", "decomposed")
        .file("\u{e9}", "composed")
        .file("\u{202e}gpj.exe", "right to left")
        .directory(&"d".repeat(255), 0o755)
        .file(&format!("{}/{}", "d".repeat(255), "f".repeat(255)), "long names")
        .link("dangling", "nowhere/at/all");
    page[1500] ^= 1;
    // Only its mode changes: a copy that shares blocks where it can.
    one.0.insert("run.cgi".parse().expect("a good path"), Item::File(0o755, 1_600_000_000, b"#!/bin/sh".to_vec()));
    let mut two = one
        .clone()
        .file("index.html", "<h1>two</h1>")
        .file("page.html", page)
        .without("img/deep")
        .file("moved.txt", "a")
        .link("img/current", "../moved.txt")
        .without("nothing in here")
        .file("nothing in here", "a file where a directory was")
        .without("dangling")
        .directory("dangling", 0o711)
        .link("dangling/in", "../img/logo.png")
        .file("\u{e9}", "composed, edited")
        .directory("new", 0o755)
        .directory("new/empty", 0o755);
    two.0.insert("run.cgi".parse().expect("a good path"), Item::File(0o700, 1_600_000_000, b"#!/bin/sh".to_vec()));
    two.0.insert("-rf".parse().expect("a good path"), Item::File(0o700, 1_600_000_000, b"executable".to_vec()));
    [one, two]
}

fn many(files: usize) -> [Tree; 2] {
    let mut one = Tree::default();
    for at in 0..files {
        if at % 20 == 0 {
            one = one.directory(&format!("section-{}", at / 20), 0o755);
        }
        one = one.file(&format!("section-{}/page-{at}.html", at / 20), format!("<p>page {at}, first edition</p>"));
    }
    let mut two = one.clone();
    for at in (0..files).step_by(10) {
        two = two.file(&format!("section-{}/page-{at}.html", at / 20), format!("<p>page {at}, second edition</p>"));
    }
    two = two.without("section-1").directory("section-new", 0o755).file("section-new/page.html", "new");
    [one, two]
}

fn large() -> [Tree; 2] {
    let (one, mut two) = (noise(5, 300_000), noise(5, 300_000));
    two[100_000..100_020].copy_from_slice(b"edited in the middle");
    let mut longer = noise(6, 200_000);
    longer.extend_from_slice(b"appended to");
    let first = Tree::default()
        .directory("media", 0o755)
        .file("media/film.bin", one)
        .file("media/music.bin", noise(6, 200_000))
        .file("media/moved.bin", noise(7, 100_000));
    let second = first
        .clone()
        .file("media/film.bin", two)
        .file("media/music.bin", longer)
        .without("media/moved.bin")
        .file("moved.bin", noise(7, 100_000))
        .file("fresh.bin", noise(8, 150_000));
    [first, second]
}
