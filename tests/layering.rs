//! The house has floors: a module imports only from strictly lower ranks.
//!
//! The ranks and the further invariants are those of ARCHITECTURE.md. The check reads the text
//! of `src/`, so it also sees code that the current features or tests do not compile.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules by rank, lowest first.
const RANKS: [&[&str]; 8] = [
    &["model"],
    &["config"],
    &["crypto", "telemetry", "wire", "tasks"],
    &["store", "clients", "server"],
    &["auth", "limit", "metering", "issuer", "operators"],
    &["proxy", "api"],
    &["app"],
    &["cli", "fuzzing"],
];

/// Words that may stand only below the named places.
const ONLY_IN: [(&str, &[&str], &str); 5] = [
    ("std::env::", &["src/config/", "src/main.rs"], "the environment is read in `config` only"),
    ("tokio::spawn(", &["src/tasks.rs"], "spawn through `tasks`"),
    ("SystemTime::now", &["src/model/clock.rs"], "take a Clock"),
    ("Timestamp::now", &["src/model/clock.rs"], "take a Clock"),
    ("Instant::now", &["src/model/clock.rs"], "take a Clock"),
];

/// Text that only SQL has; statements stand under `src/store/{sqlite,postgres}` and `migrations/`.
const SQL: [&str; 5] = ["INSERT INTO ", "SELECT ", "DELETE FROM ", "CREATE TABLE ", "UPDATE clients"];

fn ranks() -> BTreeMap<&'static str, usize> {
    RANKS.iter().enumerate().flat_map(|(rank, modules)| modules.iter().map(move |module| (*module, rank))).collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// A path relative to the package, its module, its numbered lines without comments and tests.
type Source = (String, String, Vec<(usize, String)>);

fn modules() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    files.sort();
    files.iter().map(|file| read(root, file)).collect()
}

fn read(root: &Path, file: &Path) -> Source {
    let relative = file.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
    let module = relative.trim_start_matches("src/").split('/').next().expect("a first part");
    let module = module.trim_end_matches(".rs").to_owned();
    let text = fs::read_to_string(file).expect("a source is UTF-8");
    let lines = text
        .lines()
        .enumerate()
        .take_while(|(index, _)| !begins_tests(&text, *index))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (index + 1, line.to_owned()))
        .collect();
    (relative, module, lines)
}

/// Whether the unit tests begin at this line. Other items that only tests have may stand before.
fn begins_tests(text: &str, index: usize) -> bool {
    let mut lines = text.lines().skip(index);
    lines.next().is_some_and(|line| line == "#[cfg(test)]")
        && lines.next().is_some_and(|line| line.starts_with("mod ") && line.contains("tests"))
}

/// Modules named after `crate::` in a line, also in a group: `crate::{a, b::c}`.
fn imported(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap_or_default().split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name: String =
                name.trim().chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect();
            found.push(name);
        }
    }
    found
}

#[test]
fn imports_point_downwards() {
    let ranks = ranks();
    let mut wrong = Vec::new();
    for (path, module, lines) in modules() {
        if matches!(module.as_str(), "lib" | "main") {
            continue;
        }
        let own = *ranks.get(module.as_str()).unwrap_or_else(|| panic!("{path}: module `{module}` has no rank"));
        for (number, line) in lines {
            for target in imported(&line) {
                let Some(rank) = ranks.get(target.as_str()) else { continue };
                if target != module && *rank >= own {
                    wrong.push(format!("{path}:{number}: `{module}` (rank {own}) imports `{target}` (rank {rank})"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that point upwards or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn the_proxy_never_sees_the_store() {
    for (path, module, lines) in modules() {
        for (number, line) in lines.iter().filter(|_| module == "proxy") {
            assert!(!imported(line).iter().any(|target| target == "store"), "{path}:{number}: proxy imports store");
        }
    }
}

#[test]
fn words_stand_only_where_they_belong() {
    let mut wrong = Vec::new();
    for (path, _, lines) in modules() {
        for (number, line) in &lines {
            for (word, places, why) in ONLY_IN {
                if line.contains(word) && !places.iter().any(|place| path.starts_with(place)) {
                    wrong.push(format!("{path}:{number}: `{word}`: {why}"));
                }
            }
            let in_store = path.starts_with("src/store/sqlite") || path.starts_with("src/store/postgres");
            if !in_store && SQL.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{path}:{number}: SQL outside the store"));
            }
            if line.contains("unsafe ") && path != "src/metering/mapped.rs" {
                wrong.push(format!("{path}:{number}: unsafe outside the mapping of the journal"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_check_itself_sees_groups_and_paths() {
    assert_eq!(imported("use crate::{store, auth::Authenticator};"), ["store", "auth"]);
    assert_eq!(imported("    crate::proxy::run(crate::app::x)"), ["proxy", "app"]);
    assert!(imported("use std::fmt;").is_empty());
}
