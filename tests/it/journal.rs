//! The journal's disk: full, read-only, or taken away under the gateway.

use std::collections::HashSet;
use std::process::Command;
use std::time::Duration;

use crate::books::Books;
use crate::callers::{Crowd, fetch};
use crate::harness::{Gateway, Setup, eventually};
use crate::upstream::Upstream;

/// The command, with `journal` on a file system that is all its own: mounted with `options`.
fn on_a_disk(setup: &Setup, options: &str) -> Command {
    std::fs::create_dir_all(setup.path("journal")).unwrap();
    let inner = setup.command(&["serve"]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "--"]);
    command.args(["sh", "-c", &format!("mount -t tmpfs -o {options} none journal && exec \"$@\""), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(setup.folder()).env_clear();
    for (name, value) in inner.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
}

#[test]
fn a_disk_without_room_for_the_journal_is_an_error_at_start() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let mut gateway = Gateway::run(on_a_disk(&setup, "size=1m"));
    assert_eq!(gateway.wait_exit(), 1, "{}", gateway.log());
    assert!(gateway.log().contains("no room for the journal's first segments"), "{}", gateway.log());
}

#[test]
fn a_journal_that_fills_up_refuses_and_says_so() {
    let upstream = Upstream::start();
    // No drain for as long as the test runs: the journal can only grow.
    let setup = Setup::sqlite_with(
        upstream.address,
        "[metering]\nsegment_bytes = \"64KiB\"\nmax_bytes = \"2MiB\"\ndrain_interval = \"1h\"\nsync = \"never\"\n",
    );
    let client = setup.client(&["acme", "--rate", "1000000/s", "--burst", "1000000"]);
    let key = setup.key(&client, &[]);
    let gateway = setup.start();
    let ask = || fetch(setup.data, "/", &[&format!("X-API-Key: {}", key.raw)]);
    let mut answered = 0;
    let refused = loop {
        let answer = ask();
        if answer.status != 200 {
            break answer;
        }
        answered += 1;
        assert!(answered < 20_000, "the journal does not end");
    };
    assert_eq!((refused.status, refused.problem().as_str()), (503, "metering_unavailable"));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(fetch(setup.admin, "/readyz", &[]).status, 503);
    assert_eq!(fetch(setup.data, "/.octroi/readyz", &[]).status, 503);
    assert_eq!(fetch(setup.data, "/.octroi/livez", &[]).status, 200);
    assert_eq!(gateway.stop(), 0);
    let total = &setup.usage("outcome")["total"];
    assert_eq!(total["requests"], answered, "what was answered is what is billed");
}

#[test]
fn a_disk_that_fills_up_refuses_and_loses_nothing() {
    let upstream = Upstream::start();
    // Room for some segments, and no drain: the next one does not fit.
    let setup = Setup::sqlite_with(
        upstream.address,
        "[metering]\nsegment_bytes = \"64KiB\"\ndrain_interval = \"1h\"\nsync = \"never\"\n",
    );
    let client = setup.client(&["acme", "--rate", "1000000/s", "--burst", "1000000"]);
    let key = setup.key(&client, &[]);
    let gateway = Gateway::run(on_a_disk(&setup, "size=1536k"));
    gateway.wait_for_log("\"serving\"");
    let mut answered = 0;
    let refused = loop {
        let answer = fetch(setup.data, "/", &[&format!("X-API-Key: {}", key.raw)]);
        if answer.status != 200 {
            break answer;
        }
        answered += 1;
        assert!(answered < 20_000, "the disk does not end");
    };
    assert_eq!((refused.status, refused.problem().as_str()), (503, "metering_unavailable"));
    assert_eq!(gateway.stop(), 0);
    assert_eq!(setup.usage("outcome")["total"]["requests"], answered, "what was answered is what is billed");
}

#[test]
fn a_disk_that_is_read_only_is_an_error_at_start() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let mut gateway = Gateway::run(on_a_disk(&setup, "ro"));
    assert_eq!(gateway.wait_exit(), 1, "{}", gateway.log());
    for words in
        ["the journal's folder in", "metering.dir must be on a local disk that this user may write to", "Read-only"]
    {
        assert!(gateway.log().contains(words), "{}", gateway.log());
    }
}

/// A gateway under load whose journal is removed, and has been made again.
fn removed_under_load(setup: &Setup) -> (Gateway, Crowd) {
    let client = setup.client(&["acme", "--rate", "1000000/s", "--burst", "1000000"]);
    let key = setup.key(&client, &[]);
    let gateway = setup.start();
    let crowd = Crowd::start(setup.data, 4, "/", &key.raw, Duration::from_millis(1));
    eventually("callers are served", || crowd.tally().count() > 100);
    // A file that is made meanwhile makes it fail once.
    eventually("the journal is removed", || std::fs::remove_dir_all(setup.path("journal")).is_ok());
    gateway.wait_for_log("journal_removed");
    let before = crowd.tally().count();
    eventually("callers are served again", || crowd.tally().count() > before + 300);
    eventually("it is ready again", || fetch(setup.admin, "/readyz", &[]).status == 200);
    (gateway, crowd)
}

#[test]
fn a_journal_that_is_removed_is_made_again_and_loses_nothing() {
    let upstream = Upstream::start_counting();
    let setup = Setup::sqlite(upstream.address);
    let (gateway, crowd) = removed_under_load(&setup);
    let tally = crowd.stop();
    assert_eq!(tally.broken.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(gateway.stop(), 0);
    every_request_has_its_event(&setup, &upstream);
}

#[test]
fn what_came_after_a_journal_was_removed_outlives_a_kill() {
    let upstream = Upstream::start_counting();
    let setup = Setup::sqlite(upstream.address);
    let (gateway, crowd) = removed_under_load(&setup);
    // What was admitted before must be in the store: the removed files may go with the process.
    let before = upstream.request_ids();
    let books = Books::sqlite(&setup.path("octroi.db"));
    eventually("what came so far is in the store", || {
        let events: HashSet<String> = books.events().into_iter().map(|event| event.request_id).collect();
        before.iter().all(|id| events.contains(id))
    });
    gateway.kill();
    crowd.stop();
    let gateway = setup.start();
    eventually("the journal of the killed is drained", || {
        std::fs::read_dir(setup.path("journal"))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().is_dir())
            .count()
            == 1
    });
    assert_eq!(gateway.stop(), 0);
    every_request_has_its_event(&setup, &upstream);
}

fn every_request_has_its_event(setup: &Setup, upstream: &Upstream) {
    let events = Books::sqlite(&setup.path("octroi.db")).events();
    let unique: HashSet<&str> = events.iter().map(|event| event.request_id.as_str()).collect();
    assert_eq!(unique.len(), events.len());
    let lost = upstream.request_ids().into_iter().filter(|id| !unique.contains(id.as_str())).count();
    assert_eq!(lost, 0);
}
