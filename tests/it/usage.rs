//! The books as a person reads them.

use std::time::{Duration, Instant};

use crate::callers::{fetch, send};
use crate::harness::{Setup, text};
use crate::upstream::Upstream;

#[test]
fn usage_counts_exactly_what_was_answered_within_two_seconds() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let client = setup.client(&["acme"]);
    let key = setup.key(&client, &[]);
    let gateway = setup.start();
    let header = format!("X-API-Key: {}", key.raw);
    for _ in 0..5 {
        assert_eq!(fetch(setup.data, "/bytes/1000", &[&header]).body.len(), 1000);
    }
    assert_eq!(send(setup.data, "POST", "/echo", &[&header], &[7; 300]).body, vec![7; 300]);
    assert_eq!(fetch(setup.data, "/status/404", &[&header]).status, 404);
    assert_eq!(fetch(setup.data, "/", &[]).status, 401);
    let ended = Instant::now();
    let total = loop {
        let total = setup.usage("client")["total"].clone();
        if total["requests"] == 7 && total["rejected"] == 1 {
            break total;
        }
        assert!(ended.elapsed() < Duration::from_secs(4), "not within two seconds and a command's time: {total}");
    };
    assert_eq!((&total["units"], &total["bytes_in"], &total["bytes_out"]), (&7.into(), &300.into(), &5300.into()));

    let usage = setup.usage("client,key,route,status,outcome");
    assert_eq!(usage["by"], serde_json::json!(["client", "key", "route", "status", "outcome"]));
    let rows = usage["items"].as_array().unwrap();
    let row = |status: u64| rows.iter().find(|row| row["status"] == status);
    assert_eq!(row(200).unwrap()["requests"], 6);
    assert_eq!(row(404).unwrap()["outcome"], "complete");
    assert_eq!(row(200).unwrap()["client"], client.as_str());
    assert_eq!(row(200).unwrap()["key"], key.id.as_str());
    assert_eq!(row(401).unwrap()["outcome"], "rejected");
    assert_eq!(row(401).unwrap()["requests"], 0);

    let csv = setup.octroi(&["--output", "csv", "usage", "--client", "acme", "--by", "day,status"]);
    let csv = text(&csv.stdout);
    assert!(csv.lines().next().unwrap().starts_with("day,status,requests"), "{csv}");
    assert_eq!(csv.lines().count(), 3, "{csv}");
    let table = text(&setup.octroi(&["usage"]).stdout);
    assert_eq!(table.lines().last().unwrap().split_whitespace().next(), Some("7"), "{table}");
    let nothing = setup.json(&["usage", "--from", "2020-01-01", "--to", "2020-02-01"]);
    assert_eq!(nothing["total"]["requests"], 0);
    assert_eq!(setup.octroi(&["usage", "--from", "yesterday"]).status.code(), Some(2));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn single_events_are_lines() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let gateway = setup.start();
    let header = format!("X-API-Key: {}", key.raw);
    for path in ["/bytes/10", "/status/404", "/"] {
        fetch(setup.data, path, &[&header]);
    }
    assert_eq!(gateway.stop(), 0);
    let json = text(&setup.octroi(&["--output", "json", "usage", "events", "--client", "acme"]).stdout);
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["status"].as_u64().unwrap()).collect::<Vec<_>>(), [200, 404, 200]);
    assert_eq!(
        (&lines[0]["bytes_out"], &lines[0]["units"], &lines[0]["route"]),
        (&10.into(), &1.into(), &"all".into())
    );
    assert_eq!(lines[0]["api_key_id"], key.id.as_str());
    let csv =
        text(&setup.octroi(&["--output", "csv", "usage", "events", "--from", "-24h", "--outcome", "complete"]).stdout);
    assert!(csv.starts_with("id,request_id,client_id,"), "{csv}");
    assert_eq!(csv.lines().count(), 4);
    assert_eq!(
        text(
            &setup
                .octroi(&["--output", "json", "usage", "events", "--to", "2020-01-01", "--from", "2019-01-01"])
                .stdout
        ),
        ""
    );
    assert_eq!(setup.octroi(&["usage", "events", "--client", "nobody"]).status.code(), Some(1));
}
