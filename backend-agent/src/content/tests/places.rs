//! Live as a link: what it points to, who may have put it there, and file systems that cannot exchange.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::outcome::RefusalCode;

use super::fixture::*;
use crate::content::{OpenError, SiteTrees, Switch, TreePolicy};

fn open(live: &Path, switch: Switch) -> Result<SiteTrees, OpenError> {
    let root = live.parent().expect("it is below a root").to_owned();
    let policy = TreePolicy { switch };
    SiteTrees::open(&"shop".parse().unwrap(), &"web1".parse().unwrap(), live, &[root], policy)
}

#[test]
fn what_stands_at_live_must_be_what_the_configuration_says_and_nothing_is_turned_into_it() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("shop");
    fs::create_dir(&live).unwrap();
    let refused = open(&live, Switch::Symlink).expect_err("a directory is no link");
    assert_eq!(refused.code(), RefusalCode::OutsideRoots);
    let told = refused.to_string();
    assert!(told.contains("`mv shop .shop.pressrun.1 && ln -s .shop.pressrun.1 shop`"), "{told}");
    assert!(live.is_dir() && !live.is_symlink());

    // What it says to do does it.
    fs::rename(&live, dir.path().join(".shop.pressrun.1")).unwrap();
    symlink(".shop.pressrun.1", &live).unwrap();
    drop(open(&live, Switch::Symlink).expect("a link to one of its trees"));
    let refused = open(&live, Switch::Exchange).expect_err("a link cannot be exchanged");
    assert!(matches!(refused, OpenError::LiveIsSymlink { .. }), "{refused}");

    for elsewhere in ["../shop", "/srv/www/other", ".shop.pressrun.4", ".shop.pressrun.2", "./.shop.pressrun.1"] {
        fs::remove_file(&live).unwrap();
        symlink(elsewhere, &live).unwrap();
        let refused = open(&live, Switch::Symlink).expect_err("that is nobody's tree here");
        assert!(matches!(refused, OpenError::LiveForeignLink { .. }), "{elsewhere}: {refused}");
    }
    fs::remove_file(&live).unwrap();
    fs::write(&live, "a file").unwrap();
    for switch in [Switch::Exchange, Switch::Symlink] {
        assert!(matches!(open(&live, switch), Err(OpenError::LiveNotDirectory { .. })));
    }
}

#[test]
fn a_directory_that_was_exchanged_can_be_made_a_link_and_goes_on_from_its_version() {
    let mut site = Site::with(&first());
    site.publish(&first(), &second(), Style::Delta);
    site.trees = None;
    fs::rename(&site.live, site.root.path().join(".shop.pressrun.1")).unwrap();
    symlink(".shop.pressrun.1", &site.live).unwrap();
    let mut trees = open(&site.live, Switch::Symlink).unwrap();
    assert_eq!((trees.state().live, trees.state().backup), (Some(second().version()), None));
    assert!(!site.state.join("backup").exists(), "the backup of before is not one any more");
    trees.clean().unwrap();
    site.trees = Some(trees);
    site.publish(&second(), &first(), Style::Delta);
    assert_eq!(TreeContent::read(&site.backup(), &[]), second());
}
