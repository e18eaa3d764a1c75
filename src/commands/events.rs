//! What happens, as it happens.

use std::time::{Duration, Instant};

use serde_json::json;

use super::Session;
use crate::client::{ClientArgs, Event};
use crate::exit::{CommandError, Exit};
use crate::follow::{AWAY_MAX, RETRY};
use crate::output::{plain, print};
use crate::view;

/// A stream that was open for so long was a good one; its end is no failure.
const GOOD_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(after_help = "With --json each line is one object with `id`, `kind` and `data`; a line of the kind \
                        `following` says that from here on nothing is missed.")]
pub(crate) struct Args {
    /// Begin with the events after this one, instead of with the next
    #[arg(long, value_name = "ID")]
    after: Option<i64>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    let mut teller = Teller { json: session.json, said: String::new() };
    let mut last = args.after;
    // Who never answered is not waited for.
    let mut answered = None::<Instant>;
    loop {
        let opened = Instant::now();
        let lost = match session.client.events(last).await {
            Ok(mut events) => {
                teller.tell(&Event { id: last.unwrap_or_default(), kind: "following".into(), data: json!({}) })?;
                let end = loop {
                    match events.next().await {
                        Ok(Some(event)) => {
                            last = Some(event.id);
                            teller.tell(&event)?;
                        }
                        Ok(None) => break None,
                        Err(error) => break Some(error),
                    }
                };
                answered = Some(Instant::now());
                end
            }
            Err(error) => Some(error),
        };
        match lost {
            Some(error) if !error.is_passing() || answered.is_none_or(|at| at.elapsed() > AWAY_MAX) => {
                return Err(error.into());
            }
            None if opened.elapsed() > GOOD_AFTER => (),
            Some(_) | None => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Tells events: all of them to programs, and to people those that say something new.
struct Teller {
    json: bool,
    said: String,
}

impl Teller {
    fn tell(&mut self, event: &Event) -> Result<(), CommandError> {
        let Event { id, kind, data } = event;
        if self.json {
            return print(&json!({ "id": id, "kind": kind, "data": data }).to_string());
        }
        let words = words(event);
        if words == self.said {
            return Ok(());
        }
        print(&format!("{id:>6}  {}", plain(&words)))?;
        self.said = words;
        Ok(())
    }
}

/// An event for people.
fn words(event: &Event) -> String {
    let Event { kind, data, .. } = event;
    let data = data.clone();
    let known = match kind.as_str() {
        "following" => Ok("following; Ctrl-C ends it".to_owned()),
        "run" => serde_json::from_value(data).map(|run: view::Run| {
            let message = run.message.filter(|message| !message.is_empty());
            let message = message.map(|message| format!(": {message}")).unwrap_or_default();
            format!("run {}, {} of {} ({}), is {}{message}", run.run, run.kind, run.site, run.group, run.state)
        }),
        "fleet" => serde_json::from_value(data).map(|status: view::Status| {
            let view::ServerCounts { online, offline, stale } = status.servers;
            format!("servers: {online} online, {offline} offline, {stale} stale")
        }),
        "schedule" => serde_json::from_value(data).map(|schedule: view::ScheduleEvent| {
            let last = schedule.last.map_or_else(|| "changed".to_owned(), |last| last.message);
            format!("schedule {} of {}: {last}", schedule.name, schedule.site)
        }),
        // What a later release may say.
        _ => Ok(format!("{kind}: {data}")),
    };
    known.unwrap_or_else(|_| kind.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_what_happened() {
        let run = Event {
            id: 12,
            kind: "run".into(),
            data: json!({"run": 3, "kind": "publish", "site": "www", "group": "all", "state": "done",
                         "message": "live on 2\u{7} servers"}),
        };
        assert_eq!(words(&run), "run 3, publish of www (all), is done: live on 2\u{7} servers");
        let fleet = Event { id: 13, kind: "fleet".into(), data: json!({"servers": {"online": 2, "offline": 1}}) };
        assert_eq!(words(&fleet), "servers: 2 online, 1 offline, 0 stale");
        let last = json!({"due": "2030-01-01T00:00:00Z", "run": 4, "message": "became run 4"});
        let data = json!({"name": "nightly", "site": "www", "action": {"restore": {"checkpoint": "x"}}, "last": last});
        let schedule = Event { id: 14, kind: "schedule".into(), data };
        assert_eq!(words(&schedule), "schedule nightly of www: became run 4");
    }
}
