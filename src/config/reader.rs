//! Reads a section of a TOML table field by field, and notes everything on the way.
//!
//! One pass serves four purposes: the typed value, the problems (all of them, each with path and
//! remedy), the keys that exist (whatever was not asked for is unknown), and the effective
//! settings that `config show` prints and that the test of `config/reference.toml` compares.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use toml::{Table, Value};

use super::problem::Problem;
use super::units::{ByteSize, format_duration, parse_duration};

/// What a load has gathered so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What is wrong.
    pub(super) problems: Vec<Problem>,
}

impl Findings {
    pub(super) fn problem(&mut self, path: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(Problem { path: path.into(), message: message.into(), remedy: remedy.into() });
    }
}

/// A section being read.
pub(super) struct Section<'a> {
    path: String,
    given: Table,
    known: Vec<&'static str>,
    effective: Table,
    pub(super) findings: &'a mut Findings,
}

impl<'a> Section<'a> {
    /// Takes the table `name` out of `parent`; an absent one reads as empty.
    pub(super) fn take(parent: &mut Table, name: &str, findings: &'a mut Findings) -> Self {
        let given = match parent.remove(name) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                let found = other.type_str();
                findings.problem(name, format!("is a {found}"), format!("write it as a section: [{name}]"));
                Table::new()
            }
        };
        Self::of(name.to_owned(), given, findings)
    }

    /// Reads a table that stands at `path`.
    pub(super) fn of(path: String, given: Table, findings: &'a mut Findings) -> Self {
        Self { path, given, known: Vec::new(), effective: Table::new(), findings }
    }

    /// A section within this one; closed by [`Section::close_into`].
    pub(super) fn section(&mut self, name: &'static str) -> Section<'_> {
        self.known.push(name);
        let path = self.at(name);
        let given = match self.given.remove(name) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                let found = other.type_str();
                self.findings.problem(&path, format!("is a {found}"), format!("write it as a section: [{path}]"));
                Table::new()
            }
        };
        Section::of(path, given, self.findings)
    }

    /// Notes the effective settings of a section within this one.
    pub(super) fn include(&mut self, name: &'static str, effective: Table) {
        self.effective.insert(name.to_owned(), Value::Table(effective));
    }

    /// The path of a field.
    pub(super) fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Notes a problem with a field.
    pub(super) fn problem(&mut self, name: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let path = self.at(name);
        self.findings.problem(path, message, remedy);
    }

    fn raw(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.given.remove(name)
    }

    fn note(&mut self, name: &'static str, value: impl Into<Value>) {
        self.effective.insert(name.to_owned(), value.into());
    }

    fn wrong_type(&mut self, name: &str, found: &Value, wanted: &str, example: &str) {
        let message = format!("is {} {}", article(found.type_str()), found.type_str());
        self.problem(name, message, format!("write {wanted}, like `{name} = {example}`"));
    }

    /// Text.
    pub(super) fn text(&mut self, name: &'static str, default: &str) -> String {
        let value = match self.raw(name) {
            None => default.to_owned(),
            Some(Value::String(text)) => text,
            Some(other) => {
                self.wrong_type(name, &other, "text in quotes", &format!("{default:?}"));
                default.to_owned()
            }
        };
        self.note(name, value.clone());
        value
    }

    /// Text that `config show` must not print as it is.
    pub(super) fn masked_text(
        &mut self,
        name: &'static str,
        default: &str,
        mask: impl FnOnce(&str) -> String,
    ) -> String {
        let value = self.text(name, default);
        self.note(name, mask(&value));
        value
    }

    /// Text with a meaning: parsed by its type's own reader.
    pub(super) fn parsed<T>(&mut self, name: &'static str, default: &str) -> T
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.text(name, default);
        match text.parse() {
            Ok(value) => value,
            Err(error) => {
                self.problem(name, error.to_string(), format!("the default is {default:?}"));
                default.parse().unwrap_or_else(|_| unreachable!("the default of {name} is legal"))
            }
        }
    }

    /// One of a closed set of words.
    pub(super) fn choice<T: Copy>(&mut self, name: &'static str, default: &str, words: &[(&str, T)]) -> T {
        let text = self.text(name, default);
        let find = |wanted: &str| words.iter().find(|(word, _)| *word == wanted).map(|(_, value)| *value);
        if let Some(value) = find(&text) {
            return value;
        }
        let listed: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.problem(name, format!("{text:?} is none of the choices"), format!("write one of {}", listed.join(", ")));
        find(default).unwrap_or_else(|| unreachable!("the default of {name} is one of its words"))
    }

    /// True or false.
    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> bool {
        let value = match self.raw(name) {
            None => default,
            Some(Value::Boolean(value)) => value,
            Some(other) => {
                self.wrong_type(name, &other, "true or false without quotes", &default.to_string());
                default
            }
        };
        self.note(name, value);
        value
    }

    /// A whole number within bounds.
    pub(super) fn number(&mut self, name: &'static str, default: u32, least: u32, most: u32) -> u32 {
        let value = match self.raw(name) {
            None => default,
            Some(Value::Integer(value)) if (i64::from(least)..=i64::from(most)).contains(&value) => {
                u32::try_from(value).unwrap_or(default)
            }
            Some(Value::Integer(value)) => {
                self.problem(
                    name,
                    format!("{value} is out of bounds"),
                    format!("write a number from {least} to {most}"),
                );
                default
            }
            Some(other) => {
                self.wrong_type(name, &other, "a whole number", &default.to_string());
                default
            }
        };
        self.note(name, i64::from(value));
        value
    }

    /// A whole number that may be absent; absent shows as nothing.
    pub(super) fn optional_number(&mut self, name: &'static str, least: u32, most: u32) -> Option<u32> {
        if !self.given.contains_key(name) {
            self.known.push(name);
            return None;
        }
        Some(self.number(name, least, least, most))
    }

    /// A span of time, at least `least`.
    pub(super) fn duration(&mut self, name: &'static str, default: &str, least: Duration) -> Duration {
        let text = self.text(name, default);
        let fallback = parse_duration(default).unwrap_or_else(|_| unreachable!("the default of {name} is legal"));
        match parse_duration(&text) {
            Ok(value) if value >= least => value,
            Ok(_) => {
                let remedy = format!("write at least {:?}; the default is {default:?}", format_duration(least));
                self.problem(name, format!("{text:?} is too short"), remedy);
                fallback
            }
            Err(message) => {
                self.problem(name, message, format!("write a number and a unit (ms, s, m, h, d), like {default:?}"));
                fallback
            }
        }
    }

    /// A size in bytes within bounds.
    pub(super) fn size(&mut self, name: &'static str, default: &str, least: u64, most: u64) -> u64 {
        let size: ByteSize = self.parsed(name, default);
        if (least..=most).contains(&size.0) {
            return size.0;
        }
        let remedy = format!("write a size from {} to {}", ByteSize(least), ByteSize(most));
        self.problem(name, format!("{size} is out of bounds"), remedy);
        default.parse::<ByteSize>().map_or(least, |size| size.0)
    }

    /// A list, each item parsed.
    pub(super) fn list<T>(
        &mut self,
        name: &'static str,
        default: &[&str],
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let items = match self.raw(name) {
            None => default.iter().map(|item| Value::from(*item)).collect(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.wrong_type(name, &other, "a list", &format!("{default:?}"));
                Vec::new()
            }
        };
        let mut values = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let parsed = item.as_str().ok_or_else(|| "is not text".to_owned()).and_then(&parse);
            match parsed {
                Ok(value) => values.push(value),
                Err(message) => {
                    let path = format!("{}[{index}]", self.at(name));
                    self.findings.problem(path, message, format!("an example: `{name} = {default:?}`"));
                }
            }
        }
        self.note(name, Value::Array(items));
        values
    }

    /// Says that a field exists in a later version only, where it was given.
    pub(super) fn not_yet(&mut self, name: &'static str, what: &str) {
        if self.given.remove(name).is_some() {
            self.problem(name, format!("{what} is not in this version"), "remove it");
        }
    }

    /// Ends the section: what was not asked for is unknown. Returns the effective settings.
    pub(super) fn close(self) -> Table {
        for name in self.given.keys() {
            let path = self.at(name);
            let close =
                self.known.iter().filter(|known| distance(known, name) <= 2).min_by_key(|known| distance(known, name));
            let remedy = match close {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("remove it; known here: {}", self.known.join(", ")),
            };
            self.findings.problem(path, "unknown setting", remedy);
        }
        self.effective
    }
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// Levenshtein distance: how many letters to change, add or take away.
pub(super) fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for column in 1..row.len() {
            let change = diagonal + usize::from(other[column - 1] != letter);
            diagonal = row[column];
            row[column] = change.min(row[column] + 1).min(row[column - 1] + 1);
        }
    }
    row[other.len()]
}
