//! The rows of the benchmark: what the network is like, and what the goal is.

use pressrun_netlab::lab::{Lab, Spec};
use pressrun_netlab::{Host, LabError, Rate};

const MIB: u64 = 1 << 20;
/// The sender's number; the receivers come after it.
pub(crate) const SENDER: Host = Host::Server(1, 1);
/// Length of a burst of losses, in datagrams.
const BURST: u32 = 10;

/// What gets lost of multicast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Loss {
    /// Nothing.
    None,
    /// At every receiver this share, by its own dice.
    Each(f64),
    /// At every receiver about this share, ten datagrams in a row.
    Bursts(f64),
    /// At the last receiver this share, by dice.
    Last(f64),
}

/// Upper limits from the specification.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Goal {
    /// Time until the last receiver (of the fast ones, where one is slow) holds the file, in
    /// multiples of size / rate.
    pub(crate) time: Option<f64>,
    /// The same for the slow receiver.
    pub(crate) slow_time: Option<f64>,
    /// Bytes that the sender puts on the wire, in multiples of the size.
    pub(crate) sent: Option<f64>,
    /// Time until the last receiver has acknowledged, in milliseconds.
    pub(crate) millis: Option<f64>,
}

/// One row.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// What it is called on the command line.
    pub(crate) name: String,
    /// Number of receivers.
    pub(crate) receivers: u8,
    /// Length of the file.
    pub(crate) bytes: u64,
    /// Rate of the links; `None`: as fast as the machine.
    pub(crate) rate: Option<Rate>,
    /// Rate of the last receiver's link, where it is another.
    pub(crate) slow_rate: Option<Rate>,
    /// What gets lost.
    pub(crate) loss: Loss,
    /// How often a file of this kind is sent; the median counts.
    pub(crate) repeats: u32,
    /// What is to be reached.
    pub(crate) goal: Goal,
}

impl Scenario {
    fn shaped(receivers: u8, loss: Loss, goal: Goal) -> Self {
        let kind = match loss {
            Loss::None => "0".to_owned(),
            Loss::Each(share) => format!("{:.0}", share * 100.0),
            Loss::Bursts(_) => "bursts".to_owned(),
            Loss::Last(share) => format!("one-at-{:.0}", share * 100.0),
        };
        Self {
            name: format!("{receivers}x{kind}"),
            receivers,
            bytes: 64 * MIB,
            rate: Some(Rate::mbit(100)),
            slow_rate: None,
            loss,
            repeats: 1,
            goal,
        }
    }

    /// Whether the last receiver is worse off than the others.
    pub(crate) fn has_straggler(&self) -> bool {
        self.slow_rate.is_some() || matches!(self.loss, Loss::Last(_))
    }

    /// The time that the links allow, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn limit_seconds(&self) -> Option<f64> {
        self.rate.map(|rate| self.bytes as f64 * 8.0 / rate.bits_per_sec as f64)
    }

    /// The receivers.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = Host> + use<> {
        (2..=self.receivers + 1).map(|server| Host::Server(1, server))
    }

    /// Builds its network.
    pub(crate) fn lab(&self) -> Result<Lab, LabError> {
        let lab = Lab::up(Spec { lan_rate: self.rate, ..Spec::of(1, self.receivers + 1) })?;
        self.hosts().chain([SENDER]).try_for_each(|host| lab.keep_in_lan(host))?;
        let last = self.receivers + 1;
        if self.slow_rate.is_some() {
            lab.set_server_rate(1, last, self.slow_rate)?;
        }
        if self.rate.is_some() && (self.loss != Loss::None || self.goal.sent.is_some()) {
            // Several datagrams in one piece would be lost together, and counted with one header. The shaper knows
            // how many they are.
            for host in self.hosts().chain([SENDER]) {
                lab.set_segmentation_offload(host, false)?;
            }
        }
        match self.loss {
            Loss::None => {}
            Loss::Each(share) => self.hosts().try_for_each(|host| lab.set_loss(host, Some(share)))?,
            Loss::Last(share) => lab.set_loss(Host::Server(1, last), Some(share))?,
            Loss::Bursts(share) => {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number")]
                let period = (f64::from(BURST) / share) as u32;
                // Periods around the wanted one drift through each other.
                let middle = u32::from(self.receivers).div_ceil(2);
                for (number, host) in (1..).zip(self.hosts()) {
                    lab.set_burst_loss(host, BURST, (period + number).saturating_sub(middle))?;
                }
            }
        }
        Ok(lab)
    }
}

/// All rows, in the order of the specification's table.
pub(crate) fn all() -> Vec<Scenario> {
    let goal = |time, sent| Goal { time: Some(time), sent: Some(sent), ..Goal::default() };
    let mut rows = Vec::new();
    for receivers in [1, 4, 16] {
        rows.push(Scenario::shaped(receivers, Loss::None, goal(1.10, 1.07)));
        rows.push(Scenario::shaped(receivers, Loss::Each(0.01), goal(1.14, 1.10)));
        rows.push(Scenario::shaped(receivers, Loss::Each(0.05), goal(1.22, 1.17)));
    }
    rows.push(Scenario::shaped(16, Loss::Bursts(0.05), goal(1.30, 1.25)));
    rows.push(Scenario::shaped(16, Loss::Last(0.3), Goal { time: Some(1.15), ..Goal::default() }));
    rows.push(Scenario {
        name: "16x0-256".to_owned(),
        bytes: 256 * MIB,
        ..Scenario::shaped(16, Loss::None, goal(1.07, 1.07))
    });
    // What headers alone allow is 1.063; what sealing may cost is 3 % beyond.
    rows.push(Scenario {
        name: "gigabit".to_owned(),
        bytes: 512 * MIB,
        rate: Some(Rate::mbit(1000)),
        ..Scenario::shaped(1, Loss::None, Goal { time: Some(1.063 * 1.03), ..Goal::default() })
    });
    let seconds = 64.0 * 1.048_576 * 8.0 / 200.0;
    rows.push(Scenario {
        name: "slow-port".to_owned(),
        rate: Some(Rate::mbit(200)),
        slow_rate: Some(Rate::mbit(50)),
        ..Scenario::shaped(
            4,
            Loss::None,
            Goal { time: Some(3.15 / seconds), slow_time: Some(12.5 / seconds), ..Goal::default() },
        )
    });
    for (receivers, millis) in [(4, 5.0), (32, 10.0)] {
        rows.push(Scenario {
            name: format!("small-{receivers}"),
            bytes: 8192,
            rate: None,
            repeats: 101,
            ..Scenario::shaped(receivers, Loss::None, Goal { millis: Some(millis), ..Goal::default() })
        });
    }
    rows.push(Scenario {
        name: "unshaped".to_owned(),
        bytes: 1024 * MIB,
        rate: None,
        ..Scenario::shaped(4, Loss::None, Goal::default())
    });
    rows
}
