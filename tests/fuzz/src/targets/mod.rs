//! The decoders that are tried.

mod answers;
mod api;
mod certificates;
mod chunks;
mod content;
mod control;
mod doctor;
mod files;
mod leaders;
mod orders;
mod parts;
mod reception;
mod segment;
mod words;

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Target;

/// What inputs go into one after the other, made anew after so many of them: what it has become shall not hide what
/// a fresh one makes of an input, nor grow.
struct Renewed<T> {
    make: fn() -> T,
    now: T,
    life: u64,
    inputs: u64,
}

impl<T> Renewed<T> {
    fn every(life: u64, make: fn() -> T) -> Self {
        Self { make, now: make(), life, inputs: 0 }
    }

    /// For the next input.
    fn next(&mut self) -> &mut T {
        self.inputs += 1;
        if self.inputs.is_multiple_of(self.life) {
            self.now = (self.make)();
        }
        &mut self.now
    }
}

/// A target's name, and what makes it.
type Named = (&'static str, fn() -> Target);

/// All targets; making one can take a while.
const ALL: [Named; 28] = [
    ("datagram", segment::datagram),
    ("message", segment::message),
    ("session", segment::session),
    ("frame", segment::frame_header),
    ("ticket", control::ticket),
    ("credential", control::credential),
    ("to-ccm", control::to_ccm),
    ("to-leader", control::to_leader),
    ("assignment", content::assignment),
    ("manifest", content::manifest),
    ("chunk-table", chunks::table),
    ("chunk-request", chunks::requests),
    ("words", words::words),
    ("doctor", doctor::doctor),
    ("reception", reception::reception),
    ("parts", parts::parts),
    ("certificate", certificates::certificate),
    ("api", api::api),
    ("leader", leaders::leader),
    ("chunk-answer", answers::answers),
    ("state-file", files::state_file),
    ("agent-file", files::agent_file),
    ("ccm-file", files::ccm_file),
    ("bitmap", files::bitmap),
    ("settings", files::settings),
    ("schedule", orders::schedule),
    ("patterns", orders::patterns),
    ("tokens", orders::tokens),
];

/// The names of all of them.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, _)| *name)
}

/// The target of that name.
#[must_use]
pub fn one(name: &str) -> Option<Target> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, make)| make())
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Target> {
    ALL.iter().map(|(_, make)| make()).collect()
}

/// What was decoded is decoded to the same when it is encoded.
fn assert_same_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let bytes = postcard::to_stdvec(value).expect("what was decoded can be encoded");
    let again: T = postcard::from_bytes(&bytes).expect("what was encoded can be decoded");
    assert_eq!(*value, again, "it is not the same when it is encoded and decoded again");
}

fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data has a binary form")
}

/// Bytes in place of a value, to sign what no writer of ours would write.
struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple as _;
        let mut bytes = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| bytes.serialize_element(byte))?;
        bytes.end()
    }
}
