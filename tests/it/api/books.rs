//! The books by the admin API: what is done with them there is what the command line does beside the
//! store, and by `--server`.

use serde_json::{Value, json};

use super::{Bench, refused, remote, remotely};
use crate::billing::{jiff_now, month_before_this, with_key};
use crate::books::Books;
use crate::callers::fetch;
use crate::database::TestDatabase;
use crate::harness::{Setup, eventually};
use crate::upstream::Upstream;

/// Requests of the bench's client, each an event in the store.
fn ask(bench: &Bench, books: &Books<'_>, times: usize) {
    let key = bench.setup.key(&bench.client, &[]);
    for _ in 0..times {
        assert_eq!(fetch(bench.setup.data, "/", &[&format!("X-API-Key: {}", key.raw)]).status, 200);
    }
    eventually("they are in the store", || books.events().len() == times);
}

fn get(bench: &Bench, token: &str, path: &str) -> Value {
    let answer = bench.with(token, "GET", path, &Value::Null);
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

/// Runs a command by `--server`: its exit code, what it said, and the code of its failure.
fn by_server(bench: &Bench, token: &str, arguments: &[&str]) -> (Option<i32>, Value, Value) {
    let output = remotely(bench, token, arguments);
    let read = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or(Value::Null);
    let failure: Value = read(&output.stderr);
    (output.status.code(), read(&output.stdout), failure["code"].clone())
}

/// Who did this, the latest first, and what is told of it.
fn audit(bench: &Bench, token: &str, action: &str) -> Vec<(String, Value)> {
    let rows = get(bench, token, &format!("/v1/audit?action={action}"));
    let rows = rows["items"].as_array().unwrap();
    rows.iter().map(|row| (row["actor_kind"].as_str().unwrap().to_owned(), row["after"].clone())).collect()
}

fn a_tampered_book_is_found_and_made_anew(bench: &Bench, books: &Books<'_>) {
    let (owner, auditor) = (bench.token("owner"), bench.token("auditor"));
    ask(bench, books, 7);
    let command = ["usage", "reconcile", "--from", "-2h"];
    let asked = "/v1/usage/reconcile?from=-2h";
    // Entries are asked for when they are five seconds old, and an hour may end while this runs.
    eventually("all three ways say the same, of all entries", || {
        let told = get(bench, &auditor, asked);
        assert_eq!((&told["equal"], &told["found"]), (&true.into(), &0.into()), "{told}");
        told["journal"]["entries"] == 7
            && told == bench.setup.json(&command)
            && told == remote(bench, &auditor, &command)
    });
    assert_eq!(get(bench, &auditor, asked)["events"]["requests"], 7);

    let tamper = || books.execute("UPDATE usage_hourly SET units = units + 1");
    tamper();
    let told = get(bench, &auditor, asked);
    assert_eq!((&told["equal"], &told["differences"][0]["kind"]), (&false.into(), &"rollup".into()), "{told}");
    assert_eq!(told["differences"][0]["client"], bench.client.as_str());
    let (code, report, why) = by_server(bench, &auditor, &command);
    assert_eq!((code, why), (Some(1), "books_differ".into()));
    assert_eq!((&report["equal"], &report["found"]), (&false.into(), &told["found"]));
    for (client, equal) in [(&bench.client, false), (&bench.other, true)] {
        assert_eq!(get(bench, &auditor, &format!("{asked}&client={client}"))["equal"], equal);
    }

    refused(&bench.with(&auditor, "POST", "/v1/usage/reconcile", &json!({})), 403, "forbidden");
    let rebuild = [command.as_slice(), &["--rebuild"]].concat();
    let healed = remote(bench, &owner, &rebuild);
    assert_eq!((&healed["equal"], &healed["rollups"]), (&true.into(), &healed["events"]), "{healed}");
    assert_eq!(get(bench, &auditor, asked)["equal"], true);
    // Beside the store it is the same deed, and in the audit, too. Where nothing differs nothing is done.
    tamper();
    assert_eq!(bench.setup.json(&rebuild)["equal"], true);
    assert_eq!(remote(bench, &owner, &rebuild)["equal"], true);
    let rows = audit(bench, &owner, "usage.rebuild");
    let who: Vec<_> = rows.iter().map(|(actor, _)| actor.as_str()).collect();
    assert_eq!(who, ["shell", "token"], "{rows:?}");
    assert!(rows.iter().all(|(_, after)| after["hours"].as_u64().is_some_and(|hours| hours >= 1)), "{rows:?}");
}

#[test]
fn a_tampered_book_is_found_and_made_anew_on_sqlite() {
    let bench = Bench::sqlite();
    a_tampered_book_is_found_and_made_anew(&bench, &Books::sqlite(&bench.setup.path("octroi.db")));
}

#[test]
fn a_tampered_book_is_found_and_made_anew_on_postgres() {
    let upstream = Upstream::start();
    let database = TestDatabase::create();
    let bench = Bench::start(Setup::new(upstream.address, &database.url(), ""));
    a_tampered_book_is_found_and_made_anew(&bench, &Books::postgres(&database));
}

#[test]
fn spans_that_make_no_sense_or_are_too_long_are_refused() {
    let bench = Bench::sqlite();
    let owner = bench.token("owner");
    let plan = bench.setup.json(&["plan", "create", "small", "--quota", "5/day"])["id"].as_str().unwrap().to_owned();
    let replay = format!("/v1/plans/{plan}/replay?client={}&", bench.client);
    for path in ["/v1/usage/reconcile?", &replay] {
        for (span, told) in [
            ("from=-367d", "ask for fewer at once by `from` and `to`"),
            ("from=-1h&to=-2h", "does not lie before"),
            ("from=yesterday", "`from`: "),
        ] {
            let answer = bench.with(&owner, "GET", &format!("{path}{span}"), &Value::Null);
            refused(&answer, 400, "bad_request");
            assert!(answer.json()["detail"].as_str().unwrap().contains(told), "{answer:?}");
        }
        assert_eq!(bench.with(&owner, "GET", &format!("{path}from=-365d"), &Value::Null).status, 200);
    }
    refused(&bench.with(&owner, "POST", "/v1/usage/reconcile", &json!({"from": "-400d"})), 400, "bad_request");
    for client in ["client=00000000-0000-4000-8000-000000000000", &format!("client={}", bench.client)] {
        let known = client.ends_with(&bench.client);
        let status = bench.with(&owner, "GET", &format!("/v1/usage/reconcile?{client}"), &Value::Null).status;
        assert_eq!(status, if known { 200 } else { 404 });
    }
    for (arguments, exit) in [
        (["usage", "reconcile", "--from", "-367d"].as_slice(), 2),
        (&["usage", "reconcile", "--from", "-1h", "--to", "-2h"], 2),
        (&["usage", "reconcile", "--client", "nobody"], 1),
        (&["plan", "replay", "small", "--client", "acme", "--from", "-367d"], 2),
        (&["plan", "replay", "large", "--client", "acme"], 1),
        (&["plan", "replay", "small", "--client", "nobody"], 1),
        (&["usage", "statement", "acme", "2020-01"], 78),
    ] {
        let (code, _, why) = by_server(&bench, &owner, arguments);
        assert_eq!(code, Some(exit), "{arguments:?}: {why}");
    }
}

#[test]
fn what_a_store_lost_is_sent_again() {
    let bench = Bench::sqlite();
    let books = Books::sqlite(&bench.setup.path("octroi.db"));
    let (operator, auditor) = (bench.token("operator"), bench.token("auditor"));
    ask(&bench, &books, 9);
    books.execute("DROP TRIGGER usage_events_no_delete; DELETE FROM usage_events; DELETE FROM usage_hourly");
    eventually("they are old enough to be asked for", || get(&bench, &auditor, "/v1/usage/reconcile")["found"] == 9);
    let told = get(&bench, &auditor, "/v1/usage/reconcile");
    assert!(told["differences"].as_array().unwrap().iter().all(|one| one["client"] == bench.client.as_str()), "{told}");
    refused(&bench.with(&auditor, "POST", "/v1/usage/redrain", &Value::Null), 403, "forbidden");
    assert_eq!(audit(&bench, &auditor, "usage.redrain"), []);
    let healed = remote(&bench, &operator, &["usage", "redrain"]);
    assert_eq!((&healed["restored"], &healed["events"]), (&9.into(), &9.into()), "{healed}");
    // By each way: it is there now.
    let again = bench.with(&operator, "POST", "/v1/usage/redrain", &Value::Null);
    assert_eq!((again.status, &again.json()["restored"]), (200, &0.into()), "{again:?}");
    assert_eq!(again.json(), bench.setup.json(&["usage", "redrain"]));
    assert_eq!(get(&bench, &auditor, "/v1/usage/reconcile")["equal"], true);
    assert_eq!((books.events().len(), books.rollup_requests()), (9, 9));
    let who: Vec<_> = audit(&bench, &auditor, "usage.redrain").into_iter().map(|(actor, _)| actor).collect();
    assert_eq!(who, ["shell", "token", "token"]);
}

fn a_statement_is_signed_for_whom_it_is_for(bench: &Bench, books: &Books<'_>) {
    let (owner, auditor, client) = (bench.token("owner"), bench.token("auditor"), bench.token("client"));
    let month = month_before_this();
    let hour = month.starts().strftime("%Y-%m-%dT%H:%M:%S.000000Z");
    let acme = &bench.client;
    books.execute(&format!(
        "INSERT INTO usage_hourly (hour, client_id, api_key_id, route, status, outcome, reason, requests, units,
             bytes_in, bytes_out, duration_us)
         VALUES ('{hour}', '{acme}', '{acme}', 'all', 200, 'complete', '', 40, 44, 1, 2, 3)"
    ));
    let path = format!("/v1/usage/months/{month}/statements/{acme}");
    let month = month.to_string();
    refused(&bench.with(&client, "GET", &path, &Value::Null), 404, "not_found");
    let close = format!("/v1/usage/months/{month}/close");
    eventually("it is closed", || bench.with(&owner, "POST", &close, &json!({})).status == 200);
    let signed = get(bench, &client, &path);
    assert_eq!(
        (&signed["statement"]["total"]["units"], &signed["statement"]["sub"]),
        (&44.into(), &acme.as_str().into())
    );
    let command = ["usage", "statement", "acme", &month];
    assert_eq!(signed, bench.setup.json(&command), "the same text beside the store");
    assert_eq!(signed, remote(bench, &auditor, &command));
    let other = path.replace(acme, &bench.other);
    refused(&bench.with(&client, "GET", &other, &Value::Null), 404, "not_found");
    assert_eq!(get(bench, &auditor, &other)["statement"]["total"]["requests"], 0);
    refused(&bench.with(&owner, "GET", &path.replace(&month, "2026-13"), &Value::Null), 400, "bad_request");
    // No event stands behind these sums, and a closed month stays what it was frozen at.
    let body = json!({"from": format!("{month}-01"), "to": format!("{month}-02")});
    let frozen = bench.with(&owner, "POST", "/v1/usage/reconcile", &body);
    refused(&frozen, 409, "conflict");
    assert!(frozen.json()["detail"].as_str().unwrap().contains("closed"), "{frozen:?}");
    assert_eq!(audit(bench, &owner, "usage.rebuild"), [], "nothing was done");
}

#[test]
fn a_statement_is_signed_for_whom_it_is_for_on_sqlite() {
    let upstream = Upstream::start();
    let bench = Bench::start(with_key(Setup::sqlite(upstream.address)));
    a_statement_is_signed_for_whom_it_is_for(&bench, &Books::sqlite(&bench.setup.path("octroi.db")));
}

#[test]
fn a_statement_is_signed_for_whom_it_is_for_on_postgres() {
    let upstream = Upstream::start();
    let database = TestDatabase::create();
    let bench = Bench::start(with_key(Setup::new(upstream.address, &database.url(), "")));
    a_statement_is_signed_for_whom_it_is_for(&bench, &Books::postgres(&database));
}

#[test]
fn nothing_is_signed_by_a_secret_that_its_reader_would_have() {
    let bench = Bench::sqlite();
    let path = format!("/v1/usage/months/2026-01/statements/{}", bench.client);
    let answer = bench.with(&bench.token("client"), "GET", &path, &Value::Null);
    refused(&answer, 503, "no_signing_key");
    assert!(answer.json()["detail"].as_str().unwrap().contains("issuer.signing_key_file"), "{answer:?}");
    assert_eq!(answer.header("retry-after"), None);
}

#[test]
fn a_plan_is_replayed_from_afar_as_beside_the_store() {
    let bench = Bench::sqlite();
    let auditor = bench.token("auditor");
    let plan = bench.setup.json(&["plan", "create", "small", "--quota", "5/day"])["id"].as_str().unwrap().to_owned();
    ask(&bench, &Books::sqlite(&bench.setup.path("octroi.db")), 8);
    let hour = std::time::Duration::from_hours(1);
    let (from, to) = ((jiff_now() - hour).to_string(), (jiff_now() + hour).to_string());
    let span = format!("from={from}&to={to}");
    let told = get(&bench, &auditor, &format!("/v1/plans/{plan}/replay?client={}&{span}", bench.client));
    // Unless a day began in between.
    if told["by_hour"].as_array().unwrap().len() == 1 {
        assert_eq!((&told["events"], &told["refused"]), (&8.into(), &3.into()), "{told}");
    }
    assert_eq!(told["by_policy"][0]["policy"], "small.day");
    let command = ["plan", "replay", "small", "--client", "acme", "--from", &from, "--to", &to];
    assert_eq!(told, bench.setup.json(&command));
    assert_eq!(told, remote(&bench, &auditor, &command));
    let others = get(&bench, &auditor, &format!("/v1/plans/{plan}/replay?client={}&{span}", bench.other));
    assert_eq!((&others["events"], &others["refused"]), (&0.into(), &0.into()));
    refused(&bench.with(&auditor, "GET", &format!("/v1/plans/{plan}/replay"), &Value::Null), 400, "bad_request");
}
