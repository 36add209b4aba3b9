//! What can be wrong at start: each a clear message, the right exit code, nothing lost.

use std::net::TcpListener;
use std::process::Command;

use crate::books::Books;
use crate::callers::fetch;
use crate::harness::{Gateway, Setup, text};
use crate::upstream::Upstream;

fn refuses(setup: &Setup, code: i32, words: &[&str]) {
    let output = setup.octroi(&["serve"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
}

#[test]
fn a_malformed_configuration_names_every_problem() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let config = setup
        .config()
        .replace("workers = 2", "workers = 2\nlisten_on = 3")
        .replace("\"up\"\nendpoints", "\"other\"\nendpoints");
    setup.write_config(&config);
    refuses(&setup, 78, &["server.listen_on", "routes[0].upstream"]);
    let check = setup.octroi(&["--output", "json", "config", "check"]);
    assert_eq!(check.status.code(), Some(78));
    let report: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["problems"].as_array().unwrap().len(), 2, "{report}");
    for problem in report["problems"].as_array().unwrap() {
        assert!(
            problem["path"].is_string() && problem["message"].is_string() && problem["remedy"].is_string(),
            "{problem}"
        );
    }
}

#[test]
fn a_missing_or_short_or_wrong_pepper_opens_nothing() {
    let upstream = Upstream::start();
    let mut setup = Setup::sqlite(upstream.address);
    setup.client(&["acme"]);
    setup.key("acme", &[]);
    setup.set("API_KEY_PEPPER", "");
    refuses(&setup, 78, &["API_KEY_PEPPER"]);
    setup.set("API_KEY_PEPPER", "too-short");
    refuses(&setup, 78, &["32"]);
    setup.set("API_KEY_PEPPER", "another pepper, long enough, yet not the one");
    refuses(&setup, 78, &["not the one this store"]);
    let output = setup.octroi(&["key", "create", "acme"]);
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stderr));
}

#[test]
fn pending_migrations_are_named() {
    let upstream = Upstream::start();
    let setup = Setup::unmigrated(upstream.address, "sqlite:octroi.db", "");
    refuses(&setup, 78, &["migrate up", "create_clients"]);
    let output = setup.octroi(&["client", "list"]);
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("migrate up"));
}

#[test]
fn a_taken_port_is_an_error_and_not_half_the_traffic() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let taken = TcpListener::bind(setup.data).unwrap();
    refuses(&setup, 1, &[&setup.data.to_string()]);
    drop(taken);
    let first = setup.start();
    refuses(&setup, 1, &[&setup.data.to_string()]);
    assert_eq!(first.stop(), 0);
    let nodes = Books::sqlite(&setup.path("octroi.db")).text("SELECT CAST(count(*) AS text) FROM nodes");
    assert_eq!(nodes, ["0"], "whoever never served knows no pepper");
}

#[test]
fn a_store_that_does_not_answer_is_waited_for_and_then_named() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite_with(upstream.address, "[store]\nstart_timeout = \"1s\"\n");
    let mut setup = setup;
    setup.set("DATABASE_URL", "postgres://nobody@127.0.0.1:9/none");
    refuses(&setup, 69, &["store"]);
    assert_eq!(setup.octroi(&["client", "list"]).status.code(), Some(69));
}

/// The command, with `journal` on a file system of `size` that is all its own.
fn on_a_small_disk(setup: &Setup, size: &str) -> Command {
    std::fs::create_dir_all(setup.path("journal")).unwrap();
    let inner = setup.command(&["serve"]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "--"]);
    command.args(["sh", "-c", &format!("mount -t tmpfs -o size={size} none journal && exec \"$@\""), "sh"]);
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
    let mut gateway = Gateway::run(on_a_small_disk(&setup, "1m"));
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
    let gateway = Gateway::run(on_a_small_disk(&setup, "1536k"));
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
