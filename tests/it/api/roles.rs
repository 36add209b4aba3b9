//! What each role may.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};

use super::{Bench, refused};
use crate::callers::fetch;

/// Of each row: method, path, and who may. `C` is the client that support and client tokens are for, `O`
/// another one.
const ROWS: &[(&str, &str, &str)] = &[
    ("GET", "/v1/clients", "owner operator auditor support client"),
    ("POST", "/v1/clients", "owner operator"),
    ("GET", "/v1/clients/C", "owner operator auditor support client"),
    ("GET", "/v1/clients/O", "owner operator auditor"),
    ("PATCH", "/v1/clients/C", "owner operator"),
    ("POST", "/v1/clients/N/erase", "owner"),
    ("GET", "/v1/clients/C/keys", "owner operator auditor support client"),
    ("GET", "/v1/clients/O/keys", "owner operator auditor"),
    ("POST", "/v1/clients/C/keys", "owner operator support client"),
    ("POST", "/v1/clients/O/keys", "owner operator"),
    ("GET", "/v1/keys", "owner operator auditor support client"),
    ("GET", "/v1/keys/N", "owner operator auditor support client"),
    ("PATCH", "/v1/keys/N", "owner operator support client"),
    ("DELETE", "/v1/keys/N", "owner operator support client"),
    ("POST", "/v1/keys/N/rotate", "owner operator support client"),
    ("POST", "/v1/keys/verify", "owner operator auditor support client"),
    ("POST", "/v1/keys/import", "owner operator"),
    ("GET", "/v1/backfill", "owner"),
    ("POST", "/v1/backfill/run", "owner"),
    ("GET", "/v1/backfill/differences", "owner"),
    ("POST", "/v1/backfill/finish", "owner"),
    ("GET", "/v1/plans", "owner operator auditor"),
    ("POST", "/v1/plans", "owner operator"),
    ("GET", "/v1/plans/N", "owner operator auditor"),
    ("PATCH", "/v1/plans/N", "owner operator"),
    ("GET", "/v1/plans/N/replay?client=O", "owner operator auditor"),
    ("GET", "/v1/quota-marks", "owner operator auditor support client"),
    ("GET", "/v1/usage", "owner operator auditor support client"),
    ("GET", "/v1/usage?client=O", "owner operator auditor"),
    ("GET", "/v1/usage/events", "owner operator auditor support client"),
    ("GET", "/v1/usage/events/N", "owner operator auditor support client"),
    ("GET", "/v1/usage/months/2020-01", "owner operator auditor support client"),
    ("POST", "/v1/usage/months/2999-01/close", "owner operator"),
    ("GET", "/v1/usage/months/2020-01/statements/C", "owner operator auditor support client"),
    ("GET", "/v1/usage/months/2020-01/statements/O", "owner operator auditor"),
    ("GET", "/v1/usage/reconcile", "owner operator auditor"),
    ("POST", "/v1/usage/reconcile", "owner operator"),
    ("POST", "/v1/usage/redrain", "owner operator"),
    ("GET", "/v1/refusals", "owner operator auditor support client"),
    ("POST", "/v1/explain", "owner operator auditor support"),
    ("GET", "/v1/requests/x", "owner operator auditor support"),
    ("GET", "/v1/audit", "owner operator auditor"),
    ("GET", "/v1/operators", "owner"),
    ("POST", "/v1/operators", "owner"),
    ("GET", "/v1/operators/N", "owner"),
    ("PATCH", "/v1/operators/N", "owner"),
    ("PUT", "/v1/operators/N/password", "owner"),
    ("DELETE", "/v1/operators/N/sessions", "owner"),
    ("GET", "/v1/tokens", "owner"),
    ("POST", "/v1/tokens", "owner"),
    ("GET", "/v1/tokens/N", "owner"),
    ("DELETE", "/v1/tokens/N", "owner"),
    ("GET", "/v1/config", "owner operator auditor"),
    ("GET", "/v1/nodes", "owner operator auditor"),
    ("GET", "/v1/live", "owner operator auditor"),
    ("GET", "/v1/tail?seconds=1", "owner operator auditor support client"),
    ("GET", "/v1/peppers", "owner operator auditor"),
    ("GET", "/v1/migrations", "owner operator auditor"),
];

/// Rows for whoever is known, or for all.
const OTHER_ROWS: &[(&str, &str)] = &[
    ("POST", "/v1/sessions"),
    ("GET", "/v1/sessions"),
    ("GET", "/v1/sessions/current"),
    ("DELETE", "/v1/sessions/current"),
    ("PUT", "/v1/sessions/current/password"),
];

#[test]
fn each_role_may_what_its_row_says_and_nothing_else() {
    let bench = Bench::sqlite();
    let nobody = "00000000-0000-4000-8000-000000000000";
    for role in ["owner", "operator", "auditor", "support", "client"] {
        let token = bench.token(role);
        for (method, path, may) in ROWS {
            let path = path.replace("/C", &format!("/{}", bench.client)).replace("=O", &format!("={}", bench.other));
            let path = path.replace("/O", &format!("/{}", bench.other)).replace("/N", &format!("/{nobody}"));
            let body = if *method == "GET" || *method == "DELETE" { Value::Null } else { json!({}) };
            let answer = bench.with(&token, method, &path, &body);
            let may = may.split(' ').any(|other| other == role);
            // Who may is answered, or told that something is not there or makes no sense.
            let is_confined = matches!(role, "support" | "client");
            let is_shut_out =
                answer.status == 403 || (is_confined && answer.status == 404 && path.contains(&bench.other));
            assert_eq!(!is_shut_out, may, "{role} {method} {path}: {answer:?}");
            assert_ne!(answer.status, 401);
        }
    }
    // The table above has every row of the description.
    let document = bench.ask("GET", "/openapi.json", &[], &Value::Null).json();
    let mut described = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            described.push((method.to_uppercase(), path.clone()));
        }
    }
    let shape = |path: &str| {
        let path = path.split('?').next().unwrap();
        let parts = path.split('/').map(|part| match part {
            "C" | "O" | "N" | "x" | "2020-01" | "2999-01" => "{}",
            part if part.starts_with('{') => "{}",
            part => part,
        });
        parts.collect::<Vec<_>>().join("/")
    };
    for (method, path) in described {
        let tabled = ROWS.iter().map(|(method, path, _)| (*method, *path)).chain(OTHER_ROWS.iter().copied());
        let is_tabled = tabled.into_iter().any(|(other, row)| other == method && shape(row) == shape(&path));
        assert!(is_tabled, "{method} {path} is in no table of who may");
    }
}

#[test]
fn a_client_s_token_manages_its_own_keys() {
    let bench = Bench::sqlite();
    let token = bench.token("client");
    let keys = format!("/v1/clients/{}/keys", bench.client);
    // The first comes from an operator: it says how far the others go.
    refused(&bench.with(&token, "POST", &keys, &json!({"name": "mine"})), 403, "forbidden");
    let first = bench.setup.key(&bench.client, &["--scope", "orders:read", "--allow", "127.0.0.0/8"]);
    let within = json!({"name": "mine", "scopes": ["orders:read"], "allowed_addresses": ["127.0.0.1"]});
    let made = bench.with(&token, "POST", &keys, &within);
    assert_eq!(made.status, 201, "{made:?}");
    let raw = made.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(fetch(bench.setup.data, "/", &[&format!("X-API-Key: {raw}")]).status, 200);
    let own_key = format!("/v1/keys/{}", made.json()["id"].as_str().unwrap());
    for wider in [
        json!({"scopes": ["orders:read", "orders:admin"]}),
        json!({"scopes": ["*"]}),
        json!({"allowed_addresses": []}),
        json!({"allowed_addresses": ["0.0.0.0/0"]}),
    ] {
        refused(&bench.with(&token, "PATCH", &own_key, &wider), 403, "forbidden");
        refused(&bench.with(&token, "POST", &keys, &wider), 403, "forbidden");
    }
    assert_eq!(bench.with(&token, "PATCH", &own_key, &json!({"scopes": [], "name": "narrow"})).status, 200);
    assert_eq!(bench.with(&token, "POST", &format!("{own_key}/rotate"), &json!({"grace": "0s"})).status, 201);
    let foreign = bench.setup.key(&bench.other, &[]);
    refused(&bench.with(&token, "DELETE", &format!("/v1/keys/{}", foreign.id), &Value::Null), 404, "not_found");
    refused(&bench.with(&token, "GET", &format!("/v1/keys?after={}", foreign.id), &Value::Null), 400, "bad_request");
    refused(&bench.with(&token, "GET", &format!("/v1/clients/{}", bench.other), &Value::Null), 404, "not_found");
    let own = bench.with(&token, "GET", "/v1/keys", &Value::Null).json();
    assert_eq!(own["items"].as_array().unwrap().len(), 3, "{own}");
    let seen = bench.with(&token, "GET", "/v1/clients", &Value::Null).json();
    assert_eq!(seen["items"].as_array().unwrap().len(), 1, "{seen}");
    // A suspended client only gives keys back.
    bench.setup.json(&["client", "suspend", &bench.client]);
    refused(&bench.with(&token, "POST", &keys, &within), 403, "forbidden");
    assert_eq!(bench.with(&token, "DELETE", &format!("/v1/keys/{}", first.id), &Value::Null).status, 200);
}

#[test]
fn a_role_for_several_clients_says_for_which_one_it_lists_keys() {
    let bench = Bench::sqlite();
    let clients = ["--client", &bench.client, "--client", &bench.other];
    let made = bench.setup.json(&[&["admin", "token", "create", "desk", "--role", "support"], &clients[..]].concat());
    let token = made["token"].as_str().unwrap();
    let key = bench.setup.key(&bench.other, &[]);
    let list = |query: &str| bench.with(token, "GET", &format!("/v1/keys{query}"), &Value::Null);
    refused(&list(""), 400, "bad_request");
    for (asked, ids) in [
        (format!("?client={}", bench.client), vec![]),
        (format!("?client={}", bench.other), vec![key.id.as_str()]),
        (format!("?client={}&key_id={}", bench.other, key.public_id), vec![&key.id]),
        (format!("?client={}&key_id={}", bench.client, key.public_id), vec![]),
    ] {
        let found = list(&asked).json();
        let found: Vec<_> = found["items"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap()).collect();
        assert_eq!(found, ids, "{asked}");
    }
    refused(&list(&format!("?client={}", bench.setup.client(&["initech"]))), 404, "not_found");
}

#[test]
fn two_changes_at_once_make_no_key_wider_than_each_of_them_may() {
    let bench = Bench::sqlite();
    let token = bench.token("client");
    bench.setup.key(&bench.client, &["--scope", "admin", "--allow", "10.0.0.0/8"]);
    bench.setup.key(&bench.client, &["--scope", "read"]);
    let keys = format!("/v1/clients/{}/keys", bench.client);
    let narrow = json!({"scopes": ["read"], "allowed_addresses": ["10.0.0.0/8"]});
    for _ in 0..8 {
        let made = bench.with(&token, "POST", &keys, &narrow);
        assert_eq!(made.status, 201, "{made:?}");
        let path = format!("/v1/keys/{}", made.json()["id"].as_str().unwrap());
        let changes = [json!({"allowed_addresses": []}), json!({"scopes": ["admin"]})];
        std::thread::scope(|scope| {
            for change in &changes {
                scope.spawn(|| {
                    let changed = bench.with(&token, "PATCH", &path, change);
                    // Done, after the other and too wide, or of what was no longer so.
                    assert!(matches!(changed.status, 200 | 403 | 412), "{changed:?}");
                });
            }
        });
        let key = bench.with(&token, "GET", &path, &Value::Null).json();
        let (scopes, addresses) = (&key["scopes"], key["allowed_addresses"].as_array().unwrap());
        assert!(*scopes != json!(["admin"]) || !addresses.is_empty(), "{key}");
        assert_eq!(bench.with(&token, "DELETE", &path, &Value::Null).status, 200);
    }
}

#[test]
fn a_customer_watches_in_few_places_and_leaves_the_others() {
    let bench = Bench::sqlite();
    let (client, support) = (bench.token("client"), bench.token("support"));
    let tail = |token: &str| {
        let mut stream = std::net::TcpStream::connect(bench.setup.admin).unwrap();
        let head = format!("GET /v1/tail HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        (stream, String::from_utf8(status[9..].to_vec()).unwrap())
    };
    let watching = [tail(&client), tail(&client)];
    assert!(watching.iter().all(|(_, status)| status == "200"));
    assert_eq!(tail(&client).1, "503");
    assert_eq!(tail(&support).1, "200", "its places are its own");
}
