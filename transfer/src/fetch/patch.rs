//! Fetching the pieces that chunks lack of which much is here already.
//!
//! Such a chunk is asked for in pieces, made whole of them and of what is here, and verified as any other. One
//! that does not verify is missing as before, and is then fetched whole: what was here was wrong.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use hyper::StatusCode;

use super::{Beginning, FetchError, Work};
use crate::server::pieces::{PIECES_MAX, Pieces};
use crate::server::pieces_path;
use crate::store::Assembler;
use crate::task::blocking;

/// A chunk that lacks more of its bytes than this, in percent, is fetched whole.
const LACKING_PERCENT_MAX: u64 = 90;
/// Longest answer that is asked for at once, in bytes, unless one chunk alone needs more.
const ANSWER_BYTES: u64 = 16 << 20;

/// A chunk and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Torn {
    index: u32,
    range: Range<u64>,
    gaps: Vec<Range<u64>>,
}

impl Torn {
    fn lacking(&self) -> u64 {
        self.gaps.iter().map(|gap| gap.end - gap.start).sum()
    }
}

/// The chunks that are worth it, in groups that are asked for at once.
fn plan(beginning: &Beginning, assembler: &Assembler) -> Vec<Vec<Torn>> {
    let mut groups: Vec<Vec<Torn>> = Vec::new();
    let (mut pieces, mut bytes) = (0, 0);
    for index in assembler.missing() {
        let Some(range) = assembler.table().range(index) else { continue };
        let torn = Torn { index, gaps: beginning.gaps(&range), range };
        let (lacking, all) = (torn.lacking(), torn.range.end - torn.range.start);
        if lacking * 100 > all * LACKING_PERCENT_MAX || torn.gaps.is_empty() || torn.gaps.len() > PIECES_MAX {
            continue;
        }
        let fits = pieces + torn.gaps.len() <= PIECES_MAX && bytes + lacking <= ANSWER_BYTES;
        (pieces, bytes) = if fits { (pieces, bytes) } else { (0, 0) };
        pieces += torn.gaps.len();
        bytes += lacking;
        match groups.last_mut().filter(|_| fits) {
            Some(group) => group.push(torn),
            None => groups.push(vec![torn]),
        }
    }
    groups
}

impl<P: Fn(&Assembler) + Send + Sync> Work<'_, P> {
    /// Makes chunks whole of which much is here. What cannot be had so stays missing.
    pub(super) async fn patch(&mut self, assembler: &Assembler, beginning: Beginning) -> Result<(), FetchError> {
        let planning = (assembler.clone(), beginning.clone());
        let groups = blocking(move || plan(&planning.1, &planning.0)).await;
        let path = beginning.path.clone();
        let Ok(file) = blocking(move || File::open(path)).await else { return Ok(()) };
        let file = Arc::new(file);
        for group in groups {
            if !self.patch_group(assembler, &beginning, &file, group).await? {
                break;
            }
        }
        Ok(())
    }

    /// Returns whether the source serves pieces.
    async fn patch_group(
        &mut self,
        assembler: &Assembler,
        beginning: &Beginning,
        file: &Arc<File>,
        group: Vec<Torn>,
    ) -> Result<bool, FetchError> {
        let ranges: Vec<Range<u64>> = group.iter().flat_map(|torn| torn.gaps.iter().cloned()).collect();
        let body = postcard::to_stdvec(&Pieces::of(&ranges)).expect("plain data has a binary form");
        let (path, idle) = (pieces_path(self.ticket.object), self.fetcher.patience.idle);
        let response = self.connection().await?.post(&path, body, idle).await;
        let mut response = response.map_err(|error| self.http(error))?;
        if response.status() != StatusCode::OK {
            // Its body is not waited for.
            self.connection = None;
            return Ok(false);
        }
        let mut arrived = bytes::Bytes::new();
        for torn in group {
            let (file, beginning, range) = (Arc::clone(file), beginning.clone(), torn.range.clone());
            let read = blocking(move || {
                let mut chunk = vec![0; usize::try_from(range.end - range.start).expect("a chunk fits into memory")];
                // What cannot be read is wrong, and the chunk does not verify.
                beginning.read(&file, &mut chunk, range.start).ok();
                chunk
            });
            let mut chunk = read.await;
            for gap in &torn.gaps {
                let place = |at: u64| usize::try_from(at - torn.range.start).expect("within a chunk");
                let mut room = &mut chunk[place(gap.start)..place(gap.end)];
                while !room.is_empty() {
                    if arrived.is_empty() {
                        let next = response.next().await.map_err(|error| self.http(error))?;
                        arrived = next.ok_or_else(|| self.malformed())?;
                    }
                    let taken = arrived.split_to(arrived.len().min(room.len()));
                    let (here, rest) = room.split_at_mut(taken.len());
                    here.copy_from_slice(&taken);
                    room = rest;
                }
            }
            let (writing, bytes) = (assembler.clone(), chunk.len() as u64);
            if blocking(move || writing.write_chunk(torn.index, &chunk)).await? {
                self.verified_bytes += bytes;
                (self.progress)(assembler);
            }
        }
        let rest = response.next().await.map_err(|error| self.http(error))?;
        if arrived.is_empty() && rest.is_none() { Ok(true) } else { Err(self.malformed()) }
    }
}
