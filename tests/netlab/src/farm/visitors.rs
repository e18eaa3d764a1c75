//! Visitors of all servers of a farm at once, who must never be failed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Farm;
use crate::address::Host;
use crate::hammer::{Hammer, body_hash};

/// Longest time for a round through all pages.
const ROUND_PATIENCE: Duration = Duration::from_secs(60);

/// Visitors who go round the same pages, one on each server.
#[derive(Debug)]
pub struct Visitors {
    pages: Vec<String>,
    hammers: Vec<(Host, Hammer)>,
}

impl Visitors {
    /// Starts one on each of the servers and waits until each has seen all pages once.
    ///
    /// # Panics
    /// When there are no pages, or the visitors do not get on.
    #[must_use]
    pub fn start(farm: &Farm, hosts: &[Host], pages: Vec<String>) -> Self {
        assert!(!pages.is_empty(), "visitors need pages");
        let start = |host: &Host| (*host, Hammer::start(farm.lab(), *host, pages.clone()).expect("a visitor starts"));
        let visitors = Self { hammers: hosts.iter().map(start).collect(), pages };
        visitors.wait_for_a_round();
        visitors
    }

    /// Waits until each has gone round all pages once more.
    ///
    /// # Panics
    /// When they do not get on.
    pub fn wait_for_a_round(&self) {
        for (host, hammer) in &self.hammers {
            let enough = hammer.requests() + self.pages.len() as u64 + 1;
            assert!(hammer.wait_for_requests(enough, ROUND_PATIENCE), "the visitor of {host} does not get on");
        }
    }

    /// Ends the visits after one more round. Checks that no request failed and that every page that
    /// came was one of those that the releases have.
    ///
    /// # Panics
    /// When one failed, or a page came that no release has.
    pub fn end(self, releases: &[&Path]) {
        self.wait_for_a_round();
        for (host, hammer) in self.hammers {
            let seen = hammer.stop();
            println!("{host}: {} requests, {} failed", seen.requests, seen.failed);
            assert_eq!(
                seen.failed, 0,
                "{host}: of {} requests failed {}: {:#?}",
                seen.requests, seen.failed, seen.failures
            );
            for (page, bodies) in &seen.bodies {
                let file = |release: &&Path| -> PathBuf { release.join(page.trim_start_matches('/')) };
                let known: BTreeSet<u64> = releases
                    .iter()
                    .filter_map(|release| std::fs::read(file(release)).ok())
                    .map(|bytes| body_hash(&bytes))
                    .collect();
                assert!(bodies.is_subset(&known), "{host} served a {page} that no release has");
            }
        }
    }
}
