//! Books: closed months keep what they were frozen at, deleted events are never taken in again, and
//! what differs is found and made anew.

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::usage::{event, part_of};
use crate::stores::{Place, on_both};
use octroi::model::audit::AuditFilter;
use octroi::model::id::ClientId;
use octroi::model::month::Month;
use octroi::model::quota::{Quota, Window};
use octroi::model::usage::{RejectedCount, UsageEvent};
use octroi::store::audit::NotRebuilt;
use octroi::store::journals::JournalReport;
use octroi::store::months::Closing;
use octroi::store::{Store, StoreError, UsageColumn, UsageQuery, UsageSum};

on_both!(
    a_month_is_closed_when_nobody_owes_entries_for_it,
    what_comes_late_is_an_adjustment_of_the_open_month,
    closing_and_recording_at_once_lose_nothing,
    events_before_the_mark_go_and_do_not_come_back,
    a_wrong_sum_is_found_and_made_anew,
    journals_count_their_reports,
);

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn month(text: &str) -> Month {
    text.parse().unwrap()
}

fn report(id: u128, node: &str, clear_until: &str, beat: i64) -> JournalReport {
    JournalReport { id: Uuid::from_u128(id), node: node.to_owned(), clear_until: at(clear_until), beat }
}

async fn requests(store: &Store, from: &str, to: &str) -> (u64, u64) {
    let query = UsageQuery { from: at(from), to: at(to), client: None, by: vec![] };
    let sum = store.usage.sums(&query).await.unwrap().remove(0);
    (sum.requests, sum.rejected)
}

/// What the audit says of sums that were made anew.
async fn rebuilds(store: &Store) -> Vec<Value> {
    let filter = AuditFilter { action: Some("usage.rebuild".into()), ..AuditFilter::default() };
    let rows = store.trail.list(&filter, None, 10).await.unwrap().items;
    rows.into_iter().map(|row| row.after.unwrap()).collect()
}

async fn a_month_is_closed_when_nobody_owes_entries_for_it(place: &Place) {
    let store = place.migrated().await;
    store.usage.record(&[event("2026-10-05T10:00:00Z", 1), event("2026-10-31T23:59:59Z", 2)]).await.unwrap();
    let october = month("2026-10");
    store.journals.report(&report(1, "a", "2026-11-01T00:00:00Z", 1)).await.unwrap();
    store.journals.report(&report(2, "b", "2026-10-31T23:59:59.999999Z", 1)).await.unwrap();
    let Closing::Owing(debtors) = store.months.close(october, &[]).await.unwrap() else { panic!("b owes") };
    let owing: Vec<_> = debtors.iter().map(|debtor| (debtor.node.as_str(), debtor.journal)).collect();
    assert_eq!(owing, [("b", Some(Uuid::from_u128(2)))]);
    assert_eq!(store.months.closed(october).await.unwrap(), None);
    let distant = month("2999-01");
    assert_eq!(store.months.close(distant, &[]).await.unwrap(), Closing::NotOver);
    store.journals.report(&report(2, "b", "2026-11-01T00:00:00Z", 2)).await.unwrap();
    store.journals.report(&report(3, "c", "2026-10-01T00:00:00Z", 1)).await.unwrap();
    for (without, closes) in [("a", false), ("c", true)] {
        let closing = store.months.close(october, &[without.to_owned()]).await.unwrap();
        assert_eq!(closing == Closing::Closed, closes, "without {without}: {closing:?}");
    }
    assert_eq!(store.months.close(october, &[]).await.unwrap(), Closing::Already);
    let closed = store.months.closed(october).await.unwrap().unwrap();
    assert_eq!((closed.month.as_str(), closed.without.as_str()), ("2026-10", "c"));
    let totals = store.months.totals(october, None).await.unwrap();
    assert_eq!(totals.iter().map(|(_, sum)| sum.requests).collect::<Vec<_>>(), [2]);
    assert_eq!(store.months.totals(october, Some(ClientId(Uuid::from_u128(9)))).await.unwrap(), []);

    // A process that serves and keeps no journal that is known.
    place
        .must("INSERT INTO nodes (id, name, pepper) VALUES ('00000000-0000-0000-0000-000000000001', 'old', 'x')")
        .await;
    let Closing::Owing(debtors) = store.months.close(month("2026-09"), &["c".to_owned()]).await.unwrap() else {
        panic!("nobody knows what it owes")
    };
    assert_eq!(
        debtors.iter().map(|debtor| (debtor.node.as_str(), debtor.journal)).collect::<Vec<_>>(),
        [("old", None)]
    );
}

async fn what_comes_late_is_an_adjustment_of_the_open_month(place: &Place) {
    let store = place.migrated().await;
    let first = event("2026-10-05T10:00:00Z", 1);
    let client = first.client_id;
    store.usage.record(std::slice::from_ref(&first)).await.unwrap();
    assert_eq!(store.months.close(month("2026-10"), &[]).await.unwrap(), Closing::Closed);
    let late = [
        first.clone(),
        UsageEvent { units: 7, ..event("2026-10-05T10:30:00Z", 2) },
        event("2026-10-31T23:59:59Z", 3),
        event("2026-11-01T00:00:00Z", 4),
        part_of(&first, "2026-10-05T10:40:00Z", 5),
    ];
    for new in [4, 0] {
        assert_eq!(store.usage.record(&late).await.unwrap(), new);
    }
    let refused = RejectedCount {
        hour: at("2026-10-05T10:00:00Z"),
        client_id: client,
        api_key_id: octroi::model::id::ApiKeyId::NIL,
        route: "orders".to_owned(),
        status: 429,
        reason: "rate_limited",
        observed: false,
        requests: 5,
    };
    store.usage.add_rejected(&[refused]).await.unwrap();

    assert_eq!(requests(&store, "2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z").await, (1, 0), "frozen");
    assert_eq!(requests(&store, "2026-10-01T00:00:00Z", "2100-01-01T00:00:00Z").await, (4, 5), "all of it, once");
    let adjustments = store.months.adjustments(at("2026-11-01T00:00:00Z"), at("2100-01-01T00:00:00Z"), None).await;
    let adjustments = adjustments.unwrap();
    assert_eq!(adjustments.len(), 1);
    assert_eq!((adjustments[0].client_id, adjustments[0].corrects.as_str()), (client.0, "2026-10"));
    let sum = UsageSum {
        requests: 2,
        units: 8,
        bytes_in: 30,
        bytes_out: 3_000,
        duration_us: 3_000,
        rejected: 5,
        would_reject: 0,
        ..UsageSum::default()
    };
    assert_eq!(adjustments[0].sum, sum);
    let totals = store.months.totals(month("2026-10"), Some(client)).await.unwrap();
    assert_eq!((totals[0].1.requests, totals[0].1.units), (1, 1), "what was frozen stays");
    // A quota's window knows no bills: what was used in it was used in it.
    let quota: Quota = "10/month".parse().unwrap();
    let window: Window = quota.period.window(at("2026-10-20T00:00:00Z"));
    assert_eq!(store.quotas.units(client, window).await.unwrap(), 9);
    // Events against sums, adjustments included, by the hour in which they were used.
    for hour in ["2026-10-05T10:00:00Z", "2026-10-31T23:00:00Z", "2026-11-01T00:00:00Z"] {
        let books = store.audit.compare_hour(at(hour), None).await.unwrap();
        assert!(books.differing.is_empty() && books.events.requests > 0, "{hour}: {books:?}");
    }
    assert_eq!(store.audit.rebuild(&[at("2026-10-05T10:00:00Z")]).await.unwrap(), Err(NotRebuilt::Closed));
    assert_eq!(rebuilds(&store).await, Vec::<Value>::new(), "what was refused was not done");
}

/// Recorders and the one that closes meet at every moment: each event is in the frozen sums or in
/// the adjustments, and in one of them.
async fn closing_and_recording_at_once_lose_nothing(place: &Place) {
    let store = place.migrated().await;
    let recorders: Vec<_> = (0..3_u64)
        .map(|recorder| {
            let store = store.clone();
            octroi::tasks::Tasks::spawn_here(async move {
                for round in 0..60 {
                    let number = 1 + recorder * 1_000 + round;
                    store.usage.record(&[event("2026-10-05T10:00:00Z", number)]).await.unwrap();
                }
            })
        })
        .collect();
    let mut closed = false;
    while !closed {
        let recorded = requests(&store, "2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z").await.0;
        closed = recorded > 40 && store.months.close(month("2026-10"), &[]).await.unwrap() == Closing::Closed;
    }
    for recorder in recorders {
        recorder.await.unwrap();
    }
    let frozen = store.months.totals(month("2026-10"), None).await.unwrap()[0].1.requests;
    let hourly = place.must("SELECT CAST(sum(requests) AS bigint) FROM usage_hourly").await;
    let late = place.must("SELECT CAST(coalesce(sum(requests), 0) AS bigint) FROM usage_adjustments").await;
    assert_eq!(hourly, [frozen.to_string()], "nothing came into the closed month");
    let late: u64 = late[0].parse().unwrap();
    assert_eq!(frozen + late, 180);
}

async fn events_before_the_mark_go_and_do_not_come_back(place: &Place) {
    let store = place.migrated().await;
    let events = [event("2026-08-31T23:59:59Z", 1), event("2026-09-01T00:00:00Z", 2), event("2026-10-05T10:00:00Z", 3)];
    store.usage.record(&events).await.unwrap();
    assert!(place.sql("DELETE FROM usage_events").await.is_err(), "without a mark nothing goes");
    assert_eq!(store.audit.retention_mark().await.unwrap(), None);
    let mark = at("2026-09-01T00:00:00Z");
    while store.audit.retire_events(mark).await.unwrap() > 0 {}
    assert_eq!(store.audit.retention_mark().await.unwrap(), Some(mark));
    let numbers = "SELECT request_id FROM usage_events ORDER BY id";
    assert_eq!(place.must(numbers).await, ["request-2", "request-3"]);
    assert!(place.sql("DELETE FROM usage_events").await.is_err(), "what is kept is kept");
    assert_eq!(requests(&store, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z").await.0, 3, "sums stay");

    // From this process, which knows the partition, and from one that does not.
    for store in [store.clone(), place.open().await] {
        let batch = [event("2026-08-31T23:59:59Z", 1), event("2026-08-01T00:00:00Z", 8)];
        let refused = store.usage.record(&batch).await.unwrap_err();
        assert!(matches!(refused, StoreError::PastRetention { before } if before == mark), "{refused:?}");
        assert!(!refused.is_transient());
    }
    let mixed = [event("2026-08-31T23:59:59Z", 1), event("2026-10-06T00:00:00Z", 9)];
    assert!(store.usage.record(&mixed).await.is_err());
    assert_eq!(place.must(numbers).await, ["request-2", "request-3", "request-9"], "the others were recorded");
    assert_eq!(requests(&store, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z").await.0, 4, "nothing is billed twice");
    // The mark never goes back.
    store.audit.retire_events(at("2026-01-01T00:00:00Z")).await.unwrap();
    assert_eq!(store.audit.retention_mark().await.unwrap(), Some(mark));
    let hour = at("2026-08-31T23:00:00Z");
    assert_eq!(store.audit.rebuild(&[hour]).await.unwrap(), Err(NotRebuilt::PastRetention { before: mark }));
}

async fn a_wrong_sum_is_found_and_made_anew(place: &Place) {
    let store = place.migrated().await;
    let hour = at("2026-11-05T10:00:00Z");
    let events: Vec<_> = (1..=4).map(|number| event("2026-11-05T10:59:59.999999Z", number)).collect();
    store.usage.record(&events).await.unwrap();
    store.usage.record(&[event("2026-11-05T11:00:00Z", 5)]).await.unwrap();
    let refused = RejectedCount {
        hour,
        client_id: events[0].client_id,
        api_key_id: octroi::model::id::ApiKeyId::NIL,
        route: String::new(),
        status: 401,
        reason: "key_unknown",
        observed: false,
        requests: 6,
    };
    store.usage.add_rejected(&[refused]).await.unwrap();
    let books = store.audit.compare_hour(hour, None).await.unwrap();
    assert_eq!((books.events.requests, books.rollups.requests, books.differing.len()), (4, 4, 0));
    for wrong in [
        "UPDATE usage_hourly SET units = units + 1 WHERE outcome = 'complete'",
        "DELETE FROM usage_hourly WHERE outcome = 'complete'",
        "UPDATE usage_hourly SET bytes_out = 0, requests = requests * 2 WHERE outcome = 'complete'",
    ] {
        place.must(wrong).await;
        let books = store.audit.compare_hour(hour, None).await.unwrap();
        assert_eq!(books.differing.len(), 1, "{wrong}");
        assert_eq!(books.differing[0].events.requests, 4);
        assert_ne!(books.differing[0].events, books.differing[0].rollups);
        store.audit.rebuild(&[hour, at("2026-11-05T11:00:00Z")]).await.unwrap().unwrap();
        let books = store.audit.compare_hour(hour, Some(events[0].client_id)).await.unwrap();
        assert_eq!((books.rollups, books.differing.len()), (books.events, 0), "{wrong}");
        assert_eq!(requests(&store, "2026-11-05T00:00:00Z", "2026-11-06T00:00:00Z").await, (5, 6), "refusals stay");
    }
    let noted = json!({"hours": 2, "first": "2026-11-05T10:00:00Z", "last": "2026-11-05T11:00:00Z"});
    assert_eq!(rebuilds(&store).await, [noted.clone(), noted.clone(), noted]);
    let found = store.audit.events_of(&[events[3].id.0, Uuid::from_u128(1)]).await.unwrap();
    assert_eq!(found.iter().map(|row| row.request_id.as_str()).collect::<Vec<_>>(), ["request-4"]);
    let query = UsageQuery { from: hour, to: at("2026-11-06T00:00:00Z"), client: None, by: vec![UsageColumn::Outcome] };
    assert_eq!(store.usage.sums(&query).await.unwrap().len(), 2);
}

async fn journals_count_their_reports(place: &Place) {
    let store = place.migrated().await;
    for (beat, before) in [(1, None), (2, Some(1)), (3, Some(2))] {
        let found = store.journals.report(&report(1, "a", "2026-11-01T00:00:00Z", beat)).await.unwrap();
        assert_eq!(found, before);
    }
    let journals = store.journals.journals().await.unwrap();
    assert_eq!((journals.len(), journals[0].node.as_str()), (1, "a"));
    assert_eq!(journals[0].clear_until, at("2026-11-01T00:00:00Z"));
    store.journals.forget(Uuid::from_u128(1)).await.unwrap();
    assert_eq!(store.journals.journals().await.unwrap(), []);
    assert_eq!(store.journals.report(&report(1, "a", "2026-11-01T00:00:00Z", 4)).await.unwrap(), None);
    let timeline = store.journals.timeline().await.unwrap();
    assert_eq!(timeline.is_some(), place.dialect() == "postgres", "{timeline:?}");
    assert_eq!(store.journals.timeline().await.unwrap(), timeline);
}
