//! An audit names whatever is not as it was signed, each kind of difference, and touches nothing.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use common::assignment::{Extra, Kind};
use common::audit::{AuditReport, Difference};
use common::outcome::{Outcome, RefusalCode};

use super::fixture::*;
use crate::content::Audit;

impl Site {
    fn audit(&mut self, full: bool) -> AuditReport {
        let file = self.order_file(Kind::Audit { full }, TreeContent::default().version());
        let outcome = self.handle(&file);
        let Outcome::Audited(report) = outcome else { panic!("no audit: {outcome:?}") };
        report
    }

    /// What an audit finds, as words.
    fn found(&mut self, full: bool) -> Vec<String> {
        let report = self.audit(full);
        let found = report.findings.iter().map(|finding| format!("{} {}", finding.difference.as_str(), finding.path));
        let mut found: Vec<String> = found.collect();
        assert_eq!(found.len() as u64, report.counts.values().sum::<u64>(), "what is counted is named: {report:?}");
        found.sort();
        found
    }
}

/// One of each difference, done to a live tree by hand.
fn damage(site: &Site) {
    fs::write(site.live.join("index.html"), "<h1>0ne</h1>").unwrap();
    fs::remove_file(site.live.join("page.html")).unwrap();
    fs::write(site.live.join("by-hand.txt"), "mine").unwrap();
    fs::create_dir(site.live.join("by-hand")).unwrap();
    fs::write(site.live.join("by-hand/too"), "mine").unwrap();
    fs::set_permissions(site.live.join("run.cgi"), PermissionsExt::from_mode(0o777)).unwrap();
    fs::remove_file(site.live.join("empty")).unwrap();
    fs::create_dir(site.live.join("empty")).unwrap();
    fs::remove_file(site.live.join("img/current")).unwrap();
    symlink("logo.png", site.live.join("img/current")).unwrap();
    fs::set_permissions(site.live.join("img/deep"), PermissionsExt::from_mode(0o700)).unwrap();
}

const DAMAGE: [&str; 9] = [
    "changed img/current",
    "changed index.html",
    "extra by-hand",
    "extra by-hand.txt",
    "extra by-hand/too",
    "missing page.html",
    "of another kind empty",
    "with another mode img/deep",
    "with another mode run.cgi",
];

#[test]
fn a_tree_that_is_as_it_was_signed_is_clean_either_way() {
    let mut site = Site::with(&first());
    for full in [false, true] {
        let report = site.audit(full);
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.version, report.full), (Some(first().version()), full));
        assert_eq!(report.entries, first().0.len() as u64);
    }
}

#[test]
fn each_kind_of_difference_is_named_either_way_and_nothing_is_touched() {
    for full in [false, true] {
        let mut site = Site::with(&first());
        damage(&site);
        let before = (site.live_content(), site.trees().state());
        assert_eq!(site.found(full), DAMAGE, "full: {full}");
        assert_eq!((site.live_content(), site.trees().state()), before);
        assert!(site.nothing_staged());
    }
}

#[test]
fn an_edit_that_keeps_length_and_time_is_found_by_the_quick_way_too() {
    let mut site = Site::with(&first());
    fs::write(site.live.join("img/deep/a.txt"), "b").unwrap();
    set_mtime(&site.live.join("img/deep/a.txt"), 1_700_000_000);
    assert_eq!(site.found(false), ["changed img/deep/a.txt"]);
}

#[test]
fn what_the_index_is_wrong_about_is_found_by_reading_and_then_by_preparing() {
    let mut site = Site::with(&first());
    assert!(site.audit(false).is_clean());
    // As if the disk had lost a bit: nothing but the bytes differs.
    let page = site.live.join("page.html");
    site.trees().index.forget_truth(&page);
    assert!(site.audit(false).is_clean(), "the quick way believes the index");
    assert_eq!(site.found(true), ["changed page.html"]);
    assert_eq!(site.found(false), ["changed page.html"], "the index was corrected");
}

#[test]
fn what_is_excluded_is_outside() {
    let mut site = Site::new();
    site.policy.exclude = vec!["/uploads/".to_owned(), "*.log".to_owned()];
    site.publish(&TreeContent::default(), &first(), Style::Whole);
    fs::create_dir(site.live.join("uploads")).unwrap();
    fs::write(site.live.join("uploads/cat.jpg"), "cat").unwrap();
    fs::create_dir(site.live.join("logs")).unwrap();
    fs::write(site.live.join("logs/today.log"), "line").unwrap();
    assert!(site.audit(true).is_clean(), "a directory of nothing but excluded files is excluded");
    fs::write(site.live.join("logs/README"), "not a log").unwrap();
    assert_eq!(site.found(true), ["extra logs", "extra logs/README"]);
}

#[test]
fn where_a_site_keeps_what_nobody_published_that_is_no_drift() {
    let mut site = Site::with(&first());
    site.extra = Extra::Keep;
    fs::write(site.live.join("by-hand.txt"), "mine").unwrap();
    assert!(site.audit(true).is_clean());
    fs::remove_file(site.live.join("page.html")).unwrap();
    assert_eq!(site.found(true), ["missing page.html"]);
}

#[test]
fn without_a_live_directory_everything_is_missing() {
    let mut site = Site::with(&first());
    fs::rename(&site.live, site.root.path().join("elsewhere")).unwrap();
    let report = site.audit(false);
    assert_eq!(report.counts, [(Difference::Missing, first().0.len() as u64)].into());
}

#[test]
fn before_the_first_publish_there_is_no_version_and_nothing_to_find() {
    let mut site = Site::new();
    fs::write(site.live.join("someone-elses"), "x").unwrap();
    let report = site.audit(true);
    assert!(report.is_clean() && report.version.is_none(), "{report:?}");
}

#[test]
fn an_audit_is_not_carried_out_for_another_server_or_out_of_order() {
    let mut site = Site::with(&first());
    let mut draft = site.draft(Kind::Audit { full: false });
    draft.targets = vec![common::ids::ServerId([7; 16])];
    let effect = common::assignment::Effect::of_order(first().version());
    let file = signed(draft, effect, &[], &[]);
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::BadAssignment);
    let old = site.order_file(Kind::Audit { full: false }, first().version());
    site.publish(&first(), &second(), Style::Delta);
    assert_eq!(refusal(&site.handle(&old)), RefusalCode::Sequence);
}

fn begin(site: &mut Site) -> Audit {
    let draft = site.draft(Kind::Audit { full: true });
    let file = signed(draft, common::assignment::Effect::of_order(first().version()), &[], &[]);
    let limits = common::assignment::Limits::default();
    let reader = common::assignment::AssignmentReader::open(std::io::Cursor::new(file), &keys(), &limits).unwrap();
    let header = reader.header().clone();
    site.trees().begin_audit(&header, true, CLUSTER, OWN, NOW).unwrap()
}

#[test]
fn an_audit_is_done_in_slices_and_ends_when_live_is_switched_in_between() {
    let mut site = Site::with(&first());
    let mut audit = begin(&mut site);
    let mut slices = 0;
    let outcome = loop {
        slices += 1;
        if let Some(outcome) = site.trees().continue_audit(&mut audit, || false) {
            break outcome;
        }
    };
    assert!(slices > first().0.len(), "each entry was a slice of its own: {slices}");
    assert!(matches!(outcome, Outcome::Audited(report) if report.is_clean()));

    let mut audit = begin(&mut site);
    assert!(site.trees().continue_audit(&mut audit, || false).is_none());
    site.publish(&first(), &second(), Style::Delta);
    let outcome = site.trees().continue_audit(&mut audit, || true).expect("it is over");
    assert_eq!(refusal(&outcome), RefusalCode::Io);
}

#[test]
fn preparing_the_same_version_again_repairs_whatever_an_audit_found() {
    let mut site = Site::with(&first());
    damage(&site);
    assert_eq!(site.found(true), DAMAGE);
    let number = site.prepare_mixed(&first(), &["index.html", "page.html"]);
    assert_eq!(site.commit(number, first().version()), Outcome::Committed { version: first().version() });
    assert_eq!(site.live_content(), first());
    assert!(site.audit(true).is_clean());
}
