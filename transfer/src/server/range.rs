//! Which bytes a `Range` header asks for.

use std::ops::Range;

use hyper::header::{HeaderMap, RANGE};

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selection {
    Whole,
    Part(Range<u64>),
    Unsatisfiable,
}

/// One range of bytes in any of the three forms. Another unit is ignored, as RFC 9110 demands. A
/// list of ranges is refused: nobody here asks for one, and ignoring it would send the whole object.
pub(super) fn select(headers: &HeaderMap, length: u64) -> Selection {
    let mut values = headers.get_all(RANGE).iter();
    let Some(value) = values.next() else { return Selection::Whole };
    let Ok(value) = value.to_str() else { return Selection::Unsatisfiable };
    let Some((unit, spec)) = value.split_once('=') else { return Selection::Unsatisfiable };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Selection::Whole;
    }
    let range = if values.next().is_none() { part(spec.trim(), length) } else { None };
    range.filter(|range| !range.is_empty()).map_or(Selection::Unsatisfiable, Selection::Part)
}

fn part(spec: &str, length: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    match (first.is_empty(), last.is_empty()) {
        (true, _) => Some(length.saturating_sub(number(last)?)..length),
        (false, true) => Some(number(first)?..length),
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| first..length.min(last.saturating_add(1)))
        }
    }
}

fn number(text: &str) -> Option<u64> {
    // `parse` would take a sign.
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge_of_a_range_is_as_the_standard_says() {
        let cases = [
            ("bytes=0-0", Selection::Part(0..1)),
            ("bytes=0-99", Selection::Part(0..100)),
            ("bytes=0-100", Selection::Part(0..100)),
            ("bytes=5-18446744073709551615", Selection::Part(5..100)),
            ("bytes=99-99", Selection::Part(99..100)),
            ("bytes=99-", Selection::Part(99..100)),
            ("bytes=-1", Selection::Part(99..100)),
            ("bytes=-1000", Selection::Part(0..100)),
            ("Bytes=1-2", Selection::Part(1..3)),
            ("bytes=100-", Selection::Unsatisfiable),
            ("bytes=100-100", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=7-6", Selection::Unsatisfiable),
            ("bytes=-", Selection::Unsatisfiable),
            ("bytes=+1-2", Selection::Unsatisfiable),
            ("bytes=a-b", Selection::Unsatisfiable),
            ("bytes=0-1,3-4", Selection::Unsatisfiable),
            ("bytes=18446744073709551616-", Selection::Unsatisfiable),
            ("bytes", Selection::Unsatisfiable),
            ("lines=1-2", Selection::Whole),
        ];
        for (value, expected) in cases {
            let headers = HeaderMap::from_iter([(RANGE, value.parse().unwrap())]);
            assert_eq!(select(&headers, 100), expected, "{value}");
        }
        assert_eq!(select(&HeaderMap::new(), 0), Selection::Whole);
        let twice = [(RANGE, "bytes=0-1".parse().unwrap()), (RANGE, "bytes=3-4".parse().unwrap())];
        let mut headers = HeaderMap::new();
        for (name, value) in twice {
            headers.append(name, value);
        }
        assert_eq!(select(&headers, 100), Selection::Unsatisfiable);
    }
}
