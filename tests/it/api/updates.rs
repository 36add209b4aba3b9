//! Changes that meet: a form that shows what is no longer so, and writes whose outcome nobody knows.

use serde_json::{Value, json};

use super::{Bench, refused};
use crate::callers::{Answer, send};
use crate::harness::text;

/// A person with a browser.
pub(super) struct Browser<'a> {
    bench: &'a Bench,
    cookie: String,
}

impl<'a> Browser<'a> {
    pub(super) fn signed_in(bench: &'a Bench) -> Self {
        Self { bench, cookie: format!("cookie: {}", bench.sign_in()) }
    }

    pub(super) fn page(&self, path: &str) -> String {
        let answer = send(self.bench.setup.admin, "GET", path, &[&self.cookie, "accept: text/html"], b"");
        assert_eq!(answer.status, 200, "{path}: {}", text(&answer.body));
        text(&answer.body)
    }

    pub(super) fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let headers = [
            self.cookie.as_str(),
            "accept: text/html",
            "sec-fetch-site: same-origin",
            "content-type: application/x-www-form-urlencoded",
        ];
        send(self.bench.setup.admin, "POST", path, &headers, body.as_bytes())
    }
}

/// The value of a hidden field, as the page says it of the form with this action.
pub(super) fn hidden(page: &str, action: &str, name: &str) -> String {
    let form = page.split(&format!("action=\"{action}\"")).nth(1).unwrap_or_else(|| panic!("no {action} in {page}"));
    let field = form.split(&format!("name=\"{name}\" value=\"")).nth(1).unwrap_or_else(|| panic!("no {name}: {form}"));
    field.split('"').next().expect("a value").replace("&quot;", "\"")
}

#[test]
fn a_form_that_was_open_meanwhile_takes_nothing_back() {
    let bench = Bench::sqlite();
    let owner = bench.token("owner");
    let browser = Browser::signed_in(&bench);
    let key = bench.setup.key(&bench.client, &[]);
    let plan = bench.with(&owner, "POST", "/v1/plans", &json!({"name": "gold"})).json();
    let plan = plan["id"].as_str().unwrap();
    let policies = ("policies", "[{\"name\":\"gold\",\"rate\":\"5/s\"}]");
    for (page, api, meanwhile, fields) in [
        (
            format!("/clients/{}", bench.client),
            format!("/v1/clients/{}", bench.client),
            json!({"quota": "5/day"}),
            vec![("name", "renamed")],
        ),
        (
            format!("/keys/{}", key.id),
            format!("/v1/keys/{}", key.id),
            json!({"rate": "3/s"}),
            vec![("name", "renamed")],
        ),
        (
            format!("/plans/{plan}"),
            format!("/v1/plans/{plan}"),
            json!({"concurrency": 4}),
            vec![("name", "renamed"), policies],
        ),
    ] {
        let action = format!("{page}/change");
        let tag = hidden(&browser.page(&page), &action, "tag");
        assert_eq!(bench.with(&owner, "PATCH", &api, &meanwhile).status, 200);
        let send = |tag: &str| browser.post(&action, &[&fields[..], &[("tag", tag)]].concat());
        let late = send(&tag);
        assert_eq!(late.status, 412, "{late:?}");
        let told = text(&late.body);
        assert!(told.contains("It was changed meanwhile") && told.contains(&format!("href=\"{page}\"")), "{told}");
        let now = bench.with(&owner, "GET", &api, &Value::Null).json();
        for (member, value) in meanwhile.as_object().unwrap() {
            assert_eq!(&now[member], value, "{api}");
        }
        // Looked at again, it is changed; and a form that does not say what it showed changes nothing.
        let tag = hidden(&browser.page(&page), &action, "tag");
        assert_eq!(browser.post(&action, &fields).status, 400);
        assert_eq!(send(&tag).status, 303);
        assert_eq!(bench.with(&owner, "GET", &api, &Value::Null).json()["name"], "renamed");
    }
}

#[test]
fn what_failed_is_not_done_again_before_somebody_looked() {
    let bench = Bench::sqlite();
    let bearer = format!("authorization: Bearer {}", bench.token("owner"));
    let make = |key: &str| {
        bench.ask("POST", "/v1/clients", &[&bearer, &format!("idempotency-key: {key}")], &json!({"name": "initech"}))
    };
    let store = rusqlite::Connection::open(bench.setup.path("octroi.db")).unwrap();
    store.execute_batch("CREATE TRIGGER broken BEFORE INSERT ON clients BEGIN SELECT RAISE(ABORT, 'no'); END").unwrap();
    assert_eq!(make("one").status, 500);
    // The first may have been done, for all that whoever sent it knows.
    store.execute_batch("DROP TRIGGER broken").unwrap();
    let again = make("one");
    refused(&again, 409, "conflict");
    assert!(again.json()["detail"].as_str().unwrap().contains("look whether it was done"), "{again:?}");
    assert_eq!(make("two").status, 201);
}

#[test]
fn an_answer_that_is_given_again_has_its_tag() {
    let bench = Bench::sqlite();
    let bearer = format!("authorization: Bearer {}", bench.token("owner"));
    let path = format!("/v1/clients/{}", bench.client);
    let change = || bench.ask("PATCH", &path, &[&bearer, "idempotency-key: one"], &json!({"metadata": {"a": [1.5]}}));
    let (first, again) = (change(), change());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert!(first.header("etag").is_some());
    assert_eq!(again.header("etag"), first.header("etag"));
}

#[test]
fn a_write_that_is_sent_twice_is_done_once() {
    let bench = Bench::sqlite();
    let token = bench.token("owner");
    let bearer = format!("authorization: Bearer {token}");
    let path = format!("/v1/clients/{}/keys", bench.client);
    let send = |key: &str, body: &Value| bench.ask("POST", &path, &[&bearer, &format!("idempotency-key: {key}")], body);
    let first = send("one", &json!({"name": "laptop"}));
    let again = send("one", &json!({"name": "laptop"}));
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert!(first.json()["key"].is_string() && again.json().get("key").is_none(), "a key is shown once");
    refused(&send("one", &json!({"name": "another"})), 422, "idempotency_mismatch");
    // What was refused changed nothing, and may be tried anew.
    assert_eq!(send("two", &json!({"name": ""})).status, 400);
    assert_eq!(send("two", &json!({"name": "phone"})).status, 201);
    let keys = bench.with(&token, "GET", &path, &Value::Null).json();
    assert_eq!(keys["items"].as_array().unwrap().len(), 2);
}

#[test]
fn an_update_of_what_changed_meanwhile_is_refused() {
    let bench = Bench::sqlite();
    let token = bench.token("operator");
    let bearer = format!("authorization: Bearer {token}");
    let path = format!("/v1/clients/{}", bench.client);
    let seen = bench.with(&token, "GET", &path, &Value::Null);
    let tag = seen.header("etag").expect("an ETag").to_owned();
    let change = |tag: &str, rate: &str| {
        bench.ask("PATCH", &path, &[&bearer, &format!("if-match: {tag}")], &json!({"rate": rate}))
    };
    let changed = change(&tag, "7/s");
    assert_eq!((changed.status, &changed.json()["rate"]), (200, &"7/s".into()));
    refused(&change(&tag, "8/s"), 412, "precondition_failed");
    assert_eq!(change(changed.header("etag").unwrap(), "8/s").status, 200);
    assert_eq!(change("*", "9/s").status, 200);
}
