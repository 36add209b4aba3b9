//! Changes that are made only if the row is still as it was read: the store looks in the step that
//! changes it, so that of two who read the same row, in whatever process, one changes it.

use std::num::NonZeroU32;

use super::{client, hash, new_key, rate};
use crate::stores::{Place, on_both};
use octroi::model::admin::{NewOperator, OperatorChange, Reach};
use octroi::model::client::ClientChange;
use octroi::model::key::KeyChange;
use octroi::model::operator::Role;
use octroi::model::plan::{NewPlan, PlanChange, Policies};
use octroi::store::{Store, StoreError};

on_both!(
    a_client_that_changed_since_it_was_read_is_left_alone,
    a_key_that_changed_since_it_was_read_is_left_alone,
    a_plan_that_changed_since_it_was_read_is_left_alone,
    an_operator_that_changed_since_it_was_read_is_left_alone,
    of_changes_that_read_the_same_row_one_is_made,
);

fn renamed(name: &str, read: Option<&octroi::model::client::Client>) -> ClientChange {
    ClientChange { name: Some(name.to_owned()), only_if: read.cloned().map(Box::new), ..ClientChange::default() }
}

async fn a_client_that_changed_since_it_was_read_is_left_alone(place: &Place) {
    let (store, elsewhere) = (place.migrated().await, place.open().await);
    let plan = NewPlan { name: "gold".to_owned(), policies: Policies::default(), concurrency: None };
    let plan = store.plans.create(plan).await.unwrap();
    let made = client(&store, "acme").await;
    let on_plan = ClientChange { plan_id: Some(Some(plan.id)), ..renamed("acme", Some(&made)) };
    let read = store.clients.update(made.id, on_plan).await.unwrap().unwrap();
    // Its plan is another row: what changes there was no change of the client.
    let wider = PlanChange { concurrency: Some(NonZeroU32::new(7)), ..PlanChange::default() };
    elsewhere.plans.update(plan.id, wider).await.unwrap().unwrap();
    let quota = ClientChange { quota: Some(Some("5/day".parse().unwrap())), ..renamed("a", Some(&read)) };
    let with_quota = store.clients.update(made.id, quota).await.unwrap().unwrap();
    assert_eq!(with_quota.name, "a");

    let late = elsewhere.clients.update(made.id, renamed("b", Some(&read))).await;
    assert!(matches!(late, Err(StoreError::Changed)), "{late:?}");
    assert_eq!(store.clients.find(made.id).await.unwrap(), Some(with_quota.clone()), "nothing was changed");
    // Plain SQL says nothing of the time, and is seen all the same.
    place.sql("UPDATE clients SET rate = '9/s'").await.unwrap();
    let late = store.clients.update(made.id, renamed("b", Some(&with_quota))).await;
    assert!(matches!(late, Err(StoreError::Changed)), "{late:?}");
    assert_eq!(store.clients.update(made.id, renamed("b", None)).await.unwrap().unwrap().rate, Some(rate("9/s")));
}

async fn a_key_that_changed_since_it_was_read_is_left_alone(place: &Place) {
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    let read = store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    let named = |name: &str| KeyChange {
        name: Some(name.to_owned()),
        only_if: Some(Box::new(read.clone())),
        ..KeyChange::default()
    };
    // What moves by itself is no change.
    store.keys.note_pepper_version(read.id, 3).await.unwrap();
    assert_eq!(store.keys.update(read.id, named("a")).await.unwrap().unwrap().name, "a");
    let late = store.keys.update(read.id, named("b")).await;
    assert!(matches!(late, Err(StoreError::Changed)), "{late:?}");
    assert_eq!(store.keys.find(read.id).await.unwrap().unwrap().name, "a");
}

async fn a_plan_that_changed_since_it_was_read_is_left_alone(place: &Place) {
    let store = place.migrated().await;
    let new = NewPlan { name: "gold".to_owned(), policies: Policies::default(), concurrency: None };
    let read = store.plans.create(new).await.unwrap();
    let of = |most: u32| PlanChange {
        concurrency: Some(NonZeroU32::new(most)),
        only_if: Some(Box::new(read.clone())),
        ..PlanChange::default()
    };
    assert_eq!(store.plans.update(read.id, of(3)).await.unwrap().unwrap().concurrency, NonZeroU32::new(3));
    let late = store.plans.update(read.id, of(4)).await;
    assert!(matches!(late, Err(StoreError::Changed)), "{late:?}");
    assert_eq!(store.plans.find(read.id).await.unwrap().unwrap().concurrency, NonZeroU32::new(3));
}

async fn an_operator_that_changed_since_it_was_read_is_left_alone(place: &Place) {
    let store = place.migrated().await;
    let reach = |role| Reach::new(role, Vec::new()).unwrap();
    let new = NewOperator { name: "ada".to_owned(), reach: reach(Role::Operator), password: None, identity: None };
    let read = store.operators.create(new).await.unwrap();
    let at = read.created_at;
    let becomes = |role| OperatorChange {
        reach: Some(reach(role)),
        only_if: Some(Box::new(read.clone())),
        ..OperatorChange::default()
    };
    let changed = store.operators.update(read.id, becomes(Role::Auditor), at).await.unwrap().unwrap();
    assert_eq!(changed.role, Role::Auditor);
    let late = store.operators.update(read.id, becomes(Role::Owner), at).await;
    assert!(matches!(late, Err(StoreError::Changed)), "{late:?}");
    assert_eq!(store.operators.find(read.id).await.unwrap().unwrap().role, Role::Auditor);
}

async fn of_changes_that_read_the_same_row_one_is_made(place: &Place) {
    let store = place.migrated().await;
    let read = client(&store, "acme").await;
    let replicas: Vec<Store> = vec![store.clone(), place.open().await, place.open().await, place.open().await];
    let mut tries = Vec::new();
    for (number, replica) in replicas.into_iter().enumerate() {
        let read = read.clone();
        let change = async move { replica.clients.update(read.id, renamed(&number.to_string(), Some(&read))).await };
        tries.push(tokio::spawn(change));
    }
    let mut made = 0;
    for outcome in tries {
        match outcome.await.unwrap() {
            Ok(changed) => made += usize::from(changed.is_some()),
            Err(error) => assert!(matches!(error, StoreError::Changed), "{error:?}"),
        }
    }
    assert_eq!(made, 1);
}
