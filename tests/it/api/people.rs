//! Operators and admin tokens: who may be one, lists that are longer than a page, and forms that show a
//! secret once.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::updates::{Browser, hidden};
use super::{Bench, refused, remote, remotely, remotely_as};
use crate::harness::text;

/// So many rows, as plain SQL makes them: `rows` selects from the numbers `n`.
fn many(bench: &Bench, count: u32, into: &str, rows: &str) {
    let numbers = format!("WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})");
    let store = rusqlite::Connection::open(bench.setup.path("octroi.db")).unwrap();
    store.execute_batch(&format!("INSERT INTO {into} {numbers} SELECT {rows} FROM n")).unwrap();
}

#[test]
fn no_operator_is_a_client() {
    let bench = Bench::sqlite();
    let owner = bench.token("owner");
    let person =
        json!({"name": "jane", "password": "correct horse battery", "role": "client", "clients": [bench.client]});
    let made = bench.with(&owner, "POST", "/v1/operators", &person);
    refused(&made, 400, "bad_request");
    assert!(made.json()["detail"].as_str().unwrap().contains("for tokens"), "{made:?}");
    let admin = bench.with(&owner, "GET", "/v1/operators", &Value::Null).json()["items"][0]["id"].clone();
    let path = format!("/v1/operators/{}", admin.as_str().unwrap());
    refused(
        &bench.with(&owner, "PATCH", &path, &json!({"role": "client", "clients": [bench.client]})),
        400,
        "bad_request",
    );
    for command in [["create", "jane"], ["update", "admin"]] {
        let command = [&["admin"], &command[..], &["--role", "client", "--client", &bench.client]].concat();
        let output = bench.setup.octroi(&command);
        assert_eq!(output.status.code(), Some(2), "{command:?}: {}", text(&output.stderr));
    }
    let page = Browser::signed_in(&bench).page("/operators");
    let forms: Vec<_> = page.split("<form").collect();
    let form = |action: &str| *forms.iter().find(|form| form.contains(action)).unwrap();
    assert!(!form("/operators/new").contains("value=\"client\"") && form("/tokens/new").contains("value=\"client\""));
    // A token is a client's still.
    bench.token("client");
}

#[test]
fn an_erased_client_is_not_resumed() {
    let bench = Bench::sqlite();
    let owner = bench.token("owner");
    let (page, path) = (format!("/clients/{}", bench.client), format!("/v1/clients/{}", bench.client));
    let browser = Browser::signed_in(&bench);
    bench.with(&owner, "PATCH", &path, &json!({"status": "suspended"}));
    assert!(browser.page(&page).contains("/resume"));
    assert_eq!(bench.with(&owner, "POST", &format!("{path}/erase"), &json!({})).status, 200);
    assert!(!browser.page(&page).contains("/resume"));
    refused(&bench.with(&owner, "PATCH", &path, &json!({"status": "active"})), 409, "conflict");
    assert_eq!(browser.post(&format!("{page}/resume"), &[]).status, 409);
    let output = bench.setup.octroi(&["client", "resume", &bench.client]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(bench.with(&owner, "GET", &path, &Value::Null).json()["status"], "suspended");
}

#[test]
fn lists_of_people_go_on_beyond_a_page() {
    let bench = Bench::sqlite();
    let owner = bench.token("owner");
    many(&bench, 1_005, "operators (name, role)", "'person-' || n || ';', 'auditor'");
    many(
        &bench,
        150,
        "admin_tokens (name, token_id, token_hash, role)",
        "'token', 'octroi_admin_bulk' || printf('%08d', n), printf('%064d', n), 'auditor'",
    );
    let browser = Browser::signed_in(&bench);
    let (mut people, mut tokens, mut pages) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut waiting = vec!["/operators".to_owned()];
    while let Some(path) = waiting.pop() {
        let page = browser.page(&path);
        pages += 1;
        people.extend(page.split("person-").skip(1).filter_map(|rest| rest.split(';').next()).map(ToOwned::to_owned));
        tokens.extend(page.split("octroi_admin_bulk").skip(1).filter_map(|rest| rest.get(..8)).map(ToOwned::to_owned));
        let next = |word: &str| {
            let link =
                page.split("<a rel=\"next\" href=\"").skip(1).find(|link| link.contains(&format!(">{word}<")))?;
            Some(link.split('"').next()?.replace("&amp;", "&"))
        };
        waiting.extend(next("More operators").or_else(|| next("More tokens")));
    }
    assert_eq!((people.len(), tokens.len(), pages), (1_005, 150, 12));
    // The command line from afar finds whoever is on whatever page.
    let disabled = remote(&bench, &owner, &["admin", "disable", "person-1005;"]);
    assert!(disabled["disabled_at"].is_string(), "{disabled}");
    assert_eq!(remote(&bench, &owner, &["admin", "list"])["items"].as_array().unwrap().len(), 1_006);
}

#[test]
fn a_form_that_shows_a_secret_makes_one_however_often_it_is_sent() {
    let bench = Bench::sqlite();
    let owner = bench.token("owner");
    let browser = Browser::signed_in(&bench);
    let number = hidden(&browser.page("/operators"), "/tokens/new", "once");
    let fields = [("once", number.as_str()), ("name", "ci"), ("role", "auditor")];
    let (first, again) = (browser.post("/tokens/new", &fields), browser.post("/tokens/new", &fields));
    assert_eq!(first.status, 200, "{}", text(&first.body));
    assert!(text(&first.body).contains("octroi_admin_"));
    assert_eq!(again.status, 409);
    let told = text(&again.body);
    assert!(told.contains("this form was sent before") && !told.contains("octroi_admin_"), "{told}");
    let tokens = bench.with(&owner, "GET", "/v1/tokens", &Value::Null).json();
    let made = tokens["items"].as_array().unwrap().iter().filter(|token| token["name"] == "ci").count();
    assert_eq!(made, 1);
    assert_eq!(browser.post("/tokens/new", &fields[1..]).status, 400, "a form without a number is none of ours");
}

#[test]
fn a_key_that_was_made_is_shown_though_that_cannot_be_noted() {
    let bench = Bench::sqlite();
    let browser = Browser::signed_in(&bench);
    let action = format!("/clients/{}/keys", bench.client);
    let number = hidden(&browser.page(&format!("/clients/{}", bench.client)), &action, "once");
    let store = rusqlite::Connection::open(bench.setup.path("octroi.db")).unwrap();
    let broken = "CREATE TRIGGER broken BEFORE UPDATE ON idempotency_keys BEGIN SELECT RAISE(ABORT, 'no'); END";
    store.execute_batch(broken).unwrap();
    let made = browser.post(&action, &[("once", &number), ("name", "laptop")]);
    assert_eq!(made.status, 200, "{}", text(&made.body));
    assert!(text(&made.body).contains("octroi_live_"));
}

#[test]
fn a_token_is_revoked_from_afar_by_its_text_which_does_not_travel() {
    let bench = Bench::sqlite();
    let owner = bench.token("owner");
    let whole = bench.token("auditor");
    let public = whole.get(.."octroi_admin_".len() + 12).unwrap();
    let revoked = remote(&bench, &owner, &["admin", "token", "revoke", public]);
    assert_eq!((&revoked["token_id"], revoked["revoked_at"].is_string()), (&public.into(), true));
    // Whoever pastes all of it is understood, from afar and beside the store.
    for pasted in [bench.token("auditor"), bench.token("operator")] {
        assert!(remote(&bench, &owner, &["admin", "token", "revoke", &pasted])["revoked_at"].is_string());
        assert!(bench.setup.json(&["admin", "token", "revoke", &pasted])["revoked_at"].is_string());
    }
    let listed = bench.with(&owner, "GET", &format!("/v1/tokens?token_id={public}"), &Value::Null).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    let unknown = "octroi_admin_abcdefghijklSECRETSECRETSECRETSECRETSECRET123456";
    let other = "hunter2-hunter2-hunter2-hunter2-hunter2-hunter2";
    for secret in [unknown, other] {
        let output = remotely(&bench, &owner, &["admin", "token", "revoke", secret]);
        assert_eq!(output.status.code(), Some(1));
        let told = text(&output.stderr);
        assert!(!told.contains("SECRET") && !told.contains("hunter2"), "{told}");
    }
    let answer = bench.with(&owner, "DELETE", &format!("/v1/tokens/{unknown}"), &Value::Null);
    assert_eq!(answer.status, 400);
    assert!(!text(&answer.body).contains("SECRET"), "{answer:?}");
}

#[test]
fn the_audit_from_afar_says_what_changed() {
    let bench = Bench::sqlite();
    let owner = bench.token("owner");
    remote(&bench, &owner, &["client", "update", &bench.client, "--rate", "7/s"]);
    for output in [
        remotely_as("table", &bench, &owner, &["audit", "--action", "client.update"]),
        bench.setup.octroi(&["--output", "table", "audit", "--action", "client.update"]),
    ] {
        assert!(text(&output.stdout).contains("rate: – → 7/s"), "{}", text(&output.stdout));
    }
}
