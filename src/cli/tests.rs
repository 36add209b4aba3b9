//! The command line as a whole: what is understood, what is refused, and commands that need no
//! store.

use std::path::Path;

use clap::CommandFactory as _;

use super::*;
use crate::model::clock::ManualClock;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("octroi").chain(line.split_whitespace()))
}

/// Runs a command in a folder; its answer and its failure.
pub(super) fn answer(line: &str, folder: &Path, variables: &[(&str, &str)]) -> (String, Option<Failure>) {
    let cli = parse(line).unwrap_or_else(|error| panic!("{error}"));
    let context = Context {
        environment: Environment::of(variables, folder),
        config_file: cli.config,
        format: cli.output,
        server: cli.server,
        clock: ManualClock::at("2026-11-22T20:00:00Z".parse().unwrap()),
    };
    let mut out = Vec::new();
    let result = dispatch(&context, &cli.command, &mut out);
    (String::from_utf8(out).unwrap(), result.err())
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn commands_are_understood() {
    for line in [
        "serve",
        "--config x.toml serve",
        "serve --config x.toml --output json",
        "quickstart",
        "quickstart --upstream http://127.0.0.1:3000 --listen 127.0.0.1:1 --admin 127.0.0.1:2 --dir d",
        "config check",
        "config show --output json",
        "migrate up",
        "migrate up --dry-run",
        "migrate status",
        "migrate verify",
        "client create acme",
        "client create acme --rate 100/s --burst 7",
        "client list --limit 5 --after 0199f7a2-7d4c-7bce-9d6b-1f6e2a3b4c5d",
        "client show acme",
        "client update acme --name other",
        "client update acme --rate default",
        "client update acme --burst 5",
        "client suspend acme",
        "client resume acme",
        "key create acme",
        "key create acme --name ci --expires 90d --env test --scope a --scope b",
        "key create acme --rate 10/s --burst 5 --allow 192.0.2.0/24 --allow 2001:db8::/32",
        "key rotate octroi_live_0123456789ab",
        "key verify",
        "key import keys.csv --dry-run",
        "key import - --format ndjson",
        "key rotate octroi_live_0123456789ab --grace 0s --expires 90d",
        "key list",
        "key list acme",
        "key show octroi_live_0123456789ab",
        "key revoke octroi_live_0123456789ab",
        "usage",
        "usage --client acme --from -24h --to 2026-11-22T20:00:00Z --by client,key,route,status,outcome,hour,day,month",
        "usage --from=-24h --by hour --by client",
        "completions bash",
        "man",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn wrong_usage_is_refused() {
    for line in [
        "",
        "serf",
        "--output yaml serve",
        "client",
        "client create",
        "client create acme --rate fast",
        "client create acme --rate 0/s",
        "client create acme --burst 5",
        "client create acme --rate 1/s --burst 0",
        "client update acme",
        "client update acme --burst many",
        "client list --limit 0",
        "client list --after acme",
        "key create",
        "key create acme --expires 0s",
        "key create acme --expires soon",
        "key create acme --env prod",
        "key create acme --burst 5",
        "key create acme --rate fast",
        "key rotate",
        "key verify octroi_live_0123456789ab",
        "key import",
        "key import keys.csv --format xml",
        "key rotate octroi_live_0123456789ab --grace soon",
        "usage --from yesterday",
        "usage --by day,week",
        "quickstart --upstream ftp://example.com",
        "quickstart --listen 8080",
        "completions cmd",
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
    let long = "x".repeat(201);
    for name in ["", "  ", "a\u{7}b", long.as_str()] {
        assert!(Cli::try_parse_from(["octroi", "client", "create", name]).is_err(), "{name:?}");
    }
}

#[test]
fn help_and_version_are_answers() {
    for line in ["--help", "--version", "client --help", "client create -h"] {
        let error = parse(line).unwrap_err();
        assert!(!error.use_stderr(), "{line}");
        assert_eq!(error.exit_code(), 0, "{line}");
    }
}

#[test]
fn no_argument_takes_a_secret() {
    fn arguments(command: &clap::Command, found: &mut Vec<String>) {
        found.extend(command.get_arguments().map(|argument| argument.get_id().to_string()));
        command.get_subcommands().for_each(|command| arguments(command, found));
    }
    let mut found = Vec::new();
    arguments(&Cli::command(), &mut found);
    assert!(found.len() > 20);
    // Where it is kept may be said.
    found.retain(|name| !name.ends_with("_file"));
    for word in ["pepper", "secret", "password", "token", "raw"] {
        assert!(!found.iter().any(|name| name.contains(word)), "{word}");
    }
}

#[test]
fn config_check_tells_everything_in_each_shape() {
    let folder = tempfile::tempdir().unwrap();
    let write = |text: &str| std::fs::write(folder.path().join("octroi.toml"), text).unwrap();

    write("server.workers = 2\n");
    let (text, failure) = answer("config check", folder.path(), &[]);
    assert!(text.ends_with("octroi.toml is good\n") && failure.is_none(), "{text}");
    assert_eq!(answer("config check --output json", folder.path(), &[]).0, "{\"ok\":true,\"problems\":[]}\n");

    write("server.workers = -2\ncolour = 1\n");
    let (text, failure) = answer("config check --output json", folder.path(), &[]);
    let verdict: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(verdict["ok"], false);
    let paths: Vec<&str> =
        verdict["problems"].as_array().unwrap().iter().map(|problem| problem["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["colour", "server.workers"]);
    assert!(verdict["problems"][0]["message"].is_string() && verdict["problems"][0]["remedy"].is_string());
    let failure = failure.unwrap();
    assert_eq!((failure.exit(), failure.detail()), (Exit::Configuration, "2 problems"));

    let (text, _) = answer("config check", folder.path(), &[]);
    assert!(
        text.contains("  server.workers: -2 is out of range\n      write a whole number from 0 to 1024\n"),
        "{text}"
    );
    let (text, _) = answer("config check --output csv", folder.path(), &[]);
    assert!(text.starts_with("path,message,remedy\ncolour,"), "{text}");
}

#[test]
fn config_show_masks_secrets_in_both_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let secret = "hunter2-".repeat(5);
    let variables =
        [("API_KEY_PEPPER", secret.as_str()), ("DATABASE_URL", "postgres://u:hunter2@h/d"), ("HOME", "/home/op")];
    for line in ["config show", "config show --output json"] {
        let (text, failure) = answer(line, folder.path(), &variables);
        assert!(failure.is_none());
        assert!(text.contains("postgres://u:[secret]@h/d") && !text.contains("hunter2"), "{text}");
    }
    let (text, _) = answer("config show --output json", folder.path(), &variables);
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(shown["auth"]["pepper"], "[secret]");
    assert_eq!(shown["server"]["limits"]["uri"], "8KiB");
}

#[test]
fn commands_refuse_bad_settings_and_a_missing_pepper_with_78() {
    let folder = tempfile::tempdir().unwrap();
    let home = [("HOME", "/home/op")];
    let absent = answer("--config absent.toml client list", folder.path(), &home).1.unwrap();
    assert_eq!((absent.exit(), absent.code()), (Exit::Configuration, "bad_configuration"));
    let without = answer("key create acme", folder.path(), &home).1.unwrap();
    assert_eq!((without.exit(), without.code()), (Exit::Configuration, "bad_configuration"));
}

#[test]
fn completions_and_the_manual_are_written() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (text, failure) = answer(&format!("completions {shell}"), Path::new("/"), &[]);
        assert!(failure.is_none() && text.contains("quickstart"), "{shell}");
    }
    let (text, _) = answer("man", Path::new("/"), &[]);
    for part in [".TH octroi 1", "octroi\\-client\\-create", "dry\\-run"] {
        assert!(text.contains(part), "{part}");
    }
}
