//! A live tree that another tool deployed is taken over without a gap and nearly without a transfer.

use std::fs;

use netlab::farm::{Farm, FarmSpec, Visitors};
use netlab::trees::{self, Comparison, Plan};

/// As large as sites are that are worth adopting: 1 GB.
const TREE: Plan = Plan { seed: 11, bytes: 1_000_000_000, file_bytes: 250_000 };

#[test]
fn a_live_tree_of_another_tool_is_adopted_by_a_flag_and_only_what_differs_crosses_the_wan() {
    let farm = Farm::start(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 2), &[]);
    let deployed = farm.scratch("deployed");
    let bytes = trees::generate(&deployed, TREE).expect("a tree");
    for host in farm.hosts() {
        trees::copy(&deployed, &farm.live(host)).expect("another tool deploys");
    }
    trees::copy(&deployed, &farm.staging()).expect("staging");
    let changed = trees::change(&farm.staging(), 12, 0.01).expect("changes");
    assert!(changed <= bytes * 11 / 1000, "{changed} of {bytes}");

    let refused = farm.publish(&[]);
    assert_eq!((refused.code, refused.state()), (1, "failed"), "{refused}");
    assert!(refused.explanation().contains("adopt"), "{refused}");
    farm.assert_live(&farm.hosts(), &deployed);

    let changed_names = trees::differences(&deployed, &farm.staging(), &Comparison::default()).expect("reads");
    let changed_pages = changed_names.iter().filter_map(|name| Some(format!("/{}", name.split_once(':')?.0))).take(4);
    let names = trees::files(&farm.staging()).expect("files").into_keys();
    let other_pages = names.filter_map(|path| Some(format!("/{}", path.to_str()?))).filter(|page| page.is_ascii());
    let pages: Vec<String> = changed_pages.chain(other_pages.filter(|page| !page.contains(' ')).take(4)).collect();
    let visitors = Visitors::start(&farm, &farm.hosts(), pages);
    let before = farm.meter();
    farm.publish(&["--adopt"]).done();
    let carried = farm.wan_since(1, &before);
    let share = carried as f64 * 100.0 / bytes as f64;
    println!("adopted {bytes} bytes of which {changed} differ: {carried} bytes over the WAN ({share:.2} %)");
    assert!(carried <= bytes * 3 / 100, "{carried} bytes for {changed} of {bytes}");
    visitors.end(&[&deployed, &farm.staging()]);

    farm.assert_live(&farm.hosts(), &farm.staging());
    for host in farm.hosts() {
        let backup = farm.backup(host);
        let found = trees::differences(&deployed, &backup, &Comparison::default());
        assert_eq!(found.expect("a backup"), Vec::<String>::new(), "the backup of {host}");
        // Names in the tree are the farm's, and none of the product's own stands among them.
        assert!(!fs::exists(farm.live(host).join(".www.pressrun")).expect("looks"), "{host}");
    }
}
