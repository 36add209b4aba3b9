//! Who operates the gateway, and what is written down of what they change: the real program, both
//! stores.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::callers::fetch;
use crate::database::TestDatabase;
use crate::harness::{Setup, eventually, text};
use crate::upstream::Upstream;

const PASSWORD: &str = "correct horse battery staple";

/// Runs a command that reads its stdin.
fn typed(setup: &Setup, arguments: &[&str], stdin: &str) -> Output {
    let mut child = setup
        .command(&[&["--output", "json"], arguments].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("piped").write_all(stdin.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

fn made(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The audit, the oldest entry first.
fn audit(setup: &Setup, more: &[&str]) -> Vec<Value> {
    let told = setup.json(&[&["audit"], more].concat());
    let mut items = told["items"].as_array().unwrap_or_else(|| panic!("{told}")).clone();
    items.reverse();
    items
}

fn id(row: &Value) -> &str {
    row["id"].as_str().expect("an id")
}

#[test]
fn each_change_is_written_down_once_by_whom_and_without_secrets() {
    let database = TestDatabase::create();
    let postgres = Setup::new(([127, 0, 0, 1], 9).into(), &database.url(), "");
    for setup in [Setup::sqlite(SocketAddr::from(([127, 0, 0, 1], 9))), postgres] {
        let client = setup.client(&["acme"]);
        let key = setup.key(&client, &[]);
        let rotated = setup.json(&["key", "rotate", &key.id]);
        setup.json(&["key", "revoke", id(&rotated)]);
        setup.json(&["client", "suspend", &client]);
        setup.json(&["plan", "create", "gold", "--rate", "10/s"]);
        let person = made(&typed(&setup, &["admin", "create", "ada"], PASSWORD));
        let token = setup.json(&["admin", "token", "create", "ci", "--role", "auditor"]);
        setup.json(&["admin", "token", "revoke", id(&token)]);
        // The last owner cannot be shut out.
        assert!(!setup.octroi(&["admin", "disable", id(&person)]).status.success());
        let other =
            made(&typed(&setup, &["admin", "create", "grace", "--role", "support", "--client", &client], PASSWORD));
        assert_eq!((&person["role"], &other["role"]), (&"owner".into(), &"support".into()));
        setup.json(&["admin", "disable", id(&other)]);
        // What is only looked at, or refused, changes nothing.
        setup.json(&["client", "show", &client]);
        assert!(!setup.octroi(&["key", "revoke", "nobody"]).status.success());
        let entries = audit(&setup, &[]);
        let actions: Vec<&str> = entries.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
        assert_eq!(
            actions,
            [
                "client.create",
                "key.create",
                // The old key has a successor, which is a key that was made.
                "key.rotate",
                "key.create",
                "key.revoke",
                "client.suspend",
                "plan.create",
                "operator.create",
                "token.create",
                "token.revoke",
                "operator.create",
                "operator.disable",
            ]
        );
        assert!(entries.iter().all(|entry| entry["actor_kind"] == "shell" && entry["actor_name"] != ""), "{entries:?}");
        assert_eq!(
            (&entries[5]["before"]["status"], &entries[5]["after"]["status"]),
            (&"active".into(), &"suspended".into())
        );
        let all = text(&setup.octroi(&["--output", "json", "audit"]).stdout);
        for secret in [key.raw.as_str(), rotated["key"].as_str().unwrap(), token["token"].as_str().unwrap(), PASSWORD] {
            assert!(!all.contains(secret), "{all}");
        }
        assert_eq!(audit(&setup, &["--client", &client]).len(), 6);
        assert_eq!(audit(&setup, &["--action", "key."]).len(), 4);
    }
}

#[test]
fn the_audit_is_only_ever_added_to() {
    let database = TestDatabase::create();
    let postgres = Setup::new(([127, 0, 0, 1], 9).into(), &database.url(), "");
    let sqlite = Setup::sqlite(SocketAddr::from(([127, 0, 0, 1], 9)));
    for setup in [&sqlite, &postgres] {
        setup.client(&["acme"]);
    }
    let file = rusqlite::Connection::open(sqlite.path("octroi.db")).unwrap();
    for change in ["UPDATE audit SET actor_name = 'nobody'", "DELETE FROM audit"] {
        let refusal = file.execute(change, []).unwrap_err().to_string();
        assert!(refusal.contains("refused") || refusal.contains("append"), "{refusal}");
        let refusal = database.refusal(change);
        assert!(refusal.contains("refused") || refusal.contains("append"), "{refusal}");
    }
    assert_eq!((audit(&sqlite, &[]).len(), audit(&postgres, &[]).len()), (1, 1));
}

#[test]
fn the_first_operator_is_an_owner_and_is_made_once() {
    let upstream = Upstream::start();
    let mut setup = Setup::sqlite(upstream.address);
    setup.set("OCTROI_ADMIN_PASSWORD", PASSWORD);
    let gateway = setup.start();
    gateway.wait_for_log("the first operator was made");
    assert_eq!(gateway.stop(), 0);
    let people = setup.json(&["admin", "list"])["items"].clone();
    assert_eq!(
        (people.as_array().unwrap().len(), &people[0]["role"], &people[0]["name"]),
        (1, &"owner".into(), &"admin".into())
    );
    // Another password does not make another one, nor change the first.
    setup.set("OCTROI_ADMIN_PASSWORD", "another password of some length");
    setup.start().stop();
    assert_eq!(setup.json(&["admin", "list"])["items"], people);
    // Too short is told before anything is served.
    let other = Setup::sqlite(upstream.address);
    let mut other = other;
    other.set("OCTROI_ADMIN_PASSWORD", "short");
    let mut refused = other.spawn(&["serve"]);
    assert_eq!(refused.wait_exit(), 78, "{}", refused.log());
}

#[test]
fn a_client_that_is_erased_leaves_its_sums_and_no_name() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let client = setup.client(&["Jane Q. Public"]);
    let key = setup.key(&client, &["--name", "Jane's laptop"]);
    let gateway = setup.start();
    let header = format!("X-API-Key: {}", key.raw);
    assert_eq!(fetch(setup.data, "/", &[&header]).status, 200);
    assert!(!setup.octroi(&["client", "erase", &client]).status.success(), "without --yes nothing is erased");
    setup.json(&["client", "erase", &client, "--yes"]);
    let mut served = 1;
    eventually("its key is over", || {
        let status = fetch(setup.data, "/", &[&header]).status;
        served += u64::from(status == 200);
        status == 401
    });
    assert_eq!(gateway.stop(), 0);
    assert_eq!(setup.usage("client")["total"]["requests"], served, "what was used stays in the sums");
    for told in [["client", "list"].as_slice(), &["key", "list"], &["audit"]] {
        let told = text(&setup.octroi(&[&["--output", "json"], told].concat()).stdout);
        assert!(!told.contains("Jane"), "{told}");
    }
    assert!(audit(&setup, &[]).iter().any(|entry| entry["action"] == "client.erase"));
}
