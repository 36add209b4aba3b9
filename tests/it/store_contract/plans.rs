//! Plans, what quotas are counted from, and the marks that clients reach.

use uuid::Uuid;

use super::usage::event;
use super::{client, new_client};
use crate::stores::{Place, on_both};
use octroi::model::client::{ClientChange, NewClient};
use octroi::model::id::ClientId;
use octroi::model::plan::{NewPlan, Plan, PlanChange, Policies, PolicyMode, QuotaMark};
use octroi::model::quota::Window;
use octroi::model::usage::UsageEvent;
use octroi::store::changes::Change;
use octroi::store::plans::MarkPlace;
use octroi::store::{Store, StoreError};

on_both!(
    a_plan_is_kept_found_and_changed,
    a_client_is_read_with_its_plan,
    a_plan_that_clients_are_on_cannot_go,
    a_changed_plan_is_a_change_of_its_clients,
    units_are_those_of_the_window,
    a_mark_is_written_once,
);

fn policies(text: &str) -> Policies {
    serde_json::from_str(text).unwrap()
}

async fn plan(store: &Store, name: &str) -> Plan {
    let policies =
        policies(r#"[{"name":"a","rate":"5/s","burst":9},{"name":"b","quota":"7/month@3","mode":"shadow"}]"#);
    let new = NewPlan { name: name.to_owned(), policies, concurrency: std::num::NonZeroU32::new(4) };
    store.plans.create(new).await.unwrap()
}

async fn a_plan_is_kept_found_and_changed(place: &Place) {
    let store = place.migrated().await;
    let gold = plan(&store, "gold").await;
    let silver = plan(&store, "silver").await;
    assert_eq!(store.plans.find(gold.id).await.unwrap().as_ref(), Some(&gold));
    assert_eq!(store.plans.find_by_name("silver").await.unwrap().as_ref(), Some(&silver));
    assert_eq!(store.plans.find_by_name("Gold").await.unwrap(), None);
    let twice = NewPlan { name: "gold".to_owned(), policies: Policies::default(), concurrency: None };
    assert!(matches!(store.plans.create(twice).await, Err(StoreError::Conflict(_))));
    let page = store.plans.list(None, 1).await.unwrap();
    assert_eq!((page.items.len(), page.more), (1, true));
    let rest = store.plans.list(Some(page.items[0].id), 10).await.unwrap();
    assert_eq!((rest.items.len(), rest.more), (1, false));
    let change = PlanChange { policies: Some(policies(r#"[{"name":"c","quota":"1/day"}]"#)), ..PlanChange::default() };
    let changed = store.plans.update(gold.id, change).await.unwrap().unwrap();
    assert_eq!((changed.name.as_str(), changed.concurrency), ("gold", gold.concurrency));
    assert_eq!(changed.policies.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>(), ["c"]);
    let clear = PlanChange { concurrency: Some(None), ..PlanChange::default() };
    assert_eq!(store.plans.update(gold.id, clear).await.unwrap().unwrap().concurrency, None);
    assert_eq!(store.plans.update(Uuid::from_u128(1), PlanChange::default()).await.unwrap(), None);
}

async fn a_client_is_read_with_its_plan(place: &Place) {
    let store = place.migrated().await;
    let gold = plan(&store, "gold").await;
    let new = NewClient { plan_id: Some(gold.id), ..new_client("acme") };
    let made = store.clients.create(new).await.unwrap();
    assert_eq!((made.plan_id, made.allowance.plan.as_deref()), (Some(gold.id), Some(&gold)));
    assert_eq!(store.clients.find(made.id).await.unwrap(), Some(made.clone()));
    let off = ClientChange { plan_id: Some(None), ..ClientChange::default() };
    let off = store.clients.update(made.id, off).await.unwrap().unwrap();
    assert_eq!((off.plan_id, off.allowance.plan), (None, None));
    place.must(&format!("UPDATE clients SET plan_id = '{}'", gold.id)).await;
    place.must("UPDATE plans SET policies = '[{\"name\":\"x\"}]'").await;
    match store.clients.find(made.id).await {
        Err(StoreError::Corrupt { table: "plans", column: "policies", .. }) => {}
        other => panic!("{other:?}"),
    }
}

async fn a_plan_that_clients_are_on_cannot_go(place: &Place) {
    let store = place.migrated().await;
    let gold = plan(&store, "gold").await;
    let made = client(&store, "acme").await;
    assert!(place.sql(&format!("UPDATE clients SET plan_id = '{}'", Uuid::from_u128(1))).await.is_err());
    assert!(
        place
            .sql(&format!("INSERT INTO clients (name, plan_id) VALUES ('x', '{}')", Uuid::from_u128(1)))
            .await
            .is_err()
    );
    place.must(&format!("UPDATE clients SET plan_id = '{}' WHERE id = '{}'", gold.id, made.id)).await;
    assert!(place.sql("DELETE FROM plans").await.is_err());
    place.must("UPDATE clients SET plan_id = NULL").await;
    place.must("DELETE FROM plans").await;
}

async fn a_changed_plan_is_a_change_of_its_clients(place: &Place) {
    let store = place.migrated().await;
    let (gold, silver) = (plan(&store, "gold").await, plan(&store, "silver").await);
    let mut ids = Vec::new();
    for (name, plan) in [("a", &gold), ("b", &gold), ("c", &silver)] {
        ids.push(store.clients.create(NewClient { plan_id: Some(plan.id), ..new_client(name) }).await.unwrap().id);
    }
    let mut reader = store.changes.follow().await.unwrap();
    let told = async |reader: &mut Box<dyn octroi::store::ChangeReader>| {
        let mut clients: Vec<ClientId> = Vec::new();
        for change in reader.poll().await.unwrap() {
            match change {
                Change::Client(id) => clients.push(id),
                other => panic!("{other:?}"),
            }
        }
        clients.sort_unstable();
        clients.dedup();
        clients
    };
    assert_eq!(told(&mut reader).await, []);
    let change = PlanChange { concurrency: Some(None), ..PlanChange::default() };
    store.plans.update(gold.id, change).await.unwrap();
    let mut expected = vec![ids[0], ids[1]];
    expected.sort_unstable();
    assert_eq!(told(&mut reader).await, expected);
    place.must("UPDATE plans SET updated_at = created_at").await;
    assert_eq!(told(&mut reader).await, [], "nothing that matters");
    let change = ClientChange { quota: Some(Some("5/day".parse().unwrap())), ..ClientChange::default() };
    store.clients.update(ids[2], change).await.unwrap();
    assert_eq!(told(&mut reader).await, [ids[2]]);
    let change = ClientChange { concurrency: Some(std::num::NonZeroU32::new(2)), ..ClientChange::default() };
    store.clients.update(ids[2], change).await.unwrap();
    assert_eq!(told(&mut reader).await, [ids[2]]);
}

async fn units_are_those_of_the_window(place: &Place) {
    let store = place.migrated().await;
    let moments = [
        "2026-11-22T18:14:59.999999Z",
        "2026-11-22T18:15:00Z",
        "2026-11-22T18:59:59Z",
        "2026-11-22T19:00:00Z",
        "2026-11-23T17:59:59Z",
        "2026-11-23T18:14:59.999999Z",
        "2026-11-23T18:15:00Z",
    ];
    let events: Vec<UsageEvent> = (0_u32..)
        .zip(moments)
        .map(|(number, at)| UsageEvent { units: 1 << number, ..event(at, number.into()) })
        .collect();
    let stranger = UsageEvent { client_id: ClientId(Uuid::from_u128(99)), ..event("2026-11-22T18:30:00Z", 50) };
    store.usage.record(&events).await.unwrap();
    store.usage.record(&[stranger]).await.unwrap();
    for (start, end, units) in [
        // A day of Kathmandu.
        ("2026-11-22T18:15:00Z", "2026-11-23T18:15:00Z", 0b011_1110),
        ("2026-11-22T18:00:00Z", "2026-11-23T18:00:00Z", 0b001_1111),
        ("2026-11-22T18:15:00Z", "2026-11-22T18:45:00Z", 0b000_0010),
        ("2026-11-22T18:15:00Z", "2026-11-22T19:00:00Z", 0b000_0110),
        ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", 0b111_1111),
        ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z", 0),
    ] {
        let window = Window { start: start.parse().unwrap(), end: end.parse().unwrap() };
        assert_eq!(store.quotas.units(events[0].client_id, window).await.unwrap(), units, "{start}");
    }
}

async fn a_mark_is_written_once(place: &Place) {
    let store = place.migrated().await;
    let mark = QuotaMark {
        client_id: ClientId(Uuid::from_u128(5)),
        policy: "gold.month".to_owned(),
        window_start: "2026-11-01T00:00:00Z".parse().unwrap(),
        window_end: "2026-12-01T00:00:00Z".parse().unwrap(),
        percent: 80,
        quota: 10,
        used: 8,
        mode: PolicyMode::Shadow,
        reached_at: "2026-11-23T12:00:00.123456Z".parse().unwrap(),
    };
    assert!(store.quotas.note_mark(&mark).await.unwrap());
    assert!(!store.quotas.note_mark(&QuotaMark { used: 9, ..mark.clone() }).await.unwrap());
    let full = QuotaMark { percent: 100, ..mark.clone() };
    assert!(store.quotas.note_mark(&full).await.unwrap());
    let all = |client: Option<ClientId>, since: &str, limit| {
        let since = since.parse().unwrap();
        let store = store.clone();
        async move { store.quotas.marks(client, since, None, limit).await.unwrap() }
    };
    assert_eq!(all(None, "2026-11-01T00:00:00Z", 10).await, [full.clone(), mark.clone()]);
    // One by one, each behind the one before.
    let since = "2026-11-01T00:00:00Z".parse().unwrap();
    let mut after: Option<MarkPlace> = None;
    for expected in [Some(&full), Some(&mark), None] {
        let found = store.quotas.marks(None, since, after, 1).await.unwrap();
        assert_eq!(found.first(), expected);
        after = found.first().map(|mark| MarkPlace::from(mark).to_string().parse().unwrap());
    }
    assert_eq!(all(Some(mark.client_id), "2026-11-01T00:00:00Z", 1).await, [full]);
    assert_eq!(all(Some(ClientId(Uuid::from_u128(6))), "2026-11-01T00:00:00Z", 10).await, []);
    assert_eq!(all(None, "2026-11-24T00:00:00Z", 10).await, []);
}
