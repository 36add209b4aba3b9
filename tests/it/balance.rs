//! The books balance under everything at once: `octroi prove`, in its short form, on both stores.
//! `scripts/balance` runs the long one.

use std::process::Output;

use serde_json::Value;

use crate::database::TestDatabase;
use crate::harness::Setup;
use crate::upstream::Upstream;

/// Long enough for every kind of disturbance to come once.
const MINUTES: &str = "0.25";

fn the_promise_holds(more: &[&str], store: &str) {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let mut arguments = vec!["--output", "json", "prove", "--minutes", MINUTES];
    arguments.extend(more);
    let verdict = verdict(&setup.octroi(&arguments));
    assert_eq!(verdict["held"], true, "{verdict}");
    let count = |name: &str| verdict[name].as_u64().unwrap_or_else(|| panic!("no {name} in {verdict}"));
    assert_eq!((count("lost"), count("doubled"), count("breaches")), (0, 0, 0));
    assert_eq!(count("events"), count("rollup"));
    // A proof in which nothing happens shows nothing.
    let mut happened = vec!["kills", "stops", "store_outages", "journal_full", "upstream_deaf", "aborted", "broken"];
    if store == "postgres" {
        happened.push("commits_unanswered");
    }
    for name in happened {
        assert!(count(name) > 0, "{name}: {verdict}");
    }
    assert!(count("answered") > 500, "{verdict}");
    let left = std::fs::read_dir(setup.folder()).unwrap().filter_map(Result::ok);
    let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("octroi_prove")).collect();
    assert!(left.is_empty(), "{left:?} was not removed");
    println!("{store}: {verdict}");
}

fn verdict(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).expect("one object")
}

#[test]
fn on_sqlite() {
    the_promise_holds(&[], "sqlite");
}

#[test]
fn on_postgres() {
    let database = TestDatabase::create();
    the_promise_holds(&["--store", &database.url()], "postgres");
    let left = database.query("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'octroi_prove%'");
    assert!(left.is_empty(), "a schema was not removed");
}
