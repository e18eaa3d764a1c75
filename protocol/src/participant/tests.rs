//! Servers that hear everything at once.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::digest::{Digest, Version};
use common::outcome::Outcome;

use super::*;

const BOTH: Roles = Roles { leader: true, server: true };

fn server(number: u8, epoch: u64) -> Participant {
    let info = MemberInfo {
        mtu: None,
        server: ServerId([number; 16]),
        name: ServerName::new(format!("web{number}")).expect("a name"),
        roles: BOTH,
        transfer_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        sites: Vec::new(),
        disk_free_bytes: 1,
        cpus: 1,
        load_percent: 0,
        software: String::new(),
        location: String::new(),
    };
    let beginning = Beginning {
        info,
        standing: Standing::default(),
        mode: Mode::Elected,
        roster: None,
        epoch,
        boot: 1,
        seed: u64::from(number),
    };
    Participant::new(beginning, Timers::default(), Timestamp(0)).expect("short")
}

fn report(of: &Participant) -> Report {
    let outcome = Outcome::Prepared { version: Version(Digest::of(b"tree")) };
    Report { server: of.info().server, assignment: AssignmentNumber(7), outcome }
}

/// Lets servers that hear everything at once talk until this time; gives what each put out besides
/// messages.
fn talk(servers: &mut [Participant], now: &mut Timestamp, until: Timestamp) -> Vec<Vec<Output>> {
    let mut said = vec![Vec::new(); servers.len()];
    loop {
        let mut sent = Vec::new();
        for (number, server) in servers.iter_mut().enumerate() {
            while let Some(output) = server.poll_output(*now) {
                if let Output::Send { to, message } = output {
                    sent.push((number, to, message));
                } else {
                    said[number].push(output);
                }
            }
        }
        for (from, to, message) in &sent {
            let sender = servers[*from].info().server;
            for (number, server) in servers.iter_mut().enumerate() {
                let is_meant = *to == Destination::Segment || *to == Destination::Server(server.info().server);
                if number != *from && is_meant {
                    server.handle_message(sender, BOTH, message, *now).expect("an honest message");
                }
            }
        }
        if !sent.is_empty() {
            continue;
        }
        match servers.iter().filter_map(Participant::poll_timeout).min() {
            Some(at) if at <= until => *now = at.max(*now),
            Some(_) | None => return said,
        }
        servers.iter_mut().for_each(|server| server.handle_timeout(*now));
    }
}

#[test]
fn one_leads_the_others_register_with_it_and_report_to_it_and_it_reports_to_itself() {
    let mut servers = [server(1, 0), server(2, 0), server(3, 0)];
    let mut now = Timestamp(0);
    let said = talk(&mut servers, &mut now, Timestamp(0) + Duration::from_secs(3));
    let leaders: Vec<usize> = (0..3).filter(|number| servers[*number].is_leader()).collect();
    let [leader] = leaders[..] else { panic!("{leaders:?} lead") };
    let (led_by, epoch) = servers[leader].leader().expect("itself");
    assert!(said[leader].contains(&Output::PersistEpoch(epoch)));
    let persisted = said[leader].iter().position(|output| *output == Output::PersistEpoch(epoch));
    let led = said[leader].iter().position(|output| *output == Output::Leads { epoch });
    assert!(persisted < led, "{:?}", said[leader]);
    assert_eq!(servers[leader].members().len(), 3);
    for number in (0..3).filter(|number| *number != leader) {
        assert!(said[number].contains(&Output::Follows { leader: led_by, epoch }));
        assert!(said[number].contains(&Output::Confirmed { leader: led_by, epoch }));
        assert_eq!((servers[number].members(), servers[number].reports()), (vec![], vec![]), "it is no leader");
    }
    for server in &mut servers {
        server.submit(report(server), now).expect("its own");
    }
    let until = now + Duration::from_secs(1);
    let said = talk(&mut servers, &mut now, until);
    let told: BTreeSet<ServerId> = said[leader]
        .iter()
        .filter_map(|output| if let Output::Reports(reports) = output { Some(reports) } else { None })
        .flatten()
        .map(|report| report.server)
        .collect();
    assert_eq!(told, servers.iter().map(|server| server.info().server).collect());
    assert!(servers.iter().all(|server| server.pending() == 0), "all are acknowledged");
    assert_eq!(servers[leader].reports().len(), 3);
    servers[leader].forget(AssignmentNumber(7));
    assert_eq!(servers[leader].reports(), []);
    // Asked anew, all answer, the leader too: what it asks itself does not take the network.
    servers[leader].ask(AssignmentNumber(7), &told);
    let until = now + Duration::from_secs(1);
    talk(&mut servers, &mut now, until);
    assert_eq!(servers[leader].reports().len(), 3);
}

#[test]
fn a_leader_that_cannot_make_its_epoch_durable_does_not_lead() {
    let mut alone = server(1, 0);
    let mut now = Timestamp(0);
    loop {
        if let Some(Output::PersistEpoch(_)) = alone.poll_output(now) {
            alone.resign(now);
            break;
        }
        now = alone.poll_timeout().expect("it claims").max(now);
        alone.handle_timeout(now);
    }
    let rest: Vec<Output> = std::iter::from_fn(|| alone.poll_output(now)).collect();
    assert!(!alone.is_leader() && alone.leader().is_none(), "{rest:?}");
}

#[test]
fn who_follows_another_leads_no_more() {
    let mut servers = [server(1, 0)];
    let mut now = Timestamp(0);
    talk(&mut servers, &mut now, Timestamp(0) + Duration::from_secs(3));
    let [alone] = &mut servers;
    assert!(alone.is_leader());
    let (_, epoch) = alone.leader().expect("itself");
    // One of a later epoch comes from the other side of a division.
    let later = epoch + (1 << 32);
    let mut other = [server(2, later)];
    let mut others_now = Timestamp(0);
    talk(&mut other, &mut others_now, Timestamp(0) + Duration::from_secs(3));
    let [other] = other;
    let mut both = [servers.into_iter().next().expect("one"), other];
    let until = now + Duration::from_secs(3);
    let said = talk(&mut both, &mut now, until);
    assert!(!both[0].is_leader() && both[1].is_leader());
    let (leader, epoch) = both[1].leader().expect("itself");
    assert!(epoch > later && said[0].contains(&Output::Follows { leader, epoch }), "{:?}", said[0]);
    assert!(both[0].is_confirmed());
}
