//! `[routes.cors]`: which web pages may read what a route answers.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};

use super::check::{Check, Zero};

/// The rules of a route for other origins (the Fetch standard), ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsConfig {
    /// Whose pages.
    pub origins: Origins,
    /// `Access-Control-Allow-Methods`; none: whatever method is asked for.
    pub methods: Option<HeaderValue>,
    /// `Access-Control-Allow-Headers`
    pub headers: HeaderValue,
    /// `Access-Control-Expose-Headers`
    pub expose: HeaderValue,
    /// Whether pages may send cookies and the like.
    pub credentials: bool,
    /// `Access-Control-Max-Age`
    pub max_age: HeaderValue,
}

/// `origins`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// `*`
    Any,
    /// These, byte by byte.
    These(Vec<HeaderValue>),
}

/// What every answer of ours may carry and a page would want to read.
const EXPOSED: [&str; 4] = ["ratelimit", "ratelimit-policy", "retry-after", "x-request-id"];

/// `[routes.cors]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCors {
    origins: Vec<String>,
    methods: Vec<String>,
    headers: Vec<String>,
    expose: Vec<String>,
    credentials: bool,
    max_age: String,
}

impl Default for RawCors {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            methods: Vec::new(),
            headers: Vec::new(),
            expose: Vec::new(),
            credentials: false,
            // Long enough to spare most preflights, short enough that a change is seen while people wait.
            max_age: "10m".to_owned(),
        }
    }
}

impl RawCors {
    /// None: the route says nothing about other origins. `methods` and `credentials` are the route's.
    pub(super) fn resolve(
        &self,
        check: &Check<'_>,
        methods: &[Method],
        credentials: &[HeaderName],
    ) -> Option<Box<CorsConfig>> {
        if self.origins.is_empty() {
            let others = [&self.methods, &self.headers, &self.expose].into_iter().any(|list| !list.is_empty());
            if others || self.credentials {
                let remedy = "name them, like [\"https://app.example.com\"], or remove the table";
                check.refuse("origins", "no origin is named, so the other settings mean nothing", remedy);
            }
            return None;
        }
        let max_age = check.duration("max_age", &self.max_age, Zero::Allowed);
        Some(Box::new(CorsConfig {
            origins: self.resolve_origins(check),
            methods: self.resolve_methods(check, methods),
            headers: self.resolve_headers(check, credentials),
            expose: joined(EXPOSED.into_iter().chain(names(check, "expose", &self.expose)).map(str::to_owned)),
            credentials: self.credentials,
            max_age: HeaderValue::from(max_age.as_secs().min(Duration::from_hours(24).as_secs())),
        }))
    }

    fn resolve_origins(&self, check: &Check<'_>) -> Origins {
        if self.origins.iter().any(|origin| origin == "*") {
            if self.origins.len() > 1 {
                check.refuse("origins", "`*` stands beside other origins", "write [\"*\"], or the others");
            }
            if self.credentials {
                let remedy = "name the origins: with `*` any page could act for who is logged in";
                check.refuse("origins", "`*` and credentials exclude each other", remedy);
            }
            return Origins::Any;
        }
        let mut origins = Vec::new();
        for (index, text) in self.origins.iter().enumerate() {
            match HeaderValue::from_str(text) {
                Ok(value) if is_origin(text) => origins.push(value),
                _ => check.refuse(
                    &format!("origins[{index}]"),
                    format!("`{text}` is not an origin"),
                    "write it as browsers send it, like \"https://app.example.com\" or \"http://localhost:3000\"",
                ),
            }
        }
        Origins::These(origins)
    }

    fn resolve_methods(&self, check: &Check<'_>, of_route: &[Method]) -> Option<HeaderValue> {
        for (index, text) in self.methods.iter().enumerate() {
            let is_method = Method::from_bytes(text.as_bytes()).is_ok_and(|method| {
                !text.bytes().any(|byte| byte.is_ascii_lowercase())
                    && method != Method::CONNECT
                    && method != Method::TRACE
            });
            let key = format!("methods[{index}]");
            if !is_method {
                check.refuse(&key, format!("`{text}` is not a method that is served"), "write it like \"GET\"");
            } else if !of_route.is_empty() && !of_route.iter().any(|method| method == text.as_str()) {
                check.refuse(
                    &key,
                    format!("the route does not serve {text}"),
                    "add it to `routes.methods`, or remove it",
                );
            }
        }
        if self.methods.is_empty() {
            return (!of_route.is_empty()).then(|| joined(of_route.iter().map(Method::to_string)));
        }
        Some(joined(self.methods.iter().cloned()))
    }

    /// Without a word: what a call of an API needs.
    fn resolve_headers(&self, check: &Check<'_>, credentials: &[HeaderName]) -> HeaderValue {
        if self.headers.is_empty() {
            return joined(credentials.iter().map(HeaderName::to_string).chain(["content-type".to_owned()]));
        }
        joined(names(check, "headers", &self.headers).map(str::to_owned))
    }
}

fn names<'t>(check: &Check<'_>, key: &str, written: &'t [String]) -> impl Iterator<Item = &'t str> {
    for (index, text) in written.iter().enumerate() {
        if HeaderName::from_bytes(text.as_bytes()).is_err() || text == "*" {
            let remedy = "write a name like \"x-team\"; each is named, because `*` never stands for authorization";
            check.refuse(&format!("{key}[{index}]"), format!("`{text}` is no header's name"), remedy);
        }
    }
    written.iter().map(String::as_str)
}

/// Names with commas between; what is no name was refused before.
fn joined(names: impl Iterator<Item = String>) -> HeaderValue {
    let names: Vec<String> = names.collect();
    HeaderValue::try_from(names.join(", ")).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Whether `text` is an origin as browsers write it: scheme, host, a port if it is not the usual
/// one, in small letters. `null` is not: pages out of files and sandboxes share it.
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let is_scheme = scheme.bytes().enumerate().all(|(index, byte)| {
        byte.is_ascii_lowercase() || (index > 0 && (byte.is_ascii_digit() || b"+-.".contains(&byte)))
    });
    let usual = matches!(scheme, "http" if authority.ends_with(":80"))
        || matches!(scheme, "https" if authority.ends_with(":443"));
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._:[]".contains(&byte);
    !scheme.is_empty() && is_scheme && !authority.is_empty() && authority.bytes().all(legal) && !usual
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::check::Findings;
    use super::*;

    fn resolved(toml: &str, methods: &[Method]) -> Result<Option<Box<CorsConfig>>, Vec<String>> {
        let raw: RawCors = toml::from_str(toml).unwrap();
        let findings = Findings::default();
        let cors =
            raw.resolve(&Check::root(&findings, Path::new("/")), methods, &[HeaderName::from_static("x-api-key")]);
        let problems = findings.into_problems();
        if problems.is_empty() { Ok(cors) } else { Err(problems.into_iter().map(|problem| problem.path).collect()) }
    }

    #[test]
    fn what_is_not_said_follows_from_the_route() {
        assert_eq!(resolved("", &[]), Ok(None));
        let cors = resolved("origins = [\"https://a.example\"]", &[Method::POST, Method::GET]).unwrap().unwrap();
        assert_eq!(cors.methods.unwrap(), "POST, GET");
        assert_eq!(cors.headers, "x-api-key, content-type");
        assert_eq!(cors.expose, "ratelimit, ratelimit-policy, retry-after, x-request-id");
        assert_eq!((cors.max_age.to_str().unwrap(), cors.credentials), ("600", false));
        let any =
            resolved("origins = [\"*\"]\nheaders = [\"x-a\", \"x-b\"]\nexpose = [\"etag\"]", &[]).unwrap().unwrap();
        assert_eq!((any.origins, any.methods), (Origins::Any, None));
        assert_eq!(any.headers, "x-a, x-b");
        assert!(any.expose.to_str().unwrap().ends_with(", etag"));
    }

    #[test]
    fn what_browsers_would_not_understand_is_refused() {
        for (toml, path) in [
            ("origins = [\"*\"]\ncredentials = true", "origins"),
            ("origins = [\"*\", \"https://a.example\"]", "origins"),
            ("credentials = true", "origins"),
            ("expose = [\"etag\"]", "origins"),
            ("origins = [\"null\"]", "origins[0]"),
            ("origins = [\"a.example\"]", "origins[0]"),
            ("origins = [\"https://a.example/\"]", "origins[0]"),
            ("origins = [\"https://A.example\"]", "origins[0]"),
            ("origins = [\"https://a.example:443\"]", "origins[0]"),
            ("origins = [\"https://*.example\"]", "origins[0]"),
            ("origins = [\"*\"]\nmethods = [\"get\"]", "methods[0]"),
            ("origins = [\"*\"]\nmethods = [\"TRACE\"]", "methods[0]"),
            ("origins = [\"*\"]\nmethods = [\"PUT\"]", "methods[0]"),
            ("origins = [\"*\"]\nheaders = [\"*\"]", "headers[0]"),
            ("origins = [\"*\"]\nexpose = [\"a b\"]", "expose[0]"),
            ("origins = [\"*\"]\nmax_age = \"soon\"", "max_age"),
        ] {
            assert_eq!(resolved(toml, &[Method::POST]), Err(vec![path.to_owned()]), "{toml}");
        }
        for origin in ["https://a.example:8443", "http://localhost:3000", "http://[::1]:3000", "capacitor://localhost"]
        {
            assert!(resolved(&format!("origins = [\"{origin}\"]"), &[]).is_ok(), "{origin}");
        }
    }
}
