//! The agent's configuration file: the protocols of its segment ([`Lan`]), its hooks ([`Hooks`]), and how the
//! trees of its sites are treated ([`TreePolicies`]).
//!
//! A name that there is not, and a value that cannot be, are refused before anything starts. What there
//! is is in `docs/configuration.md`.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::ids::ServerName;
use lan_channel::port::ControlPort;
use protocol::reach::Transport;
use protocol::session::friendly::Fairness;
use protocol::session::rate::RateConfig;
use protocol::session::{ReceiverConfig, Repair, SenderConfig};
use protocol::{election, registration, reports};
use serde::Deserialize;

use crate::content::{ContentSection, TreePolicies};
use crate::hooks::{Hooks, HooksError, HooksSection};
use crate::lan::{Choice, Lan, LanError, Preset};
use crate::network::FamilyWord;
use crate::speed::Speed;

/// Everything that the file says.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The protocols of the segment.
    pub lan: Lan,
    /// What is run before and after live is switched.
    pub hooks: Hooks,
    /// How the trees of sites are treated.
    pub content: TreePolicies,
}

/// Why a configuration file is not used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read.
    #[error("the configuration file {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no configuration, or names something that there is not.
    #[error("the configuration file {} is not understood", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Why, with the line.
        source: Box<toml::de::Error>,
    },
    /// What it says about the segment cannot be.
    #[error(transparent)]
    Lan(#[from] LanError),
    /// What it says about hooks cannot be.
    #[error(transparent)]
    Hooks(#[from] HooksError),
}

/// A duration as people write it: `150ms`, `1.5s`, `200us`, `2m`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time(pub(crate) Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_time(&text)
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no time; say 150ms, 1.5s, 200us or 2m")))
    }
}

/// Longest time that can be said: a day. Beyond it no protocol of a segment makes sense.
const TIME_MAX: Duration = Duration::from_secs(86_400);

fn parse_time(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit.trim_start() {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    let time = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
    (time <= TIME_MAX).then_some(time)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    lan: LanSection,
    election: ElectionSection,
    registration: RegistrationSection,
    reports: ReportsSection,
    sender: SenderSection,
    receiver: ReceiverSection,
    hooks: HooksSection,
    content: ContentSection,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ElectionWord {
    #[default]
    Elected,
    Fixed,
}

/// Declares a section of the file whose values replace those of a configuration, by the same names.
macro_rules! section {
    ($name:ident for $config:ty {
        times: $($time:ident),*; plain: $($plain:ident: $kind:ty),* $(; apart: $($apart:ident: $other:ty),*)?
    }) => {
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $(#[serde(default)] $time: Option<Time>,)*
            $(#[serde(default)] $plain: Option<$kind>,)*
            // Read by who takes the section, for it stands elsewhere in the configuration.
            $($(#[serde(default)] $apart: Option<$other>,)*)?
        }

        impl $name {
            fn apply(self, config: &mut $config) {
                $(if let Some(Time(time)) = self.$time { config.$time = time; })*
                $(if let Some(value) = self.$plain { config.$plain = value; })*
            }
        }
    };
}

section!(ElectionSection for election::Config {
    times: announce_interval, answer_gap, silence_max, startup_listen, claim_wait_min, claim_wait_max, vote, concede,
        reclaim, probe;
    plain: claims_reopen_vote: bool
});
section!(RegistrationSection for registration::Config {
    times: repeat_min, repeat_max, missed_wait, keep_alive, silence_max, roster_quiet, roster_delay_max,
        roster_interval, changed_gap, spread_per_member;
    plain:
});
section!(ReportsSection for reports::Config { times: repeat_min, repeat_max, gather, answer_spread; plain: });
section!(SenderSection for SenderConfig {
    times: poll_interval, reply_window, reply_hold, poll_interval_max, stall_poll_interval_max, announce_interval,
        announce_interval_max, patience_per_member, silence_min, progress_max, join_wait;
    plain: repair_every: u32, fec: bool;
    apart: repair: RepairWord, fruitless_passes_max: NonZeroU32, rate_start: Speed, rate_min: Speed, rate_max: Speed, fairness: FairnessWord
});
section!(ReceiverSection for ReceiverConfig {
    times: reply_window, reply_window_max, unasked_after, unasked_interval_max, idle_max;
    plain: repeated_acknowledgements: u32
});

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FairnessWord {
    Fast,
    TcpFriendly,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RepairWord {
    InStream,
    EndOfPass,
}

impl From<RepairWord> for Repair {
    fn from(word: RepairWord) -> Self {
        match word {
            RepairWord::InStream => Self::InStream,
            RepairWord::EndOfPass => Self::EndOfPass,
        }
    }
}

impl SenderSection {
    fn apply_repairs(&self, config: &mut SenderConfig) {
        if let Some(word) = self.repair {
            config.repair = word.into();
        }
        if let Some(passes) = self.fruitless_passes_max {
            config.fruitless_passes_max = passes.get();
        }
    }

    fn apply_rates(&self, config: &mut RateConfig) {
        if let Some(Speed(start)) = self.rate_start {
            config.rate_bytes_per_sec = start;
        }
        if let Some(Speed(min)) = self.rate_min {
            config.rate_bytes_per_sec_min = min;
        }
        if let Some(Speed(max)) = self.rate_max {
            config.rate_bytes_per_sec_max = Some(max);
        }
        if let Some(word) = self.fairness {
            config.fairness = match word {
                FairnessWord::Fast => Fairness::Fast,
                FairnessWord::TcpFriendly => Fairness::TcpFriendly,
            };
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LanSection {
    preset: Preset,
    election: ElectionWord,
    leader: Option<ServerName>,
    roster: Option<BTreeSet<ServerName>>,
    rank: u8,
    factor: Option<u8>,
    preempt_after: Option<Time>,
    ask_again: Option<Time>,
    transport: Transport,
    port: Option<u16>,
    peers: Vec<SocketAddr>,
    family: FamilyWord,
    ttl: Option<u32>,
    control: Option<SocketAddr>,
}

impl Settings {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let read = |source| SettingsError::Read { path: path.to_owned(), source };
        Self::parse(&std::fs::read_to_string(path).map_err(read)?, path)
    }

    /// Understands the text of a configuration file; the path is for what is said of it.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, SettingsError> {
        let form = |source| SettingsError::Form { path: path.to_owned(), source: Box::new(source) };
        let mut file: File = toml::from_str(text).map_err(form)?;
        let hooks = std::mem::take(&mut file.hooks).into_hooks()?;
        let content = std::mem::take(&mut file.content).into();
        Ok(Self { lan: file.into_lan()?, hooks, content })
    }
}

impl File {
    fn into_lan(self) -> Result<Lan, LanError> {
        let Self { lan: section, election, registration, reports, sender, receiver, hooks: _, content: _ } = self;
        let mut lan = Lan::preset(section.preset);
        election.apply(&mut lan.timers.election);
        registration.apply(&mut lan.timers.registration);
        reports.apply(&mut lan.timers.reports);
        sender.apply_rates(&mut lan.sender.rate);
        sender.apply_repairs(&mut lan.sender);
        sender.apply(&mut lan.sender);
        receiver.apply(&mut lan.receiver);
        lan.timers.election.preempt_after = section.preempt_after.map(|Time(time)| time);
        lan.choice = match (section.election, section.leader) {
            (ElectionWord::Elected, None) => Choice::Elected,
            (ElectionWord::Elected, Some(leader)) => return Err(LanError::LeaderNotFixed { leader }),
            (ElectionWord::Fixed, None) => return Err(LanError::NoLeader),
            (ElectionWord::Fixed, Some(leader)) => Choice::Fixed(leader),
        };
        lan.roster = section.roster;
        lan.rank = section.rank;
        lan.factor = section.factor;
        if let Some(Time(time)) = section.ask_again {
            lan.ask_again = time;
        }
        lan.transport = section.transport;
        lan.port = section.port.map_or(ControlPort::Derived, ControlPort::Fixed);
        lan.peers = section.peers;
        lan.network.family = section.family.into();
        lan.network.ttl = section.ttl.unwrap_or(lan.network.ttl);
        lan.network.control = section.control;
        lan.validate()?;
        Ok(lan)
    }
}

#[cfg(test)]
mod tests {
    use lan_channel::interface::Family;

    use super::*;

    fn parse(text: &str) -> Result<Lan, SettingsError> {
        Settings::parse(text, Path::new("agent.toml")).map(|settings| settings.lan)
    }

    fn name(text: &str) -> ServerName {
        text.parse().unwrap()
    }

    #[test]
    fn presets_are_valid_and_seed_holds_the_documents_seconds() {
        for (word, preset) in [("lan", Preset::Lan), ("fast", Preset::Fast), ("seed", Preset::Seed)] {
            let lan = parse(&format!("[lan]\npreset = \"{word}\"")).unwrap();
            assert_eq!(lan.timers.election, Lan::preset(preset).timers.election);
        }
        let seed = Lan::preset(Preset::Seed);
        let seconds = |time: Duration| time.as_secs_f64();
        // 002, claim 34: no less than five seconds of silence; claims after 5 to 10; votes of 10 to 15.
        assert!(seconds(seed.timers.election.silence_max) >= 5.0);
        assert_eq!(
            (seed.timers.election.claim_wait_min.as_secs(), seed.timers.election.claim_wait_max.as_secs()),
            (5, 10)
        );
        assert!((10.0..=15.0).contains(&seconds(seed.timers.election.vote)));
        // The list 3 to 5 s after the last registration, repeats after up to 1 s (claims 40 and 41).
        assert_eq!(
            (seed.timers.registration.roster_quiet.as_secs(), seed.timers.registration.roster_delay_max.as_secs()),
            (3, 5)
        );
        assert_eq!(seed.timers.registration.missed_wait, Duration::from_secs(1));
        assert_eq!(seed.receiver.reply_window, Duration::from_secs(1));
        assert!(seed.timers.election.claims_reopen_vote);
    }

    #[test]
    fn single_timers_replace_those_of_the_preset() {
        let lan = parse(
            "[lan]\npreset = \"fast\"\nrank = 3\nfactor = 150\npreempt_after = \"30s\"\n\
             [election]\nvote = \"75ms\"\n[registration]\nkeep_alive = \"0.3s\"\n\
             [reports]\ngather = \"5ms\"\n[sender]\nrepair_every = 8\n[receiver]\nidle_max = \"5s\"",
        )
        .unwrap();
        assert_eq!(lan.timers.election.vote, Duration::from_millis(75));
        assert_eq!(lan.timers.election.silence_max, election::Config::fast().silence_max);
        assert_eq!(lan.timers.registration.keep_alive, Duration::from_millis(300));
        assert_eq!(lan.timers.reports.gather, Duration::from_millis(5));
        assert_eq!(lan.sender.repair_every, 8);
        assert_eq!(lan.receiver.idle_max, Duration::from_secs(5));
        assert_eq!(lan.timers.election.preempt_after, Some(Duration::from_secs(30)));
        assert_eq!((lan.standing().preassigned, lan.standing().factor), (3, 150));
    }

    #[test]
    fn timers_that_contradict_each_other_are_refused_with_both_names() {
        for (text, section, timers) in [
            ("[election]\nvote = \"10ms\"", "election", "claim_wait_max (90ms) must be shorter than vote (10ms)"),
            (
                "[registration]\nsilence_max = \"500ms\"\nkeep_alive = \"100ms\"",
                "election] and [registration",
                "silence_max of the election (650ms) must be shorter than silence_max of the registration (500ms)",
            ),
            (
                "[receiver]\nidle_max = \"501ms\"\n[sender]\nstall_poll_interval_max = \"1s\"",
                "sender] and [receiver",
                "stall_poll_interval_max of the sender (1s) must be shorter than idle_max of the receiver (501ms)",
            ),
        ] {
            let Err(SettingsError::Lan(LanError::Timers { section: found, source })) = parse(text) else {
                panic!("{text} is refused")
            };
            assert_eq!((found, source.to_string().as_str()), (section, timers));
        }
    }

    #[test]
    fn rates_and_the_network_are_said_as_people_write_them() {
        let lan = parse(
            "[lan]\nfamily = \"ipv6\"\nttl = 4\ncontrol = \"[ff18::5]:5000\"\n\
             [sender]\nrate_start = \"80mbit\"\nrate_min = \"800kbit\"\nrate_max = \"1gbit\"\n\
             fairness = \"tcp-friendly\"\njoin_wait = \"3ms\"",
        )
        .unwrap();
        assert_eq!((lan.network.family, lan.network.ttl), (Family::Ipv6, 4));
        assert_eq!(lan.network.control, Some("[ff18::5]:5000".parse().unwrap()));
        let rate = &lan.sender.rate;
        assert_eq!((rate.rate_bytes_per_sec, rate.rate_bytes_per_sec_min), (10_000_000, 100_000));
        assert_eq!((rate.rate_bytes_per_sec_max, rate.fairness), (Some(125_000_000), Fairness::TcpFriendly));
        assert_eq!(lan.sender.join_wait, Duration::from_millis(3));
        let crossed = parse("[sender]\nrate_min = \"2mbit\"\nrate_max = \"1mbit\"");
        assert!(matches!(crossed, Err(SettingsError::Lan(LanError::Rates { .. }))), "{crossed:?}");
        let no_network = parse("[lan]\nttl = 64");
        assert!(matches!(no_network, Err(SettingsError::Lan(LanError::Network(_)))), "{no_network:?}");
    }

    #[test]
    fn a_session_repairs_as_it_is_told_and_the_document_s_way_is_among_the_ways() {
        let sender = |text: &str| parse(text).unwrap().sender;
        let usual = sender("");
        assert_eq!((usual.fec, usual.repair, usual.fruitless_passes_max), (true, Repair::InStream, 10));
        let of_002 = sender("[sender]\nfec = false\nrepair = \"end-of-pass\"\nfruitless_passes_max = 4");
        assert_eq!((of_002.fec, of_002.repair, of_002.fruitless_passes_max), (false, Repair::EndOfPass, 4));
        assert_eq!(sender("[sender]\nrepair = \"in-stream\"").repair, Repair::InStream);
        for refused in ["repair = \"never\"", "fruitless_passes_max = 0"] {
            let refused = parse(&format!("[sender]\n{refused}"));
            assert!(matches!(refused, Err(SettingsError::Form { .. })), "{refused:?}");
        }
    }

    #[test]
    fn a_timer_that_paces_what_is_repeated_leaves_a_pause() {
        for (text, section) in [
            ("[registration]\nkeep_alive = \"0s\"", "registration"),
            ("[registration]\nkeep_alive = \"3us\"", "registration"),
            ("[lan]\npreempt_after = \"0s\"", "election"),
            ("[election]\nannounce_interval = \"2us\"\nanswer_gap = \"1us\"", "election"),
            ("[reports]\nrepeat_min = \"0.9ms\"\ngather = \"0s\"", "reports"),
            ("[sender]\nannounce_interval = \"0s\"", "sender"),
            ("[sender]\nstall_poll_interval_max = \"0s\"", "sender"),
            ("[receiver]\nunasked_after = \"0s\"", "receiver"),
        ] {
            let Err(SettingsError::Lan(LanError::Timers { section: found, source })) = parse(text) else {
                panic!("{text} is refused")
            };
            assert!(matches!(source, election::ConfigError::TooShort { .. }), "{text}: {source}");
            assert_eq!(found, section, "{text}");
        }
    }

    #[test]
    fn a_fixed_leader_has_a_name_and_is_on_the_roster() {
        let fixed = parse("[lan]\nelection = \"fixed\"\nleader = \"web1\"\nroster = [\"web1\", \"web2\"]").unwrap();
        assert_eq!(fixed.choice, Choice::Fixed(name("web1")));
        assert_eq!(fixed.roster, Some([name("web1"), name("web2")].into()));
        assert!(matches!(parse("[lan]\nelection = \"fixed\""), Err(SettingsError::Lan(LanError::NoLeader))));
        assert!(matches!(parse("[lan]\nleader = \"web1\""), Err(SettingsError::Lan(LanError::LeaderNotFixed { .. }))));
        let elsewhere = "[lan]\nelection = \"fixed\"\nleader = \"web1\"\nroster = [\"web2\"]";
        assert!(matches!(parse(elsewhere), Err(SettingsError::Lan(LanError::LeaderNotOnRoster { .. }))));
    }

    #[test]
    fn a_segment_without_multicast_has_addresses_to_speak_to() {
        let text = "[lan]\ntransport = \"unicast\"\nport = 4001\npeers = [\"10.0.0.2:4001\"]";
        let lan = parse(text).unwrap();
        assert_eq!((lan.transport, lan.port), (Transport::Unicast, ControlPort::Fixed(4001)));
        assert_eq!(lan.peers, ["10.0.0.2:4001".parse().unwrap()]);
        let usual = parse("").unwrap();
        assert_eq!((usual.transport, usual.port, usual.peers), (Transport::Auto, ControlPort::Derived, Vec::new()));
        for (text, said) in [
            ("[lan]\nport = 0", "port must not be 0; left out, it is derived"),
            ("[lan]\npeers = [\"239.1.1.1:4001\"]", "239.1.1.1:4001 in peers is no address of a server"),
            ("[lan]\npeers = [\"[fd00::2]:4001\"]", "[fd00::2]:4001 in peers does not fit family = \"ipv4\""),
            ("[lan]\npeers = [\"10.0.0.1:0\"]", "10.0.0.1:0 in peers is no address of a server"),
            ("[lan]\npeers = [\"255.255.255.255:1\"]", "255.255.255.255:1 in peers is no address of a server"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), said);
        }
        assert!(matches!(parse("[lan]\ntransport = \"broadcast\""), Err(SettingsError::Form { .. })));
        assert!(matches!(parse("[lan]\npeers = [\"web2\"]"), Err(SettingsError::Form { .. })));
    }

    #[test]
    fn what_is_not_understood_is_refused_and_not_guessed() {
        for text in [
            "[lan]\npreset = \"slow\"",
            "[election]\nvotes = \"1s\"",
            "[elections]\nvote = \"1s\"",
            "[election]\nvote = 5",
            "[election]\nvote = \"5\"",
            "[election]\nvote = \"-5s\"",
            "[election]\nvote = \"5h\"",
            "[election]\nvote = \"9999999m\"",
            "[hooks]\nlater = []",
            "[sender]\nrate_max = \"100\"",
            "[sender]\nfairness = \"polite\"",
            "[lan]\nfamily = \"ipx\"",
            "[lan]\ncontrol = \"239.1.2.3\"",
        ] {
            assert!(matches!(parse(text), Err(SettingsError::Form { .. })), "{text}");
        }
        assert_eq!(parse_time("1.5s"), Some(Duration::from_millis(1_500)));
        assert_eq!(parse_time("200us"), Some(Duration::from_micros(200)));
        assert!(matches!(Settings::read(Path::new("/nowhere/agent.toml")), Err(SettingsError::Read { .. })));
    }
}
