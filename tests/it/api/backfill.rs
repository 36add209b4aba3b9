//! Raw keys of an adopted database, by the admin API: the same as on the command line, for owners.

use serde_json::{Value, json};

use super::{Bench, both_ways, from_afar, refused, told};
use crate::backfill::older;
use crate::callers::fetch;
use crate::database::TestDatabase;
use crate::harness::{Setup, eventually, text};
use crate::upstream::Upstream;

fn adopted(database: &TestDatabase, upstream: &Upstream, clients: u32) -> Bench {
    older(database, clients);
    let mut setup = Setup::new(upstream.address, &database.url(), "");
    setup.set("RUST_LOG", "trace");
    Bench::start(setup)
}

/// How large a core dump of a process may ever be.
fn core_dump_limit(process: u32) -> String {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).expect("Linux says so");
    line.split_whitespace().nth_back(1).expect("soft, hard, units").to_owned()
}

#[test]
fn raw_keys_move_over_http_as_beside_the_store() {
    let upstream = Upstream::start();
    let database = TestDatabase::create();
    let bench = adopted(&database, &upstream, 30);
    database.execute(
        "INSERT INTO clients (name, api_key) VALUES ('short', 'sh0rt'); \
         INSERT INTO clients (name, api_key) VALUES ('second', 'raw-key-of-2')",
    );
    let owner = bench.token("owner");
    let get = |path: &str| bench.with(&owner, "GET", path, &Value::Null);
    let post = |path: &str, body: &Value| bench.with(&owner, "POST", path, body);
    let status = |raw: &str| fetch(bench.setup.data, "/", &[&format!("X-API-Key: {raw}")]).status;
    assert_eq!(status("raw-key-of-7"), 401);

    let (_, before, _) = both_ways(&bench, &owner, &["backfill", "status"], "");
    assert_eq!((&before["clients"], get("/v1/backfill").json()), (&json!(32), before.clone()));
    // It has read raw keys: it is never dumped any more.
    assert_eq!(core_dump_limit(bench.gateway.process()), "0");
    let (_, dry, _) = both_ways(&bench, &owner, &["backfill", "run", "--dry-run"], "");
    assert_eq!(post("/v1/backfill/run", &json!({"dry_run": true})).json(), dry);
    assert_eq!(database.query("SELECT count(*) FROM api_keys")[0].get::<_, i64>(0), 0, "a dry run writes nothing");
    refused(&post("/v1/backfill/run", &json!({"batch": 0})), 400, "bad_request");

    let run = post("/v1/backfill/run", &json!({"batch": 7}));
    assert_eq!((run.status, &run.json()["new"], &run.json()["remaining"]), (200, &json!(30), &json!(0)), "{run:?}");
    eventually("an old key works", || status("raw-key-of-7") == 200);
    let (_, again, _) = both_ways(&bench, &owner, &["backfill", "run"], "");
    assert_eq!((&again["new"], &again["already"]), (&json!(0), &json!(30)));

    let (code, listed, failed) = both_ways(&bench, &owner, &["backfill", "verify"], "");
    assert_eq!((code, failed, listed["items"].as_array().unwrap().len()), (1, json!("not_verified"), 2), "{listed}");
    let differences = get("/v1/backfill/differences").json();
    assert_eq!((&differences["items"], &differences["clients"]), (&listed["items"], &json!(32)));
    let (code, _, failed) = both_ways(&bench, &owner, &["backfill", "finish"], "");
    assert_eq!((code, failed), (1, json!("not_verified")));
    refused(&post("/v1/backfill/finish", &Value::Null), 409, "not_verified");
    let raw_keys = || database.query("SELECT count(*) FROM clients WHERE api_key IS NOT NULL")[0].get::<_, i64>(0);
    assert_eq!(raw_keys(), 32, "nothing was forgotten");

    let ids: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|one| one["client_id"].as_str().unwrap()).collect();
    database.execute(&format!("UPDATE clients SET api_key = NULL WHERE id IN ('{}')", ids.join("', '")));
    let finished = post("/v1/backfill/finish", &Value::Null);
    assert_eq!(finished.json(), json!({"forgotten": 30, "remaining": 0}), "{finished:?}");
    assert_eq!(raw_keys(), 0);
    assert_eq!(both_ways(&bench, &owner, &["backfill", "finish"], "").0, 0);
    assert_eq!(status("raw-key-of-7"), 200);

    // Whose doing it was, from where: four of the token by HTTP for each of the shell's beside the store.
    let audit = bench.setup.json(&["audit", "--action", "backfill."]);
    let by = |kind: &str, action: &str| {
        let rows = audit["items"].as_array().unwrap().iter();
        rows.filter(|row| row["actor_kind"] == kind && row["action"] == action).count()
    };
    assert_eq!([by("token", "backfill.run"), by("shell", "backfill.run")], [2, 1], "{audit}");
    assert_eq!([by("token", "backfill.finish"), by("shell", "backfill.finish")], [4, 2], "{audit}");
    assert!(!audit.to_string().contains("raw-key-of") && !bench.gateway.log().contains("raw-key-of"));
}

#[test]
fn a_store_without_raw_keys_says_so_over_http() {
    let upstream = Upstream::start();
    let database = TestDatabase::create();
    for setup in [Setup::sqlite(upstream.address), Setup::new(upstream.address, &database.url(), "")] {
        let bench = Bench::start(setup);
        let owner = bench.token("owner");
        both_ways(&bench, &owner, &["backfill", "status"], "");
        both_ways(&bench, &owner, &["backfill", "verify"], "");
        let status = bench.with(&owner, "GET", "/v1/backfill", &Value::Null).json();
        assert_eq!((&status["clients"], &status["remaining"]), (&json!(0), &json!(0)));
        for (command, path) in [("run", "/v1/backfill/run"), ("finish", "/v1/backfill/finish")] {
            let answer = bench.with(&owner, "POST", path, &json!({}));
            refused(&answer, 409, "conflict");
            assert!(text(&answer.body).contains("api_key"), "{answer:?}");
            assert_eq!(told(from_afar(&bench, &owner, &["backfill", command]), "").0, 1);
        }
        let own = core_dump_limit(std::process::id());
        assert_eq!(core_dump_limit(bench.gateway.process()), own, "nothing raw was read");
    }
}
