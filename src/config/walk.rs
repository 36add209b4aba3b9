//! Compares what was written with what may be written: unknown keys and values of a wrong type,
//! all of them at once.
//!
//! The schema is the defaults, serialised (see [`super::raw::schema`]), so that a setting exists
//! by being a field of a raw type and nowhere else. What is wrong is noted and taken out, so that
//! the raw types can then be read whole; their own `deny_unknown_fields` stands behind this.

use toml::{Table, Value};

use super::check::Findings;
use super::later;
use super::problem::Problem;

/// Takes out of `written` what the schema does not know or would hold otherwise.
pub(super) fn prune(written: &mut Table, schema: &Table, findings: &Findings) {
    prune_table(written, schema, &Place { path: String::new(), root: schema }, findings);
}

/// Where the walk is.
struct Place<'s> {
    path: String,
    root: &'s Table,
}

impl Place<'_> {
    fn below(&self, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { path, root: self.root }
    }

    fn at(&self, index: usize) -> Self {
        Self { path: format!("{}[{index}]", self.path), root: self.root }
    }
}

fn prune_table(written: &mut Table, schema: &Table, place: &Place<'_>, findings: &Findings) {
    written.retain(|key, value| {
        let here = place.below(key);
        if let Some(expected) = schema.get(key) {
            return fits(value, expected, &here, findings);
        }
        findings.add(unknown(key, schema, &here));
        false
    });
}

/// Whether a value may stay. Tables are pruned and stay.
fn fits(value: &mut Value, expected: &Value, place: &Place<'_>, findings: &Findings) -> bool {
    match (value, expected) {
        // An empty table in the defaults has words under names that nobody knows before.
        (Value::Table(value), Value::Table(expected)) if expected.is_empty() => {
            let word = Value::String(String::new());
            value.retain(|key, item| fits(item, &word, &place.below(key), findings));
            true
        }
        (Value::Table(value), Value::Table(expected)) => {
            prune_table(value, expected, place, findings);
            true
        }
        (Value::Array(items), Value::Array(expected)) => {
            // An empty list in the defaults is a list of words.
            let word = Value::String(String::new());
            let expected = expected.first().unwrap_or(&word);
            let all = items
                .iter_mut()
                .enumerate()
                .fold(true, |all, (index, item)| fits(item, expected, &place.at(index), findings) && all);
            // A list of tables keeps its places, or later problems would name the wrong one.
            let tables = expected.is_table();
            if tables {
                items.iter_mut().filter(|item| !item.is_table()).for_each(|item| *item = Value::Table(Table::new()));
            }
            all || tables
        }
        (value, expected) if value.same_type(expected) => true,
        // A whole number is a number; it stays as it is written.
        (Value::Integer(_), Value::Float(_)) => true,
        (value, expected) => {
            let message = format!("this is {}, not {}", kind(value), kind(expected));
            findings.add(Problem::new(place.path.clone(), message, remedy(value, expected)));
            false
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

fn remedy(value: &Value, expected: &Value) -> String {
    match (value, expected) {
        (Value::Integer(_) | Value::Float(_) | Value::Boolean(_), Value::String(_)) => {
            format!("put it in quotes: \"{value}\"")
        }
        (Value::String(text), Value::Integer(_) | Value::Float(_) | Value::Boolean(_)) => {
            format!("write it without quotes: {text}")
        }
        (Value::String(text), Value::Array(_)) => format!("write a list: [\"{text}\"]"),
        (Value::Table(_), Value::Array(_)) => "write the heading in double brackets: [[…]]".to_owned(),
        (_, expected) => format!("write {}", kind(expected)),
    }
}

fn unknown(key: &str, schema: &Table, place: &Place<'_>) -> Problem {
    let path = place.path.clone();
    if let Some((message, remedy)) = later::explain(&path) {
        return Problem::new(path, message, remedy);
    }
    let remedy = if let Some(near) = nearest(key, schema) {
        format!("did you mean `{near}`?")
    } else if let Some(elsewhere) = find_elsewhere(key, place.root, "") {
        format!("did you mean `{elsewhere}`?")
    } else {
        let known: Vec<&str> = schema.keys().map(String::as_str).collect();
        format!("remove it; known here are {}", known.join(", "))
    };
    Problem::new(path, "there is no such setting", remedy)
}

fn nearest<'s>(key: &str, schema: &'s Table) -> Option<&'s str> {
    let bound = (key.chars().count() / 3).clamp(1, 3);
    let distances = schema.keys().map(|known| (edit_distance(key, known), known.as_str()));
    distances.filter(|(distance, _)| *distance <= bound).min().map(|(_, known)| known)
}

/// The path of a key of this name in another table.
fn find_elsewhere(key: &str, schema: &Table, path: &str) -> Option<String> {
    schema.iter().find_map(|(name, value)| {
        let here = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match value {
            Value::Table(below) if below.contains_key(key) => Some(format!("{here}.{key}")),
            Value::Table(below) => find_elsewhere(key, below, &here),
            Value::Array(items) => items
                .first()
                .and_then(Value::as_table)
                .is_some_and(|item| item.contains_key(key))
                .then(|| format!("{here}[].{key}")),
            _ => None,
        }
    })
}

/// Levenshtein's distance: insertions, deletions and replacements between two words.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (column, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::super::raw;
    use super::*;

    fn problems(text: &str) -> Vec<(String, String)> {
        let findings = Findings::default();
        prune(&mut text.parse().unwrap(), &raw::schema(), &findings);
        findings.into_problems().into_iter().map(|problem| (problem.path, problem.remedy)).collect()
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_found_with_their_paths() {
        for (text, path, remedy) in [
            ("[server]\nlissten = []", "server.lissten", "did you mean `listen`?"),
            ("listen = []", "listen", "did you mean `admin.listen`?"),
            ("[servers]", "servers", "did you mean `server`?"),
            ("strip_prefix = true", "strip_prefix", "did you mean `routes[].strip_prefix`?"),
            (
                "[admin]\ncolour = 1",
                "admin.colour",
                "remove it; known here are first_operator, hosts, listen, metrics_listen, oidc, public_url, sessions, tls",
            ),
            ("[server]\nworkers = \"4\"", "server.workers", "write it without quotes: 4"),
            ("[server.limits]\nbody = 0", "server.limits.body", "put it in quotes: \"0\""),
            ("[server]\nlisten = \"0.0.0.0:80\"", "server.listen", "write a list: [\"0.0.0.0:80\"]"),
            ("[server]\nlisten = [1]", "server.listen[0]", "put it in quotes: \"1\""),
            ("[routes]\npath = \"/\"", "routes", "write the heading in double brackets: [[…]]"),
            ("[[routes]]\n[[routes]]\npath = 1", "routes[1].path", "put it in quotes: \"1\""),
            ("[[routes]]\nstrip_prefix = \"yes\"", "routes[0].strip_prefix", "write it without quotes: yes"),
            ("server = 1", "server", "write a table"),
        ] {
            assert_eq!(problems(text), [(path.to_owned(), remedy.to_owned())], "{text}");
        }
    }

    #[test]
    fn all_are_found_at_once_and_the_rest_stays() {
        let mut written: Table =
            "x = 1\n[server]\nworkers = \"2\"\nlisten = [\"0.0.0.0:1\"]\n[[routes]]\npath = \"/a\"\ny = 1\n"
                .parse()
                .unwrap();
        let findings = Findings::default();
        prune(&mut written, &raw::schema(), &findings);
        let paths: Vec<String> = findings.into_problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["routes[0].y", "server.workers", "x"]);
        let left: Table = "[server]\nlisten = [\"0.0.0.0:1\"]\n[[routes]]\npath = \"/a\"\n".parse().unwrap();
        assert_eq!(written, left);
    }
}
