//! A member's side of the registration.

use std::collections::VecDeque;
use std::time::Duration;

use common::fleet::MemberInfo;
use common::ids::ServerId;
use common::time::Timestamp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{Config, Destination, Event, InfoError, Message, Output, digest, encode, parts};

/// Segments up to this size register all at once: their datagrams fit any socket buffer.
const CROWD: u32 = 32;
const SPREAD_MAX: Duration = Duration::from_millis(200);

/// The leader that is followed, and how far the registration with it is.
#[derive(Debug)]
struct Following {
    leader: ServerId,
    epoch: u64,
    confirmed: bool,
    /// When to register (again); never while confirmed.
    register_at: Option<Timestamp>,
    keep_alive_at: Timestamp,
}

/// One server that follows a leader. A server that leads has a [`Registrar`](super::Registrar) and
/// tells this machine [`Member::lost_leader`]. Feed with `handle_*`, then drain
/// [`Member::poll_output`] until `None`, then sleep until [`Member::poll_timeout`].
#[derive(Debug)]
pub struct Member {
    server: ServerId,
    encoded: Vec<u8>,
    digest: u32,
    revision: u64,
    config: Config,
    rng: ChaCha8Rng,
    /// How many members the last list counted.
    segment_members: u32,
    following: Option<Following>,
    outputs: VecDeque<Output>,
}

impl Member {
    /// A server with what it says about itself. `first_revision` lies above every revision of
    /// earlier starts; wall-clock microseconds serve (a clock that went back is found out and costs
    /// one exchange with the leader).
    ///
    /// # Errors
    /// [`InfoError`] when the description is too large.
    pub fn new(info: &MemberInfo, first_revision: u64, config: Config, seed: u64) -> Result<Self, InfoError> {
        let encoded = encode(info)?;
        Ok(Self {
            server: info.server,
            digest: digest(&encoded),
            encoded,
            revision: first_revision,
            config,
            rng: ChaCha8Rng::seed_from_u64(seed),
            segment_members: 0,
            following: None,
            outputs: VecDeque::new(),
        })
    }

    /// The election found a leader, other than this server.
    pub fn follows(&mut self, leader: ServerId, epoch: u64, now: Timestamp) {
        if self.following.as_ref().is_some_and(|known| (known.leader, known.epoch) == (leader, epoch)) {
            return;
        }
        let register_at = now + self.spread();
        let keep_alive_at = now + self.config.keep_alive;
        self.following =
            Some(Following { leader, epoch, confirmed: false, register_at: Some(register_at), keep_alive_at });
        self.handle_timeout(now);
    }

    /// There is no leader to register with, or this server became it.
    pub fn lost_leader(&mut self) {
        self.following = None;
    }

    /// Whether the leader is known to hold what this server last said about itself.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.following.as_ref().is_some_and(|following| following.confirmed)
    }

    /// Says something new about this server, at once. Nothing happens when it is what was said.
    ///
    /// # Errors
    /// [`InfoError`] when the description is too large; the previous one stands.
    pub fn update(&mut self, info: &MemberInfo, now: Timestamp) -> Result<(), InfoError> {
        let encoded = encode(info)?;
        if encoded == self.encoded {
            return Ok(());
        }
        self.digest = digest(&encoded);
        self.encoded = encoded;
        self.revision = self.revision.saturating_add(1);
        self.register_within(Duration::ZERO, now);
        Ok(())
    }

    /// Says good-bye; nothing is said afterwards until a leader is followed again.
    pub fn leave(&mut self) {
        if let Some(following) = self.following.take() {
            // Twice, because nobody is here to repeat it when it is lost.
            for _ in 0..2 {
                let message = Message::Leave { revision: self.revision };
                self.outputs.push_back(Output::Send { to: Destination::Server(following.leader), message });
            }
        }
    }

    /// A message from a server whose identity is proven. Others than the leader that is followed are
    /// not listened to.
    pub fn handle_message(&mut self, from: ServerId, message: &Message, now: Timestamp) {
        let Some((leader, epoch)) = self.following.as_ref().map(|known| (known.leader, known.epoch)) else { return };
        if from != leader {
            return;
        }
        match message {
            Message::Request { epoch: said } if *said == epoch => {
                let wait = self.spread();
                self.register_within(wait, now);
            }
            Message::Registered { epoch: said, revision, digest } if *said == epoch => {
                if *digest == self.digest {
                    self.confirm();
                } else if *revision >= self.revision {
                    // It holds something that seems newer: from before our clock went back.
                    self.revision = revision.saturating_add(1);
                    self.register_within(Duration::ZERO, now);
                }
            }
            Message::Roster(roster) if roster.epoch == epoch && roster.covers(self.server) => {
                self.segment_members = roster.total;
                let listed = roster.members.iter().find(|(server, _)| *server == self.server);
                if listed.is_some_and(|(_, digest)| *digest == self.digest) {
                    self.confirm();
                } else {
                    let wait = self.random(Duration::ZERO, self.config.missed_wait);
                    self.register_within(wait, now);
                }
            }
            Message::Probe { epoch: said } if *said == epoch => {
                if let Some(following) = &mut self.following {
                    following.keep_alive_at = now;
                }
                self.handle_timeout(now);
            }
            Message::Probe { .. }
            | Message::Request { .. }
            | Message::Registered { .. }
            | Message::Roster(_)
            | Message::Register { .. }
            | Message::KeepAlive { .. }
            | Message::Leave { .. } => (),
        }
    }

    /// Does what is due. Harmless when called early.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        let repeat = self.random(self.config.repeat_min, self.config.repeat_max);
        let alive = self.random(self.config.keep_alive * 9 / 10, self.config.keep_alive);
        let Some(following) = &mut self.following else { return };
        let to = Destination::Server(following.leader);
        if following.register_at.is_some_and(|at| at <= now) {
            following.register_at = Some(now + repeat);
            following.keep_alive_at = now + alive;
            let parts = parts::count(&self.encoded);
            self.outputs.extend((0..parts).map(|part| {
                let bytes = parts::part(&self.encoded, part).to_vec();
                Output::Send { to, message: Message::Register { revision: self.revision, part, parts, bytes } }
            }));
        }
        if following.keep_alive_at <= now {
            following.keep_alive_at = now + alive;
            self.outputs.push_back(Output::Send { to, message: Message::KeepAlive { digest: self.digest } });
        }
    }

    /// When [`Member::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let following = self.following.as_ref()?;
        Some(following.register_at.map_or(following.keep_alive_at, |at| at.min(following.keep_alive_at)))
    }

    /// The next thing to carry out.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn confirm(&mut self) {
        if let Some(following) = &mut self.following {
            following.register_at = None;
            if !following.confirmed {
                following.confirmed = true;
                let (leader, epoch) = (following.leader, following.epoch);
                self.outputs.push_back(Output::Event(Event::Confirmed { leader, epoch }));
            }
        }
    }

    fn register_within(&mut self, wait: Duration, now: Timestamp) {
        if let Some(following) = &mut self.following {
            following.confirmed = false;
            let at = now + wait;
            following.register_at = Some(following.register_at.map_or(at, |planned| planned.min(at)));
        }
        self.handle_timeout(now);
    }

    /// No wait in segments of ordinary size; in large ones a random one, against implosion.
    fn spread(&mut self) -> Duration {
        if self.segment_members <= CROWD {
            return Duration::ZERO;
        }
        let max = (self.config.spread_per_member * self.segment_members).min(SPREAD_MAX);
        self.random(Duration::ZERO, max)
    }

    fn random(&mut self, min: Duration, max: Duration) -> Duration {
        let span = u64::try_from(max.saturating_sub(min).as_micros()).unwrap_or(u64::MAX - 1);
        min + Duration::from_micros(self.rng.next_u64() % (span + 1))
    }
}
