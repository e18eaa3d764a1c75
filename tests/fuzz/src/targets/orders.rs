//! What administrators say: times of schedules, patterns of what is excluded, tokens, shares.

use ccm::engine::quorum::Quorum;
use ccm::ingest::level::Level;
use ccm::schedule::Rule;
use ccm::store::{Role, rfc3339};
use ccm::trust::secrets::Secret;
use common::exclude::Exclude;
use common::path::ContentPath;
use common::time::WallTime;

use crate::{Shape, Target};

/// Times that are asked for at once.
const UPCOMING: usize = 3;

/// A pattern and a zone in two lines, or an instant in one; asked for the times after the middle of 2026.
pub(super) fn schedule() -> Target {
    Target {
        name: "schedule",
        what: "cron patterns with time zones, and instants",
        bytes_max: 400,
        samples: ["30 3 * * 1-5\nEurope/Vienna", "*/7 1,2 L 2 5#2\nUTC", "0 0 30 2 *\nUTC", "2030-01-01T00:00:00Z"]
            .map(|sample| sample.as_bytes().to_vec())
            .into(),
        check: Box::new(|input| {
            let text = String::from_utf8_lossy(input);
            let rule = match text.split_once('\n') {
                Some((pattern, zone)) => Rule::Cron { pattern: pattern.into(), zone: zone.into() },
                None => match rfc3339::from_text(&text) {
                    Ok(at) => {
                        let again = rfc3339::from_text(&rfc3339::to_text(at));
                        assert_eq!(again.ok(), Some(at), "{text:?} is another time when it is said");
                        Rule::At(at)
                    }
                    Err(_) => return Shape::refused(&"no time"),
                },
            };
            let begin = WallTime(1_780_000_000_000);
            // For people: it must not fail, whatever the rule is.
            let said = rule.to_string();
            match rule.upcoming(begin, UPCOMING) {
                Ok(times) => {
                    let rising = std::iter::once(&begin).chain(&times).is_sorted_by(|one, other| one < other);
                    assert!(rising, "{said}: {times:?} do not follow each other");
                    assert_eq!(rule.check(begin).is_ok(), !times.is_empty(), "{said}");
                    Shape::decoded(&(times.len(), said))
                }
                Err(error) => Shape::refused(&error.to_string().split(':').next_back().unwrap_or("").to_owned()),
            }
        }),
    }
}

/// Lines: a path, then patterns.
pub(super) fn patterns() -> Target {
    Target {
        name: "patterns",
        what: "patterns of excluded paths",
        bytes_max: 2_048,
        samples: ["a/b/x.log\n*.log\n/uploads/\n!keep.log", "cache/y\n**/cache/**\n[a-z]?{b,c}*.tmp\n\\#x", "a\n#\n"]
            .map(|sample| sample.as_bytes().to_vec())
            .into(),
        check: Box::new(|input| {
            let text = String::from_utf8_lossy(input);
            let mut lines = text.split('\n');
            let path: ContentPath = match lines.next().map(str::parse) {
                Some(Ok(path)) => path,
                Some(Err(_)) | None => return Shape::refused(&"no path"),
            };
            let patterns: Vec<&str> = lines.collect();
            match Exclude::new(&patterns) {
                Ok(exclude) => {
                    let matched = [false, true].map(|is_directory| exclude.matches(&path, is_directory));
                    let covered = [false, true].map(|is_directory| exclude.covers(&path, is_directory));
                    if path.components().count() == 1 {
                        assert_eq!(matched, covered, "nothing is above {path}");
                    }
                    if exclude.is_empty() {
                        assert_eq!(covered, [false; 2], "nothing excludes {path}");
                    }
                    Shape::decoded(&format!("{matched:?} {covered:?} {}", exclude.is_empty()))
                }
                Err(error) => Shape::refused(&error),
            }
        }),
    }
}

fn same_secret(secret: Option<Secret>, say: impl Fn(&Secret) -> String, read: impl Fn(&str) -> Option<Secret>) -> bool {
    let Some(secret) = secret else { return false };
    assert!(read(&say(&secret)).is_some_and(|again| again == secret), "{secret:?} is another one when it is said");
    assert!(secret.fits(&secret.digest()));
    true
}

pub(super) fn tokens() -> Target {
    let (id, secret) = ("0123456789abcdef", "07".repeat(32));
    Target {
        name: "tokens",
        what: "tokens, cookies, shares of servers, levels and roles",
        bytes_max: 512,
        samples: vec![
            format!("prt1.{id}.{secret}.{}", "05".repeat(32)).into_bytes(),
            format!("pra1.{id}.{secret}").into_bytes(),
            format!("{id}.{secret}").into_bytes(),
            b"80%".to_vec(),
            b"3".to_vec(),
            b"balanced".to_vec(),
            b"admin".to_vec(),
            b"https://ccm:7443".to_vec(),
        ],
        check: Box::new(|input| {
            let text = &*String::from_utf8_lossy(input);
            let join = Secret::from_join_token(text);
            if let Some((secret, root)) = &join {
                let again = Secret::from_join_token(&secret.to_join_token(root));
                assert_eq!(again.as_ref(), join.as_ref(), "another token when it is said");
            }
            let quorum = text.parse::<Quorum>();
            if let Ok(quorum) = quorum {
                assert_eq!(quorum.to_string().parse(), Ok(quorum), "another share when it is said");
                for servers in [0, 1, 7, 1_000_000] {
                    assert!((1..=servers.max(1)).contains(&quorum.of(servers)), "{quorum} of {servers}");
                }
            }
            let host = backend_agent::enroll::host_and_port(text);
            if let Ok(host) = &host {
                let again = backend_agent::enroll::host_and_port(&format!("https://{host}"));
                assert_eq!(again.as_ref().ok(), Some(host), "another address when it is said");
            }
            let parsed = [
                join.is_some(),
                same_secret(Secret::from_api_token(text), Secret::to_api_token, Secret::from_api_token),
                same_secret(Secret::from_cookie(text), Secret::to_cookie, Secret::from_cookie),
                quorum.is_ok(),
                host.is_ok(),
                text.parse::<Level>().is_ok(),
                text.parse::<Role>().is_ok(),
            ];
            if parsed.contains(&true) { Shape::decoded(&parsed) } else { Shape::refused(&text.len().min(3)) }
        }),
    }
}
