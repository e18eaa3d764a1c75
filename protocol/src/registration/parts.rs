//! Values that exceed a datagram: cut into numbered parts, and put together again within limits.

use common::framing;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Payload of a part, in bytes. With what stands around it, it stays below 1,100.
pub(crate) const PART_BYTES: usize = 1_000;

/// The binary form without a length in front.
pub(crate) fn encoded<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    framing::encode(value).ok().map(|framed| framed[4..].to_vec())
}

/// Reads what [`encoded`] made.
pub(crate) fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    framing::decode(bytes).ok()
}

/// How many parts a value takes; at least one.
pub(crate) fn count(bytes: &[u8]) -> u16 {
    u16::try_from(bytes.len().div_ceil(PART_BYTES).max(1)).unwrap_or(u16::MAX)
}

/// One part of a value; empty beyond its end.
pub(crate) fn part(bytes: &[u8], index: u16) -> &[u8] {
    let start = (usize::from(index) * PART_BYTES).min(bytes.len());
    &bytes[start..(start + PART_BYTES).min(bytes.len())]
}

/// Whether a part with these numbers can exist in a value of at most `parts_max` parts.
pub(crate) fn plausible(index: u16, parts: u16, length: usize, parts_max: usize) -> bool {
    usize::from(parts) <= parts_max && index < parts && length <= PART_BYTES
}

/// Parts that arrived so far.
#[derive(Debug, Clone)]
pub(crate) struct Assembly {
    parts: Vec<Option<Vec<u8>>>,
}

impl Assembly {
    pub(crate) fn new(parts: u16) -> Self {
        Self { parts: vec![None; usize::from(parts)] }
    }

    /// Keeps a part; the whole value when it was the last one missing. A part that belongs to a value
    /// of another length is ignored.
    pub(crate) fn add(&mut self, index: u16, parts: u16, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.parts.len() == usize::from(parts)
            && let Some(place) = self.parts.get_mut(usize::from(index))
        {
            *place = Some(bytes.to_vec());
        }
        if self.parts.iter().any(Option::is_none) {
            return None;
        }
        Some(self.parts.iter().flatten().flatten().copied().collect())
    }

    /// One bit for each part, the lowest first: whether it is there.
    pub(crate) fn bitmap(&self) -> Vec<u8> {
        self.parts
            .chunks(8)
            .map(|eight| eight.iter().rev().fold(0, |byte, part| byte << 1 | u8::from(part.is_some())))
            .collect()
    }
}
