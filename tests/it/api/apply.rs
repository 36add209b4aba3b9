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

#[test]
fn a_file_says_how_things_should_be() {
    let bench = Bench::sqlite();
    let key = bench.setup.key(&bench.client, &["--name", "ci"]);
    std::fs::write(
        bench.setup.path("wanted.toml"),
        format!(
            "[[plans]]\nname = \"gold\"\npolicies = [{{ name = \"gold\", rate = \"5/s\" }}]\n\
             [[clients]]\nname = \"acme\"\nplan = \"gold\"\nmetadata = {{ crm = 7 }}\n\
             [[clients.keys]]\nkey_id = \"{}\"\nscopes = [\"a:read\"]\n\
             [[clients]]\nname = \"hooli\"\nquota = \"10/day\"\n",
            key.public_id
        ),
    )
    .unwrap();
    let difference = bench.setup.octroi(&["--output", "json", "diff", "wanted.toml"]);
    assert_eq!(difference.status.code(), Some(1), "{}", text(&difference.stderr));
    let told: Value = serde_json::from_slice(&difference.stdout).unwrap();
    let names: Vec<_> = told["items"].as_array().unwrap().iter().map(|deed| deed["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["gold", "acme", key.public_id.as_str(), "hooli"]);
    assert_eq!(bench.setup.json(&["plan", "list"])["items"].as_array().unwrap().len(), 0, "nothing was done yet");
    bench.setup.json(&["apply", "wanted.toml"]);
    assert_eq!(bench.setup.json(&["diff", "wanted.toml"])["items"].as_array().unwrap().len(), 0);
    let client = bench.setup.json(&["client", "show", "acme"]);
    assert_eq!(client["metadata"], json!({"crm": 7}));
    assert_eq!(client["plan_id"], bench.setup.json(&["plan", "show", "gold"])["id"]);
    assert_eq!(bench.setup.json(&["key", "show", &key.id])["scopes"], json!(["a:read"]));
    assert_eq!(bench.setup.json(&["client", "show", "hooli"])["quota"], "10/day");
    // Whoever did it on this machine is in the audit.
    let audit = bench.setup.json(&["audit", "--action", "plan.create"]);
    assert_eq!(audit["items"][0]["actor_kind"], "shell");
    // What is wrong anywhere is told before anything is changed.
    for (clients, exit, told) in [
        ("name = \"acme\"\nrat = \"5/s\"", 2, "there is no `rat`; known are name, id, plan, keys, rate"),
        ("name = \"acme\"\nrate = \"10\"", 2, "acme: rate: "),
        ("name = \"acme\"\nquota = \"3/week\"", 2, "acme: quota: "),
        ("name = \"new\"\nstatus = \"frozen\"", 2, "write `active` or `suspended`"),
        ("name = \"new\"\n[[clients]]\nname = \"new\"", 2, "stands there twice"),
        ("name = \"new\"\nplan = \"nosuch\"", 1, "there is no plan `nosuch` for the client new"),
    ] {
        let file = format!("[[plans]]\nname = \"half\"\npolicies = []\n[[clients]]\n{clients}\n");
        std::fs::write(bench.setup.path("wrong.toml"), file).unwrap();
        for command in ["diff", "apply"] {
            let wrong = bench.setup.octroi(&[command, "wrong.toml"]);
            assert_eq!(wrong.status.code(), Some(exit), "{command} {clients}: {}", text(&wrong.stderr));
            assert!(text(&wrong.stderr).contains(told), "{command} {clients}: {}", text(&wrong.stderr));
        }
    }
    assert_eq!(bench.setup.json(&["plan", "list"])["items"].as_array().unwrap().len(), 1, "something was done");
    // A new client is made with its status, though its keys are still to be made.
    let file = "[[clients]]\nname = \"new\"\nstatus = \"suspended\"\nplan = \"gold\"\n[[clients.keys]]\nname = \"first\"\nscopes = [\"b\"]\n";
    std::fs::write(bench.setup.path("new.toml"), file).unwrap();
    let owing = bench.setup.octroi(&["apply", "new.toml"]);
    assert_eq!(owing.status.code(), Some(1));
    assert!(text(&owing.stderr).contains("still without keys: new"), "{}", text(&owing.stderr));
    let made = bench.setup.json(&["client", "show", "new"]);
    assert_eq!(made["status"], "suspended");
    let first = bench.setup.key("new", &["--name", "first"]);
    bench.setup.json(&["apply", "new.toml"]);
    assert_eq!(bench.setup.json(&["key", "show", &first.id])["scopes"], json!(["b"]));
    std::fs::write(bench.setup.path("less.toml"), "[[clients]]\nname = \"new\"\nplan = \"none\"\n").unwrap();
    bench.setup.json(&["apply", "less.toml"]);
    assert_eq!(bench.setup.json(&["client", "show", "new"])["plan_id"], Value::Null);
}
