//! The metrics of the contract, as the running program tells them.

use crate::authority::Authority;
use crate::callers::fetch;
use crate::harness::{Setup, eventually, text};
use crate::upstream::Upstream;

/// CONTRACT 6: names, and their labels.
const CONTRACT: &[(&str, &[&str])] = &[
    ("octroi_requests_total", &["route", "outcome", "status_class"]),
    ("octroi_request_duration_seconds_bucket", &["route"]),
    ("octroi_upstream_duration_seconds_bucket", &["upstream"]),
    ("octroi_requests_in_flight", &[]),
    ("octroi_connections_open", &[]),
    ("octroi_auth_total", &["result", "reason"]),
    ("octroi_auth_cache_total", &["result"]),
    ("octroi_auth_stale_total", &[]),
    ("octroi_limit_total", &["policy", "result"]),
    ("octroi_metering_entries_total", &["state"]),
    ("octroi_metering_lag_seconds", &[]),
    ("octroi_metering_journal_bytes", &[]),
    ("octroi_metering_lost_total", &[]),
    ("octroi_store_errors_total", &["operation"]),
    ("octroi_upstream_health", &["upstream", "endpoint"]),
    ("octroi_config_reloads_total", &["result"]),
    ("octroi_tls_certificate_expiry_seconds", &[]),
    ("octroi_build_info", &["version"]),
];

#[test]
fn every_metric_of_the_contract_is_there_with_its_labels_and_names_nobody() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    Authority::new(setup.folder(), "ca").issue(setup.folder(), "server", &["localhost"]);
    setup.write_config(
        &setup
            .config()
            .replace("[telemetry]", "[admin.tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n[telemetry]"),
    );
    let metrics_listen = crate::harness::free_address();
    setup.write_config(&setup.config().replace("[admin]", &format!("[admin]\nmetrics_listen = \"{metrics_listen}\"")));
    let client = setup.client(&["acme"]);
    let key = setup.key(&client, &[]);
    let gateway = setup.spawn(&["serve"]);
    gateway.wait_for_log("\"serving\"");
    assert_eq!(fetch(setup.data, "/orders?x=1", &[&format!("X-API-Key: {}", key.raw)]).status, 200);
    assert_eq!(fetch(setup.data, "/orders", &["X-API-Key: octroi_live_nobody"]).status, 401);
    // A store that fails is counted.
    let file = rusqlite::Connection::open(setup.path("octroi.db")).unwrap();
    file.execute_batch("ALTER TABLE peppers RENAME TO gone; ALTER TABLE api_keys RENAME TO away;").unwrap();
    eventually("a failing store is counted", || {
        fetch(setup.data, "/", &[&format!("X-API-Key: {}", key.raw.replace("octroi", "legacy"))]);
        text(&fetch(metrics_listen, "/metrics", &[]).body).contains("octroi_store_errors_total{")
    });
    let told = text(&fetch(metrics_listen, "/metrics", &[]).body);
    for (name, labels) in CONTRACT {
        let sample = told
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' ')));
        let sample = sample.unwrap_or_else(|| panic!("no {name} in:\n{told}"));
        for label in *labels {
            assert!(sample.contains(&format!("{label}=\"")), "{name} has no label {label}: {sample}");
        }
    }
    // Labels are closed sets: no client, key, path or address of a caller.
    for secret in [client.as_str(), &key.id, &key.public_id, "/orders", "acme"] {
        assert!(!told.contains(secret), "{secret} is in the metrics");
    }
}
