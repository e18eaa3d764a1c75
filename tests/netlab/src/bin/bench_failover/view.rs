//! What the agents of a segment say about who leads, read from their logs as they write them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use pressrun_netlab::Host;
use pressrun_netlab::moment::{Moment, without_colours};

/// What one line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// It leads an epoch.
    Leads(u64),
    /// It follows the leader of an epoch.
    Follows(u64),
    /// It has no leader, or has just started.
    Nobody,
}

fn read(line: &str) -> Option<(Moment, Said)> {
    let line = without_colours(line);
    let epoch = || line.rsplit_once("epoch=")?.1.trim().parse().ok();
    let said = if line.contains("leads the segment") {
        Said::Leads(epoch()?)
    } else if line.contains("follows a group leader") {
        Said::Follows(epoch()?)
    } else if ["there is no group leader", "the agent starts"].iter().any(|it| line.contains(it)) {
        Said::Nobody
    } else {
        return None;
    };
    Some((Moment::of_line(&line)?, said))
}

/// One log, as far as it was read.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    read: u64,
    last: Said,
}

impl Tail {
    /// What whole lines were written since this was last asked.
    fn new_lines(&mut self) -> Vec<(Moment, Said)> {
        let mut bytes = Vec::new();
        let file = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.read))?;
            file.read_to_end(&mut bytes)
        });
        file.unwrap_or_else(|error| panic!("{} cannot be read: {error}", self.path.display()));
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.read += u64::try_from(whole).unwrap_or_default();
        let said: Vec<_> = String::from_utf8_lossy(&bytes[..whole]).lines().filter_map(read).collect();
        if let Some((_, last)) = said.last() {
            self.last = *last;
        }
        said
    }
}

/// All agents of a segment.
#[derive(Debug)]
pub(crate) struct View(BTreeMap<Host, Tail>);

impl View {
    pub(crate) fn of(logs: impl IntoIterator<Item = (Host, PathBuf)>) -> Self {
        Self(logs.into_iter().map(|(host, path)| (host, Tail { path, read: 0, last: Said::Nobody })).collect())
    }

    /// Who has said what since this was last asked, in the order of time.
    pub(crate) fn news(&mut self) -> Vec<(Moment, Host, Said)> {
        let mut news = Vec::new();
        for (host, tail) in &mut self.0 {
            news.extend(tail.new_lines().into_iter().map(|(at, said)| (at, *host, said)));
        }
        news.sort_by_key(|(at, ..)| *at);
        news
    }

    /// The leader whom all others follow, by what has been read.
    pub(crate) fn settled(&self) -> Option<Host> {
        let (leader, epoch) = self.0.iter().find_map(|(host, tail)| match tail.last {
            Said::Leads(epoch) => Some((*host, epoch)),
            Said::Follows(_) | Said::Nobody => None,
        })?;
        let others = self.0.iter().filter(|(host, _)| **host != leader);
        others.into_iter().all(|(_, tail)| tail.last == Said::Follows(epoch)).then_some(leader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_and_without_colours() {
        let plain = "2026-11-21T16:36:30.105455Z  INFO agent::member: leads the segment epoch=4939310881";
        let coloured = "\u{1b}[2m2026-11-21T16:36:30.105455Z\u{1b}[0m \u{1b}[32m INFO\u{1b}[0m leads the segment \
                        \u{1b}[3mepoch\u{1b}[0m\u{1b}[2m=\u{1b}[0m4939310881";
        let at = Moment::of_line(plain).expect("it begins with a time");
        assert_eq!(read(plain), Some((at, Said::Leads(4_939_310_881))));
        assert_eq!(read(coloured), read(plain));
        assert_eq!(read("2026-11-21T16:36:30.105455Z  INFO agent: enrolled"), None);
    }
}
