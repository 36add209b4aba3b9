//! Files that say how things should be: nothing is begun that cannot be done, and what was applied is so.

use serde_json::{Value, json};

use super::Bench;
use crate::harness::text;

impl Bench {
    /// Runs `apply` or `diff` over a file of this text: the exit code, and what it told.
    fn file(&self, command: &str, file: &str) -> (Option<i32>, String) {
        std::fs::write(self.setup.path("wanted.toml"), file).unwrap();
        let output = self.setup.octroi(&["--output", "json", command, "wanted.toml"]);
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    }
}

#[test]
fn what_was_applied_is_as_the_file_says_however_it_is_written() {
    let bench = Bench::sqlite();
    bench.setup.key(&bench.client, &["--name", "ci"]);
    let file = r#"
[[plans]]
name = "gold"
concurrency = "none"
policies = [{ name = "gold", rate = "5/s" }, { name = "gold.month", quota = "1000000/month@1" }]
[[clients]]
name = "acme"
plan = "gold"
quota = "5 / month@1"
metadata = { since = 2026-01-01, crm = 7 }
[[clients.keys]]
name = "ci"
scopes = ["a:read", "a:read"]
allowed_addresses = ["192.0.2.7", "198.51.100.9/24"]
expires_at = 2099-01-01T01:00:00+01:00
"#;
    let (exit, told) = bench.file("apply", file);
    assert_eq!(exit, Some(0), "{told}");
    let (exit, told) = bench.file("diff", file);
    assert_eq!(exit, Some(0), "{told}");
    let key = bench.setup.json(&["key", "list", "acme"])["items"][0].clone();
    assert_eq!(key["expires_at"], "2099-01-01T00:00:00Z");
    assert_eq!(key["allowed_addresses"], json!(["192.0.2.7/32", "198.51.100.0/24"]));
    // What the file says is all of it.
    let (exit, told) = bench.file("apply", "[[clients]]\nname = \"acme\"\nmetadata = { crm = 7 }\nquota = \"none\"\n");
    assert_eq!(exit, Some(0), "{told}");
    let client = bench.setup.json(&["client", "show", "acme"]);
    assert_eq!((&client["metadata"], &client["quota"]), (&json!({"crm": 7}), &Value::Null));
}

#[test]
fn a_mistake_anywhere_is_told_before_anything_is_changed() {
    let bench = Bench::sqlite();
    bench.setup.key(&bench.client, &["--name", "ci"]);
    let key = "[[clients]]\nname = \"acme\"\n[[clients.keys]]\nname = \"ci\"\n";
    for (wrong, told) in [
        (
            "[[plans]]\nname = \"late\"\npolicies = [{ name = \"late\", rate = \"5/year\" }]\n".to_owned(),
            "late: policies",
        ),
        ("[[plans]]\nname = \"late\"\nconcurrency = 0\n".to_owned(), "late: concurrency"),
        ("[[clients]]\nname = \"acme\"\nburst = 9\n".to_owned(), "acme: a burst needs a rate"),
        ("[[clients]]\nname = \"new\"\nburst = 9\n".to_owned(), "new: a burst needs a rate"),
        (format!("{key}scopes = [\"a b\"]\n"), "acme: scopes"),
        (format!("{key}allowed_addresses = [\"everywhere\"]\n"), "acme: allowed_addresses"),
        (format!("{key}expires_at = 2020-01-01T00:00:00Z\n"), "lies in the past"),
        (format!("{key}burst = 9\n"), "acme: a burst needs a rate"),
    ] {
        let file = format!("[[plans]]\nname = \"first\"\npolicies = []\n{wrong}");
        for command in ["diff", "apply"] {
            let (exit, said) = bench.file(command, &file);
            assert_eq!(exit, Some(2), "{command} {wrong}: {said}");
            assert!(said.contains(told), "{command} {wrong}: {said}");
        }
    }
    assert_eq!(bench.setup.json(&["plan", "list"])["items"], json!([]), "something was done");
}

#[test]
fn a_key_beyond_the_first_thousand_is_found() {
    let bench = Bench::sqlite();
    let store = rusqlite::Connection::open(bench.setup.path("octroi.db")).unwrap();
    store
        .execute_batch(&format!(
            "INSERT INTO api_keys (client_id, name, api_key_hash)
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1001)
             SELECT '{}', 'k' || n, printf('%064d', n) FROM n",
            bench.client
        ))
        .unwrap();
    let last = bench.setup.key(&bench.client, &["--name", "last"]);
    let file = "[[clients]]\nname = \"acme\"\n[[clients.keys]]\nname = \"last\"\nscopes = [\"a\"]\n";
    let (exit, told) = bench.file("apply", file);
    assert_eq!(exit, Some(0), "{told}");
    assert_eq!(bench.setup.json(&["key", "show", &last.id])["scopes"], json!(["a"]));
}
