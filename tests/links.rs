//! Servers whose live directory is a link to one of its trees.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use netlab::farm::{Farm, FarmSpec, SITE, Visitors};
use netlab::trees;

const LINKS: &str = "[content]\nswitch = \"symlink\"\n";

fn stage(farm: &Farm, text: &str) {
    trees::write(&farm.staging().join("index.html"), text.as_bytes(), 0o644).expect("staging");
}

fn assert_serve(farm: &Farm, text: &str) {
    for host in farm.hosts() {
        assert_eq!(farm.page(host, "/index.html").as_deref(), Ok(text.as_bytes()), "{host}");
    }
}

#[test]
fn a_farm_of_links_refuses_directories_and_publishes_rolls_back_and_audits_once_they_are_links() {
    let spec = FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 2).agents(LINKS);
    let farm = Farm::start(spec, &[]);
    stage(&farm, "first");
    let refused = farm.publish(&[]);
    assert_eq!(refused.state(), "failed", "a directory is not turned into a link unasked: {refused}");
    for host in farm.hosts() {
        let reason = &refused.server(&host.to_string()).expect("a report").reason;
        assert!(reason.contains("mv www .www.pressrun.1 && ln -s .www.pressrun.1 www"), "{reason}");
        let live = farm.live(host);
        fs::rename(&live, live.with_file_name(".www.pressrun.1")).expect("renames");
        symlink(".www.pressrun.1", &live).expect("links");
    }
    farm.publish(&[]).done();
    assert_serve(&farm, "first");
    let old = farm.scratch("old");
    trees::replace(&farm.staging(), &old).expect("a copy");
    let visitors = Visitors::start(&farm, &farm.hosts(), vec!["/index.html".to_owned()]);
    visitors.wait_for_a_round();
    stage(&farm, "second");
    farm.publish(&[]).done();
    visitors.wait_for_a_round();
    assert_serve(&farm, "second");
    farm.run(&["rollback", SITE]).done();
    visitors.end(&[&old, &farm.staging()]);
    assert_serve(&farm, "first");
    farm.run(&["audit", SITE, "--full"]).done();
    for host in farm.hosts() {
        let target = fs::read_link(farm.live(host)).expect("a link");
        let trees = [1, 2, 3].map(|number| PathBuf::from(format!(".www.pressrun.{number}")));
        assert!(trees.contains(&target), "{target:?}");
    }
}
