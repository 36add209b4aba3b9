//! Keeps the shipped examples true: each loads without a problem, and the reference names every
//! setting there is with its real default.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the tree has failed")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests are told by the environment what to write anew, or what is there"
)]

use std::path::{Path, PathBuf};

use octroi::config::{self, Environment};
use toml::{Table, Value};

/// Settings that have no default: the reference shows an example.
const WITHOUT_DEFAULT: &[&str] = &[
    "auth.issuers[].issuer",
    "auth.issuers[].audiences",
    "auth.issuers[].algorithms",
    "auth.issuers[].jwks_url",
    "metering.sinks[].name",
    "metering.sinks[].type",
    "metering.sinks[].path",
    "server.listeners[].address",
    "server.tls.certificates[].certificate",
    "server.tls.certificates[].key",
    "upstreams[].name",
    "upstreams[].endpoints",
    "routes[].path",
    "routes[].upstream",
];

fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    files.sort();
    files
}

fn reference() -> Table {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/reference.toml")).unwrap();
    text.parse().unwrap()
}

/// Every setting of a table by its path; lists of tables by their first element.
fn settings(table: &Table, path: &str, found: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            Value::Table(below) => settings(below, &path, found),
            Value::Array(items) if items.first().is_some_and(Value::is_table) => {
                let first = items[0].as_table().unwrap();
                settings(first, &format!("{path}[]"), found);
            }
            value => found.push((path, value.clone())),
        }
    }
}

#[test]
fn every_example_loads_without_a_problem() {
    let files = examples();
    for expected in ["octroi.toml", "reference.toml"] {
        assert!(files.iter().any(|file| file.ends_with(expected)), "{expected} is shipped");
    }
    for file in files {
        let environment = Environment::of(&[], Path::new("/"));
        if let Err(problems) = config::load(Some(&file), &environment) {
            panic!("{}:\n{problems}", file.display());
        }
    }
}

#[test]
fn the_reference_names_every_setting_with_its_default() {
    let (mut known, mut written) = (Vec::new(), Vec::new());
    settings(&config::schema(), "", &mut known);
    settings(&reference(), "", &mut written);
    assert!(known.len() > 60, "the schema has all sections");
    for (path, default) in &known {
        let Some((_, value)) = written.iter().find(|(other, _)| other == path) else {
            panic!("config/reference.toml does not name `{path}`");
        };
        if !WITHOUT_DEFAULT.contains(&path.as_str()) {
            assert_eq!(value, default, "config/reference.toml shows another default of `{path}`");
        }
    }
    for (path, _) in &written {
        assert!(known.iter().any(|(other, _)| other == path), "`{path}` is no setting");
    }
}

#[test]
fn every_setting_of_the_reference_is_explained_in_prose() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/reference.toml")).unwrap();
    let mut explained = false;
    for line in text.lines() {
        let setting = line.contains('=') && !line.starts_with('#');
        // A comment speaks for the settings that follow it without a blank line.
        if setting {
            assert!(explained || line.starts_with("name ="), "no word on `{line}`");
        }
        explained = line.starts_with('#') || (setting && explained);
    }
}

#[test]
fn the_first_example_protects_everything_behind_it() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/octroi.toml");
    let loaded = config::load(Some(&file), &Environment::of(&[], Path::new("/"))).unwrap();
    assert_eq!(loaded.config.routes.len(), 1);
    assert_eq!(loaded.config.routes[0].path, "/");
    assert_eq!(loaded.config.routes[0].auth, config::route::RouteAuth::Required);
    assert_eq!(loaded.config.upstreams[0].endpoints[0].authority, "127.0.0.1:3000");
}

#[test]
fn the_schema_that_is_shipped_is_the_one_that_is_printed_and_examples_name_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let file = folder.join("octroi.schema.json");
    let printed = format!("{}\n", serde_json::to_string_pretty(&config::json_schema()).unwrap());
    if std::env::var_os("OCTROI_WRITE_SCHEMA").is_some() {
        std::fs::write(&file, &printed).unwrap();
    }
    let shipped = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(shipped == printed, "config/octroi.schema.json is old: run this test with OCTROI_WRITE_SCHEMA=1");
    for example in examples() {
        let text = std::fs::read_to_string(&example).unwrap();
        assert_eq!(text.lines().next(), Some("#:schema ./octroi.schema.json"), "{}", example.display());
    }
}

/// Whether a value is as a schema of ours says: types, names, items.
fn is_as(schema: &serde_json::Value, value: &serde_json::Value) -> bool {
    let kind = match value {
        serde_json::Value::Object(_) => "object",
        serde_json::Value::Array(_) => "array",
        serde_json::Value::String(_) => "string",
        serde_json::Value::Bool(_) => "boolean",
        serde_json::Value::Number(number) if number.is_f64() => "number",
        serde_json::Value::Number(_) => "integer",
        serde_json::Value::Null => "null",
    };
    if schema["type"] != kind {
        return false;
    }
    let members = value.as_object().into_iter().flatten().all(|(name, value)| {
        let known = &schema["properties"][name];
        let schema = if known.is_null() { &schema["additionalProperties"] } else { known };
        schema.is_object() && is_as(schema, value)
    });
    members && value.as_array().into_iter().flatten().all(|item| is_as(&schema["items"], item))
}

#[test]
fn the_examples_are_as_the_schema_says_and_typing_errors_are_not() {
    let schema = config::json_schema();
    for example in examples() {
        let table: Table = std::fs::read_to_string(&example).unwrap().parse().unwrap();
        assert!(is_as(&schema, &serde_json::to_value(table).unwrap()), "{}", example.display());
    }
    for wrong in ["[server]\nworker = 4", "[server]\nworkers = \"4\"", "[[routes]]\nscope = [\"a\"]", "listen = 1"] {
        let table: Table = wrong.parse().unwrap();
        assert!(!is_as(&schema, &serde_json::to_value(table).unwrap()), "{wrong}");
    }
}
