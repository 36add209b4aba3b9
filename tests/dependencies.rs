//! What may enter the tree of dependencies: `deny.toml`, enforced from what Cargo resolved. The same file
//! is what `cargo deny check bans licenses sources` reads, where that is installed; here the tree is
//! judged wherever tests run.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the tree has failed")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use toml::Table;

fn rules() -> Table {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml")).unwrap().parse().unwrap()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .arg("--locked")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Packages that are really built here: the lock has more, which features that nobody asks for would need.
fn packages() -> Vec<Value> {
    let tree = cargo(&["tree", "--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}"]);
    let built: BTreeSet<(&str, &str)> =
        tree.lines().filter_map(|line| line.split(" (").next()?.split_once(" v")).collect();
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version", "1"])).unwrap();
    let is_built =
        |package: &&Value| built.contains(&(package["name"].as_str().unwrap(), package["version"].as_str().unwrap()));
    metadata["packages"].as_array().unwrap().iter().filter(is_built).cloned().collect()
}

/// Whether a licence expression (SPDX) is satisfied by these licences.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = spaced.split_whitespace().collect();
    words.reverse();
    any(&mut words, allowed)
}

/// `a OR b`
fn any(words: &mut Vec<&str>, allowed: &[&str]) -> bool {
    let mut holds = all(words, allowed);
    while words.last() == Some(&"OR") {
        words.pop();
        holds |= all(words, allowed);
    }
    holds
}

/// `a AND b`
fn all(words: &mut Vec<&str>, allowed: &[&str]) -> bool {
    let mut holds = one(words, allowed);
    while words.last() == Some(&"AND") {
        words.pop();
        holds &= one(words, allowed);
    }
    holds
}

fn one(words: &mut Vec<&str>, allowed: &[&str]) -> bool {
    let Some(word) = words.pop() else { return false };
    if word == "(" {
        let holds = any(words, allowed);
        words.pop();
        return holds;
    }
    if words.last() == Some(&"WITH") {
        words.pop();
        let exception = words.pop().unwrap_or_default();
        return allowed.contains(&format!("{word} WITH {exception}").as_str());
    }
    allowed.contains(&word)
}

/// A version's numbers; what stands behind them is left out.
fn numbers(version: &str) -> Vec<u64> {
    let plain = version.split(['-', '+']).next().unwrap_or_default();
    plain.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

#[test]
fn licence_expressions_are_read() {
    let allowed = ["MIT", "Apache-2.0 WITH LLVM-exception", "ISC"];
    for (expression, holds) in [
        ("MIT", true),
        ("MIT OR GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
        ("GPL-3.0/MIT", true),
        ("ISC AND (GPL-2.0 OR GPL-3.0)", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), holds, "{expression}");
    }
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let rules = rules();
    let allowed: Vec<&str> =
        rules["licenses"]["allow"].as_array().unwrap().iter().map(|licence| licence.as_str().unwrap()).collect();
    let wrong: Vec<String> = packages()
        .iter()
        .filter(|package| !is_allowed(package["license"].as_str().unwrap_or_default(), &allowed))
        .map(|package| format!("{} ({})", package["name"], package["license"]))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn every_dependency_comes_from_the_registry_and_none_is_banned() {
    let rules = rules();
    let packages = packages();
    assert!(packages.len() > 100);
    for package in &packages {
        let (name, version) = (package["name"].as_str().unwrap(), package["version"].as_str().unwrap());
        let source = package["source"].as_str();
        let is_ours = name == "octroi" && source.is_none();
        assert!(
            is_ours || source == Some("registry+https://github.com/rust-lang/crates.io-index"),
            "{name} is of {source:?}"
        );
        for ban in rules["bans"]["deny"].as_array().unwrap().iter().filter(|ban| ban["name"].as_str() == Some(name)) {
            let floor = ban.get("version").map(|version| version.as_str().unwrap().trim_start_matches('<'));
            let is_banned = floor.is_none_or(|floor| numbers(version) < numbers(floor));
            assert!(!is_banned, "{name} {version} is banned: {}", ban["reason"]);
        }
    }
}
