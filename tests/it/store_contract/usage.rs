//! Usage: recorded once whatever is repeated, rollups equal to events, and nothing ever changed.

use uuid::Uuid;

use super::event_id;
use crate::stores::{Place, on_both};
use octroi::model::id::{ApiKeyId, ClientId};
use octroi::model::usage::{CutReason, EventKind, Outcome, RejectedCount, UsageEvent};
use octroi::store::{Store, StoreError, UsageColumn, UsageQuery, UsageSum};

on_both!(
    a_repeated_batch_changes_nothing,
    rollups_equal_the_events,
    interim_records_are_bytes_and_no_requests,
    sums_are_by_every_column,
    sums_come_in_pages_too,
    refusals_stand_apart,
    what_was_only_observed_is_no_usage,
    drains_that_meet_record_each_event_once,
    an_event_that_is_there_cannot_be_changed,
    an_old_month_and_a_coming_one_are_taken,
    an_event_keeps_all_it_had,
    single_events_are_read_in_order_by_page_and_by_filter,
);

const CLIENTS: [ClientId; 2] = [ClientId(Uuid::from_u128(0xA)), ClientId(Uuid::from_u128(0xB))];
const KEY: ApiKeyId = ApiKeyId(Uuid::from_u128(0xC));

pub(super) fn event(occurred_at: &str, number: u64) -> UsageEvent {
    UsageEvent {
        id: event_id(occurred_at, number),
        request_id: format!("request-{number}"),
        client_id: CLIENTS[0],
        api_key_id: Some(KEY),
        token_id: None,
        occurred_at: occurred_at.parse().unwrap(),
        route: "orders".to_owned(),
        method: "GET",
        status: Some(200),
        outcome: Outcome::Complete,
        reason: None,
        duration_us: 1_500,
        bytes_in: 10,
        bytes_out: 1_000,
        units: 1,
        node: "node-1".to_owned(),
        kind: EventKind::Request,
    }
}

/// Events that differ in every column a rollup has, over two hours, two days and two months.
fn varied() -> Vec<UsageEvent> {
    vec![
        event("2026-10-31T23:59:59.999999Z", 1),
        event("2026-11-01T00:00:00Z", 2),
        UsageEvent { client_id: CLIENTS[1], api_key_id: None, ..event("2026-11-01T00:30:00Z", 3) },
        UsageEvent { route: String::new(), ..event("2026-11-01T01:00:00Z", 4) },
        UsageEvent { status: Some(404), units: 3, ..event("2026-11-01T01:10:00Z", 5) },
        UsageEvent { status: None, outcome: Outcome::NotSent, units: 0, ..event("2026-11-02T05:00:00Z", 6) },
        UsageEvent { outcome: Outcome::Cut, reason: Some(CutReason::Revoked), ..event("2026-11-02T05:00:01Z", 7) },
        UsageEvent { outcome: Outcome::Cut, reason: Some(CutReason::Deadline), ..event("2026-11-02T05:00:02Z", 8) },
    ]
}

/// An interim record of that request.
pub(super) fn part_of(request: &UsageEvent, occurred_at: &str, number: u64) -> UsageEvent {
    UsageEvent { kind: EventKind::Stream(request.id), units: 0, duration_us: 0, ..event(occurred_at, number) }
}

fn everything(by: Vec<UsageColumn>) -> UsageQuery {
    UsageQuery {
        from: "2000-01-01T00:00:00Z".parse().unwrap(),
        to: "2100-01-01T00:00:00Z".parse().unwrap(),
        client: None,
        by,
    }
}

async fn total(store: &Store) -> UsageSum {
    let mut sums = store.usage.sums(&everything(vec![])).await.unwrap();
    assert_eq!(sums.len(), 1, "without columns there is one row");
    sums.remove(0)
}

async fn a_repeated_batch_changes_nothing(place: &Place) {
    let store = place.migrated().await;
    assert_eq!(total(&store).await, UsageSum::default());
    assert_eq!(store.usage.record(&[]).await.unwrap(), 0);
    let events = varied();
    assert_eq!(store.usage.record(&events[..5]).await.unwrap(), 5);
    let before = total(&store).await;
    assert_eq!(store.usage.record(&events[..5]).await.unwrap(), 0, "the same again");
    assert_eq!(total(&store).await, before);
    let mut overlapping = events.clone();
    overlapping.reverse();
    overlapping.push(events[7].clone());
    assert_eq!(place.open().await.usage.record(&overlapping).await.unwrap(), 3, "only what is new, from anybody");
    assert_eq!(total(&store).await.requests, 8);
    assert_eq!(place.must("SELECT count(*) FROM usage_events").await, ["8"]);
}

async fn rollups_equal_the_events(place: &Place) {
    let store = place.migrated().await;
    for batch in varied().chunks(3) {
        store.usage.record(batch).await.unwrap();
    }
    let columns = "count(*), sum(units), sum(bytes_in), sum(bytes_out), sum(duration_us)";
    let of_events = format!(
        "SELECT client_id, coalesce(api_key_id, '00000000-0000-0000-0000-000000000000'), route, coalesce(status, 0),
                outcome, coalesce(reason, ''), {columns}
         FROM usage_events GROUP BY 1, 2, 3, 4, 5, 6"
    );
    let of_rollups = "SELECT client_id, api_key_id, route, status, outcome, reason,
                sum(requests), sum(units), sum(bytes_in), sum(bytes_out), sum(duration_us)
         FROM usage_hourly GROUP BY 1, 2, 3, 4, 5, 6";
    for (left, right) in [(of_events.as_str(), of_rollups), (of_rollups, &of_events)] {
        let difference = place.must(&format!("SELECT count(*) FROM ({left} EXCEPT {right}) AS d")).await;
        assert_eq!(difference, ["0"]);
    }
    let sum = total(&store).await;
    assert_eq!(
        sum,
        UsageSum {
            by: vec![],
            requests: 8,
            units: 9,
            bytes_in: 80,
            bytes_out: 8_000,
            duration_us: 12_000,
            rejected: 0,
            would_reject: 0,
        }
    );
}

async fn interim_records_are_bytes_and_no_requests(place: &Place) {
    let store = place.migrated().await;
    let request = event("2026-11-01T00:00:00Z", 1);
    // In the hours in which they were told; the last comes before its request, as it may.
    let parts = [
        part_of(&request, "2026-11-01T00:30:00Z", 2),
        part_of(&request, "2026-11-01T01:30:00Z", 3),
        part_of(&request, "2026-11-01T01:40:00Z", 4),
    ];
    assert_eq!(store.usage.record(&parts).await.unwrap(), 3);
    assert_eq!((total(&store).await.requests, total(&store).await.bytes_out), (0, 3_000));
    for new in [1, 0] {
        assert_eq!(store.usage.record(&[&parts[..], std::slice::from_ref(&request)].concat()).await.unwrap(), new);
    }
    let whole =
        UsageSum { requests: 1, units: 1, bytes_in: 40, bytes_out: 4_000, duration_us: 1_500, ..UsageSum::default() };
    assert_eq!(total(&store).await, whole);
    let kinds = "SELECT kind || coalesce(CAST(parent_id AS text), '') FROM usage_events ORDER BY id";
    let of_it = format!("stream{}", request.id);
    assert_eq!(place.must(kinds).await, ["request", &of_it, &of_it, &of_it]);
    // Events against sums, and sums made anew from events.
    let hours = ["2026-11-01T00:00:00Z", "2026-11-01T01:00:00Z"].map(|hour| hour.parse().unwrap());
    for (hour, requests, bytes_out) in [(hours[0], 1, 2_000), (hours[1], 0, 2_000)] {
        let books = store.audit.compare_hour(hour, None).await.unwrap();
        assert!(books.differing.is_empty(), "{books:?}");
        assert_eq!((books.events.requests, books.events.bytes_out), (requests, bytes_out));
    }
    place.must("UPDATE usage_hourly SET requests = 9").await;
    assert_eq!(store.audit.compare_hour(hours[1], None).await.unwrap().differing.len(), 1);
    store.audit.rebuild(&hours).await.unwrap().unwrap();
    assert_eq!(total(&store).await, whole);
}

async fn sums_are_by_every_column(place: &Place) {
    let store = place.migrated().await;
    store.usage.record(&varied()).await.unwrap();
    let (a, b, key, nil) = (CLIENTS[0].to_string(), CLIENTS[1].to_string(), KEY.to_string(), Uuid::nil().to_string());
    for (column, expected) in [
        (UsageColumn::Client, vec![(a.as_str(), 7), (&b, 1)]),
        (UsageColumn::Key, vec![(nil.as_str(), 1), (&key, 7)]),
        (UsageColumn::Route, vec![("", 1), ("orders", 7)]),
        (UsageColumn::Status, vec![("0", 1), ("200", 6), ("404", 1)]),
        (UsageColumn::Outcome, vec![("complete", 5), ("cut", 2), ("not_sent", 1)]),
        (
            UsageColumn::Hour,
            vec![
                ("2026-10-31T23:00:00Z", 1),
                ("2026-11-01T00:00:00Z", 2),
                ("2026-11-01T01:00:00Z", 2),
                ("2026-11-02T05:00:00Z", 3),
            ],
        ),
        (UsageColumn::Day, vec![("2026-10-31T00:00:00Z", 1), ("2026-11-01T00:00:00Z", 4), ("2026-11-02T00:00:00Z", 3)]),
        (UsageColumn::Month, vec![("2026-10-01T00:00:00Z", 1), ("2026-11-01T00:00:00Z", 7)]),
    ] {
        let sums = store.usage.sums(&everything(vec![column])).await.unwrap();
        let found: Vec<_> = sums.iter().map(|sum| (sum.by[0].as_str(), sum.requests)).collect();
        assert_eq!(found, expected, "{column:?}");
    }
    let sums = store.usage.sums(&everything(vec![UsageColumn::Month, UsageColumn::Client])).await.unwrap();
    let found: Vec<_> = sums.iter().map(|sum| (sum.by.join(" "), sum.requests)).collect();
    let expected = [("2026-10-01T00:00:00Z", &a, 1), ("2026-11-01T00:00:00Z", &a, 6), ("2026-11-01T00:00:00Z", &b, 1)];
    assert_eq!(found, expected.map(|(month, client, requests)| (format!("{month} {client}"), requests)));

    let narrow = UsageQuery {
        from: "2026-11-01T00:00:00Z".parse().unwrap(),
        to: "2026-11-01T01:00:00Z".parse().unwrap(),
        client: Some(CLIENTS[0]),
        by: vec![],
    };
    assert_eq!(store.usage.sums(&narrow).await.unwrap()[0].requests, 1, "from inclusive, to exclusive, one client");
}

async fn sums_come_in_pages_too(place: &Place) {
    use UsageColumn::{Client, Day, Hour, Key, Month, Outcome, Route, Status};
    let store = place.migrated().await;
    store.usage.record(&varied()).await.unwrap();
    for by in [
        vec![Client],
        vec![Route],
        vec![Status],
        vec![Hour],
        vec![Day, Outcome],
        vec![Outcome, Month],
        vec![Client, Key, Route, Status, Outcome, Hour],
    ] {
        let query = everything(by);
        let whole = store.usage.sums(&query).await.unwrap();
        for limit in [1, 2, 3, 100] {
            let (mut after, mut found) = (None, Vec::new());
            loop {
                let page = store.usage.sums_page(&query, after.as_deref(), limit).await.unwrap();
                assert!(page.items.len() <= limit as usize, "{query:?}");
                found.extend(page.items);
                if !page.more {
                    break;
                }
                after = found.last().map(|last: &UsageSum| last.by.clone());
            }
            assert_eq!(found, whole, "pages of {limit} of {query:?}");
        }
    }
    let of_one = UsageQuery { client: Some(CLIENTS[1]), ..everything(vec![Client]) };
    let page = store.usage.sums_page(&of_one, Some(&[CLIENTS[0].to_string()]), 9).await.unwrap();
    assert_eq!((page.items.len(), page.more), (1, false));
    let page = store.usage.sums_page(&of_one, Some(&["not an id ' \" at all".to_owned()]), 9).await.unwrap();
    assert!(page.items.is_empty(), "a cursor is a text, and may be any");
}

async fn refusals_stand_apart(place: &Place) {
    let store = place.migrated().await;
    store.usage.record(&varied()[..2]).await.unwrap();
    let refused = |requests, reason| RejectedCount {
        hour: "2026-11-01T00:00:00Z".parse().unwrap(),
        client_id: CLIENTS[0],
        api_key_id: ApiKeyId::NIL,
        route: "orders".to_owned(),
        status: 429,
        reason,
        observed: false,
        requests,
    };
    let counts = [refused(5, "rate_limited"), refused(2, "invalid_credentials"), refused(1, "rate_limited")];
    store.usage.add_rejected(&counts).await.unwrap();
    store.usage.add_rejected(&counts[..1]).await.unwrap();
    store.usage.add_rejected(&[]).await.unwrap();
    let sum = total(&store).await;
    assert_eq!((sum.requests, sum.rejected, sum.units), (2, 13, 2));
    let by_outcome = store.usage.sums(&everything(vec![UsageColumn::Outcome])).await.unwrap();
    let found: Vec<_> = by_outcome.iter().map(|sum| (sum.by[0].as_str(), sum.requests, sum.rejected)).collect();
    assert_eq!(found, [("complete", 2, 0), ("rejected", 0, 13)]);
    let limited = place.must("SELECT requests FROM usage_hourly WHERE reason = 'rate_limited'").await;
    assert_eq!(limited, ["11"]);
}

async fn what_was_only_observed_is_no_usage(place: &Place) {
    let store = place.migrated().await;
    store.usage.record(&varied()[..2]).await.unwrap();
    let count = |reason, status, observed, requests| RejectedCount {
        hour: "2026-11-01T00:00:00Z".parse().unwrap(),
        client_id: CLIENTS[0],
        api_key_id: KEY,
        route: "orders".to_owned(),
        status,
        reason,
        observed,
        requests,
    };
    // One kind, refused on one route's day and observed on another's; twice in one batch, and again.
    let counts = [
        count("rate_limited", 429, true, 5),
        count("rate_limited", 429, false, 3),
        count("rate_limited", 429, true, 2),
        count("insufficient_scope", 403, true, 1),
    ];
    store.usage.add_rejected(&counts).await.unwrap();
    store.usage.add_rejected(&counts[..1]).await.unwrap();
    let sum = total(&store).await;
    assert_eq!((sum.requests, sum.rejected, sum.would_reject, sum.units), (2, 3, 13, 2));
    let by = vec![UsageColumn::Outcome, UsageColumn::Status];
    let rows = store.usage.sums(&everything(by)).await.unwrap();
    let rows: Vec<_> =
        rows.iter().map(|sum| (sum.by.join(" "), sum.requests, sum.rejected, sum.would_reject)).collect();
    let apart: Vec<_> = rows.iter().filter(|row| !row.0.starts_with("complete")).cloned().collect();
    let expected = [("observed 403", 0, 0, 1), ("observed 429", 0, 0, 12), ("rejected 429", 0, 3, 0)];
    assert_eq!(apart, expected.map(|(name, a, b, c)| (name.to_owned(), a, b, c)));
    let elsewhere = UsageQuery { client: Some(CLIENTS[1]), ..everything(vec![]) };
    assert_eq!(store.usage.sums(&elsewhere).await.unwrap()[0].would_reject, 0);
    let hourly = place.must("SELECT sum(requests) FROM usage_hourly WHERE outcome <> 'rejected'").await;
    assert_eq!(hourly, ["2"], "the sums of usage know nothing of it");
}

async fn drains_that_meet_record_each_event_once(place: &Place) {
    let (first, second) = (place.migrated().await, place.open().await);
    let events: Vec<_> = (0..500).map(|number| event("2026-11-01T00:00:00Z", number)).collect();
    let backwards: Vec<_> = events.iter().rev().cloned().collect();
    let (a, b, c) =
        tokio::join!(first.usage.record(&events), second.usage.record(&backwards), first.usage.record(&events[..250]));
    assert_eq!(a.unwrap() + b.unwrap() + c.unwrap(), 500);
    assert_eq!(total(&first).await.requests, 500);
}

async fn an_event_that_is_there_cannot_be_changed(place: &Place) {
    let store = place.migrated().await;
    let recorded = event("2026-11-01T00:00:00Z", 1);
    store.usage.record(std::slice::from_ref(&recorded)).await.unwrap();
    let values = format!(
        "('{}', 'r', '{nil}', '2026-11-01T00:00:00Z', 'x', 'GET', 'complete', 0, 0, 0, 99, 'n')",
        recorded.id,
        nil = Uuid::nil()
    );
    let insert = "INTO usage_events (id, request_id, client_id, occurred_at, route, method, outcome, duration_us,
                      bytes_in, bytes_out, units, node) VALUES";
    let upsert = format!("INSERT {insert} {values} ON CONFLICT (id) DO UPDATE SET units = 99");
    let mut statements = vec!["UPDATE usage_events SET units = 99".to_owned(), "DELETE FROM usage_events".to_owned()];
    if place.dialect() == "postgres" {
        statements.push(upsert);
        statements.push("TRUNCATE usage_events".to_owned());
        for verb in [
            "UPDATE usage_events_2026_11 SET units = 99",
            "DELETE FROM usage_events_2026_11",
            "TRUNCATE usage_events_2026_11",
        ] {
            statements.push(verb.to_owned());
        }
        // A month that was made on demand is guarded like the first ones.
        store.usage.record(&[event("2031-03-01T00:00:00Z", 2)]).await.unwrap();
        statements.push("TRUNCATE usage_events_2031_03".to_owned());
    } else {
        // SQLite's REPLACE deletes without asking triggers; it and its like are made to do nothing.
        place.must(&format!("REPLACE {insert} {values}")).await;
        place.must(&upsert).await;
    }
    let before = place.must("SELECT sum(units) FROM usage_events").await;
    for statement in statements {
        assert!(place.sql(&statement).await.is_err(), "{statement}");
    }
    assert_eq!(place.must("SELECT sum(units) FROM usage_events").await, before);
    assert_eq!(place.must("SELECT units FROM usage_events WHERE node = 'node-1'").await[0], "1");
}

async fn an_old_month_and_a_coming_one_are_taken(place: &Place) {
    let store = place.migrated().await;
    let times = ["2020-02-29T12:00:00Z", "2026-12-31T23:59:59.999Z", "2027-01-01T00:00:00Z", "2033-07-01T00:00:00Z"];
    let events: Vec<_> = (0..).zip(times).map(|(number, time)| event(time, number)).collect();
    assert_eq!(store.usage.record(&events).await.unwrap(), 4);
    let other = place.open().await;
    assert_eq!(other.usage.record(&events).await.unwrap(), 0);
    if place.dialect() == "postgres" {
        let ahead = "SELECT count(*) FROM pg_class WHERE relispartition AND relkind = 'r'
                     AND relname IN ('usage_events_2020_02', 'usage_events_2033_08', 'usage_events_2033_09')";
        assert_eq!(place.must(ahead).await, ["3"], "those needed, and two months ahead");
        let foreign = UsageEvent { id: octroi::model::id::EventId(Uuid::from_u128(4 << 76)), ..events[0].clone() };
        match store.usage.record(&[foreign]).await {
            Err(StoreError::Refused { source, .. }) => assert!(source.to_string().contains("v7"), "{source}"),
            other => panic!("{other:?}"),
        }
    }
}

async fn an_event_keeps_all_it_had(place: &Place) {
    let store = place.migrated().await;
    let full = UsageEvent {
        token_id: Some(octroi::model::id::TokenId(Uuid::from_u128(0xD))),
        status: Some(499),
        outcome: Outcome::Cut,
        reason: Some(CutReason::Shutdown),
        duration_us: u64::from(u32::MAX) + 1,
        bytes_in: 1 << 40,
        bytes_out: 1 << 41,
        units: u32::MAX,
        ..event("2026-11-01T00:00:00.123456Z", 1)
    };
    store.usage.record(&[full]).await.unwrap();
    let text = match place.dialect() {
        "postgres" => "to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        _ => "occurred_at",
    };
    let row = place
        .must(&format!(
            "SELECT id || ' ' || request_id || ' ' || client_id || ' ' || api_key_id || ' ' || token_id || ' ' || {text}
                 || ' ' || route || ' ' || method || ' ' || status || ' ' || outcome || ' ' || reason || ' ' ||
                 duration_us || ' ' || bytes_in || ' ' || bytes_out || ' ' || units || ' ' || node || ' ' || kind
             FROM usage_events"
        ))
        .await;
    let id = event_id("2026-11-01T00:00:00.123456Z", 1);
    let token = Uuid::from_u128(0xD);
    assert_eq!(
        row,
        [format!(
            "{id} request-1 {} {KEY} {token} 2026-11-01T00:00:00.123456Z orders GET 499 cut shutdown 4294967296 \
             1099511627776 2199023255552 4294967295 node-1 request",
            CLIENTS[0]
        )]
    );
}

async fn single_events_are_read_in_order_by_page_and_by_filter(place: &Place) {
    let store = place.migrated().await;
    let mut events = varied();
    events.reverse();
    store.usage.record(&events).await.unwrap();
    let everything = octroi::store::events::EventQuery::between(
        "2026-10-01T00:00:00Z".parse().unwrap(),
        "2026-12-01T00:00:00Z".parse().unwrap(),
    );
    let read = async |query: &octroi::store::events::EventQuery, page: u32| {
        let (mut after, mut read) = (None, Vec::new());
        loop {
            let events = store.events.events(query, after, page).await.unwrap();
            after = events.last().map(|event| event.id);
            let count = events.len();
            read.extend(events.into_iter().map(|event| event.request_id["request-".len()..].parse::<u8>().unwrap()));
            if count < page as usize {
                return read;
            }
        }
    };
    for page in [1, 3, 8, 100] {
        assert_eq!(read(&everything, page).await, [1, 2, 3, 4, 5, 6, 7, 8], "{page}");
    }
    let of = |change: &dyn Fn(&mut octroi::store::events::EventQuery)| {
        let mut query = everything.clone();
        change(&mut query);
        query
    };
    let at = |text: &str| text.parse().unwrap();
    for (query, expected) in [
        (of(&|query| query.from = at("2026-11-01T00:00:00Z")), &[2, 3, 4, 5, 6, 7, 8][..]),
        (of(&|query| query.to = at("2026-11-01T00:00:00Z")), &[1]),
        (of(&|query| query.client = Some(CLIENTS[1])), &[3]),
        (of(&|query| query.outcome = Some("cut".into())), &[7, 8]),
        (of(&|query| query.route = Some(String::new())), &[4]),
    ] {
        assert_eq!(read(&query, 100).await, expected, "{query:?}");
    }
    let rows = store.events.events(&of(&|query| query.outcome = Some("not_sent".into())), None, 9).await.unwrap();
    let row = &rows[0];
    assert_eq!((row.status, row.units, row.kind.as_str(), row.parent_id), (None, 0, "request", None));
    assert_eq!((row.client_id, row.api_key_id, row.token_id), (CLIENTS[0].0, Some(KEY.0), None));
    assert_eq!((row.occurred_at, row.bytes_out), (at("2026-11-02T05:00:00Z"), 1_000));
}
