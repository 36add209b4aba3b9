//! Sessions and tokens while they are used: in a store that takes no changes, and by pages that refresh
//! themselves.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Bench;

fn database(bench: &Bench) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(bench.setup.path("octroi.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
}

/// As if every session had not been used for a while.
fn age_sessions(database: &rusqlite::Connection) {
    let long_ago = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-10 minutes')";
    let update = format!("UPDATE operator_sessions SET last_seen_at = {long_ago}");
    assert_eq!(database.execute(&update, []).unwrap(), 1);
}

#[test]
fn who_comes_while_nothing_can_be_written_may_still_look() {
    let bench = Bench::sqlite();
    let token = bench.token("owner");
    let cookie = format!("cookie: {}", bench.sign_in());
    let database = database(&bench);
    age_sessions(&database);
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    // Its first use, which would be noted.
    let answer = bench.with(&token, "GET", "/v1/clients", &Value::Null);
    assert_eq!(answer.status, 200, "{answer:?}");
    for path in ["/v1/sessions/current", "/", "/clients"] {
        let answer = bench.ask("GET", path, &[&cookie], &Value::Null);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "sooner than the store gives up: {:?}", begun.elapsed());
    database.execute_batch("ROLLBACK").unwrap();
}

#[test]
fn a_page_that_refreshes_itself_keeps_no_session_alive() {
    let bench = Bench::sqlite();
    let cookie = format!("cookie: {}", bench.sign_in());
    let database = database(&bench);
    age_sessions(&database);
    let seen = || -> String {
        database.query_row("SELECT last_seen_at FROM operator_sessions", [], |row| row.get(0)).unwrap()
    };
    let aged = seen();
    for path in ["/", "/refusals"] {
        assert_eq!(bench.ask("GET", path, &[&cookie, "x-octroi-refresh: 1"], &Value::Null).status, 200);
    }
    assert_eq!(seen(), aged, "nobody asked");
    assert_eq!(bench.ask("GET", "/", &[&cookie], &Value::Null).status, 200);
    assert!(seen() > aged, "a person did");
    let script = bench.ask("GET", "/assets/app.js", &[], &Value::Null);
    assert!(crate::harness::text(&script.body).contains("x-octroi-refresh"), "{script:?}");
}
