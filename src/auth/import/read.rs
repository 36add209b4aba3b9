//! From bytes to rows: CSV with a heading, one JSON object a line, or members of a larger body.
//!
//! What cannot be read is a problem with its line, and reading goes on behind it. No message has
//! a value of the input in it: it may be a key.

use std::io::BufRead;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::{Form, Problem};
use crate::model::secret::SecretText;

/// A key that is to be imported, as it was written; an empty value is none.
// No `Debug`: where columns are mixed up any of them may hold a key.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = ImportRow)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What it is called where it is bad; without it, its place in the list, from 1.
    #[serde(default)]
    pub line: u64,
    /// An id, or a name that one client bears. It must be there.
    #[serde(default, deserialize_with = "filled")]
    pub client: Option<String>,
    /// What people call it; `imported` without it.
    #[serde(default, deserialize_with = "filled")]
    pub name: Option<String>,
    /// HMAC-SHA-256 of the key under the gateway's pepper, 64 hex digits. Exactly one of this, `sha256` and `key`
    /// must be there.
    #[serde(default, deserialize_with = "filled")]
    pub api_key_hash: Option<String>,
    /// Its plain SHA-256, 64 hex digits.
    #[serde(default, deserialize_with = "filled")]
    pub sha256: Option<String>,
    /// The key itself: it is hashed and forgotten.
    #[serde(default, deserialize_with = "filled_secret")]
    #[schema(value_type = Option<String>, format = Password)]
    pub key: Option<SecretText>,
    /// What it may do.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// When it stops working (RFC 3339).
    #[serde(default, deserialize_with = "filled")]
    pub expires_at: Option<String>,
    /// When it was made; now without it.
    #[serde(default, deserialize_with = "filled")]
    pub created_at: Option<String>,
}

fn filled<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(value)?;
    Ok(text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
}

fn filled_secret<'de, D: Deserializer<'de>>(value: D) -> Result<Option<SecretText>, D::Error> {
    let text = Option::<SecretText>::deserialize(value)?;
    Ok(text.map(|text| SecretText::new(text.expose().trim().to_owned())).filter(|text| !text.expose().is_empty()))
}

/// The columns, in the order of the help text.
const COLUMNS: [&str; 8] = ["client", "name", "api_key_hash", "sha256", "key", "scopes", "expires_at", "created_at"];

/// No line is longer: a row has a name, a key and a few scopes.
const LINE_MAX: usize = 64 * 1024;

/// Hands every row that can be read to `each`, and returns what could not be.
pub fn rows(input: &mut dyn BufRead, form: Form, each: &mut dyn FnMut(Row)) -> Vec<Problem> {
    let mut problems = Vec::new();
    match form {
        Form::Csv => csv_rows(input, each, &mut problems),
        Form::Ndjson => json_rows(input, each, &mut problems),
    }
    problems
}

impl Row {
    fn set(&mut self, column: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        if column == "key" {
            self.key = Some(SecretText::new(value.to_owned()));
            return;
        }
        if column == "scopes" {
            self.scopes = value.split_ascii_whitespace().map(str::to_owned).collect();
            return;
        }
        let value = Some(value.to_owned());
        match column {
            "client" => self.client = value,
            "name" => self.name = value,
            "api_key_hash" => self.api_key_hash = value,
            "sha256" => self.sha256 = value,
            "expires_at" => self.expires_at = value,
            "created_at" => self.created_at = value,
            _ => {}
        }
    }
}

fn problem(line: u64, reason: impl Into<String>) -> Problem {
    Problem { line, reason: reason.into() }
}

/// A column's name in a message, as far as it may be one: a file without a heading has values there.
fn unknown_column(name: &str) -> String {
    let legal = name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let named = if legal { format!("the column `{name}` is not known") } else { "a column is not known".to_owned() };
    format!("{named}; there are {}", COLUMNS.join(", "))
}

fn csv_rows(input: &mut dyn BufRead, each: &mut dyn FnMut(Row), problems: &mut Vec<Problem>) {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
    let heading = match reader.headers() {
        Ok(heading) => heading.clone(),
        Err(error) => return problems.push(problem(1, csv_fault(&error))),
    };
    let mut seen = Vec::new();
    for name in &heading {
        // Spreadsheets begin a file with a byte order mark.
        let name = name.trim_start_matches('\u{feff}');
        if !COLUMNS.contains(&name) {
            problems.push(problem(1, unknown_column(name)));
        } else if seen.contains(&name) {
            problems.push(problem(1, format!("the column `{name}` stands twice")));
        }
        seen.push(name);
    }
    // Without its columns no row can be understood.
    if !problems.is_empty() {
        return;
    }
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => return,
            Ok(true) => {
                let mut row = Row { line: record.position().map_or(0, csv::Position::line), ..Row::default() };
                seen.iter().zip(&record).for_each(|(column, value)| row.set(column, value));
                each(row);
            }
            Err(error) => {
                problems.push(problem(error.position().map_or(0, csv::Position::line), csv_fault(&error)));
                if matches!(error.kind(), csv::ErrorKind::Io(_)) {
                    return;
                }
            }
        }
    }
}

fn csv_fault(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} values where the heading has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "not UTF-8".to_owned(),
        csv::ErrorKind::Io(error) => format!("reading failed: {}", error.kind()),
        _ => "not CSV".to_owned(),
    }
}

fn json_rows(input: &mut dyn BufRead, each: &mut dyn FnMut(Row), problems: &mut Vec<Problem>) {
    let mut text = Zeroizing::new(Vec::with_capacity(LINE_MAX + 1));
    for line in 1.. {
        text.clear();
        let mut limited = std::io::Read::take(&mut *input, LINE_MAX as u64 + 1);
        match limited.read_until(b'\n', &mut text) {
            Ok(0) => return,
            Ok(_) if text.len() > LINE_MAX => {
                return problems.push(problem(line, format!("longer than {LINE_MAX} bytes; the rest was not read")));
            }
            Ok(_) if text.trim_ascii().is_empty() => {}
            Ok(_) => match json_row(line, &text) {
                Ok(row) => each(row),
                Err(problem) => problems.push(problem),
            },
            Err(error) => return problems.push(problem(line, format!("reading failed: {}", error.kind()))),
        }
    }
}

fn json_row(line: u64, text: &[u8]) -> Result<Row, Problem> {
    let object: Map<String, Value> = serde_json::from_slice(text)
        .map_err(|error| problem(line, format!("not a JSON object, at column {}", error.column())))?;
    let mut row = Row { line, ..Row::default() };
    for (name, value) in object {
        if !COLUMNS.contains(&name.as_str()) {
            return Err(problem(line, unknown_column(&name)));
        }
        match value {
            Value::Null => {}
            Value::String(text) => row.set(&name, Zeroizing::new(text).trim()),
            Value::Array(items) if name == "scopes" && items.iter().all(Value::is_string) => {
                let names: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
                row.set(&name, &names.join(" "));
            }
            _ => return Err(problem(line, format!("`{name}` is not text"))),
        }
    }
    Ok(row)
}
