//! Reports over HTTP: however much there is, an answer is a page of it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Bench, refused, remote};
use crate::callers::fetch;
use crate::harness::text;

/// Two longest pages of sums and a bit.
const CLIENTS: u32 = 20_500;

/// Usage of many clients, one request each.
fn fill(bench: &Bench) {
    let connection = rusqlite::Connection::open(bench.setup.path("octroi.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
        .execute(
            "INSERT INTO usage_hourly (hour, client_id, api_key_id, route, status, outcome, reason,
                 requests, units, bytes_in, bytes_out, duration_us)
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             SELECT '2026-11-01T00:00:00.000000Z', printf('%08x-0000-4000-8000-000000000000', i),
                 '00000000-0000-0000-0000-000000000000', 'all', 200, 'complete', '', 1, 2, 3, 4, 5
             FROM n",
            [CLIENTS],
        )
        .unwrap();
}

/// Keys of the client that are over, from before any that works.
fn revoke_many(bench: &Bench) {
    let connection = rusqlite::Connection::open(bench.setup.path("octroi.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
        .execute(
            "INSERT INTO api_keys (client_id, name, api_key_hash, created_at, revoked_at)
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1100)
             SELECT ?1, 'over', printf('%064x', i), '2020-01-01T00:00:00.000000Z', '2020-01-02T00:00:00.000000Z' FROM n",
            [&bench.client],
        )
        .unwrap();
}

#[test]
fn a_client_whose_keys_were_rotated_a_thousand_times_can_rotate_on() {
    let bench = Bench::sqlite();
    revoke_many(&bench);
    let key = bench.setup.key(&bench.client, &["--name", "in-use", "--scope", "orders:read"]);
    let token = bench.token("client");
    let within = json!({"name": "mine", "scopes": ["orders:read"]});
    let keys = format!("/v1/clients/{}/keys", bench.client);
    let made = bench.with(&token, "POST", &keys, &within);
    assert_eq!(made.status, 201, "{made:?}");
    let rotated = bench.with(&token, "POST", &format!("/v1/keys/{}/rotate", key.id), &json!({}));
    assert_eq!(rotated.status, 201, "{rotated:?}");
    refused(&bench.with(&token, "POST", &keys, &json!({"scopes": ["*"]})), 403, "forbidden");
    let cookie = format!("cookie: {}", bench.sign_in());
    let page = |path: &str| text(&bench.ask("GET", path, &[&cookie], &Value::Null).body);
    let of_client = format!("/clients/{}", bench.client);
    let shown = page(&of_client);
    assert!(shown.contains("in-use") && !shown.contains(">over<"), "{shown}");
    assert!(shown.contains(&format!("{of_client}/keys\"")), "the whole list is a link away: {shown}");
    assert!(page(&format!("{of_client}/keys")).contains(">over<"));
}

#[test]
fn at_the_most_keys_one_can_still_take_another_s_place() {
    let bench = Bench::sqlite();
    let key = bench.setup.key(&bench.client, &[]);
    let connection = rusqlite::Connection::open(bench.setup.path("octroi.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    let insert = "INSERT INTO api_keys (client_id, name, api_key_hash)
                  WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 99)
                  SELECT ?1, 'more', printf('%064x', i) FROM n";
    connection.execute(insert, [&bench.client]).unwrap();
    let token = bench.token("client");
    let keys = format!("/v1/clients/{}/keys", bench.client);
    refused(&bench.with(&token, "POST", &keys, &json!({})), 409, "conflict");
    let rotate = format!("/v1/keys/{}/rotate", key.id);
    refused(&bench.with(&token, "POST", &rotate, &json!({"grace": "1h"})), 409, "conflict");
    assert_eq!(bench.with(&token, "POST", &rotate, &json!({"grace": "0s"})).status, 201);
    // Nor does one come back that was over.
    let expired = "INSERT INTO api_keys (client_id, name, api_key_hash, expires_at)
                   VALUES (?1, 'over', printf('%064x', 1000), '2020-01-01T00:00:00.000000Z') RETURNING id";
    let expired: String = connection.query_row(expired, [&bench.client], |row| row.get(0)).unwrap();
    let revive = bench.with(&token, "PATCH", &format!("/v1/keys/{expired}"), &json!({"expires_at": null}));
    refused(&revive, 409, "conflict");
}

#[test]
fn who_does_not_read_a_file_holds_up_nobody() {
    let bench = Bench::sqlite();
    let connection = rusqlite::Connection::open(bench.setup.path("octroi.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    let insert = "INSERT INTO usage_hourly (hour, client_id, api_key_id, route, status, outcome, reason,
                      requests, units, bytes_in, bytes_out, duration_us)
                  WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
                  SELECT '2026-11-01T00:00:00.000000Z', ?1, '00000000-0000-0000-0000-000000000000',
                      printf('route-with-a-long-name-so-that-rows-fill-buffers-%06d', i), 200, 'complete', '', 1, 2, 3, 4, 5
                  FROM n";
    connection.execute(insert, [&bench.client]).unwrap();
    let (token, support) = (bench.token("client"), bench.token("support"));
    let mut lazy = TcpStream::connect(bench.setup.admin).unwrap();
    let head = format!(
        "GET /usage.csv?client={}&from=2026-11-01&to=2026-11-02&by=client%2Croute HTTP/1.1\r\nHost: localhost\r\n\
         Authorization: Bearer {token}\r\n\r\n",
        bench.client
    );
    lazy.write_all(head.as_bytes()).unwrap();
    let mut status = [0; 12];
    lazy.read_exact(&mut status).unwrap();
    assert_eq!(&status[9..], b"200");
    // As much as goes into the buffers is on its way; the rest waits for whoever asked.
    std::thread::sleep(Duration::from_secs(2));
    for asks in [&support, &token] {
        let path = format!("/v1/usage?client={}&by=client", bench.client);
        let answer = bench.with(asks, "GET", &path, &Value::Null);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    drop(lazy);
}

#[test]
fn the_first_bar_of_a_client_is_of_a_whole_day() {
    let bench = Bench::sqlite();
    let connection = rusqlite::Connection::open(bench.setup.path("octroi.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    // The first hour of the first day that is shown, and the last hour of the day before, which is not.
    for (hour, requests) in [("'-29 days'", 71), ("'-29 days', '-1 hours'", 500)] {
        let insert = format!(
            "INSERT INTO usage_hourly (hour, client_id, api_key_id, route, status, outcome, reason,
                 requests, units, bytes_in, bytes_out, duration_us)
             VALUES (strftime('%Y-%m-%dT%H:00:00.000000Z', 'now', 'start of day', {hour}), ?1,
                 '00000000-0000-0000-0000-000000000000', 'all', 200, 'complete', '', ?2, 1, 1, 1, 1)"
        );
        connection.execute(&insert, rusqlite::params![bench.client, requests]).unwrap();
    }
    let cookie = format!("cookie: {}", bench.sign_in());
    let page = text(&bench.ask("GET", &format!("/clients/{}", bench.client), &[&cookie], &Value::Null).body);
    assert!(page.contains("Requests in the last 30 days: 71 requests, 0 refused"), "{page}");
}

/// Events that are read for ever, whoever asks: a view over a count without an end, under their name.
fn make_events_endless(bench: &Bench) {
    let connection = rusqlite::Connection::open(bench.setup.path("octroi.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    let view = format!(
        "ALTER TABLE usage_events RENAME TO usage_events_aside;
         CREATE VIEW usage_events AS
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
             SELECT '019a0000-0000-7000-8000-000000000000' AS id, '' AS request_id, '{client}' AS client_id,
                 NULL AS api_key_id, NULL AS token_id, '2026-11-01T00:00:00.000000Z' AS occurred_at, '' AS route,
                 '' AS method, 0 AS status, iif(i < 0, '', 'complete') AS outcome, NULL AS reason, 0 AS duration_us,
                 0 AS bytes_in, 0 AS bytes_out, 0 AS units, '' AS node, 'request' AS kind, NULL AS parent_id,
                 NULL AS corrects
             FROM n",
        client = bench.client
    );
    connection.execute_batch(&view).unwrap();
}

/// Whether nothing came on it yet.
fn waits(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    stream.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn what_a_customer_asks_for_stops_neither_callers_nor_operators() {
    let bench = Bench::sqlite();
    let keys: Vec<_> = (0..6).map(|_| bench.setup.key(&bench.client, &[])).collect();
    let (customer, owner) = (bench.token("client"), bench.token("owner"));
    // Both are known by then: who they are is asked of nothing that could be busy.
    for token in [&customer, &owner] {
        assert_eq!(bench.with(token, "GET", "/v1/clients", &Value::Null).status, 200);
    }
    make_events_endless(&bench);
    let reports: Vec<TcpStream> = (0..6)
        .map(|_| {
            let mut stream = TcpStream::connect(bench.setup.admin).unwrap();
            let head = format!(
                "GET /v1/usage/events?from=2020-01-01&outcome=x HTTP/1.1\r\nHost: localhost\r\n\
                 Authorization: Bearer {customer}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    let begun = Instant::now();
    for key in &keys {
        // Its first use, for which the store is asked.
        assert_eq!(fetch(bench.setup.data, "/", &[&format!("X-API-Key: {}", key.raw)]).status, 200);
        assert_eq!(bench.with(&owner, "GET", "/v1/clients", &Value::Null).status, 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(reports.iter().any(waits), "one of them is read all the while");
}

fn clients(answer: &Value) -> Vec<String> {
    let items = answer["items"].as_array().unwrap();
    items.iter().map(|item| item["client"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn sums_of_many_clients_come_in_pages_and_whole_to_the_command_line() {
    let bench = Bench::sqlite();
    fill(&bench);
    let token = bench.token("auditor");
    let period = "by=client&from=2026-11-01&to=2026-11-02";
    let ask = |more: &str| bench.with(&token, "GET", &format!("/v1/usage?{period}{more}"), &Value::Null);
    let (mut found, mut sizes, mut more) = (Vec::new(), Vec::new(), String::new());
    loop {
        let page = ask(&more).json();
        assert_eq!(page["total"]["requests"], CLIENTS, "of all, whatever the page");
        let items = clients(&page);
        sizes.push(items.len());
        found.extend(items);
        let Some(next) = page["next"].as_str() else { break };
        more = format!("&after={}", url::form_urlencoded::byte_serialize(next.as_bytes()).collect::<String>());
    }
    assert_eq!(sizes, [10_000, 10_000, 500]);
    assert!(found.is_sorted_by(|one, next| one < next), "each once, in order");
    assert_eq!(ask("&limit=3").json()["items"].as_array().unwrap().len(), 3);
    for nonsense in ["&limit=0", "&limit=10001", "&after=x", "&after=%5B%5D", "&after=%5B%22a%22%2C%22b%22%5D"] {
        refused(&ask(nonsense), 400, "bad_request");
    }

    let arguments = ["usage", "--by", "client", "--from", "2026-11-01", "--to", "2026-11-02"];
    let (afar, beside) = (remote(&bench, &token, &arguments), bench.setup.json(&arguments));
    assert_eq!(clients(&afar), found);
    assert_eq!(afar, beside, "the command line prints all of it in one piece");
    let cookie = format!("cookie: {}", bench.sign_in());
    let csv = bench.ask("GET", &format!("/usage.csv?{period}"), &[&cookie], &json!(null));
    assert_eq!(csv.status, 200, "{csv:?}");
    let csv = text(&csv.body);
    let ids: Vec<&str> = csv.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    assert_eq!((csv.lines().next().unwrap().starts_with("client,requests,"), ids == found), (true, true));
}
