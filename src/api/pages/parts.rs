//! Parts of pages: facts, tables, fields, times. Each escapes what it shows.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use jiff::Timestamp;
use maud::{Markup, Render, html};
use serde::Serialize;

use crate::api::extract::etag;

/// A time, to the second, in UTC.
pub(super) fn time(at: Timestamp) -> Markup {
    html! { time datetime=(at) { (at.strftime("%Y-%m-%d %H:%M:%S")) } }
}

/// A time, or a dash.
pub(super) fn time_or_dash(at: Option<Timestamp>) -> Markup {
    at.map_or_else(dash, time)
}

/// Nothing is there.
pub(super) fn dash() -> Markup {
    html! { span.soft { "–" } }
}

/// What is there, or a dash.
pub(super) fn or_dash(value: Option<impl Render>) -> Markup {
    match value {
        Some(value) => html! { (value) },
        None => dash(),
    }
}

/// A whole number with thin spaces between thousands.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Bytes, as people say them.
pub(super) fn bytes(value: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let value = value as f64;
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let place =
        units.iter().enumerate().rev().find(|(place, _)| value >= 1024_f64.powi(i32::try_from(*place).unwrap_or(0)));
    let place = place.map_or(0, |(place, _)| place);
    let scaled = value / 1024_f64.powi(i32::try_from(place).unwrap_or(0));
    if place == 0 { format!("{scaled:.0} B") } else { format!("{scaled:.1} {}", units[place]) }
}

/// Seconds, as people say them.
pub(super) fn seconds(value: f64) -> String {
    if value < 1.0 { format!("{:.1} ms", value * 1000.0) } else { format!("{value:.1} s") }
}

/// A word with a colour that says the same again.
pub(super) fn badge(kind: &str, word: &str) -> Markup {
    html! { span class={ "badge " (kind) } { (word) } }
}

/// Names and values.
pub(super) fn facts(rows: &[(&str, Markup)]) -> Markup {
    html! { dl.facts.card { @for (name, value) in rows { dt { (name) } dd { (value) } } } }
}

/// Numbers that are looked at first.
pub(super) fn stats(id: &str, rows: &[(&str, Markup)]) -> Markup {
    html! { dl.stats id=(id) data-live { @for (name, value) in rows { div.stat { dt { (name) } dd { (value) } } } } }
}

/// A column of a table.
#[derive(Clone, Copy)]
pub(super) enum Column {
    /// Text that stays on a line.
    Text(&'static str),
    /// Text that may be long.
    Wide(&'static str),
    /// A number, aligned right.
    Number(&'static str),
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::Text(name) | Self::Wide(name) | Self::Number(name) => name,
        }
    }

    fn class(self) -> Option<&'static str> {
        match self {
            Self::Text(_) => None,
            Self::Wide(_) => Some("wide"),
            Self::Number(_) => Some("number"),
        }
    }
}

/// A table that may be wider than the screen.
pub(super) fn table(caption: &str, columns: &[Column], rows: &[Vec<Markup>]) -> Markup {
    html! {
        div.scroll role="region" aria-label=(caption) tabindex="0" {
            table {
                caption { (caption) @if rows.is_empty() { ": none" } }
                thead { tr { @for column in columns { th scope="col" class=[column.class()] { (column.name()) } } } }
                tbody {
                    @for row in rows {
                        tr { @for (column, cell) in columns.iter().zip(row) { td class=[column.class()] { (cell) } } }
                    }
                }
            }
        }
    }
}

/// Where a list goes on.
pub(super) fn next(address: Option<String>) -> Markup {
    html! { @if let Some(address) = address { p { a rel="next" href=(address) { "Next page" } } } }
}

/// What a form shows, so that it changes nothing that was changed meanwhile.
pub(super) fn tag(shown: &impl Serialize) -> Markup {
    html! { input type="hidden" name="tag" value=(etag(shown)); }
}

/// A field of a form.
pub(super) struct Field<'a> {
    pub(super) name: &'a str,
    pub(super) label: &'a str,
    pub(super) value: &'a str,
    pub(super) hint: &'a str,
    pub(super) kind: &'a str,
    pub(super) required: bool,
}

impl<'a> Field<'a> {
    /// A line of text.
    pub(super) fn text(name: &'a str, label: &'a str) -> Self {
        Self { name, label, value: "", hint: "", kind: "text", required: false }
    }

    /// A password.
    pub(super) fn password(name: &'a str, label: &'a str) -> Self {
        Self { kind: "password", required: true, ..Self::text(name, label) }
    }

    /// Something that is not shown while it is typed, and is no password to keep.
    pub(super) fn hidden_text(name: &'a str, label: &'a str) -> Self {
        Self { kind: "password", ..Self::text(name, label) }
    }

    #[must_use]
    pub(super) fn value(self, value: &'a str) -> Self {
        Self { value, ..self }
    }

    #[must_use]
    pub(super) fn hint(self, hint: &'a str) -> Self {
        Self { hint, ..self }
    }

    #[must_use]
    pub(super) fn required(self) -> Self {
        Self { required: true, ..self }
    }
}

impl Render for Field<'_> {
    fn render(&self) -> Markup {
        let id = own_id(self.name);
        let hint = format!("{id}-hint");
        let complete = match (self.kind, self.name) {
            ("password", "password" | "present") => "current-password",
            ("password", _) if self.required => "new-password",
            ("text", "user") => "username",
            _ => "off",
        };
        html! {
            div.field {
                label for=(id) { (self.label) }
                input id=(id) name=(self.name) type=(self.kind) value=(self.value) required[self.required]
                    autocomplete=(complete) aria-describedby=[(!self.hint.is_empty()).then_some(&hint)];
                @if !self.hint.is_empty() { span.hint id=(hint) { (self.hint) } }
            }
        }
    }
}

/// An id that no other field of a page has, though forms have fields of the same name.
fn own_id(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("field-{name}-{}", NEXT.fetch_add(1, Relaxed))
}

/// One of some words.
pub(super) fn choice(name: &str, label: &str, words: &[(&str, &str)], chosen: &str) -> Markup {
    let id = own_id(name);
    html! {
        div.field {
            label for=(id) { (label) }
            select id=(id) name=(name) {
                @for (value, word) in words { option value=(value) selected[*value == chosen] { (word) } }
            }
        }
    }
}

/// A form of which nothing is looked at before it was opened: for what is done seldom.
pub(super) fn folded(summary: &str, body: &Markup) -> Markup {
    html! { details.card { summary { (summary) } (body) } }
}

/// A button that asks once more, without JavaScript.
pub(super) fn confirmed(action: &str, word: &str, what_happens: &str) -> Markup {
    let body = html! {
        p { (what_happens) }
        form method="post" action=(action) { button.danger type="submit" { (word) } }
    };
    folded(word, &body)
}

/// A link.
pub(super) fn link(address: impl AsRef<str>, text: impl Render) -> Markup {
    html! { a href=(address.as_ref()) { (text) } }
}

/// Text as a program would write it.
pub(super) fn code(text: impl Render) -> Markup {
    html! { code { (text) } }
}

/// An address with a query of these, without those that are empty.
pub(super) fn address(path: &str, pairs: &[(&str, &str)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs.iter().filter(|(_, value)| !value.is_empty()));
    let query = query.finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        for (value, text) in [(0, "0"), (999, "999"), (1_000, "1\u{202f}000"), (12_345_678, "12\u{202f}345\u{202f}678")]
        {
            assert_eq!(number(value), text);
        }
        for (value, text) in [(0, "0 B"), (1_023, "1023 B"), (1_536, "1.5 KiB"), (3 << 30, "3.0 GiB")] {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn whatever_is_shown_is_escaped() {
        let hostile = "<script>alert('x')</script>\" onload=\"";
        let rows = vec![vec![html! { (hostile) }]];
        for part in [
            table(hostile, &[Column::Text("name")], &rows),
            facts(&[("name", html! { (hostile) })]),
            Field::text("name", "Name").value(hostile).render(),
            link(hostile, hostile),
            choice("role", hostile, &[(hostile, hostile)], hostile),
        ] {
            let text = part.into_string();
            assert!(!text.contains("<script>") && !text.contains("\" onload"), "{text}");
        }
    }
}
