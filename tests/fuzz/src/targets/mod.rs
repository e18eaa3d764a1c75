//! The decoders that are tried.

mod chunks;
mod content;
mod control;
mod segment;
mod words;

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Target;

/// All of them.
#[must_use]
pub fn all() -> Vec<Target> {
    vec![
        segment::datagram(),
        segment::message(),
        segment::session(),
        segment::frame_header(),
        control::ticket(),
        control::credential(),
        control::to_ccm(),
        control::to_leader(),
        content::assignment(),
        content::manifest(),
        chunks::table(),
        chunks::requests(),
        words::words(),
    ]
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
