//! What a leader asks for next inside its grants: the rarest chunk first.
//!
//! The planner says from whom and how fast; which chunk is the leader's own choice, as it knows
//! first what its sources have. Chunks that few of its sources hold go first, so that a source that
//! dies takes nothing with it. When almost everything is there and all that is missing is under way,
//! a chunk is asked for a second time elsewhere, once, so that the slowest source does not decide
//! when the object is complete. A chunk that is verified is never asked for again.

use crate::chunks::{ChunkSet, bits};
use crate::grant::Selector;

/// When so little is missing, in thousandths of the object, chunks under way may be asked for twice.
pub const END_GAME_PERMILLE: u32 = 20;

/// One grant of the leader, and what its source is known to hold.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Which chunks may be asked for.
    pub selector: Selector,
    /// What the source has said that it holds.
    pub held: &'a ChunkSet,
    /// What it was asked for and has not sent.
    pub asked: &'a [u32],
}

/// What a leader knows of an object when it chooses.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Verified.
    pub held: &'a ChunkSet,
    /// Asked for.
    pub fetching: &'a ChunkSet,
    /// Asked for twice.
    pub doubled: &'a ChunkSet,
    /// All grants for this object.
    pub sources: &'a [Source<'a>],
    /// Among equally rare chunks the first from this one on is taken, in a circle. Leaders with
    /// different starts fetch different chunks and so have something for each other.
    pub start: u32,
}

/// What to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// Which chunk.
    pub chunk: u32,
    /// Whether it is under way from another source already.
    pub is_duplicate: bool,
}

/// The chunk to ask this source for; `None` when it has nothing that is of use now.
#[must_use]
pub fn pick(view: &View<'_>, source: usize) -> Option<Pick> {
    let asked = view.sources.get(source)?;
    let fresh = rarest(view, source, |index| {
        let missing = !word(view.held, index) & !word(view.fetching, index);
        word(asked.held, index) & missing
    });
    if let Some(chunk) = fresh {
        return Some(Pick { chunk, is_duplicate: false });
    }
    let missing = view.held.chunks() - view.held.len();
    let is_end = missing * 1000 <= view.held.chunks() * END_GAME_PERMILLE || missing == 1;
    let is_all_under_way = view.fetching.len() >= missing;
    if !is_end || !is_all_under_way {
        return None;
    }
    let again = rarest(view, source, |index| {
        let once = word(view.fetching, index) & !word(view.doubled, index) & !word(view.held, index);
        asked.asked.iter().fold(word(asked.held, index) & once, |left, chunk| {
            if (chunk / u64::BITS) as usize == index { left & !(1 << (chunk % u64::BITS)) } else { left }
        })
    });
    again.map(|chunk| Pick { chunk, is_duplicate: true })
}

fn word(set: &ChunkSet, index: usize) -> u64 {
    set.words().get(index).copied().unwrap_or(0)
}

/// Of the chunks in question that this grant is about, the one that fewest sources hold.
fn rarest(view: &View<'_>, source: usize, in_question: impl Fn(usize) -> u64) -> Option<u32> {
    let asked = &view.sources[source];
    let chunks = view.held.chunks().max(1);
    let mut best: Option<((usize, u32), u32)> = None;
    for (index, first) in (0..asked.held.words().len()).zip((0u32..).step_by(u64::BITS as usize)) {
        let admitted = bits(in_question(index)).map(|bit| first + bit).filter(|chunk| asked.selector.admits(*chunk));
        for chunk in admitted {
            let holders = view.sources.iter().filter(|other| other.held.contains(chunk)).count();
            let place = (chunk + chunks - view.start % chunks) % chunks;
            if best.is_none_or(|(least, _)| (holders, place) < least) {
                best = Some(((holders, place), chunk));
            }
        }
    }
    best.map(|(_, chunk)| chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(chunks: u32, members: &[u32]) -> ChunkSet {
        let mut set = ChunkSet::empty(chunks);
        members.iter().for_each(|chunk| {
            set.insert(*chunk);
        });
        set
    }

    fn choose(
        held: &[u32],
        fetching: &[u32],
        doubled: &[u32],
        sources: &[(Selector, &[u32])],
        from: usize,
    ) -> Option<Pick> {
        choose_again(held, fetching, doubled, sources, from, &[])
    }

    fn choose_again(
        held: &[u32],
        fetching: &[u32],
        doubled: &[u32],
        sources: &[(Selector, &[u32])],
        from: usize,
        asked: &[u32],
    ) -> Option<Pick> {
        let sets: Vec<ChunkSet> = sources.iter().map(|(_, held)| set(100, held)).collect();
        let sources: Vec<Source<'_>> = sources
            .iter()
            .zip(&sets)
            .map(|((selector, _), held)| Source { selector: *selector, held, asked })
            .collect();
        let (held, fetching, doubled) = (set(100, held), set(100, fetching), set(100, doubled));
        pick(&View { held: &held, fetching: &fetching, doubled: &doubled, sources: &sources, start: 0 }, from)
    }

    fn fresh(chunk: u32) -> Option<Pick> {
        Some(Pick { chunk, is_duplicate: false })
    }

    #[test]
    fn the_chunk_that_fewest_sources_hold_goes_first_and_the_first_among_equals() {
        let sources: &[(Selector, &[u32])] = &[(Selector::Any, &[1, 2, 3, 4]), (Selector::Any, &[1, 2, 4])];
        assert_eq!(choose(&[], &[], &[], sources, 0), fresh(3));
        assert_eq!(choose(&[3], &[], &[], sources, 0), fresh(1));
        assert_eq!(choose(&[3], &[1], &[], sources, 0), fresh(2));
    }

    #[test]
    fn nothing_outside_the_grant_and_nothing_the_source_lacks_is_asked_for() {
        let odd = Selector::Residue { class: 1, classes: 2 };
        assert_eq!(choose(&[], &[], &[], &[(odd, &[2, 4, 66, 67])], 0), fresh(67));
        assert_eq!(choose(&[67], &[], &[], &[(odd, &[2, 4, 66, 67])], 0), None);
        assert_eq!(choose(&[], &[], &[], &[(odd, &[])], 0), None);
    }

    #[test]
    fn only_at_the_end_and_only_once_is_a_chunk_asked_for_a_second_time() {
        let all: Vec<u32> = (0..100).collect();
        let sources: &[(Selector, &[u32])] = &[(Selector::Any, &all), (Selector::Any, &all)];
        assert_eq!(choose(&all[..97], &[97, 98, 99], &[], sources, 1), None, "three in a hundred are missing");
        let again = Some(Pick { chunk: 98, is_duplicate: true });
        assert_eq!(choose(&all[..98], &[98, 99], &[], sources, 1), again);
        assert_eq!(choose(&all[..98], &[98, 99], &[98, 99], sources, 1), None);
        assert_eq!(choose_again(&all[..98], &[98, 99], &[], sources, 1, &[98, 99]), None, "it is asked already itself");
        assert_eq!(choose(&all[..98], &[98], &[], sources, 1), fresh(99), "what nobody was asked for goes first");
        assert_eq!(choose(&all, &[], &[], sources, 1), None, "what is verified is never asked for again");
    }

    #[test]
    fn leaders_with_different_starts_choose_different_chunks() {
        let (held, none, has) = (set(100, &[]), set(100, &[]), ChunkSet::full(100));
        let sources = [Source { selector: Selector::Any, held: &has, asked: &[] }];
        let from = |start| {
            let view = View { held: &held, fetching: &none, doubled: &none, sources: &sources, start };
            pick(&view, 0).map(|pick| pick.chunk)
        };
        assert_eq!((from(0), from(40), from(99), from(140)), (Some(0), Some(40), Some(99), Some(40)));
    }
}
