//! Output shapes, in one place: tables for people, JSON and CSV for programs.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Map, Value, json};

/// `--output`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For spreadsheets.
    Csv,
}

impl OutputFormat {
    /// One object.
    pub(super) fn object(self, object: &Value) {
        let fields = object.as_object().cloned().unwrap_or_default();
        match self {
            Self::Json => println!("{object}"),
            Self::Csv => print_csv(&keys(&fields), &[fields]),
            Self::Table => {
                let mut table = plain_table();
                for (name, value) in &fields {
                    table.add_row([name.clone(), cell(value)]);
                }
                println!("{table}");
            }
        }
    }

    /// A list, with the columns that a table shows of it.
    pub(super) fn list(self, items: &[Value], columns: &[&str], next: Option<String>) {
        match self {
            Self::Json => println!("{}", json!({ "items": items, "next": next })),
            Self::Csv | Self::Table => {
                let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
                let rows: Vec<_> = items.iter().filter_map(|item| item.as_object().cloned()).collect();
                self.rows(&columns, &rows);
                if let Some(next) = next {
                    eprintln!("more: --after {next}");
                }
            }
        }
    }

    /// Rows under columns, for tables and CSV.
    pub(super) fn rows(self, columns: &[String], rows: &[Map<String, Value>]) {
        if self == Self::Csv {
            print_csv(columns, rows);
            return;
        }
        let mut table = plain_table();
        table.set_header(columns.iter().map(|column| column.to_uppercase()));
        for row in rows {
            table.add_row(columns.iter().map(|column| cell(row.get(column).unwrap_or(&Value::Null))));
        }
        println!("{table}");
    }
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn keys(fields: &Map<String, Value>) -> Vec<String> {
    fields.keys().cloned().collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn print_csv(columns: &[String], rows: &[Map<String, Value>]) {
    println!("{}", columns.iter().map(|column| csv_field(column)).collect::<Vec<_>>().join(","));
    for row in rows {
        let fields = columns.iter().map(|column| csv_field(&cell(row.get(column).unwrap_or(&Value::Null))));
        println!("{}", fields.collect::<Vec<_>>().join(","));
    }
}

/// RFC 4180. A field that a spreadsheet would run as a formula gets an apostrophe in front: names
/// of clients are not ours.
fn csv_field(text: &str) -> String {
    let risky = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    let text = if risky { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_could_break_a_row_or_run_are_tamed() {
        for (text, field) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=1+1", "'=1+1"),
            ("-5", "-5"),
        ] {
            assert_eq!(csv_field(text), field);
        }
    }
}
