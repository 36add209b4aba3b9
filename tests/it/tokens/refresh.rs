//! Families of refresh tokens: used once, forgiving a lost answer, ended by a thief.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Bench, claims, text};
use crate::books::Books;
use crate::callers::Answer;
use crate::database::TestDatabase;
use crate::harness::eventually;

impl Bench {
    pub(super) fn refresh(&self, token: &str, more: &str) -> Answer {
        self.post("/.octroi/token", &[], &format!("grant_type=refresh_token&refresh_token={token}{more}"))
    }

    pub(super) fn refreshed(&self, token: &str) -> Value {
        let answer = self.refresh(token, "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }
}

fn refused(answer: &Answer, error: &str) {
    assert_eq!((answer.status, &answer.json()["error"]), (400, &json!(error)), "{answer:?}");
}

#[test]
fn a_refresh_token_is_rotated_on_every_use() {
    let bench = Bench::sqlite("");
    let mut held = bench.family_of("+orders:*&audience=octroi&audience=billing");
    let mut seen = BTreeSet::new();
    for _ in 0..4 {
        let refresh = text(&held["refresh_token"]);
        assert!(refresh.starts_with("octroi_refresh_") && seen.insert(refresh.clone()), "{refresh}");
        assert_eq!(bench.call(&text(&held["access_token"])), 200);
        held = bench.refreshed(&refresh);
        assert_eq!((&held["scope"], &held["token_type"]), (&json!("orders:*"), &json!("Bearer")));
        assert_eq!(claims(&text(&held["access_token"]))["aud"], json!(["octroi", "billing"]));
    }
    let narrowed = bench.refresh(&text(&held["refresh_token"]), "&scope=orders:read&audience=billing").json();
    assert_eq!(narrowed["scope"], "orders:read");
    assert_eq!(claims(&text(&narrowed["access_token"]))["aud"], "billing");
    let wide = bench.refreshed(&text(&narrowed["refresh_token"]));
    assert_eq!(wide["scope"], "orders:*", "the family keeps what it was granted");
    let last = text(&wide["refresh_token"]);
    refused(&bench.refresh(&last, "&scope=reports:read"), "invalid_scope");
    refused(&bench.refresh(&last, "&audience=elsewhere"), "invalid_target");
    assert_eq!(bench.refresh(&last, "").status, 200, "what was refused used nothing up");
    let log = bench.gateway.log();
    assert!(seen.iter().all(|token| !log.contains(token.as_str())));
}

#[test]
fn without_asking_there_is_none_and_with_a_key_it_must_be_its_own() {
    let bench = Bench::sqlite("");
    assert!(bench.token("").get("refresh_token").is_none());
    let refresh = text(&bench.family()["refresh_token"]);
    let other = bench.setup.client(&["other"]);
    let stranger = format!("&client_secret={}", bench.setup.key(&other, &[]).raw);
    refused(&bench.refresh(&refresh, &stranger), "invalid_grant");
    let own = format!("&client_id=acme&client_secret={}", bench.key.raw);
    assert_eq!(bench.refresh(&refresh, &own).status, 200);
}

#[test]
fn a_key_s_addresses_hold_for_its_refresh_token_whatever_comes_along() {
    let bench = Bench::sqlite("");
    let far = bench.setup.key("acme", &["--allow", "127.0.0.0/8"]);
    let grant = format!("grant_type=client_credentials&scope=offline_access&client_secret={}", far.raw);
    let refresh = text(&bench.post("/.octroi/token", &[], &grant).json()["refresh_token"]);
    let books = Books::sqlite(&bench.setup.path("octroi.db"));
    books.execute(&format!("UPDATE api_keys SET allowed_addresses = '[\"10.0.0.0/8\"]' WHERE id = '{}'", far.id));
    let beside = format!("&client_secret={}", bench.key.raw);
    for more in ["", beside.as_str()] {
        eventually("the change is obeyed", || bench.refresh(&refresh, more).status == 403);
    }
}

/// The answer was lost, or two parts of one caller raced: nobody is logged out, and there is one
/// successor.
fn racing_refreshes_leave_one_successor(bench: &Bench, count_open: impl Fn() -> i64) {
    let held = bench.family();
    let refresh = text(&held["refresh_token"]);
    let answers: Vec<Answer> = thread::scope(|scope| {
        let racers: Vec<_> = (0..16).map(|_| scope.spawn(|| bench.refresh(&refresh, ""))).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    let mut successors = BTreeSet::new();
    for answer in &answers {
        assert_eq!(answer.status, 200, "{answer:?}");
        let body = answer.json();
        assert_eq!(bench.call(&text(&body["access_token"])), 200);
        successors.insert(text(&body["refresh_token"]));
    }
    assert_eq!(successors.len(), 1, "one successor");
    assert_eq!(count_open(), 1, "one row that can be used");
    let successor = successors.into_iter().next().unwrap();
    let next = bench.refreshed(&successor);
    // A late one of the race gets what it would have got, and what that gets is the same again.
    let late = bench.refreshed(&refresh);
    assert_eq!(text(&late["refresh_token"]), successor);
    assert_eq!(bench.refreshed(&successor)["refresh_token"], next["refresh_token"]);
    assert_eq!(bench.refresh(&text(&next["refresh_token"]), "").status, 200, "the family lives");
}

const OPEN: &str = "SELECT CAST(count(*) AS text) FROM refresh_tokens WHERE used_at IS NULL AND revoked_at IS NULL";

#[test]
fn racing_refreshes_leave_one_successor_on_sqlite() {
    let bench = Bench::sqlite("");
    let books = Books::sqlite(&bench.setup.path("octroi.db"));
    racing_refreshes_leave_one_successor(&bench, || books.text(OPEN)[0].parse().unwrap());
}

#[test]
fn racing_refreshes_leave_one_successor_on_postgres() {
    let database = TestDatabase::create();
    let bench = Bench::on(&database.url(), "");
    let books = Books::postgres(&database);
    racing_refreshes_leave_one_successor(&bench, || books.text(OPEN)[0].parse().unwrap());
}

#[test]
fn a_refresh_token_that_is_used_again_later_ends_its_family() {
    let bench = Bench::sqlite("refresh_grace = \"0s\"");
    let bystander = bench.family();
    let first = bench.family();
    let second = bench.refreshed(&text(&first["refresh_token"]));
    let third = bench.refreshed(&text(&second["refresh_token"]));
    assert_eq!(bench.call(&text(&third["access_token"])), 200);

    refused(&bench.refresh(&text(&first["refresh_token"]), ""), "invalid_grant");
    assert!(bench.gateway.wait_for_log("used again").contains("\"client\""));
    refused(&bench.refresh(&text(&third["refresh_token"]), ""), "invalid_grant");
    for held in [&first, &second, &third] {
        eventually("its tokens end with it", || bench.call(&text(&held["access_token"])) == 401);
    }
    assert_eq!(bench.call(&text(&bystander["access_token"])), 200, "another family of the same key");
    assert_eq!(bench.refresh(&text(&bystander["refresh_token"]), "").status, 200);
    let metrics = crate::callers::fetch(bench.setup.admin, "/metrics", &[]);
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(metrics.contains("octroi_token_families_revoked_total 1"), "{metrics}");
}

#[test]
fn a_family_ends_with_its_time_its_key_and_by_whoever_holds_it() {
    let bench = Bench::sqlite("refresh_lifetime = \"2s\"\nrefresh_grace = \"1s\"");
    let refresh = text(&bench.family()["refresh_token"]);
    thread::sleep(Duration::from_millis(2_100));
    refused(&bench.refresh(&refresh, ""), "invalid_grant");

    let held = bench.family();
    let next = bench.refreshed(&text(&held["refresh_token"]));
    let revoked = bench.post("/.octroi/revoke", &[], &format!("token={}", text(&next["refresh_token"])));
    assert_eq!((revoked.status, revoked.body.len()), (200, 0));
    refused(&bench.refresh(&text(&next["refresh_token"]), ""), "invalid_grant");
    refused(&bench.refresh(&text(&held["refresh_token"]), ""), "invalid_grant");
    eventually("its tokens end with it", || bench.call(&text(&next["access_token"])) == 401);

    let refresh = text(&bench.family()["refresh_token"]);
    bench.setup.json(&["key", "revoke", &bench.key.public_id]);
    refused(&bench.refresh(&refresh, ""), "invalid_grant");
}
