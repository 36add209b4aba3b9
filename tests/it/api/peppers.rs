//! Migrations and peppers by the admin API, as on the command line.

use serde_json::{Value, json};

use super::{Bench, both_ways};
use crate::harness::{PEPPER, Setup};
use crate::upstream::Upstream;

#[test]
fn migrations_are_listed_and_compared_from_afar() {
    let upstream = Upstream::start();
    let bench = Bench::start(Setup::sqlite(upstream.address));
    let token = bench.token("auditor");
    let (_, status, _) = both_ways(&bench, &token, &["migrate", "status"], "");
    let (code, verified, _) = both_ways(&bench, &token, &["migrate", "verify"], "");
    assert_eq!((code, &verified["items"]), (0, &json!([])));
    let answer = bench.with(&token, "GET", "/v1/migrations", &Value::Null).json();
    assert_eq!((&answer["items"], &answer["differences"]), (&status["items"], &json!([])));
    assert!(answer["items"].as_array().unwrap().len() >= 18);
    // A store that another version was at.
    let file = rusqlite::Connection::open(bench.setup.path("octroi.db")).unwrap();
    file.execute("UPDATE octroi_migrations SET checksum = 'another' WHERE version = 3", []).unwrap();
    let (code, verified, failed) = both_ways(&bench, &token, &["migrate", "verify"], "");
    assert_eq!((code, failed, &verified["items"][0]["version"]), (1, json!("migrations_differ"), &json!(3)));
}

#[test]
fn what_a_change_of_pepper_waits_for_is_told_from_afar() {
    let upstream = Upstream::start();
    let mut setup = Setup::sqlite(upstream.address);
    let client = setup.client(&["initech"]);
    setup.key(&client, &[]);
    let former = setup.key(&client, &[]);
    setup.set("API_KEY_PEPPER_PREVIOUS", PEPPER);
    setup.set("API_KEY_PEPPER", "the next pepper, which is long enough as well");
    let bench = Bench::start(setup);
    let token = bench.token("auditor");
    bench.setup.key(&client, &[]);
    let (_, status, _) = both_ways(&bench, &token, &["pepper", "status"], "");
    let keys: Vec<_> = status["items"].as_array().unwrap().iter().map(|one| &one["keys"]).collect();
    assert_eq!(keys, [&json!(2), &json!(1)], "{status}");
    let answer = bench.with(&token, "GET", "/v1/peppers", &Value::Null).json();
    assert_eq!((&answer["items"], &answer["unknown"]), (&status["items"], &status["unknown"]));
    let (code, rehash, failed) = both_ways(&bench, &token, &["pepper", "rehash"], "");
    assert_eq!((code, &rehash["remaining"], failed), (1, &json!(2), json!("keys_remain")));
    for key in bench.setup.json(&["key", "list", &client])["items"].as_array().unwrap() {
        if key["pepper_version"] == 1 {
            bench.setup.json(&["key", "revoke", key["id"].as_str().unwrap()]);
        }
    }
    let (code, rehash, _) = both_ways(&bench, &token, &["pepper", "rehash"], "");
    assert_eq!((code, &rehash["remaining"]), (0, &json!(0)));
    assert_eq!(bench.setup.json(&["key", "show", &former.id])["pepper_version"], 1, "nothing was moved");
}
