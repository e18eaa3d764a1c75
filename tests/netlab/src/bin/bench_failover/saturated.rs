//! A segment whose link is full of data for a long time.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use netlab::address::Rate;
use netlab::trees::Dice;
use pressrun_netlab as netlab;
use serde_json::{Value, json};

use super::Bench;
use super::view::Said;

/// Rate of every server's link.
const RATE: Rate = Rate::mbit(10);
/// What is published in one go: half a minute of the link.
const OBJECT_BYTES: u64 = 32 << 20;

/// What was seen.
#[derive(Debug)]
pub(crate) struct Saturated {
    minutes: f64,
    publishes: u32,
    /// What the leader's link carried, as a share of its rate.
    used: f64,
    /// How often somebody began to lead, or had no leader.
    pub(crate) elections: usize,
}

impl fmt::Display for Saturated {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { minutes, publishes, used, elections } = self;
        let used = used * 100.0;
        write!(formatter, "{minutes:.1} minutes, {publishes} publishes, link used {used:.0} %: {elections} elections")
    }
}

impl Saturated {
    pub(crate) fn json(&self) -> Value {
        json!({
            "minutes": self.minutes, "publishes": self.publishes, "link_used": self.used, "elections": self.elections,
        })
    }
}

impl Bench {
    /// Publishes one object after the other over a slow link for so long.
    pub(crate) fn saturate(&mut self, time: Duration) -> Saturated {
        let leader = self.settle();
        self.farm.lab().set_lan_rate(1, Some(RATE)).expect("a link can be slowed");
        self.farm.create_site(&[]);
        self.view.news();
        let (began, meter) = (Instant::now(), self.farm.meter());
        let (mut publishes, mut elections) = (0, 0);
        while began.elapsed() < time {
            publishes += 1;
            let bytes = Dice::of(publishes.into()).bytes(OBJECT_BYTES);
            fs::write(self.farm.staging().join("object"), bytes).expect("staging");
            let run = self.farm.publish(&[]);
            assert_eq!((run.code, run.state()), (0, "done"), "{run}");
            elections += self.view.news().iter().filter(|(.., said)| !matches!(said, Said::Follows(_))).count();
        }
        let seconds = began.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "some gigabytes")]
        let bits = self.farm.sent_since(leader, &meter) as f64 * 8.0;
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let used = bits / (RATE.bits_per_sec as f64 * seconds);
        Saturated { minutes: seconds / 60.0, publishes, used, elections }
    }
}
