//! Raw keys that are sent to the admin API: what is said of them is what the command line says, and they
//! are told to nobody.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Bench, both_ways, from_afar, problem, refused, told};
use crate::callers::fetch;
use crate::harness::{Setup, eventually, text};
use crate::secrets;
use crate::upstream::Upstream;

/// A gateway that logs all that it can.
fn talkative(upstream: &Upstream) -> Bench {
    let mut setup = Setup::sqlite(upstream.address);
    setup.set("RUST_LOG", "trace");
    Bench::start(setup)
}

fn verify(bench: &Bench, token: &str, raw: &str) -> Value {
    let answer = bench.with(token, "POST", "/v1/keys/verify", &json!({ "key": raw }));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!text(&answer.body).contains(raw), "{answer:?}");
    answer.json()
}

fn rows_in(bench: &Bench, table: &str) -> i64 {
    let file = rusqlite::Connection::open(bench.setup.path("octroi.db")).unwrap();
    file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

#[test]
fn a_key_is_judged_over_http_as_it_is_beside_the_store() {
    let upstream = Upstream::start();
    let bench = talkative(&upstream);
    let owner = bench.token("owner");
    let good = bench.setup.key(&bench.client, &["--scope", "orders:read", "--allow", "192.0.2.0/24"]);
    let revoked = bench.setup.key(&bench.client, &[]);
    bench.setup.json(&["key", "revoke", &revoked.id]);
    let expired = bench.setup.key(&bench.client, &["--expires", "1s"]);
    let suspended = bench.setup.key(&bench.other, &[]);
    bench.setup.json(&["client", "suspend", &bench.other]);
    eventually("a second passes", || verify(&bench, &owner, &expired.raw)["reason"] == "expired");
    let mistyped = good.raw.replace(&good.raw[50..], "000000000000");
    for (raw, exit, reason) in [
        (good.raw.as_str(), 0, json!(null)),
        (&format!("  {}\n", good.raw), 0, json!(null)),
        (&revoked.raw, 1, json!("revoked")),
        (&expired.raw, 1, json!("expired")),
        (&suspended.raw, 1, json!("client_suspended")),
        (&mistyped, 1, json!("bad_check_digits")),
        ("octroi_live_short", 1, json!("malformed")),
        ("never-seen-before", 1, json!("unknown")),
    ] {
        let (code, verdict, failed) = both_ways(&bench, &owner, &["key", "verify"], raw);
        assert_eq!((code, &verdict["reason"]), (exit, &reason), "{verdict}");
        assert_eq!(failed, if exit == 0 { Value::Null } else { json!("key_not_valid") });
        assert_eq!(verify(&bench, &owner, raw), verdict);
    }
    assert_eq!(verify(&bench, &owner, &good.raw)["key"]["id"], good.id.as_str());
}

#[test]
fn who_is_for_some_clients_learns_nothing_of_others_keys() {
    let upstream = Upstream::start();
    let bench = talkative(&upstream);
    let own = bench.setup.key(&bench.client, &[]);
    let foreign = bench.setup.key(&bench.other, &[]);
    let foreign_revoked = bench.setup.key(&bench.other, &[]);
    bench.setup.json(&["key", "revoke", &foreign_revoked.id]);
    for role in ["client", "support"] {
        let token = bench.token(role);
        assert_eq!(verify(&bench, &token, &own.raw)["valid"], true);
        let unknown = verify(&bench, &token, "never-seen-before");
        assert_eq!(unknown["reason"], "unknown");
        for raw in [&foreign.raw, &foreign_revoked.raw] {
            assert_eq!(verify(&bench, &token, raw), unknown, "{role}");
        }
    }
    assert_eq!(verify(&bench, &bench.token("auditor"), &foreign.raw)["valid"], true);
}

#[test]
fn a_key_that_is_asked_about_is_neither_kept_nor_repeated() {
    let upstream = Upstream::start();
    let bench = talkative(&upstream);
    let owner = bench.token("owner");
    let raw = bench.setup.key(&bench.client, &[]).raw;
    let bearer = format!("authorization: Bearer {owner}");
    let before = rows_in(&bench, "audit");
    for _ in 0..2 {
        let headers = [bearer.as_str(), "idempotency-key: one"];
        let answer = bench.ask("POST", "/v1/keys/verify", &headers, &json!({ "key": raw }));
        assert_eq!((answer.status, answer.header("idempotency-replayed")), (200, None));
        assert!(answer.json()["key"].is_object(), "{answer:?}");
    }
    assert_eq!((rows_in(&bench, "idempotency_keys"), rows_in(&bench, "audit")), (0, before));
    // What makes no sense is told by its place.
    for body in [
        json!(raw),
        json!({}),
        json!({ "key": [raw] }),
        json!({ "kee": raw }),
        json!({ raw.as_str(): 1 }),
        json!({ "key": raw, "more": raw }),
        json!({ "key": " " }),
    ] {
        for path in ["/v1/keys/verify", "/v1/keys/import"] {
            let answer = bench.with(&owner, "POST", path, &body);
            refused(&answer, 400, "bad_request");
            assert!(!text(&answer.body).contains(&raw), "{answer:?}");
        }
    }
    for row in [json!({"expires_at": [raw]}), json!({ "line": raw }), json!({ raw.as_str(): 1 }), json!(raw)] {
        let answer = bench.with(&owner, "POST", "/v1/keys/import", &json!({ "items": [row] }));
        refused(&answer, 400, "bad_request");
        assert!(!text(&answer.body).contains(&raw), "{answer:?}");
    }
}

fn sha256_hex(raw: &str) -> String {
    octroi::crypto::pepper::sha256(raw.as_bytes()).to_hex()
}

#[test]
fn keys_that_are_imported_over_http_open_the_gateway() {
    let upstream = Upstream::start();
    let bench = talkative(&upstream);
    let operator = bench.token("operator");
    let raw = "brought-as-it-is-and-long-enough-to-be-searched-for";
    secrets::note(Some(bench.setup.data), raw);
    let status = |raw: &str| fetch(bench.setup.data, "/", &[&format!("X-API-Key: {raw}")]).status;
    let mut body = json!({ "dry_run": true, "items": [
        {"client": "acme", "name": "first", "sha256": sha256_hex("hashed-plainly").to_uppercase(), "scopes": ["a:read"]},
        {"client": bench.client, "key": raw, "expires_at": "2199-01-01T00:00:00Z", "name": null},
    ]});
    let dry = bench.with(&operator, "POST", "/v1/keys/import", &body);
    assert_eq!(
        (dry.status, dry.json()),
        (200, json!({"ok": true, "dry_run": true, "imported": 2, "problems": []})),
        "{dry:?}"
    );
    assert_eq!(rows_in(&bench, "api_keys"), 0);
    body["dry_run"] = false.into();
    let headers = [format!("authorization: Bearer {operator}"), "idempotency-key: one".to_owned()];
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let send = || bench.ask("POST", "/v1/keys/import", &headers, &body);
    let done = send();
    assert_eq!(done.json(), json!({"ok": true, "dry_run": false, "imported": 2, "problems": []}), "{done:?}");
    let again = send();
    assert_eq!((again.header("idempotency-replayed"), again.json()), (Some("true"), done.json()));
    for raw in ["hashed-plainly", raw] {
        eventually("the gateway knows it", || status(raw) == 200);
    }
    // By which the request is known again is nothing that guesses can be tried against.
    let file = rusqlite::Connection::open(bench.setup.path("octroi.db")).unwrap();
    let kept: String = file.query_row("SELECT request_hash FROM idempotency_keys", [], |row| row.get(0)).unwrap();
    let text = body.to_string();
    let mut covered = Vec::new();
    for part in ["POST", "/v1/keys/import", &text] {
        covered.extend_from_slice(&part.len().to_be_bytes());
        covered.extend_from_slice(part.as_bytes());
    }
    assert_ne!(kept, octroi::crypto::pepper::sha256(&covered).to_hex());
    assert_eq!(kept, {
        let secret = octroi::model::secret::SecretBytes::new(crate::harness::PEPPER.as_bytes().to_vec());
        octroi::crypto::pepper::Pepper::new(&secret).hash(&covered).to_hex()
    });
    // Whose doing it was.
    let audit = bench.setup.json(&["audit", "--action", "key."]);
    assert!(audit["items"].as_array().unwrap().iter().any(|row| row["actor_name"] == "operator"), "{audit}");
    assert!(!audit.to_string().contains(raw));
}

#[test]
fn bad_rows_are_told_as_beside_the_store_and_import_nothing() {
    let upstream = Upstream::start();
    let bench = talkative(&upstream);
    let owner = bench.token("owner");
    let (a, b) = ("a".repeat(64), "b".repeat(64));
    let rows = format!(
        "client,sha256,scopes\nacme,{a},\nnobody,{b},\nacme,{a},\nacme,hunter2-hunter2,\nacme,{},\"good b\"\"ad\"\n",
        "c".repeat(64)
    );
    std::fs::write(bench.setup.path("bad.csv"), &rows).unwrap();
    let file = bench.setup.path("bad.csv");
    for dry in [false, true] {
        let mut import = vec!["key", "import", file.to_str().unwrap()];
        import.extend(dry.then_some("--dry-run"));
        let (code, outcome, failed) = both_ways(&bench, &owner, &import, "");
        assert_eq!((code, failed, &outcome["dry_run"]), (1, json!("bad_rows"), &json!(dry)), "{outcome}");
        let lines: Vec<u64> =
            outcome["problems"].as_array().unwrap().iter().map(|problem| problem["line"].as_u64().unwrap()).collect();
        assert_eq!(lines, [3, 4, 5, 6], "{outcome}");
        let items = json!([
            {"client": "acme", "sha256": a, "line": 2}, {"client": "nobody", "sha256": b, "line": 3},
            {"client": "acme", "sha256": a, "line": 4}, {"client": "acme", "sha256": "hunter2-hunter2", "line": 5},
            {"client": "acme", "sha256": "c".repeat(64), "scopes": ["good", "b\"ad"], "line": 6},
        ]);
        let answer = bench.with(&owner, "POST", "/v1/keys/import", &json!({ "items": items, "dry_run": dry }));
        assert_eq!(problem(&answer), (409, "bad_rows".to_owned()));
        assert!(!text(&answer.body).contains("hunter2"), "{answer:?}");
        for member in ["ok", "dry_run", "imported", "problems"] {
            assert_eq!(answer.json()[member], outcome[member], "{member}");
        }
    }
    assert_eq!(rows_in(&bench, "api_keys"), 0);
    // Without lines, rows are told by their place.
    let items = json!([{"client": "acme", "sha256": a}, {"client": "acme"}]);
    let answer = bench.with(&owner, "POST", "/v1/keys/import", &json!({ "items": items }));
    assert_eq!(answer.json()["problems"][0]["line"], 2, "{answer:?}");
}

#[test]
fn rows_are_imported_from_afar_as_beside_the_store() {
    let upstream = Upstream::start();
    let bench = talkative(&upstream);
    let owner = bench.token("owner");
    let raw = "a-raw-key-that-stands-in-a-file-where-it-must-not";
    secrets::note(Some(bench.setup.data), raw);
    // Raw keys in a file, a line that cannot be read, and a row that only the store knows to be bad.
    let rows = format!(
        "{{\"client\":\"acme\",\"key\":\"{raw}\"}}\nnot json\n{{\"client\":\"nobody\",\"sha256\":\"{}\"}}\n\
         {{\"client\":\"acme\",\"key\":\"{raw}\",\"sha256\":\"{}\"}}\n{{\"client\":\"acme\",\"sha256\":\"{}\"}}\n",
        "a".repeat(64),
        "b".repeat(64),
        "c".repeat(64)
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.ndjson");
    std::fs::write(&path, &rows).unwrap();
    let path = path.to_str().unwrap();
    let (code, outcome, failed) = both_ways(&bench, &owner, &["key", "import", path], "");
    assert_eq!((code, failed, outcome["problems"].as_array().unwrap().len()), (1, json!("bad_rows"), 4), "{outcome}");
    assert_eq!(rows_in(&bench, "api_keys"), 0);
    for arguments in [&["key", "import", "absent.csv"][..], &["key", "import", "-"], &["key", "import", "keys.txt"]] {
        both_ways(&bench, &owner, arguments, "");
    }
    // From stdin they are taken; a second time they are there, whoever looks.
    let rows = format!("client,key,sha256\nacme,{raw},\nacme,,{}\n", "c".repeat(64));
    let stdin = ["key", "import", "-", "--format", "csv"];
    let (code, outcome, _) = told(from_afar(&bench, &owner, &stdin), &rows);
    assert_eq!((code, &outcome), (0, &json!({"ok": true, "dry_run": false, "imported": 2, "problems": []})));
    let (code, outcome, _) = both_ways(&bench, &owner, &stdin, &rows);
    assert_eq!((code, outcome["problems"].as_array().unwrap().len()), (1, 2), "{outcome}");
    eventually("the gateway knows it", || fetch(bench.setup.data, "/", &[&format!("X-API-Key: {raw}")]).status == 200);
    // More than a gateway reads is not sent in pieces, of which some could be in and others not.
    let mut many = "client,sha256\n".to_owned();
    for number in 0..12_000 {
        let _ = writeln!(many, "acme,{}", sha256_hex(&number.to_string()));
    }
    let (code, _, failed) = told(from_afar(&bench, &owner, &stdin), &many);
    assert_eq!((code, failed), (1, json!("body_too_large")));
    assert_eq!(rows_in(&bench, "api_keys"), 2);
}
