//! The shipped configurations are true: each parses, and the reference has every setting with
//! its default.

use std::path::{Path, PathBuf};

use octroi::config::{Config, Environment};
use toml::{Table, Value};

fn shipped(name: &str) -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    let text = std::fs::read_to_string(&path).expect("it is shipped");
    (path, text)
}

#[test]
fn every_shipped_configuration_parses_without_a_problem() {
    for name in ["octroi.toml", "reference.toml"] {
        let (path, text) = shipped(name);
        if let Err(problems) = Config::parse(&text, Some(&path), &Environment::default()) {
            panic!("{name}: {problems}");
        }
    }
}

/// Every setting as (path, value), lists of tables by their first.
fn settings(prefix: &str, table: &Table, found: &mut Vec<(String, String)>) {
    for (name, value) in table {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(inner) => settings(&path, inner, found),
            Value::Array(items) if items.first().is_some_and(Value::is_table) => {
                settings(&path, items[0].as_table().expect("just seen"), found);
            }
            other => found.push((path, other.to_string())),
        }
    }
}

/// What a user must write, so that no default can be compared.
const EXAMPLES: [&str; 6] =
    ["upstreams.name", "upstreams.endpoints", "routes.name", "routes.path", "routes.upstream", "routes.host"];

#[test]
fn the_reference_has_every_setting_with_its_default() {
    let (_, reference) = shipped("reference.toml");
    let mut written = Vec::new();
    settings("", &reference.parse().expect("it parses"), &mut written);
    written.sort();

    let least = "[[upstreams]]\nname = \"orders\"\nendpoints = [\"http://a\"]\n\
                 [[routes]]\npath = \"/orders\"\nupstream = \"orders\"\n";
    let defaults = Config::parse(least, None, &Environment::default()).expect("it parses");
    let mut known = Vec::new();
    settings("", &defaults.effective, &mut known);
    known.sort();

    let names = |list: &[(String, String)]| list.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    assert_eq!(names(&written), names(&known), "the reference and the program know different settings");
    for ((path, written), (_, known)) in written.iter().zip(&known) {
        assert!(
            EXAMPLES.contains(&path.as_str()) || written == known,
            "{path}: the reference says {written}, the default is {known}"
        );
    }
}
