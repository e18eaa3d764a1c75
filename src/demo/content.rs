//! The site of the demonstration: small, and with what real ones have. Always the same.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

/// Articles of the site; with styles, scripts, pages and pictures there are about 200 files.
const ARTICLES: usize = 160;

/// Size of the one large picture, in bytes.
const PICTURE_BYTES: usize = 1 << 20;

const BUNDLE: &str = "assets/app.3f2a9c1d.js";
const BUNDLE_CHANGED: &str = "assets/app.b84e07f2.js";

const WORDS: [&str; 32] = [
    "morning", "harbour", "paper", "engine", "river", "market", "letter", "window", "garden", "signal", "winter",
    "bridge", "council", "summer", "station", "teacher", "printed", "quietly", "opened", "moved", "after", "before",
    "under", "without", "new", "old", "small", "bright", "the", "a", "of", "and",
];

/// A small generator (splitmix64): the same site on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Bytes that compression makes no smaller, as those of a photograph.
    fn picture(&mut self, bytes: usize) -> Vec<u8> {
        let mut picture = b"\xff\xd8\xff\xe0".to_vec();
        while picture.len() < bytes {
            picture.extend_from_slice(&self.roll().to_le_bytes());
        }
        picture.truncate(bytes);
        picture
    }

    fn text(&mut self, words: usize) -> String {
        let mut text = String::new();
        for word in 0..words {
            if word > 0 {
                text.push(' ');
            }
            let index = usize::try_from(self.roll() % WORDS.len() as u64).expect("less than their number");
            text.push_str(WORDS[index]);
        }
        text
    }
}

fn write(root: &Path, path: &str, content: impl AsRef<[u8]>) -> io::Result<()> {
    let path = root.join(path);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, content)
}

fn page(title: &str, body: &str, bundle: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <link rel=\"stylesheet\" href=\"/assets/site.css\"><script src=\"/{bundle}\" defer></script></head>\n\
         <body>\n<h1>{title}</h1>\n{body}\n</body>\n</html>\n"
    )
}

fn front_page(headline: &str, bundle: &str) -> String {
    let mut list = format!("<p>{headline}</p>\n<ul>\n");
    for article in 0..ARTICLES {
        writeln!(list, "<li><a href=\"/articles/{article:03}.html\">Article {article}</a>").expect("to a string");
    }
    list.push_str("</ul>");
    page("The Demonstration Daily", &list, bundle)
}

fn bundle(dice: &mut Dice) -> String {
    let mut code = "\"use strict\";\n".to_owned();
    for number in 0..400 {
        let text = dice.text(6);
        writeln!(code, "export function part{number}() {{ return \"{text}\"; }}").expect("to a string");
    }
    code
}

/// Makes the site below a directory that does not exist.
pub(super) fn generate(root: &Path) -> io::Result<()> {
    let mut dice = Dice(1);
    write(root, "index.html", front_page("Good morning.", BUNDLE))?;
    write(root, "robots.txt", "User-agent: *\nAllow: /\n")?;
    write(root, "assets/site.css", "body { font: 18px/1.6 serif; max-width: 40em; margin: auto }\n".repeat(30))?;
    write(root, BUNDLE, bundle(&mut dice))?;
    for article in 0..ARTICLES {
        let paragraphs: String = (0..8).map(|_| format!("<p>{}.</p>\n", dice.text(60))).collect();
        let text = page(&format!("Article {article}"), &paragraphs, BUNDLE);
        write(root, &format!("articles/{article:03}.html"), text)?;
    }
    for picture in 0..36 {
        let bytes = 2_000 + usize::try_from(dice.roll() % 18_000).expect("is small");
        write(root, &format!("images/{picture:02}.jpg"), dice.picture(bytes))?;
    }
    write(root, "images/front.jpg", dice.picture(PICTURE_BYTES))
}

/// Does to the site what a working day does: an edit, a new page, a page less, a bundle that is
/// built anew and has another name.
pub(super) fn change(root: &Path) -> io::Result<()> {
    write(root, "index.html", front_page("Good evening: a story was added.", BUNDLE_CHANGED))?;
    let story = page("A new story", &format!("<p>{}.</p>", Dice(2).text(300)), BUNDLE_CHANGED);
    write(root, "articles/a-new-story.html", story)?;
    fs::remove_file(root.join("articles/013.html"))?;
    let code = fs::read_to_string(root.join(BUNDLE))?;
    fs::remove_file(root.join(BUNDLE))?;
    let code = code.replace("part7() { return", "part7() { console.info(\"seven\"); return");
    write(root, BUNDLE_CHANGED, code)
}

/// Copies a tree of directories and files.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    fs::set_permissions(to, fs::metadata(from)?.permissions())
}

#[cfg(test)]
mod tests {
    use super::super::compare::differences;
    use super::*;

    #[test]
    fn the_site_is_always_the_same_and_has_about_200_files() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        generate(&one).unwrap();
        generate(&two).unwrap();
        assert_eq!(differences(&one, &two).unwrap(), Vec::<String>::new());
        let files = |dir: &str| fs::read_dir(one.join(dir)).unwrap().count();
        assert!((190..=210).contains(&(files("articles") + files("images") + files("assets") + 2)));
    }

    #[test]
    fn a_working_day_edits_adds_removes_and_renames() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (directory.path().join("old"), directory.path().join("new"));
        generate(&old).unwrap();
        copy(&old, &new).unwrap();
        assert_eq!(differences(&old, &new).unwrap(), Vec::<String>::new());
        change(&new).unwrap();
        let found = differences(&old, &new).unwrap();
        let expected = [
            "articles/013.html is missing",
            "articles/a-new-story.html should not be there",
            "assets/app.3f2a9c1d.js is missing",
            "assets/app.b84e07f2.js should not be there",
            "index.html has other bytes",
        ];
        assert_eq!(found, expected);
    }
}
