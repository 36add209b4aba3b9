//! The command line against an admin API elsewhere: it comes to what it comes to beside the store.

use std::process::{Command, Output};

use serde_json::{Value, json};

use super::Bench;
use crate::callers::fetch;
use crate::harness::{eventually, text};

/// Runs a command against the admin API, from a folder without any settings.
pub(super) fn remotely(bench: &Bench, token: &str, arguments: &[&str]) -> Output {
    remotely_as("json", bench, token, arguments)
}

pub(super) fn remotely_as(form: &str, bench: &Bench, token: &str, arguments: &[&str]) -> Output {
    from_afar_as(form, bench, token, arguments).output().expect("the binary runs")
}

pub(super) fn from_afar(bench: &Bench, token: &str, arguments: &[&str]) -> Command {
    from_afar_as("json", bench, token, arguments)
}

pub(super) fn from_afar_as(form: &str, bench: &Bench, token: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_octroi"));
    command
        .args(["--server", &format!("http://{}", bench.setup.admin), "--output", form])
        .args(arguments)
        .current_dir("/")
        .env_clear()
        .env("OCTROI_ADMIN_TOKEN", token);
    command
}

/// What a command comes to that reads `input`: its exit code, its answer, and the code of its failure.
pub(super) fn told(mut command: Command, input: &str) -> (i32, Value, Value) {
    use std::io::Write as _;
    let piped = std::process::Stdio::piped;
    let mut child = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().expect("the binary runs");
    // A command that refuses its arguments reads nothing.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
    let code = output.status.code().expect("it exits");
    assert!(code == 0 || output.stderr.starts_with(b"{"), "{}", text(&output.stderr));
    (code, read(&output.stdout), read(&output.stderr)["code"].clone())
}

/// The same command beside the store and from afar: it must come to the same.
pub(super) fn both_ways(bench: &Bench, token: &str, arguments: &[&str], input: &str) -> (i32, Value, Value) {
    let afar = told(from_afar(bench, token, arguments), input);
    let beside = told(bench.setup.command(&[&["--output", "json"], arguments].concat()), input);
    assert_eq!(afar, beside, "{arguments:?}");
    afar
}

pub(super) fn remote(bench: &Bench, token: &str, arguments: &[&str]) -> Value {
    let output = remotely(bench, token, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

#[test]
fn the_command_line_works_from_afar_as_it_does_beside_the_store() {
    let bench = Bench::sqlite();
    let owner = bench.token("owner");
    let plan = remote(&bench, &owner, &["plan", "create", "gold", "--rate", "5/s", "--quota", "100/day"]);
    assert_eq!(plan, bench.setup.json(&["plan", "show", "gold"]));
    let client = remote(&bench, &owner, &["client", "create", "initech", "--plan", "gold", "--concurrency", "3"]);
    let id = client["id"].as_str().unwrap();
    assert_eq!(client, bench.setup.json(&["client", "show", "initech"]));
    remote(&bench, &owner, &["client", "update", "initech", "--rate", "7/s", "--plan", "none"]);
    assert_eq!(remote(&bench, &owner, &["client", "show", id]), bench.setup.json(&["client", "show", id]));
    let key = remote(&bench, &owner, &["key", "create", "initech", "--scope", "a", "--expires", "1h"]);
    let raw = key["key"].as_str().unwrap();
    assert_eq!(fetch(bench.setup.data, "/", &[&format!("X-API-Key: {raw}")]).status, 200);
    let key_id = key["key_id"].as_str().unwrap();
    // It is written down when it was used: else it would move between two looks.
    eventually("its use shows", || !bench.setup.json(&["key", "show", key_id])["last_used_at"].is_null());
    // Beside the store and from afar in turn: the same command, the same key.
    for (change, member, value) in [
        (["--name", "desk"].as_slice(), "name", json!("desk")),
        (&["--scope", "b", "--scope", "c"], "scopes", json!(["b", "c"])),
        (&["--no-scopes"], "scopes", json!([])),
        (&["--rate", "5/s", "--burst", "7"], "burst", json!(7)),
        (&["--rate", "none"], "burst", Value::Null),
        (&["--allow", "127.0.0.0/8"], "allowed_addresses", json!(["127.0.0.0/8"])),
        (&["--allow-all"], "allowed_addresses", json!([])),
        (&["--expires", "never"], "expires_at", Value::Null),
    ] {
        let command = [&["key", "update", key_id], change].concat();
        assert_eq!(remote(&bench, &owner, &command)[member], value, "{command:?}");
        assert_eq!(bench.setup.json(&command)[member], value, "{command:?}");
    }
    assert_eq!(bench.setup.octroi(&["key", "update", key_id]).status.code(), Some(2), "nothing to change");
    let rotated = remote(&bench, &owner, &["key", "rotate", key_id, "--grace", "0s"]);
    remote(&bench, &owner, &["key", "revoke", rotated["key_id"].as_str().unwrap()]);
    for list in [
        ["client", "list"].as_slice(),
        &["key", "list"],
        &["key", "list", "initech"],
        &["plan", "list"],
        &["admin", "list"],
        &["plan", "marks"],
    ] {
        assert_eq!(remote(&bench, &owner, list), bench.setup.json(list), "{list:?}");
    }
    assert_eq!(
        remote(&bench, &owner, &["audit", "--client", "initech"]),
        bench.setup.json(&["audit", "--client", "initech"])
    );
    let suspended = remote(&bench, &owner, &["client", "suspend", "initech"]);
    assert_eq!(suspended["status"], "suspended");
    eventually("an event shows", || remote(&bench, &owner, &["usage"])["total"]["requests"] == 1);
    assert_eq!(
        remote(&bench, &owner, &["usage", "--by", "client,route"])["items"],
        bench.setup.json(&["usage", "--by", "client,route"])["items"]
    );
    // What goes wrong is told as it is beside the store.
    for (token, arguments, code, exit) in [
        (owner.as_str(), ["client", "show", "nobody"].as_slice(), "not_found", 1),
        // A whole key is sent nowhere.
        ("octroi_admin_nonsense", &["key", "show", &"k".repeat(60)], "not_found", 1),
        (owner.as_str(), &["key", "verify"], "bad_usage", 2),
        (owner.as_str(), &["migrate", "up"], "bad_usage", 2),
        ("octroi_admin_nonsense", &["client", "list"], "invalid_credentials", 1),
        (&bench.token("auditor"), &["client", "create", "x"], "forbidden", 1),
    ] {
        let output = remotely(&bench, token, arguments);
        let told: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
        assert_eq!((&told["code"], output.status.code()), (&code.into(), Some(exit)), "{arguments:?}: {told}");
    }
}

#[test]
fn what_is_no_admin_api_is_a_failure_and_not_an_empty_list() {
    for (kind, body) in [("text/plain", "hello"), ("application/json", "{\"hello\":1}"), ("application/json", "hello")]
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let server = format!("http://{}", listener.local_addr().expect("it is bound"));
        let _answering = std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            for stream in listener.incoming() {
                let mut stream = stream.expect("somebody asks");
                let _ = stream.read(&mut [0; 4096]);
                let length = body.len();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n");
                let _ = write!(stream, "{head}connection: close\r\n\r\n{body}");
            }
        });
        for arguments in
            [["client", "list"].as_slice(), &["key", "list"], &["usage"], &["refusals"], &["top"], &["tail"]]
        {
            let mut command = Command::new(env!("CARGO_BIN_EXE_octroi"));
            command.args(["--server", &server, "--output", "json"]).args(arguments).current_dir("/").env_clear();
            command.env("OCTROI_ADMIN_TOKEN", "octroi_admin_nonsense");
            let (exit, _, code) = told(command, "");
            assert_eq!((exit, code), (1, json!("server_unreadable")), "{kind} {body}: {arguments:?}");
        }
    }
}
