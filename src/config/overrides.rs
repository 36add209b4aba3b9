//! `OCTROI__SECTION__KEY`: any setting from the environment.
//!
//! A value is read as TOML, else as text; where the setting is text, always as text, so that
//! `OCTROI__SERVER__LIMITS__BODY=0` needs no quotes. A number picks an element of a list:
//! `OCTROI__ROUTES__0__UPSTREAM`.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::check::Findings;
use super::env::Environment;
use super::problem::Problem;

const PREFIX: &str = "OCTROI__";

/// Which variable set which path.
#[derive(Default)]
pub(super) struct Origins(BTreeMap<String, String>);

impl Origins {
    /// Remembers that `variable` set `path`.
    pub(super) fn note(&mut self, path: impl Into<String>, variable: impl Into<String>) {
        self.0.insert(path.into(), variable.into());
    }

    /// Says in a problem's message which variable it came from, if from one.
    pub(super) fn annotate(&self, problem: &mut Problem) {
        let covers = |path: &str| {
            problem.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        if let Some((_, variable)) = self.0.iter().rev().find(|(path, _)| covers(path)) {
            problem.message = format!("{} (from {variable})", problem.message);
        }
    }
}

/// Lays the environment's settings over those of the file.
pub(super) fn apply(written: &mut Table, schema: &Table, environment: &Environment, findings: &Findings) -> Origins {
    let mut origins = Origins::default();
    for (variable, text) in environment.starting_with(PREFIX) {
        let path = variable[PREFIX.len()..].to_ascii_lowercase();
        let segments: Vec<&str> = path.split("__").collect();
        let value = value_of(text, expected(schema, &segments));
        match set(written, &segments, value) {
            Some(path) => origins.note(path, variable),
            None => findings.add(Problem::new(
                variable,
                "this variable names no setting",
                "write OCTROI__SECTION__KEY, like OCTROI__SERVER__WORKERS; elements of lists count from 0, without gaps",
            )),
        }
    }
    origins
}

/// What the schema has at a path.
fn expected<'s>(schema: &'s Table, segments: &[&str]) -> Option<&'s Value> {
    let (first, rest) = segments.split_first()?;
    rest.iter().try_fold(schema.get(*first)?, |value, segment| match value {
        Value::Table(table) => table.get(*segment),
        Value::Array(items) => items.first().filter(|_| segment.parse::<usize>().is_ok()),
        _ => None,
    })
}

fn value_of(text: &str, expected: Option<&Value>) -> Value {
    let as_text = || Value::String(text.to_owned());
    match (text.parse::<Value>(), expected) {
        (Ok(Value::String(value)), Some(Value::Array(_))) => Value::Array(vec![Value::String(value)]),
        (Ok(value @ Value::String(_)), _) => value,
        (Ok(_), Some(Value::String(_))) => as_text(),
        (Ok(value), _) => value,
        (Err(_), Some(Value::Array(_))) => Value::Array(vec![as_text()]),
        (Err(_), _) => as_text(),
    }
}

/// Sets a value, making tables on the way; its path, or none when a segment leads nowhere.
fn set(table: &mut Table, segments: &[&str], value: Value) -> Option<String> {
    let (first, rest) = segments.split_first()?;
    if first.is_empty() {
        return None;
    }
    let below = match rest.first() {
        None => {
            table.insert((*first).to_owned(), value);
            return Some((*first).to_owned());
        }
        Some(next) if next.parse::<usize>().is_ok() => {
            let Value::Array(items) = table.entry(*first).or_insert_with(|| Value::Array(Vec::new())) else {
                return None;
            };
            set_item(items, rest, value)?
        }
        Some(_) => {
            let Value::Table(below) = table.entry(*first).or_insert_with(|| Value::Table(Table::new())) else {
                return None;
            };
            format!(".{}", set(below, rest, value)?)
        }
    };
    Some(format!("{first}{below}"))
}

fn set_item(items: &mut Vec<Value>, segments: &[&str], value: Value) -> Option<String> {
    let (first, rest) = segments.split_first()?;
    let index: usize = first.parse().ok()?;
    if index > items.len() {
        return None;
    }
    if index == items.len() {
        items.push(Value::Table(Table::new()));
    }
    if rest.is_empty() {
        items[index] = value;
        return Some(format!("[{index}]"));
    }
    let below = set(items[index].as_table_mut()?, rest, value)?;
    Some(format!("[{index}].{below}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::raw;
    use super::*;

    fn overlaid(file: &str, variables: &[(&str, &str)]) -> (Table, Vec<Problem>) {
        let mut written: Table = file.parse().unwrap();
        let findings = Findings::default();
        apply(&mut written, &raw::schema(), &Environment::of(variables, Path::new("/")), &findings);
        (written, findings.into_problems())
    }

    #[test]
    fn variables_are_toml_where_they_can_be_and_text_where_they_must_be() {
        for (variable, text, toml) in [
            ("OCTROI__SERVER__WORKERS", "3", "[server]\nworkers = 3"),
            (
                "OCTROI__SERVER__LISTEN",
                "[\"[::]:80\", \"0.0.0.0:80\"]",
                "server.listen = [\"[::]:80\", \"0.0.0.0:80\"]",
            ),
            ("OCTROI__SERVER__LISTEN", "0.0.0.0:80", "server.listen = [\"0.0.0.0:80\"]"),
            ("OCTROI__SERVER__LISTEN", "\"0.0.0.0:80\"", "server.listen = [\"0.0.0.0:80\"]"),
            ("OCTROI__SERVER__LIMITS__BODY", "0", "server.limits.body = \"0\""),
            ("OCTROI__STORE__URL", "sqlite:x.db", "store.url = \"sqlite:x.db\""),
            ("OCTROI__STORE__URL", "\"sqlite:x.db\"", "store.url = \"sqlite:x.db\""),
            ("OCTROI__STORE__MIGRATE", "true", "store.migrate = true"),
            ("OCTROI__ADMIN__METRICS_LISTEN", "", "admin.metrics_listen = \"\""),
            ("OCTROI__DATA_DIR", "/var/lib/octroi", "data_dir = \"/var/lib/octroi\""),
            ("OCTROI__LIMITS__DEFAULT__RATE", "5/m", "limits.default.rate = \"5/m\""),
            ("OCTROI__ROUTES", "[{path = \"/\", upstream = \"a\"}]", "routes = [{path = \"/\", upstream = \"a\"}]"),
            ("OCTROI__ROUTES__0__PATH", "/new", "routes = [{path = \"/new\"}]"),
        ] {
            let (written, problems) = overlaid("", &[(variable, text)]);
            assert_eq!(written, toml.parse().unwrap(), "{variable}={text}");
            assert_eq!(problems, [], "{variable}={text}");
        }
    }

    #[test]
    fn the_environment_beats_the_file_and_changes_nothing_else() {
        let file = "server.workers = 1\nserver.listen = [\"[::]:1\"]\n[[routes]]\npath = \"/a\"\nauth = \"key\"\n";
        let (written, _) = overlaid(file, &[("OCTROI__SERVER__WORKERS", "2"), ("OCTROI__ROUTES__0__AUTH", "none")]);
        let left = "server.workers = 2\nserver.listen = [\"[::]:1\"]\n[[routes]]\npath = \"/a\"\nauth = \"none\"\n";
        assert_eq!(written, left.parse().unwrap());
    }

    #[test]
    fn a_variable_that_leads_nowhere_is_named() {
        for variable in ["OCTROI__", "OCTROI____X", "OCTROI__ROUTES__7__PATH", "OCTROI__SERVER__WORKERS__X"] {
            let (_, problems) = overlaid("server.workers = 1", &[(variable, "1")]);
            assert_eq!(problems.len(), 1, "{variable}");
            assert_eq!(problems[0].path, variable);
        }
    }
}
