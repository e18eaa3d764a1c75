//! Names, paths and other words that stand in messages as text.

use common::decline::Decline;
use common::digest::Digest;
use common::ids::{SegmentName, ServerId, ServerName, SiteName};
use common::path::{ContentPath, symlink_is_contained};

use crate::{Shape, Target};

pub(super) fn words() -> Target {
    let samples = [
        "assets/app/index.html",
        "a/../b",
        "/etc/passwd",
        "web1",
        "space: the object takes 12 bytes, 7 are free",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "00010707070707070707070707070707",
        "\u{1F4F0}/ä",
    ];
    Target {
        name: "words",
        what: "paths, names, identifiers, digests, reasons",
        bytes_max: 8_192,
        samples: samples.iter().map(|sample| sample.as_bytes().to_vec()).collect(),
        check: Box::new(check),
    }
}

fn same_again<T: std::str::FromStr + ToString + PartialEq>(text: &str) -> bool {
    let Ok(value) = text.parse::<T>() else { return false };
    assert!(value.to_string().parse::<T>().is_ok_and(|again| again == value), "{text:?} is not the same when said");
    true
}

fn check(input: &[u8]) -> Shape {
    let text = String::from_utf8_lossy(input);
    if let Ok(path) = text.parse::<ContentPath>() {
        assert_eq!(path.as_str(), text, "a path is what it says");
        let climbs = path.components().any(|part| matches!(part, "" | "." | ".."));
        assert!(!climbs && !text.starts_with('/') && !text.contains('\0'), "{text:?} leaves the tree");
        assert!(path.parent().is_none_or(|parent| path.is_below(&parent)), "{text:?} is below its parent");
    }
    let link: ContentPath = "a/b/link".parse().expect("a good path");
    if symlink_is_contained(&link, &text) {
        let mut depth = 2_i32;
        for part in text.split('/') {
            depth += match part {
                "" | "." => 0,
                ".." => -1,
                _ => 1,
            };
            assert!(depth >= 0, "the link to {text:?} climbs out");
        }
    }
    let parsed = [
        same_again::<ContentPath>(&text),
        same_again::<SiteName>(&text),
        same_again::<ServerName>(&text),
        same_again::<SegmentName>(&text),
        same_again::<ServerId>(&text),
        same_again::<Digest>(&text),
        same_again::<Decline>(&text),
    ];
    let shape = (parsed, text.parse::<ContentPath>().err().map(|error| std::mem::discriminant(&error)));
    if parsed.contains(&true) { Shape::decoded(&shape) } else { Shape::refused(&shape) }
}
