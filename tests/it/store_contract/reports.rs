//! Reports on SQLite, which reads on threads of ours: none of them keeps a look-up waiting.

use std::time::Duration;

use super::{client, hash, new_key};
use crate::stores::Place;
use octroi::model::client::Client;
use octroi::store::events::EventQuery;
use octroi::store::{Store, UsageColumn, UsageQuery};

/// Tables that are read for ever: views over a count without an end, under their names. Each row has its
/// own outcome, as far as SQLite knows: what is the same in all is judged once.
async fn make_endless(place: &Place) {
    for (table, columns) in [
        (
            "usage_events",
            "'019a0000-0000-7000-8000-000000000000' AS id, '' AS request_id, '' AS client_id, NULL AS api_key_id,
             NULL AS token_id, '2026-11-01T00:00:00.000000Z' AS occurred_at, '' AS route, '' AS method, 0 AS status,
             iif(i < 0, '', 'complete') AS outcome, NULL AS reason, 0 AS duration_us, 0 AS bytes_in, 0 AS bytes_out,
             0 AS units, '' AS node, 'request' AS kind, NULL AS parent_id, NULL AS corrects",
        ),
        (
            "usage_hourly",
            "'2026-11-01T00:00:00.000000Z' AS hour, '' AS client_id, '' AS api_key_id, '' AS route, 0 AS status,
             'complete' AS outcome, '' AS reason, 0 AS requests, 0 AS units, 0 AS bytes_in, 0 AS bytes_out,
             0 AS duration_us",
        ),
    ] {
        place
            .must(&format!(
                "ALTER TABLE {table} RENAME TO {table}_aside;
                 CREATE VIEW {table} AS
                     WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {columns} FROM n"
            ))
            .await;
    }
}

async fn assert_looks_up(store: &Store, owner: &Client) {
    let found = store.keys.find_by_hash(&[hash(1)]).await.expect("a look-up waits for no report");
    assert_eq!(found.map(|found| found.client.id), Some(owner.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_without_an_end_keep_no_look_up_waiting() {
    let place = Place::sqlite();
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    make_endless(&place).await;
    let (from, to) = ("2020-01-01T00:00:00Z".parse().unwrap(), "2030-01-01T00:00:00Z".parse().unwrap());
    let mut reports = Vec::new();
    for _ in 0..4 {
        let events = EventQuery { outcome: Some("x".to_owned()), ..EventQuery::between(from, to) };
        let reader = store.clone();
        reports.push(tokio::spawn(async move { drop(reader.events.events(&events, None, 100).await) }));
        let sums = UsageQuery { from, to, client: None, by: vec![UsageColumn::Client] };
        let reader = store.clone();
        reports.push(tokio::spawn(async move { drop(reader.usage.sums(&sums).await) }));
    }
    // All of them are asked for by then; on however many threads they are read.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_looks_up(&store, &owner).await;
    }
    assert!(reports.iter().all(|report| !report.is_finished()), "they go on");
    for report in &reports {
        report.abort();
    }
    // Nobody waits for those any more: others are read at once, long before their limit.
    let listed = tokio::time::timeout(Duration::from_secs(5), store.clients.list(None, 10)).await;
    assert_eq!(listed.expect("reports that nobody waits for end").unwrap().items.len(), 1);
}
