//! What an operator's rules do to headers, beside what the gateway does.
//!
//! Values are put together when everything about a request is known, before its headers leave:
//! [`Edits::of`]. [`Edits::apply`] then works in one order: what is not allowed goes, what is
//! removed goes, what is set takes the place of every spelling of its name, what is added comes
//! last. It runs before the gateway's own headers are set, so no rule has the last word on those;
//! and rules that name them are refused when the configuration is read.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::clients::IdentityHeaders;
use crate::config::header_rules::{HeaderRules, Piece, Template, Variable};
use crate::wire::percent;

/// What variables stand for in one request.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each is the variable it names")]
pub struct Facts<'a> {
    pub identity: &'a IdentityHeaders,
    pub request_id: &'a HeaderValue,
    pub caller: IpAddr,
    pub route: &'a str,
    pub host: Option<&'a str>,
    pub method: &'a Method,
    pub scheme: &'a str,
}

/// Rules with the values of one request.
#[derive(Debug)]
pub struct Edits<'r> {
    rules: &'r HeaderRules,
    /// Of each of `rules.set`; none: a variable is absent, and so is the header.
    set: Vec<Option<HeaderValue>>,
    add: Vec<Option<HeaderValue>>,
}

impl<'r> Edits<'r> {
    /// The values of `rules` for a request.
    #[must_use]
    pub fn of(rules: &'r HeaderRules, facts: &Facts<'_>) -> Self {
        let values = |templates: &[(HeaderName, Template)]| -> Vec<Option<HeaderValue>> {
            templates.iter().map(|(_, template)| value(template, facts)).collect()
        };
        Self { rules, set: values(&rules.set), add: values(&rules.add) }
    }

    /// Changes `headers`. `is_needed`: what passes though no list of allowed names has it.
    pub fn apply(&self, headers: &mut HeaderMap, is_needed: fn(&str) -> bool) {
        let goes = |name: &&HeaderName| {
            let allow = &self.rules.allow;
            let is_kept = allow.is_empty() || allow.contains(name) || is_needed(name.as_str());
            // What is set is what the upstream believes: no other spelling of it passes.
            !is_kept
                || self.rules.remove.iter().any(|gone| is_spelling_of(name, gone))
                || self.rules.set.iter().any(|(set, _)| is_spelling_of(name, set))
        };
        let gone: Vec<HeaderName> = headers.keys().filter(goes).cloned().collect();
        for name in gone {
            headers.remove(name);
        }
        for ((name, _), value) in self.rules.set.iter().zip(&self.set) {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        for ((name, _), value) in self.rules.add.iter().zip(&self.add) {
            if let Some(value) = value {
                headers.append(name, value.clone());
            }
        }
    }
}

/// What a request cannot do without: how its body is to be read, where it goes, the proof of a
/// WebSocket handshake, and what the gateway itself passes on from trusted peers or sets.
#[must_use]
pub fn is_needed_up(name: &str) -> bool {
    is_about_the_body(name)
        || matches!(name, "host" | "via" | "traceparent" | "tracestate")
        || super::headers::tells_about_the_caller(name)
}

/// What a response cannot do without: how its body is to be read, and by whom it may be kept.
#[must_use]
pub fn is_needed_down(name: &str) -> bool {
    is_about_the_body(name)
        || matches!(name, "connection" | "upgrade" | "trailer" | "date" | "vary" | "cache-control" | "via")
        || name.starts_with("grpc-")
}

fn is_about_the_body(name: &str) -> bool {
    name.starts_with("content-") || name.starts_with("sec-websocket-")
}

/// Servers that turn names into variables read `_`, `.` and `-` alike.
fn is_spelling_of(name: &HeaderName, rule: &HeaderName) -> bool {
    let fold = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    let (name, rule) = (name.as_str().bytes(), rule.as_str().bytes());
    name.map(fold).eq(rule.map(fold))
}

fn value(template: &Template, facts: &Facts<'_>) -> Option<HeaderValue> {
    let pieces = match template {
        Template::Constant(value) => return Some(value.clone()),
        Template::Pieces(pieces) => pieces,
    };
    let mut text = String::with_capacity(64);
    for piece in pieces {
        match piece {
            Piece::Text(plain) => text.push_str(plain),
            Piece::Variable(variable) => write(&mut text, *variable, facts)?,
        }
    }
    HeaderValue::try_from(text).ok()
}

/// None: there is nothing that it stands for.
fn write(text: &mut String, variable: Variable, facts: &Facts<'_>) -> Option<()> {
    let identity = facts.identity;
    match variable {
        Variable::ClientId => text.push_str(visible(identity.client_id.as_ref()?)?),
        Variable::ClientName => text.push_str(visible(identity.client_name.as_ref()?)?),
        Variable::KeyId => text.push_str(visible(identity.key_id.as_ref()?)?),
        Variable::Subject => text.push_str(visible(identity.subject.as_deref()?)?),
        Variable::RequestId => text.push_str(visible(facts.request_id)?),
        Variable::CallerAddress => write!(text, "{}", facts.caller).ok()?,
        Variable::Route => text.push_str(&ascii(facts.route)),
        Variable::Host => text.push_str(facts.host?),
        Variable::Method => text.push_str(facts.method.as_str()),
        Variable::Scheme => text.push_str(facts.scheme),
    }
    Some(())
}

fn visible(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

/// Names of routes may be of any letters.
fn ascii(text: &str) -> Cow<'_, str> {
    if text.is_ascii() { Cow::Borrowed(text) } else { Cow::Owned(percent::encoded(text)) }
}

#[cfg(test)]
mod tests;
