//! `[[routes]]`

use http::{HeaderName, Method};

use crate::model::access::Scopes;

use toml::Table;

use super::auth::read_header;
use super::reader::{Findings, Section};

/// Which requests go where, and who may send them.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch that users turn by its name")]
pub struct RouteConfig {
    /// Labels and events carry it.
    pub name: String,
    /// Only for this host (lower case, no port); none: any.
    pub host: Option<String>,
    /// A prefix, on segment boundaries; starts with `/`, canonical.
    pub path: String,
    /// Only these; empty: any.
    pub methods: Vec<Method>,
    /// The upstream's name.
    pub upstream: String,
    /// Whether the prefix is removed before forwarding.
    pub strip_prefix: bool,
    /// Which credentials it takes.
    pub auth: RouteAuth,
    /// Where it looks for them.
    pub credentials: Vec<HeaderName>,
    /// What the caller must hold.
    pub scopes: Scopes,
    /// The largest request body; none: the server's limit.
    pub max_body: Option<u64>,
    /// `//` becomes `/` instead of 400.
    pub merge_slashes: bool,
    /// `%2F` and `%5C` pass instead of 400.
    pub encoded_slash: bool,
    /// Whether the caller's Host goes on to the upstream; else the endpoint's own.
    pub preserve_host: bool,
}

/// `routes.auth`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAuth {
    /// A key or a JWT.
    Required,
    /// A key.
    Key,
    /// A JWT.
    Jwt,
    /// Nothing; metered under the nil client.
    None,
}

impl RouteConfig {
    /// Reads one of `[[routes]]`. `places` are the headers that may carry a credential.
    pub(super) fn read(index: usize, given: Table, places: &[HeaderName], findings: &mut Findings) -> (Self, Table) {
        let mut section = Section::of(format!("routes[{index}]"), given, findings);
        for (name, what) in [("mode", "observe mode"), ("observe_until", "observe mode"), ("cost", "a weight")] {
            section.not_yet(name, what);
        }
        let host = section.text("host", "");
        let path = section.text("path", "");
        if !is_canonical(&path) {
            section.problem(
                "path",
                format!("{path:?} is not a canonical path"),
                "start with \"/\"; no query, no escapes of letters, no \"//\" or \"..\"",
            );
        }
        let name = section.text("name", &format!("{host}{path}"));
        if name.len() > 64 {
            section.problem("name", "is longer than 64 characters", "name it shorter: labels and events carry it");
        }
        let everywhere: Vec<&str> = places.iter().map(HeaderName::as_str).collect();
        let config = Self {
            name,
            host: if host.is_empty() { None } else { Some(host.trim_end_matches('.').to_ascii_lowercase()) },
            path,
            methods: section.list("methods", &[], read_method),
            upstream: section.text("upstream", ""),
            strip_prefix: section.flag("strip_prefix", false),
            auth: section.choice(
                "auth",
                "required",
                &[
                    ("required", RouteAuth::Required),
                    ("key", RouteAuth::Key),
                    ("jwt", RouteAuth::Jwt),
                    ("none", RouteAuth::None),
                ],
            ),
            credentials: section.list("credentials", &everywhere, |text| read_place(text, places)),
            scopes: read_scopes(&mut section),
            max_body: Some(section.size("max_body", "0", 0, u64::MAX)).filter(|bytes| *bytes > 0),
            merge_slashes: section.flag("merge_slashes", false),
            encoded_slash: section.flag("encoded_slash", false),
            preserve_host: section.flag("preserve_host", true),
        };
        if config.auth != RouteAuth::None && config.credentials.is_empty() {
            section.problem(
                "credentials",
                "looks nowhere, so nobody could pass",
                "name a header, or write auth = \"none\"",
            );
        }
        (config, section.close())
    }
}

fn read_scopes(section: &mut Section<'_>) -> Scopes {
    let names = section.list("scopes", &[], |text| Ok(text.to_owned()));
    Scopes::new(names).unwrap_or_else(|name| {
        section.problem(
            "scopes",
            format!("{name:?} is not a scope"),
            "scopes are visible ASCII without quotes, like \"orders:read\"",
        );
        Scopes::default()
    })
}

fn read_method(text: &str) -> Result<Method, String> {
    let method = Method::from_bytes(text.as_bytes()).map_err(|_| format!("{text:?} is not a method"))?;
    if text != text.to_ascii_uppercase() {
        return Err(format!("{text:?} is in lower case; methods are case-sensitive"));
    }
    if method == Method::CONNECT || method == Method::TRACE {
        return Err(format!("{text} is never forwarded"));
    }
    Ok(method)
}

fn read_place(text: &str, places: &[HeaderName]) -> Result<HeaderName, String> {
    let name = read_header(text)?;
    if places.contains(&name) {
        return Ok(name);
    }
    Err(format!("{text:?} is neither \"authorization\" nor one of auth.key_headers"))
}

/// A path that matching and forwarding would leave as it is.
fn is_canonical(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"%\\?#{}\"<>^`|".contains(&byte);
    let clean = path.split('/').skip(1).all(|segment| segment != "." && segment != "..");
    path.starts_with('/') && path.bytes().all(plain) && clean && !path.contains("//")
}
