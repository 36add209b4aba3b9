//! `[routes.request_headers]` and `[routes.response_headers]`: what is set, added, removed and
//! let through, beside what the gateway itself does.
//!
//! Values are parsed here into pieces, so that a request only puts them together. What the gateway
//! answers for (framing, who calls, credentials) is not for rules: naming it is a problem, not a
//! rule without effect.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::store::MASK;

/// What happens to the headers of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// In place of whatever was sent.
    pub set: Vec<(HeaderName, Template)>,
    /// Besides whatever was sent.
    pub add: Vec<(HeaderName, Template)>,
    /// Does not pass.
    pub remove: Vec<HeaderName>,
    /// Only these pass; empty: all.
    pub allow: Vec<HeaderName>,
}

/// A header's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Template {
    /// The same for every request.
    Constant(HeaderValue),
    /// Put together for each.
    Pieces(Vec<Piece>),
}

/// A part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// As written.
    Text(String),
    /// What it stands for; where that is absent, so is the header.
    Variable(Variable),
}

/// What `${…}` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "config/reference.toml says what each means")]
pub enum Variable {
    ClientId,
    ClientName,
    KeyId,
    Subject,
    RequestId,
    CallerAddress,
    Route,
    Host,
    Method,
    Scheme,
}

const VARIABLES: [(&str, Variable); 10] = [
    ("client_id", Variable::ClientId),
    ("client_name", Variable::ClientName),
    ("key_id", Variable::KeyId),
    ("subject", Variable::Subject),
    ("request_id", Variable::RequestId),
    ("caller_address", Variable::CallerAddress),
    ("route", Variable::Route),
    ("host", Variable::Host),
    ("method", Variable::Method),
    ("scheme", Variable::Scheme),
];

impl RawHeaderRules {
    /// Takes out what may be a secret that an upstream is told: it is for the file's readers only.
    pub(super) fn mask(&mut self) {
        let values = self.set.values_mut().chain(self.add.values_mut());
        values.filter(|value| !value.contains("${")).for_each(|value| MASK.clone_into(value));
    }
}

/// Which way headers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Response,
}

/// A table of rules as written.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawHeaderRules {
    set: BTreeMap<String, String>,
    add: BTreeMap<String, String>,
    remove: Vec<String>,
    allow: Vec<String>,
}

impl RawHeaderRules {
    /// None: there are no rules. `key_headers`: which headers carry credentials, besides
    /// `authorization`.
    pub(super) fn resolve(
        &self,
        check: &Check<'_>,
        direction: Direction,
        key_headers: &[HeaderName],
    ) -> Option<Box<HeaderRules>> {
        let scope = Scope { check, direction, key_headers };
        let rules = HeaderRules {
            set: scope.values("set", &self.set),
            add: scope.values("add", &self.add),
            remove: scope.names("remove", &self.remove, |name| scope.is_protected(name)),
            allow: scope.names("allow", &self.allow, is_hop_by_hop),
        };
        (rules != HeaderRules::default()).then(|| Box::new(rules))
    }
}

/// Where rules are looked at.
struct Scope<'a> {
    check: &'a Check<'a>,
    direction: Direction,
    key_headers: &'a [HeaderName],
}

impl Scope<'_> {
    fn values(&self, key: &str, written: &BTreeMap<String, String>) -> Vec<(HeaderName, Template)> {
        let mut values: Vec<(HeaderName, Template)> = Vec::with_capacity(written.len());
        for (name, text) in written {
            let path = format!("{key}.{name}");
            let Some(name) = self.name(&path, name) else { continue };
            if self.is_protected(name.as_str()) {
                self.refuse_protected(&path, &name);
            } else if values.iter().any(|(other, _)| *other == name) {
                self.check.refuse(&path, format!("`{name}` stands twice"), "name each header once");
            } else if let Some(template) = self.template(&path, text) {
                values.push((name, template));
            }
        }
        values
    }

    fn names(&self, key: &str, written: &[String], is_refused: impl Fn(&str) -> bool) -> Vec<HeaderName> {
        let mut names = Vec::with_capacity(written.len());
        for (index, text) in written.iter().enumerate() {
            let path = format!("{key}[{index}]");
            let Some(name) = self.name(&path, text) else { continue };
            if is_refused(name.as_str()) {
                self.refuse_protected(&path, &name);
            } else if names.contains(&name) {
                self.check.refuse(&path, format!("`{name}` is named twice"), "name each header once");
            } else {
                names.push(name);
            }
        }
        names
    }

    fn name(&self, path: &str, text: &str) -> Option<HeaderName> {
        let name = HeaderName::from_bytes(text.as_bytes()).ok();
        if name.is_none() {
            self.check.refuse(path, format!("`{text}` is no header's name"), "write a name like \"x-team\"");
        }
        name
    }

    fn refuse_protected(&self, path: &str, name: &HeaderName) {
        let message = format!("`{name}` is the gateway's own business");
        let remedy = match name.as_str() {
            "host" => "write `host_header` or `preserve_host` instead",
            text if text.starts_with("access-control-") => "write `[routes.cors]` instead",
            _ => "remove it: framing, credentials and what tells who calls are not for rules",
        };
        self.check.refuse(path, message, remedy);
    }

    /// Names that rules neither set nor remove: what frames a message, what tells who calls, what
    /// carries credentials. Servers read `_`, `.` and `-` alike, so here too.
    fn is_protected(&self, name: &str) -> bool {
        let folded = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        let name = folded.as_str();
        let always = is_hop_by_hop(name)
            || matches!(name, "host" | "content-length" | "via" | "x-request-id" | "x-octroi")
            || name.starts_with("x-octroi-")
            || name.starts_with("sec-websocket-");
        let of_direction = match self.direction {
            Direction::Request => {
                matches!(name, "authorization" | "forwarded" | "traceparent" | "tracestate")
                    || matches!(name, "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host")
                    || self.key_headers.iter().any(|header| header == name)
            }
            Direction::Response => {
                matches!(name, "ratelimit" | "ratelimit-policy") || name.starts_with("access-control-")
            }
        };
        always || of_direction
    }

    fn template(&self, path: &str, text: &str) -> Option<Template> {
        if text.is_empty() {
            self.check.refuse(path, "a header without a value", "write one, or name the header in `remove`");
            return None;
        }
        if HeaderValue::from_str(text).is_err() || text.trim() != text || !text.is_ascii() {
            let remedy = "write visible ASCII characters, without blanks at the ends";
            self.check.refuse(path, format!("`{}` is no header's value", text.escape_debug()), remedy);
            return None;
        }
        match pieces(text) {
            Ok(pieces) => Some(match <[Piece; 1]>::try_from(pieces) {
                Ok([Piece::Text(text)]) => Template::Constant(HeaderValue::try_from(text).ok()?),
                Ok(one) => Template::Pieces(one.into()),
                Err(several) => Template::Pieces(several),
            }),
            Err(unknown) => {
                let known: Vec<String> = VARIABLES.iter().map(|(name, _)| format!("${{{name}}}")).collect();
                let remedy = format!("known are {}; `$${{` stands for `${{` itself", known.join(", "));
                self.check.refuse(path, format!("`${{{unknown}` names nothing"), remedy);
                None
            }
        }
    }
}

/// Only between neighbours (RFC 9110 §7.6.1): never crosses.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "te" | "trailer" | "transfer-encoding" | "upgrade" | "expect" | "http2-settings"
    ) || name == "proxy"
        || name.starts_with("proxy-")
}

/// The pieces of a value; what follows `${` where that names nothing.
fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            plain.push_str(before);
            plain.push_str("${");
            rest = after;
            continue;
        }
        plain.push_str(before);
        let (name, behind) = after.split_once('}').ok_or_else(|| after.to_owned())?;
        let known = VARIABLES.iter().find(|(known, _)| *known == name);
        let (_, variable) = known.ok_or_else(|| format!("{name}}}"))?;
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        pieces.push(Piece::Variable(*variable));
        rest = behind;
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::check::Findings;
    use super::*;

    fn resolved(toml: &str, direction: Direction) -> Result<Option<Box<HeaderRules>>, Vec<(String, String)>> {
        let raw: RawHeaderRules = toml::from_str(toml).unwrap();
        let findings = Findings::default();
        let key_headers = [HeaderName::from_static("x-api-key")];
        let rules = raw.resolve(&Check::root(&findings, Path::new("/")), direction, &key_headers);
        let problems = findings.into_problems();
        if problems.is_empty() { Ok(rules) } else { Err(problems.into_iter().map(|p| (p.path, p.remedy)).collect()) }
    }

    #[test]
    fn values_are_texts_and_variables() {
        let text = |text: &str| Piece::Text(text.to_owned());
        for (value, expected) in [
            ("plain $5", vec![text("plain $5")]),
            ("${client_id}", vec![Piece::Variable(Variable::ClientId)]),
            (
                "a ${host}-${method}z",
                vec![
                    text("a "),
                    Piece::Variable(Variable::Host),
                    text("-"),
                    Piece::Variable(Variable::Method),
                    text("z"),
                ],
            ),
            ("$${host}", vec![text("${host}")]),
            ("$$${host}", vec![text("$${host}")]),
        ] {
            assert_eq!(pieces(value), Ok(expected), "{value}");
        }
        for (value, unknown) in [("${nobody}", "nobody}"), ("a${host", "host"), ("${}", "}")] {
            assert_eq!(pieces(value), Err(unknown.to_owned()), "{value}");
        }
        for (name, variable) in VARIABLES {
            assert_eq!(pieces(&format!("${{{name}}}")), Ok(vec![Piece::Variable(variable)]));
        }
    }

    #[test]
    fn no_rules_are_none() {
        assert_eq!(resolved("", Direction::Request), Ok(None));
        assert!(resolved("remove = [\"x-a\"]", Direction::Request).unwrap().is_some());
    }

    #[test]
    fn what_the_gateway_answers_for_is_not_for_rules() {
        let both = [
            "Host",
            "Content-Length",
            "Transfer-Encoding",
            "TE",
            "Trailer",
            "Connection",
            "Upgrade",
            "Keep-Alive",
            "Proxy-Authorization",
            "Expect",
            "Via",
            "X-Request-Id",
            "X-Octroi-Client-Id",
            "x_octroi_scopes",
            "X-Octroi",
            "x.request_id",
            "Sec-WebSocket-Accept",
        ];
        let up = ["Authorization", "X-API-Key", "x_api_key", "X-Forwarded-For", "Forwarded", "traceparent"];
        let down = ["RateLimit", "Access-Control-Allow-Origin"];
        let asked = |name: &str, direction| {
            for toml in [
                format!("[set]\n\"{name}\" = \"1\""),
                format!("[add]\n\"{name}\" = \"1\""),
                format!("remove = [\"{name}\"]"),
            ] {
                assert!(resolved(&toml, direction).is_err(), "{toml} {direction:?}");
            }
        };
        for name in both {
            asked(name, Direction::Request);
            asked(name, Direction::Response);
        }
        for name in up {
            asked(name, Direction::Request);
        }
        for name in down {
            asked(name, Direction::Response);
        }
        for name in ["x-team", "x-real-ip", "x-consumer-username", "accept-encoding"] {
            assert!(resolved(&format!("[set]\n{name} = \"1\""), Direction::Request).is_ok(), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (toml, path, remedy) in [
            ("[set]\n\"x y\" = \"1\"", "set.x y", "write a name like"),
            ("[set]\nx-a = \"${who}\"", "set.x-a", "known are ${client_id}, "),
            ("[set]\nx-a = \"\"", "set.x-a", "`remove`"),
            ("[add]\nx-a = \"é\"", "add.x-a", "visible ASCII"),
            ("[add]\nx-a = \"a\\r\\nb: c\"", "add.x-a", "visible ASCII"),
            ("[set]\nx-a = \"1\"\nX-A = \"2\"", "set.x-a", "once"),
            ("remove = [\"x-a\", \"X-A\"]", "remove[1]", "once"),
            ("allow = [\"connection\"]", "allow[0]", "remove it"),
            ("[set]\nhost = \"a\"", "set.host", "`host_header`"),
        ] {
            let problems = resolved(toml, Direction::Request).unwrap_err();
            assert_eq!(problems.len(), 1, "{toml}");
            assert_eq!(problems[0].0, path, "{toml}");
            assert!(problems[0].1.contains(remedy), "{toml}: {}", problems[0].1);
        }
    }
}
