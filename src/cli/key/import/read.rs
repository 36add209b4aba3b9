//! From bytes to rows: CSV with a heading, or one JSON object a line.
//!
//! What cannot be read is a problem with its line, and reading goes on behind it. No message has
//! a value of the input in it: it may be a key.

use std::io::BufRead;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{Problem, Rows};

/// A row as it was written; an empty value is none.
// No `Debug`: it would print the key.
#[derive(Default)]
pub(super) struct RawRow {
    pub(super) line: u64,
    pub(super) client: Option<String>,
    pub(super) name: Option<String>,
    pub(super) api_key_hash: Option<String>,
    pub(super) sha256: Option<String>,
    pub(super) key: Option<Zeroizing<String>>,
    pub(super) scopes: Option<String>,
    pub(super) expires_at: Option<String>,
    pub(super) created_at: Option<String>,
}

/// The columns, in the order of the help text.
const COLUMNS: [&str; 8] = ["client", "name", "api_key_hash", "sha256", "key", "scopes", "expires_at", "created_at"];

/// No line is longer: a row has a name, a key and a few scopes.
const LINE_MAX: usize = 64 * 1024;

/// Hands every row that can be read to `each`, and returns what could not be.
pub(super) fn rows(input: &mut dyn BufRead, format: Rows, each: &mut dyn FnMut(RawRow)) -> Vec<Problem> {
    let mut problems = Vec::new();
    match format {
        Rows::Csv => csv_rows(input, each, &mut problems),
        Rows::Ndjson => json_rows(input, each, &mut problems),
    }
    problems
}

impl RawRow {
    fn set(&mut self, column: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        let value = Some(value.to_owned());
        match column {
            "client" => self.client = value,
            "name" => self.name = value,
            "api_key_hash" => self.api_key_hash = value,
            "sha256" => self.sha256 = value,
            "key" => self.key = value.map(Zeroizing::new),
            "scopes" => self.scopes = value,
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

fn csv_rows(input: &mut dyn BufRead, each: &mut dyn FnMut(RawRow), problems: &mut Vec<Problem>) {
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
                let mut row = RawRow { line: record.position().map_or(0, csv::Position::line), ..RawRow::default() };
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

fn json_rows(input: &mut dyn BufRead, each: &mut dyn FnMut(RawRow), problems: &mut Vec<Problem>) {
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

fn json_row(line: u64, text: &[u8]) -> Result<RawRow, Problem> {
    let object: Map<String, Value> = serde_json::from_slice(text)
        .map_err(|error| problem(line, format!("not a JSON object, at column {}", error.column())))?;
    let mut row = RawRow { line, ..RawRow::default() };
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
