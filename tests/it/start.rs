//! What can be wrong at start: each a clear message, the right exit code, nothing lost.

use std::net::TcpListener;

use crate::books::Books;
use crate::harness::{Setup, text};
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
