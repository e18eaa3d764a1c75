//! What happens by itself: schedules, and the holds that keep them from publishing.

use common::ids::{CheckpointName, GroupName, ScheduleName, ServerName, SiteName};
use common::path::ContentPath;
use serde_json::json;

use super::{Asked, Session, quorum};
use crate::exit::{CommandError, Exit};
use crate::output::{or_dash, plain, time};
use crate::view::{Hold, Schedule};

pub(crate) type Args = Asked<Action>;

#[derive(Debug, clap::Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of it, once")]
pub(crate) enum Action {
    /// Make a schedule
    #[command(group = clap::ArgGroup::new("when").required(true).args(["at", "cron"]))]
    Create {
        /// What to call it
        name: ScheduleName,
        /// The site
        site: SiteName,
        /// What is done
        #[arg(long, value_enum, default_value_t = What::Publish)]
        action: What,
        /// Once, at this time: 2030-01-31T18:00 in the zone, or with an offset or Z
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
        /// Again and again: minute, hour, day of the month, month, weekday
        #[arg(long, value_name = "PATTERN")]
        cron: Option<String>,
        /// Time zone, such as Europe/Vienna; left out, this machine's
        #[arg(long)]
        zone: Option<String>,
        /// The checkpoint, for --action restore
        #[arg(long, value_name = "NAME", required_if_eq("action", "restore"))]
        checkpoint: Option<CheckpointName>,
        /// For --action audit: read every file
        #[arg(long)]
        full: bool,
        /// For --action audit: bring back what has drifted
        #[arg(long)]
        repair: bool,
        /// For --action hot: a file or directory below staging; may be repeated
        #[arg(long = "path", value_name = "PATH", required_if_eq("action", "hot"))]
        paths: Vec<ContentPath>,
        /// For --action hot: so many servers, those with the least load at the time
        #[arg(long = "servers", value_name = "N", conflicts_with = "servers")]
        count: Option<u32>,
        /// For --action hot, switch and remove: this server; may be repeated
        #[arg(long = "server", id = "servers", value_name = "SERVER")]
        servers: Vec<ServerName>,
        /// For --action remove: keep what was live as the servers' backup
        #[arg(long)]
        keep_content: bool,
        /// Content group; needed only when the site has several
        #[arg(long)]
        group: Option<GroupName>,
        /// How many servers must follow, as a number or a share: 3, 80%
        #[arg(long, value_name = "N|P%", value_parser = quorum)]
        quorum: Option<String>,
        /// When an earlier run is in the way: wait behind it, or leave it out this time
        #[arg(long, value_enum, default_value_t = Otherwise::Later)]
        conflict: Otherwise,
        /// When the content control manager was away at the time: do it when it is back, or leave it out
        #[arg(long, value_enum, default_value_t = Otherwise::Later)]
        missed: Otherwise,
    },
    /// List the schedules
    List {
        /// Of this site only
        #[arg(long)]
        site: Option<SiteName>,
    },
    /// Show a schedule and its next times
    Show {
        /// Which
        name: ScheduleName,
    },
    /// Let a schedule rest
    Pause {
        /// Which
        name: ScheduleName,
    },
    /// Let a schedule go on; what was due meanwhile is over
    Resume {
        /// Which
        name: ScheduleName,
    },
    /// Leave out the next time
    Skip {
        /// Which
        name: ScheduleName,
    },
    /// Delete a schedule; runs that it made go on
    Delete {
        /// Which
        name: ScheduleName,
    },
    /// List the groups to which schedules do not publish, because somebody went back there
    Holds,
    /// Let schedules publish again
    Release {
        /// The site
        site: SiteName,
        /// Content group
        #[arg(long, default_value = "all")]
        group: GroupName,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum What {
    /// Bring staging live
    Publish,
    /// Go back to the version before
    Rollback,
    /// Bring a checkpoint live
    Restore,
    /// Keep what is live as a checkpoint
    Checkpoint,
    /// Look whether live trees still are what was published
    Audit,
    /// Bring live what is staged, or the backup
    Switch,
    /// Bring some paths of staging live on some servers
    Hot,
    /// Take the content off servers
    Remove,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Otherwise {
    /// As soon as possible
    Later,
    /// Not this time
    Skip,
}

/// The word that stands for it on the command line and in the API alike.
fn word(value: &impl clap::ValueEnum) -> Option<String> {
    Some(value.to_possible_value()?.get_name().to_owned())
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    let path = |name: &ScheduleName| format!("/schedules/{name}");
    match args.action {
        Action::Create {
            name,
            site,
            action,
            at,
            cron,
            zone,
            checkpoint,
            full,
            repair,
            paths,
            count,
            servers,
            keep_content,
            group,
            quorum,
            conflict,
            missed,
        } => {
            let zone = zone.unwrap_or_else(own_zone);
            let at = at.map(|at| instant(&at, &zone)).transpose()?;
            let body = json!({
                "name": name, "site": site, "group": group, "action": word(&action), "checkpoint": checkpoint,
                "at": at, "cron": cron, "zone": cron.is_some().then_some(zone), "quorum": quorum,
                "conflict": word(&conflict), "missed": word(&missed), "full": full, "repair": repair,
                "paths": paths, "count": count, "servers": servers, "keep_content": keep_content,
            });
            let answer = session.client.post("/schedules", &body).await?;
            session.show(&answer, |schedule| describe(&schedule))
        }
        Action::List { site } => {
            let query = site.map_or_else(String::new, |site| format!("?site={site}"));
            let answer = session.client.get(&format!("/schedules{query}")).await?;
            let titles = ["SCHEDULE", "SITE", "GROUP", "ACTION", "WHEN", "NEXT (UTC)", "LAST"];
            session.show_list(&answer, &titles, "There are no schedules.", |schedule: Schedule| {
                let next = next(&schedule);
                let last = schedule.last.map(|last| last.message);
                let group = or_dash(schedule.group.as_deref());
                vec![
                    schedule.name,
                    schedule.site,
                    group,
                    schedule.action,
                    schedule.words,
                    next,
                    or_dash(last.as_deref()),
                ]
            })
        }
        Action::Show { name } => {
            let answer = session.client.get(&path(&name)).await?;
            session.show(&answer, |schedule| describe(&schedule))
        }
        Action::Pause { name } => session.change(&path(&name), "pause").await,
        Action::Resume { name } => session.change(&path(&name), "resume").await,
        Action::Skip { name } => session.change(&path(&name), "skip").await,
        Action::Delete { name } => {
            session.client.delete(&path(&name)).await?;
            session.show_deleted("schedule", name.as_str())
        }
        Action::Holds => {
            let answer = session.client.get("/holds").await?;
            let titles = ["SITE", "GROUP", "SINCE (UTC)", "REASON"];
            session.show_list(&answer, &titles, "Nothing keeps schedules from publishing.", |hold: Hold| {
                let since = time(&hold.since);
                vec![hold.site, hold.group, since, hold.reason]
            })
        }
        Action::Release { site, group } => {
            session.client.delete(&format!("/sites/{site}/groups/{group}/hold")).await?;
            session.show_deleted("hold on", &format!("{site}/{group}"))
        }
    }
}

impl Session {
    async fn change(&self, path: &str, change: &str) -> Result<Exit, CommandError> {
        let answer = self.client.post(&format!("{path}/{change}"), &json!({})).await?;
        self.show(&answer, |schedule| describe(&schedule))
    }
}

/// The name of this machine's time zone; `UTC` when it has none.
fn own_zone() -> String {
    jiff::tz::TimeZone::system().iana_name().unwrap_or("UTC").to_owned()
}

/// A time on the clock of a zone, or with an offset of its own, as the API takes it.
fn instant(text: &str, zone: &str) -> Result<String, CommandError> {
    if let Ok(instant) = text.parse::<jiff::Timestamp>() {
        return Ok(instant.to_string());
    }
    let refused = |source| CommandError::Time { text: text.to_owned(), source };
    let civil: jiff::civil::DateTime = text.parse().map_err(refused)?;
    Ok(civil.in_tz(zone).map_err(refused)?.timestamp().to_string())
}

fn next(schedule: &Schedule) -> String {
    match (&schedule.due, schedule.paused) {
        (_, true) => "paused".to_owned(),
        (Some(due), false) => time(due),
        (None, false) => "over".to_owned(),
    }
}

/// A schedule for people.
fn describe(schedule: &Schedule) -> String {
    let group = schedule.group.as_deref().map(|group| format!(" ({group})")).unwrap_or_default();
    let mut lines = vec![
        format!("Schedule {}: {} of {}{group}", schedule.name, schedule.action, schedule.site),
        schedule.words.clone(),
        format!("Next (UTC): {}", next(schedule)),
    ];
    let later: Vec<String> = schedule.upcoming.iter().skip(1).map(|at| time(at)).collect();
    if !later.is_empty() {
        lines.push(format!("Then: {}", later.join(", ")));
    }
    if let Some(last) = &schedule.last {
        lines.push(format!("Last: {}, {}", time(&last.due), last.message));
    }
    lines.iter().map(|line| plain(line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_on_the_clock_of_the_zone_unless_it_says_its_own() {
        let read = |text| instant(text, "Europe/Vienna").expect("a time");
        assert_eq!(read("2030-01-31T18:00"), "2030-01-31T17:00:00Z");
        assert_eq!(read("2030-07-31 18:00"), "2030-07-31T16:00:00Z");
        assert_eq!(read("2030-01-31T18:00Z"), "2030-01-31T18:00:00Z");
        assert_eq!(read("2030-01-31T18:00+05:00"), "2030-01-31T13:00:00Z");
        assert!(matches!(instant("tomorrow", "UTC"), Err(CommandError::Time { .. })));
        assert!(matches!(instant("2030-01-31T18:00", "Mars/Olympus"), Err(CommandError::Time { .. })));
    }
}
