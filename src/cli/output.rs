//! The shapes of answers: an object, a list, sums; as a table, JSON or CSV.
//!
//! Commands say what ([`Row`]s of named values), this file says how. JSON and CSV name values as
//! the tables' columns; a table on a terminal shows those a person looks for.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, Table};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use crate::wire::csv::harmless;

/// How answers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one object.
    Json,
    /// For spreadsheets (RFC 4180).
    Csv,
}

/// Named values, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row(Vec<(&'static str, Value)>);

impl Row {
    /// No values yet.
    #[must_use]
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Those values of a JSON object that have these names, in this order.
    #[must_use]
    pub(super) fn read(names: &[&'static str], object: &Value) -> Self {
        Self(names.iter().map(|name| (*name, object[*name].clone())).collect())
    }

    /// With one more value at the end.
    #[must_use]
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// With a value that is written as text, or null.
    #[must_use]
    pub(super) fn with_text(self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.with(name, value.map(|value| value.to_string()))
    }

    /// With the values of another row at the end.
    #[must_use]
    pub(super) fn followed_by(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|(name, _)| *name).collect()
    }

    /// The value of this name; null where there is none.
    pub(super) fn find(&self, name: &str) -> &Value {
        self.0.iter().find(|(other, _)| *other == name).map_or(&Value::Null, |(_, value)| value)
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Writes one object.
pub(super) fn write_object(row: &Row, format: Format, out: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Json => write_json(row, out),
        Format::Csv => {
            write_csv_line(row.names().into_iter().map(str::to_owned), out)?;
            write_csv_line(row.0.iter().map(|(_, value)| cell(value)), out)
        }
        Format::Table => {
            let width = row.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            row.0.iter().try_for_each(|(name, value)| writeln!(out, "{name:width$}  {}", shown(value)))
        }
    }
}

/// Writes anything as one line of JSON.
pub(super) fn write_json(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// Writes a list as it comes, so that its length costs no memory; a table, whose columns are as
/// wide as their widest value, is kept until it is whole.
pub(super) struct ListWriter<'o> {
    out: &'o mut dyn Write,
    format: Format,
    columns: &'static [&'static str],
    shown: Vec<Row>,
    count: u64,
}

impl<'o> ListWriter<'o> {
    /// Begins a list. A table shows `columns` only; JSON and CSV have all values of the rows,
    /// which are `all`.
    pub(super) fn begin(
        format: Format,
        all: &[&'static str],
        columns: &'static [&'static str],
        out: &'o mut dyn Write,
    ) -> io::Result<Self> {
        match format {
            Format::Json => write!(out, "{{\"items\":[")?,
            Format::Csv => write_csv_line(all.iter().map(|name| (*name).to_owned()), out)?,
            Format::Table => {}
        }
        Ok(Self { out, format, columns, shown: Vec::new(), count: 0 })
    }

    /// Adds a row.
    pub(super) fn push(&mut self, row: Row) -> io::Result<()> {
        self.count += 1;
        match self.format {
            Format::Json => {
                if self.count > 1 {
                    write!(self.out, ",")?;
                }
                Ok(serde_json::to_writer(&mut *self.out, &row)?)
            }
            Format::Csv => write_csv_line(row.0.iter().map(|(_, value)| cell(value)), self.out),
            Format::Table => {
                self.shown.push(row);
                Ok(())
            }
        }
    }

    /// Ends the list. `next` names the last row, where more follow.
    pub(super) fn finish(self, next: Option<String>) -> io::Result<()> {
        match self.format {
            Format::Json => writeln!(self.out, "],\"next\":{}}}", Value::from(next)),
            Format::Csv => Ok(()),
            Format::Table => {
                write_table(self.columns, &self.shown, self.out)?;
                next.map_or(Ok(()), |next| writeln!(self.out, "more: --after {next}"))
            }
        }
    }
}

/// Writes rows under a heading, numbers to the right.
pub(super) fn write_table(columns: &[&str], rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(columns.iter().map(|name| Cell::new(name.to_uppercase())));
    for row in rows {
        table.add_row(columns.iter().map(|name| Cell::new(shown(row.find(name)))));
    }
    for (index, name) in columns.iter().enumerate() {
        let numbers = !rows.is_empty() && rows.iter().all(|row| row.find(name).is_number());
        let Some(column) = table.column_mut(index) else { continue };
        column.set_padding((0, 2));
        if numbers {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(out, "{}", table.trim_fmt())
}

/// Writes rows under a heading, all values.
pub(super) fn write_csv(columns: &[&str], rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    write_csv_line(columns.iter().map(|name| (*name).to_owned()), out)?;
    write_csv_rows(columns, rows, out)
}

/// Writes rows of a CSV whose first line was written.
pub(super) fn write_csv_rows(columns: &[&str], rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    rows.iter().try_for_each(|row| write_csv_line(columns.iter().map(|name| cell(row.find(name))), out))
}

fn write_csv_line(values: impl Iterator<Item = String>, out: &mut dyn Write) -> io::Result<()> {
    let quoted: Vec<String> = values
        .map(|value| {
            let special = value.contains([',', '"', '\n', '\r']);
            if special { format!("\"{}\"", value.replace('"', "\"\"")) } else { value }
        })
        .collect();
    writeln!(out, "{}", quoted.join(","))
}

/// A value in CSV.
fn cell(value: &Value) -> String {
    let text = plain(value);
    if matches!(value, Value::Number(_)) { text } else { harmless(&text) }
}

/// A value without JSON's quotes; a list as words.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// A value on a terminal: nothing is a dash, and what would steer the terminal is not passed on
/// (names come from outside).
fn shown(value: &Value) -> String {
    let text = plain(value);
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars().map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        vec![
            Row::new().with("id", "a").with("name", "Acme, \"Inc\"").with("requests", 5_u64),
            Row::new().with("id", "b").with_text("name", None::<&str>).with("requests", 12_345_u64),
        ]
    }

    fn list(format: Format, next: Option<&str>) -> String {
        let mut out = Vec::new();
        let mut list = ListWriter::begin(format, &["id", "name", "requests"], &["id", "requests"], &mut out).unwrap();
        for row in rows() {
            list.push(row).unwrap();
        }
        list.finish(next.map(str::to_owned)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lists_have_their_three_shapes() {
        assert_eq!(
            list(Format::Json, None),
            "{\"items\":[{\"id\":\"a\",\"name\":\"Acme, \\\"Inc\\\"\",\"requests\":5},\
             {\"id\":\"b\",\"name\":null,\"requests\":12345}],\"next\":null}\n"
        );
        assert!(list(Format::Json, Some("b")).ends_with("],\"next\":\"b\"}\n"));
        assert_eq!(list(Format::Csv, None), "id,name,requests\na,\"Acme, \"\"Inc\"\"\",5\nb,,12345\n");
        assert_eq!(list(Format::Table, None), "ID  REQUESTS\na          5\nb      12345\n");
        assert!(list(Format::Table, Some("b")).ends_with("more: --after b\n"));
    }

    #[test]
    fn an_object_has_its_three_shapes() {
        let row = Row::new().with("id", "a").with("scopes", vec!["x", "y"]).with("rate", Value::Null);
        for (format, text) in [
            (Format::Json, "{\"id\":\"a\",\"scopes\":[\"x\",\"y\"],\"rate\":null}\n"),
            (Format::Csv, "id,scopes,rate\na,x y,\n"),
            (Format::Table, "id      a\nscopes  x y\nrate    -\n"),
        ] {
            let mut out = Vec::new();
            write_object(&row, format, &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn a_name_does_not_steer_the_terminal() {
        assert_eq!(shown(&Value::from("a\u{1b}[31mb\nc")), "a\u{fffd}[31mb\u{fffd}c");
    }
}
