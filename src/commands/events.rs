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
    let mut last = args.after;
    // Who never answered is not waited for.
    let mut answered = None::<Instant>;
    loop {
        let opened = Instant::now();
        let lost = match session.client.events(last).await {
            Ok(mut events) => {
                session.show_event(&Event {
                    id: last.unwrap_or_default(),
                    kind: "following".into(),
                    data: json!({}),
                })?;
                let end = loop {
                    match events.next().await {
                        Ok(Some(event)) => {
                            last = Some(event.id);
                            session.show_event(&event)?;
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

impl Session {
    fn show_event(&self, event: &Event) -> Result<(), CommandError> {
        let Event { id, kind, data } = event;
        print(&if self.json { json!({ "id": id, "kind": kind, "data": data }).to_string() } else { words(event) })
    }
}

/// An event for people.
fn words(event: &Event) -> String {
    let Event { id, kind, data } = event;
    let text = match kind.as_str() {
        "following" => "following; Ctrl-C ends it".to_owned(),
        "run" => serde_json::from_value(data.clone()).map_or_else(
            |_| kind.clone(),
            |run: view::Run| {
                let message = run.message.map(|message| format!(": {message}")).unwrap_or_default();
                format!("run {}, {} of {} ({}), is {}{message}", run.run, run.kind, run.site, run.group, run.state)
            },
        ),
        "fleet" => serde_json::from_value(data.clone()).map_or_else(
            |_| kind.clone(),
            |status: view::Status| {
                let view::ServerCounts { online, offline, stale } = status.servers;
                format!("servers: {online} online, {offline} offline, {stale} stale")
            },
        ),
        // What a later release may say.
        _ => format!("{kind}: {data}"),
    };
    if kind == "following" { text } else { plain(&format!("{id}  {text}")) }
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
        assert_eq!(words(&run), "12  run 3, publish of www (all), is done: live on 2\u{fffd} servers");
        let fleet = Event { id: 13, kind: "fleet".into(), data: json!({"servers": {"online": 2, "offline": 1}}) };
        assert_eq!(words(&fleet), "13  servers: 2 online, 1 offline, 0 stale");
    }
}
