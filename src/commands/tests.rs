//! The command line: what is understood, and what is a matter of usage.

use clap::{CommandFactory as _, Parser as _};

use super::*;

fn parse(line: &str) -> Result<Command, clap::Error> {
    let words = std::iter::once("pressrun").chain(line.split_whitespace());
    Cli::try_parse_from(words).map(|cli| cli.command)
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_documented_form_is_understood() {
    for line in [
        "demo",
        "demo /tmp/x --segments 1 --servers 2 --once --json",
        "ccm --data /d",
        "ccm --data /d --listen 127.0.0.1:0 --console 127.0.0.1:0 --json",
        "agent --data /d --ccm https://c --token t --name n --segment s --root /a --root /b --interface eth0 \
         --location here --roles server,leader --site www=/srv/www --listen 10.0.0.1:0",
        "token create --segment s1 --uses 3 --ttl 1h --data /d --json",
        "assignment build --base a --target b --output c --level small --key k --exclude *.tmp .git --site w --json",
        "assignment show c --json",
        "assignment apply c --live d --trust e",
        "assignment apply c --live d --unsigned",
        "token list",
        "token delete abc",
        "site create www --staging s --live /srv/www --exclude *.tmp .git --wan tree",
        "site create www --staging s --live /srv/www --exclude *.tmp --exclude .git --data /d --json",
        "site list",
        "site show www",
        "site delete www",
        "group create g --site www --servers a,b",
        "group create g --site www --segment s1",
        "group create g --site www --all",
        "group list --site www",
        "group delete g --site www",
        "diff www --group g --text",
        "publish www --group g --wait --quorum 80% --adopt --create-live --timeout 5m",
        "rollback www --group g --wait --quorum 3",
        "checkpoint create www",
        "checkpoint create www before-relaunch",
        "checkpoint list www",
        "checkpoint restore www before-relaunch --wait",
        "checkpoint delete www before-relaunch",
        "runs --site www --limit 5",
        "run show 7",
        "run cancel 7",
        "run wait 7 --timeout 90s",
        "servers --ccm https://c --token-file t --ca ca.pem",
        "server remove web1",
        "segments",
        "status --data /d --json",
        "doctor",
        "doctor --data /d --config /c --interface eth0 --seconds 10 --json",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn what_makes_no_sense_is_a_matter_of_usage() {
    for line in [
        "",
        "no-such-command",
        "publish",
        "publish ../www",
        "publish www --quorum many",
        "publish www --quorum 0",
        "publish www --quorum 101%",
        "publish www --timeout 5",
        "publish www --timeout 0s",
        "publish www --timeout -5m",
        "group create g --site www",
        "group create g --site www --all --segment s1",
        "token create --uses 0",
        "checkpoint restore www",
        "run show seven",
        "site create www --live /srv/www",
        "site create www --staging s --live /srv/www --wan sideways",
        "status --ccm http://c",
    ] {
        let error = parse(line).err().unwrap_or_else(|| panic!("{line:?} was understood"));
        assert_eq!(error.exit_code(), i32::from(Exit::Usage as u8), "{line:?}");
    }
}

#[test]
fn a_duration_is_a_number_with_a_unit() {
    assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
    assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
    assert!(duration("90").unwrap_err().contains("90s"), "an example helps");
}
