//! The life of a key beside a running gateway: rotation, ranges, limits, import, and what a key
//! is refused for without anybody being asked.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Output, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::callers::{fetch, send};
use crate::database::TestDatabase;
use crate::harness::{Key, Setup, eventually, text};
use crate::upstream::Upstream;

/// Runs a command with something on stdin.
fn piped(setup: &Setup, arguments: &[&str], input: &str) -> Output {
    let mut command = setup.command(&[&["--output", "json"], arguments].concat());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    // A command that refuses its arguments reads nothing.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

/// The same, with its exit code and its answer.
fn asked(setup: &Setup, arguments: &[&str], input: &str) -> (i32, Value) {
    let output = piped(setup, arguments, input);
    let answer = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr)));
    (output.status.code().expect("it exits"), answer)
}

fn status(setup: &Setup, raw: &str) -> u16 {
    fetch(setup.data, "/", &[&format!("X-API-Key: {raw}")]).status
}

fn rotated(setup: &Setup, id: &str, more: &[&str]) -> Key {
    let made = setup.json(&[&["key", "rotate", id], more].concat());
    let field = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("no {name} in {made}")).to_owned();
    Key { id: field("id"), public_id: field("key_id"), raw: field("key") }
}

#[test]
fn a_rotated_key_works_until_its_grace_ends_on_both_stores() {
    let upstream = Upstream::start();
    let database = TestDatabase::create();
    for setup in [Setup::sqlite(upstream.address), Setup::new(upstream.address, &database.url(), "")] {
        let client = setup.client(&["acme"]);
        let first = setup.key(&client, &["--env", "test"]);
        let _gateway = setup.start();
        assert_eq!(status(&setup, &first.raw), 200);
        // A grace that is over within the test, and one that is not.
        let second = rotated(&setup, &first.public_id, &["--grace", "3s"]);
        assert!(second.raw.starts_with("octroi_test_"));
        assert_eq!((status(&setup, &first.raw), status(&setup, &second.raw)), (200, 200), "both work in the grace");
        eventually("the old key ends with the grace", || status(&setup, &first.raw) == 401);
        assert_eq!(status(&setup, &second.raw), 200);
        let third = rotated(&setup, &second.id, &["--grace", "0s"]);
        eventually("without a grace the old key ends at once", || status(&setup, &second.raw) == 401);
        assert_eq!(status(&setup, &third.raw), 200);
        let shown = setup.json(&["key", "show", &first.id]);
        assert_eq!(shown["replaced_by"], second.id.as_str());
    }
}

#[test]
fn a_key_opens_only_from_its_addresses_as_trusted_proxies_tell_them() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let config = setup.config().replace("[server]\n", "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n");
    setup.write_config(&config);
    let client = setup.client(&["acme"]);
    let key = setup.key(&client, &["--allow", "192.0.2.0/24", "--allow", "2001:db8::/32"]);
    let gateway = setup.start();
    let credential = format!("X-API-Key: {}", key.raw);
    for (forwarded, expected) in [
        (Some("192.0.2.7"), 200),
        (Some("2001:db8::7"), 200),
        (Some("198.51.100.7"), 403),
        (Some("192.0.2.7, 198.51.100.7"), 403),
        (None, 403),
    ] {
        let line = forwarded.map(|address| format!("X-Forwarded-For: {address}"));
        let headers: Vec<&str> = line.as_deref().into_iter().chain([credential.as_str()]).collect();
        let answer = fetch(setup.data, "/", &headers);
        assert_eq!(answer.status, expected, "{forwarded:?}: {answer:?}");
        if expected == 403 {
            assert_eq!(answer.problem(), "address_denied");
            assert!(answer.header("www-authenticate").is_none());
        }
    }
    // A rule that changes counts for who is known already.
    let local = setup.key(&client, &[]);
    assert_eq!(status(&setup, &local.raw), 200);
    let file = rusqlite::Connection::open(setup.path("octroi.db")).unwrap();
    file.execute("UPDATE api_keys SET allowed_addresses = '[\"192.0.2.0/24\"]' WHERE id = ?1", [&local.id]).unwrap();
    eventually("a rule by SQL is obeyed", || status(&setup, &local.raw) == 403);
    assert_eq!(gateway.stop(), 0);
    let usage = setup.usage("client,outcome");
    let refused = usage["items"].as_array().unwrap().iter().find(|row| row["outcome"] == "rejected").unwrap();
    assert_eq!(refused["client"], client.as_str(), "refusals are the client's");
}

#[test]
fn a_key_s_own_limit_narrows_its_client_s() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let client = setup.client(&["acme", "--rate", "1/h", "--burst", "5"]);
    let narrow = setup.key(&client, &["--rate", "1/h", "--burst", "2"]);
    let wide = setup.key(&client, &["--rate", "1000/s", "--burst", "1000"]);
    let _gateway = setup.start();
    let statuses: Vec<u16> = (0..3).map(|_| status(&setup, &narrow.raw)).collect();
    assert_eq!(statuses, [200, 200, 429]);
    let statuses: Vec<u16> = (0..4).map(|_| status(&setup, &wide.raw)).collect();
    assert_eq!(statuses, [200, 200, 200, 429], "a key widens nothing");
}

#[test]
fn verify_says_whose_a_key_is_and_what_would_happen() {
    let upstream = Upstream::start();
    let mut setup = Setup::sqlite(upstream.address);
    let client = setup.client(&["acme"]);
    let good = setup.key(&client, &["--scope", "orders:read", "--allow", "192.0.2.0/24"]);
    let revoked = setup.key(&client, &[]);
    setup.json(&["key", "revoke", &revoked.id]);
    let expired = setup.key(&client, &["--expires", "1s"]);
    let asleep = setup.client(&["asleep"]);
    let suspended = setup.key(&asleep, &[]);
    setup.json(&["client", "suspend", "asleep"]);
    eventually("a second passes", || asked(&setup, &["key", "verify"], &expired.raw).0 == 1);
    let mistyped = good.raw.replace(&good.raw[50..], "000000000000");
    for (raw, exit, reason, id) in [
        (good.raw.as_str(), 0, json!(null), Some(&good.id)),
        (&format!("  {}\n", good.raw), 0, json!(null), Some(&good.id)),
        (&revoked.raw, 1, json!("revoked"), Some(&revoked.id)),
        (&expired.raw, 1, json!("expired"), Some(&expired.id)),
        (&suspended.raw, 1, json!("client_suspended"), Some(&suspended.id)),
        (&mistyped, 1, json!("bad_check_digits"), None),
        ("octroi_live_short", 1, json!("malformed"), None),
        ("two words", 1, json!("malformed"), None),
        ("never-seen-before", 1, json!("unknown"), None),
    ] {
        let output = piped(&setup, &["key", "verify"], raw);
        let told = text(&output.stdout) + &text(&output.stderr);
        assert!(!told.contains(raw.trim()), "{told}");
        let (code, answer) = asked(&setup, &["key", "verify"], raw);
        assert_eq!((code, &answer["reason"], &answer["valid"]), (exit, &reason, &json!(exit == 0)), "{answer}");
        assert_eq!(answer["key"]["id"].as_str(), id.map(String::as_str), "{answer}");
        assert_eq!(answer["client"].is_object(), id.is_some());
        assert!(answer["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    }
    let (_, answer) = asked(&setup, &["key", "verify"], &good.raw);
    assert_eq!((&answer["client"]["name"], &answer["pepper"]), (&json!("acme"), &json!("current")));
    assert_eq!(answer["key"]["allowed_addresses"], json!(["192.0.2.0/24"]));

    let file = rusqlite::Connection::open(setup.path("octroi.db")).unwrap();
    let legacy = format!("UPDATE clients SET api_key_hash = '{}' WHERE name = 'acme'", hmac_hex("legacy-of-a-client"));
    file.execute(&legacy, []).unwrap();
    let (code, answer) = asked(&setup, &["key", "verify"], "legacy-of-a-client");
    assert_eq!((code, &answer["key"], &answer["client"]["id"]), (0, &json!(null), &json!(client)));

    let nothing = setup.octroi(&["key", "verify"]);
    assert_eq!(nothing.status.code(), Some(2), "{}", text(&nothing.stderr));
    assert_eq!(piped(&setup, &["key", "verify"], " \n").status.code(), Some(2));

    // Under the other pepper, and under a stranger's.
    setup.set("API_KEY_PEPPER", "another pepper, long enough to pass it");
    assert_eq!(piped(&setup, &["key", "verify"], &good.raw).status.code(), Some(78));
    setup.set("API_KEY_PEPPER_PREVIOUS", crate::harness::PEPPER);
    let (code, answer) = asked(&setup, &["key", "verify"], &good.raw);
    assert_eq!((code, &answer["pepper"]), (0, &json!("previous")));
}

fn sha256_hex(raw: &str) -> String {
    octroi::crypto::pepper::sha256(raw.as_bytes()).to_hex()
}

fn hmac_hex(raw: &str) -> String {
    let secret = octroi::model::secret::SecretBytes::new(crate::harness::PEPPER.as_bytes().to_vec());
    octroi::crypto::pepper::Pepper::new(&secret).hash(raw.as_bytes()).to_hex()
}

#[test]
fn imported_keys_of_every_kind_open_the_gateway_and_are_hashed_again() {
    let upstream = Upstream::start();
    let database = TestDatabase::create();
    for setup in [Setup::sqlite(upstream.address), Setup::new(upstream.address, &database.url(), "")] {
        let client = setup.client(&["acme"]);
        let gateway = setup.start();
        for raw in ["hashed-under-our-pepper", "hashed-plainly", "brought-as-it-is"] {
            assert_eq!(status(&setup, raw), 401, "not yet");
        }
        let rows = format!(
            "client,name,api_key_hash,sha256,scopes,created_at\nacme,first,{},,orders:read,2019-01-01T00:00:00Z\n\
             {client},second,,{},,\n",
            hmac_hex("hashed-under-our-pepper"),
            sha256_hex("hashed-plainly").to_uppercase(),
        );
        std::fs::write(setup.path("keys.csv"), rows).unwrap();
        let dry = setup.json(&["key", "import", "keys.csv", "--dry-run"]);
        assert_eq!(dry, json!({"ok": true, "dry_run": true, "imported": 2, "problems": []}));
        assert_eq!(setup.json(&["key", "list"])["items"], json!([]), "a dry run writes nothing");
        assert_eq!(setup.json(&["key", "import", "keys.csv"])["imported"], 2);
        let raw_rows = "{\"client\":\"acme\",\"key\":\"brought-as-it-is\",\"expires_at\":\"2199-01-01T00:00:00Z\"}\n";
        let (code, answer) = asked(&setup, &["key", "import", "-", "--format", "ndjson"], raw_rows);
        assert_eq!((code, &answer["imported"]), (0, &json!(1)), "{answer}");
        for raw in ["hashed-under-our-pepper", "hashed-plainly", "brought-as-it-is"] {
            eventually("a running gateway knows it", || status(&setup, raw) == 200);
        }
        let (_, verdict) = asked(&setup, &["key", "verify"], "hashed-plainly");
        assert_eq!((&verdict["valid"], &verdict["key"]["name"]), (&json!(true), &json!("second")));
        eventually("the plain hash is gone after its first use", || {
            let items = setup.json(&["key", "list"])["items"].as_array().unwrap().clone();
            items.iter().all(|key| key["hash_kind"] == "hmac" && key["pepper_version"] == 1)
        });
        assert_eq!(status(&setup, "hashed-plainly"), 200);
        assert_eq!(gateway.stop(), 0);
        let _again = setup.start();
        assert_eq!(status(&setup, "hashed-plainly"), 200, "also for who never saw the plain hash");
        // What is there is a duplicate, in whichever form it comes.
        let again = format!("client,sha256,key\nacme,,hashed-plainly\nacme,{},\n", sha256_hex("new-one"));
        let (code, answer) = asked(&setup, &["key", "import", "-", "--format", "csv"], &again);
        assert_eq!((code, &answer["ok"], &answer["imported"]), (1, &json!(false), &json!(0)), "{answer}");
        assert_eq!(answer["problems"].as_array().unwrap().len(), 1);
        assert_eq!(answer["problems"][0]["line"], 2);
        assert_eq!(setup.json(&["key", "list"])["items"].as_array().unwrap().len(), 3, "none half-applied");
    }
}

#[test]
fn a_bad_import_tells_every_line_and_writes_nothing() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    setup.client(&["acme"]);
    setup.client(&["twice"]);
    setup.client(&["twice"]);
    let rows = format!(
        "client,sha256,key\nacme,{},\nnobody,{},\ntwice,{},\nacme,,hunter2-hunter2\nacme,xyz,\n",
        "a".repeat(64),
        "b".repeat(64),
        "c".repeat(64),
    );
    std::fs::write(setup.path("keys.csv"), &rows).unwrap();
    let output = setup.octroi(&["--output", "json", "key", "import", "keys.csv"]);
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines: Vec<u64> =
        answer["problems"].as_array().unwrap().iter().map(|one| one["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [3, 4, 5, 6], "{answer}");
    assert!(!text(&output.stdout).contains("hunter2") && !text(&output.stderr).contains("hunter2"));
    assert_eq!(setup.json(&["key", "list"])["items"], json!([]));
    for (arguments, exit) in
        [(&["key", "import", "keys.txt"][..], 2), (&["key", "import", "absent.csv"], 1), (&["key", "import", "-"], 2)]
    {
        assert_eq!(setup.octroi(arguments).status.code(), Some(exit), "{arguments:?}");
    }
}

#[test]
fn a_hundred_thousand_keys_are_imported_in_bounded_time_on_both_stores() {
    let upstream = Upstream::start();
    let database = TestDatabase::create();
    for setup in [Setup::sqlite(upstream.address), Setup::new(upstream.address, &database.url(), "")] {
        setup.client(&["acme"]);
        let mut rows = "client,sha256,scopes\n".to_owned();
        for number in 0..100_000 {
            let _ = writeln!(rows, "acme,{},orders:read", sha256_hex(&format!("legacy-key-{number}")));
        }
        std::fs::write(setup.path("keys.csv"), rows).unwrap();
        let began = Instant::now();
        assert_eq!(setup.json(&["key", "import", "keys.csv"])["imported"], 100_000);
        let took = began.elapsed();
        eprintln!("100,000 keys imported in {took:?}");
        assert!(took.as_secs() < 60, "{took:?}");
        let _gateway = setup.start();
        assert_eq!((status(&setup, "legacy-key-99999"), status(&setup, "legacy-key-100000")), (200, 401));
    }
}

#[test]
fn last_use_is_seen_after_the_drain_on_both_stores() {
    let upstream = Upstream::start();
    let database = TestDatabase::create();
    for setup in [Setup::sqlite(upstream.address), Setup::new(upstream.address, &database.url(), "")] {
        let client = setup.client(&["acme"]);
        let (used, unused) = (setup.key(&client, &[]), setup.key(&client, &[]));
        let _gateway = setup.start();
        assert_eq!(status(&setup, &used.raw), 200);
        let last_use = |key: &Key| setup.json(&["key", "show", &key.id])["last_used_at"].clone();
        eventually("the drain tells of the use", || last_use(&used).is_string());
        assert!(last_use(&unused).is_null());
    }
}

/// The value of a metric's line.
fn metric(setup: &Setup, line: &str) -> u64 {
    let metrics = fetch(setup.admin, "/metrics", &[]);
    let text = text(&metrics.body);
    let found = text.lines().find_map(|one| one.strip_prefix(line)?.trim().parse::<f64>().ok());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    found.map_or(0, |value| value as u64)
}

#[test]
fn what_cannot_be_a_key_is_refused_without_asking_anybody() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let client = setup.client(&["acme"]);
    let good = setup.key(&client, &[]);
    let _gateway = setup.start();
    let mut mistyped = good.raw.clone();
    mistyped.replace_range(30..31, if &good.raw[30..31] == "x" { "y" } else { "x" });
    let look_ups = || {
        ["hit", "miss", "negative"]
            .map(|result| metric(&setup, &format!("octroi_auth_cache_total{{result=\"{result}\"}} ")))
    };
    let before = look_ups();
    let jwt = "eyJhbGciOiJFUzI1NiJ9.e30.c2ln";
    let key = |raw: &str| format!("X-API-Key: {raw}");
    let bearer = |raw: &str| format!("Authorization: Bearer {raw}");
    let cases: Vec<(&str, Vec<String>, u16, &str)> = vec![
        ("a JWT in a key header", vec![key(jwt)], 401, "invalid_credentials"),
        ("a token where nobody issues any", vec![bearer(jwt)], 401, "invalid_credentials"),
        ("check digits", vec![key(&mistyped)], 401, "invalid_credentials"),
        ("check digits, as a token", vec![bearer(&mistyped)], 401, "invalid_credentials"),
        ("cut", vec![key(&good.raw[..61])], 401, "invalid_credentials"),
        ("with a tail", vec![key(&(good.raw.clone() + "0"))], 401, "invalid_credentials"),
        ("oversized", vec![key(&"x".repeat(257))], 401, "invalid_credentials"),
        ("far oversized", vec![bearer(&"x".repeat(9_000))], 401, "invalid_credentials"),
        ("too short", vec![key("1234567")], 401, "invalid_credentials"),
        ("empty", vec![key("")], 401, "invalid_credentials"),
        ("a blank inside", vec![key("not a key")], 401, "invalid_credentials"),
        ("two headers", vec![key(&good.raw), bearer(&good.raw)], 400, "ambiguous_credentials"),
        ("one header twice", vec![key(&good.raw), key(&good.raw)], 400, "ambiguous_credentials"),
        ("a key and a token", vec![key(&good.raw), bearer(jwt)], 400, "ambiguous_credentials"),
        ("as a query parameter", vec![], 401, "missing_credentials"),
    ];
    for (what, headers, status, code) in &cases {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let answer = send(setup.data, "GET", &format!("/?api_key={}", good.raw), &headers, b"");
        assert_eq!((answer.status, answer.problem().as_str()), (*status, *code), "{what}");
        assert_eq!(answer.header("www-authenticate").is_some(), *status == 401, "{what}");
    }
    assert_eq!(look_ups(), before, "neither cache nor store was asked");
    assert_eq!(metric(&setup, "octroi_auth_total{result=\"refused\",reason=\"malformed\"} "), 9);
    assert_eq!(metric(&setup, "octroi_auth_total{result=\"refused\",reason=\"ambiguous\"} "), 3);
    assert_eq!(metric(&setup, "octroi_auth_total{result=\"refused\",reason=\"wrong_kind\"} "), 2);
    // The counters count: a key that could be one is asked for.
    assert_eq!(status(&setup, "never-seen-before"), 401);
    assert_eq!(look_ups()[1], before[1] + 1);
}
