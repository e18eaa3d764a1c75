//! Sets of chunks of one object, one bit each.

/// Which chunks of an object somebody holds, wants or fetches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChunkSet {
    words: Vec<u64>,
    chunks: u32,
    members: u32,
}

impl ChunkSet {
    /// An empty set for an object of so many chunks.
    #[must_use]
    pub fn empty(chunks: u32) -> Self {
        Self { words: vec![0; chunks.div_ceil(u64::BITS) as usize], chunks, members: 0 }
    }

    /// All chunks of an object of so many chunks.
    #[must_use]
    pub fn full(chunks: u32) -> Self {
        let mut set = Self { words: vec![u64::MAX; chunks.div_ceil(u64::BITS) as usize], chunks, members: chunks };
        if let (Some(last), rest @ 1..) = (set.words.last_mut(), chunks % u64::BITS) {
            *last = (1 << rest) - 1;
        }
        set
    }

    /// The first `length` chunks: what a state that is only a length says (001 claim 1).
    #[must_use]
    pub fn prefix(chunks: u32, length: u32) -> Self {
        let mut set = Self::empty(chunks);
        for chunk in 0..length.min(chunks) {
            set.insert(chunk);
        }
        set
    }

    /// Of how many chunks the object consists.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// How many chunks are in the set.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.members
    }

    /// Whether no chunk is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// Whether every chunk of the object is in it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.members == self.chunks
    }

    /// Whether this chunk is in it. Chunks beyond the object never are.
    #[must_use]
    pub fn contains(&self, chunk: u32) -> bool {
        self.words.get((chunk / u64::BITS) as usize).is_some_and(|word| word >> (chunk % u64::BITS) & 1 == 1)
    }

    /// Puts a chunk in; false when it was in already or the object has no such chunk.
    pub fn insert(&mut self, chunk: u32) -> bool {
        if chunk >= self.chunks || self.contains(chunk) {
            return false;
        }
        self.words[(chunk / u64::BITS) as usize] |= 1 << (chunk % u64::BITS);
        self.members += 1;
        true
    }

    /// Takes a chunk out; false when it was not in.
    pub fn remove(&mut self, chunk: u32) -> bool {
        if !self.contains(chunk) {
            return false;
        }
        self.words[(chunk / u64::BITS) as usize] &= !(1 << (chunk % u64::BITS));
        self.members -= 1;
        true
    }

    /// The object has grown (001 claim 29): what is in the set stays in it.
    pub fn grow(&mut self, chunks: u32) {
        if chunks > self.chunks {
            self.chunks = chunks;
            self.words.resize(chunks.div_ceil(u64::BITS) as usize, 0);
        }
    }

    /// The words of the set, 64 chunks each, the first chunk in the lowest bit.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The chunks in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().zip(0u32..).flat_map(|(word, index)| bits(*word).map(move |bit| index * u64::BITS + bit))
    }
}

/// The places of the bits of a word that are set, in rising order.
pub(crate) fn bits(word: u64) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(word), |rest| Some(rest & rest.wrapping_sub(1)))
        .take_while(|rest| *rest != 0)
        .map(u64::trailing_zeros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_counts_what_is_in_it_and_lists_it_in_order() {
        let mut set = ChunkSet::empty(130);
        assert!(set.insert(129) && set.insert(0) && set.insert(64));
        assert!(!set.insert(64), "it is in already");
        assert!(!set.insert(130), "the object has no such chunk");
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 64, 129]);
        assert!(set.remove(64) && !set.remove(64));
        assert_eq!(set.len(), 2);
    }

    #[test]
    fn a_full_set_has_no_chunk_beyond_the_object() {
        for chunks in [0, 1, 63, 64, 65, 954] {
            let set = ChunkSet::full(chunks);
            assert_eq!(set.iter().count(), chunks as usize);
            assert!(set.is_full() && !set.contains(chunks));
        }
        assert_eq!(ChunkSet::prefix(10, 3).iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn an_object_that_grows_keeps_what_was_held_of_it() {
        let mut set = ChunkSet::full(3);
        set.grow(70);
        assert_eq!((set.len(), set.is_full(), set.contains(2), set.contains(3)), (3, false, true, false));
    }
}
