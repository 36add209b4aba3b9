//! What crosses to the upstream and what comes back.
//!
//! The order is the rule, because each step closes what the one before it leaves open:
//! 1. what `Connection` names goes, on whichever of its lines and in whichever case;
//! 2. so does everything that is only for the next hop;
//! 3. so do the headers that carried a credential of ours;
//! 4. so does whatever speaks, or could be read as speaking, in our name: `X-Octroi-*` in any
//!    spelling, and, unless the peer is a trusted proxy, `X-Forwarded-*` and its kind;
//! 5. then the route's own rules do what they say (`header_rules`);
//! 6. ours are set last, by replacing.
//!
//! A caller can therefore neither smuggle a name past the list (`x_octroi_client-id`) nor have
//! one of ours removed (`Connection: X-Octroi-Client-Id`): step 6 comes after all it can say.

use std::net::IpAddr;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::forwarded;
use super::header_rules::{Edits, is_needed_up};
use crate::clients::IdentityHeaders;
use crate::config::proxy::IdentityWords;
use crate::config::server::UnderscoreHeaders;
use crate::model::id::RequestId;

/// `X-Request-Id`
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `X-Forwarded-For`
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Proto`
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Host`
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const CLIENT_ID: HeaderName = HeaderName::from_static("x-octroi-client-id");
const CLIENT_NAME: HeaderName = HeaderName::from_static("x-octroi-client-name");
const KEY_ID: HeaderName = HeaderName::from_static("x-octroi-key-id");
const SUBJECT: HeaderName = HeaderName::from_static("x-octroi-subject");
const SCOPES: HeaderName = HeaderName::from_static("x-octroi-scopes");

const OUR_NAMESPACE: &str = "x-octroi";
const CONSUMER_ID: HeaderName = HeaderName::from_static("x-consumer-id");
const CONSUMER_USERNAME: HeaderName = HeaderName::from_static("x-consumer-username");
const CREDENTIAL_IDENTIFIER: HeaderName = HeaderName::from_static("x-credential-identifier");
const ANONYMOUS_CONSUMER: HeaderName = HeaderName::from_static("x-anonymous-consumer");

const VIA_US: HeaderValue = HeaderValue::from_static("1.1 octroi");

/// What a request's headers are rewritten by.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite<'a> {
    /// Where this route looks for credentials.
    pub credentials: &'a [HeaderName],
    /// What happens to names with an underscore.
    pub underscores: UnderscoreHeaders,
    /// Whether the peer's word about the caller counts.
    pub trusted: bool,
    /// The peer's address, as a value.
    pub peer: &'a HeaderValue,
    /// The request's id, as a value.
    pub request_id: &'a HeaderValue,
    /// Who is calling; none on open routes.
    pub identity: Option<&'a IdentityHeaders>,
    /// What is asked for besides.
    pub shape: Shape<'a>,
}

/// What the configuration asks for besides the rules that always hold.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// How the caller is connected with us: `http` or `https`.
    pub scheme: &'static str,
    /// The caller's address, as trusted peers tell it; none: the peer's.
    pub caller: Option<IpAddr>,
    /// The route's rules, if there are any.
    pub edits: Option<&'a Edits<'a>>,
    /// Whether headers pass that ask for another method or path.
    pub forwards_overrides: bool,
    /// In which words upstreams are told who calls.
    pub identity: IdentityWords,
    /// What we add to `Via`.
    pub via: Option<&'a HeaderValue>,
    /// The peer, if `Forwarded` is to name it.
    pub forwarded: Option<IpAddr>,
}

impl Default for Shape<'_> {
    fn default() -> Self {
        Self {
            scheme: "http",
            caller: None,
            edits: None,
            forwards_overrides: false,
            identity: IdentityWords::Octroi,
            via: None,
            forwarded: None,
        }
    }
}

impl Rewrite<'_> {
    /// Rewrites a caller's headers into what the upstream gets. Framing (Content-Length,
    /// Transfer-Encoding) and Host are the business of whoever sends.
    pub fn apply(&self, headers: &mut HeaderMap) {
        let mut gone = named_by_connection(headers, self);
        gone.extend(headers.keys().filter(|name| self.goes(name)).cloned());
        for name in &gone {
            headers.remove(name);
        }
        for name in self.credentials {
            // What a route does not look at passes on untouched, and so does an Authorization
            // of another scheme than ours: it was made for the upstream.
            if *name == AUTHORIZATION {
                remove_bearer(headers);
            } else {
                headers.remove(name);
            }
        }
        if self.trusted && headers.contains_key(FORWARDED) {
            self.settle_forwarded(headers);
        }
        if let Some(edits) = self.shape.edits {
            edits.apply(headers, is_needed_up);
        }
        self.set_ours(headers);
    }

    /// Of the two ways in which trusted peers tell the caller's address one was believed: the other
    /// does not cross, and both say the same from here on.
    fn settle_forwarded(&self, headers: &mut HeaderMap) {
        if headers.contains_key(X_FORWARDED_FOR) {
            headers.remove(FORWARDED);
            return;
        }
        if !headers.contains_key(X_FORWARDED_PROTO)
            && let Some(scheme) = forwarded::said_scheme(headers)
        {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
        }
        if let Some(caller) = self.shape.caller.and_then(|caller| HeaderValue::try_from(caller.to_string()).ok())
            && caller != *self.peer
        {
            headers.insert(X_FORWARDED_FOR, caller);
        }
    }

    fn goes(&self, name: &HeaderName) -> bool {
        let text = name.as_str();
        if is_hop_by_hop(name) || is_ours(text) || self.is_reserved(text) {
            return true;
        }
        if !self.trusted && tells_about_the_caller(text) {
            return true;
        }
        if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return false;
        }
        // Servers that turn names into variables read `_`, `.` and `-` alike, some of them
        // whatever is neither letter nor digit.
        let folded = text.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        let impersonates = is_ours(&folded)
            || self.is_reserved(&folded)
            || tells_about_the_caller(&folded)
            || is_framing(&folded)
            || self.credentials.iter().any(|credential| credential.as_str() == folded);
        impersonates || (self.underscores == UnderscoreHeaders::Drop && text.contains('_'))
    }

    /// Names that are reserved where the configuration says so.
    fn is_reserved(&self, folded: &str) -> bool {
        (!self.shape.forwards_overrides && is_override(folded))
            || (self.shape.identity == IdentityWords::Kong && is_of_kong(folded))
    }

    /// The peer's address, after what a trusted peer said; in one line, because that is what
    /// most readers of it read.
    fn forwarded_for(&self, headers: &HeaderMap) -> HeaderValue {
        let mut chain: Vec<u8> = Vec::new();
        for line in headers.get_all(X_FORWARDED_FOR) {
            chain.extend_from_slice(line.as_bytes());
            chain.extend_from_slice(b", ");
        }
        if chain.is_empty() {
            return self.peer.clone();
        }
        chain.extend_from_slice(self.peer.as_bytes());
        HeaderValue::try_from(chain).expect("values joined by a comma are a value")
    }

    fn set_ours(&self, headers: &mut HeaderMap) {
        if let Some(identity) = self.identity {
            write_identity(headers, identity);
            if self.shape.identity == IdentityWords::Kong {
                write_consumer(headers, identity);
            }
        }
        headers.insert(X_REQUEST_ID, self.request_id.clone());
        let forwarded_for = self.forwarded_for(headers);
        headers.insert(X_FORWARDED_FOR, forwarded_for);
        if !(self.trusted && says_scheme(headers)) {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(self.shape.scheme));
        }
        if !(self.trusted && headers.contains_key(X_FORWARDED_HOST))
            && let Some(host) = headers.get(HOST).cloned()
        {
            headers.insert(X_FORWARDED_HOST, host);
        }
        if let Some(peer) = self.shape.forwarded {
            forwarded::add(headers, peer, self.shape.scheme);
        }
        headers.append(VIA, self.shape.via.unwrap_or(&VIA_US).clone());
    }
}

/// Whether a name is not written as ours are, and could be read as one: the next one behind a proxy
/// that passes it on may turn `_` and `.` into `-`.
pub(super) fn impersonates(name: &HeaderName) -> bool {
    if name.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return false;
    }
    let folded = name.as_str().replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    is_ours(&folded)
}

/// Says of everything about a caller that it is not known.
pub(super) fn write_nobody(headers: &mut HeaderMap) {
    for name in [CLIENT_ID, CLIENT_NAME, KEY_ID, SUBJECT, SCOPES] {
        headers.insert(name, HeaderValue::from_static(""));
    }
}

/// Says who is calling.
pub(super) fn write_identity(headers: &mut HeaderMap, identity: &IdentityHeaders) {
    let pairs = [
        (CLIENT_ID, identity.client_id.as_ref()),
        (CLIENT_NAME, identity.client_name.as_ref()),
        (KEY_ID, identity.key_id.as_ref()),
        (SUBJECT, identity.subject.as_deref()),
        (SCOPES, identity.scopes.as_deref()),
    ];
    for (name, value) in pairs {
        if let Some(value) = value {
            headers.insert(name, value.clone());
        }
    }
}

/// Says the same in Kong's words; on open routes that there is nobody.
fn write_consumer(headers: &mut HeaderMap, identity: &IdentityHeaders) {
    let pairs = [
        (CONSUMER_ID, identity.client_id.as_ref()),
        (CONSUMER_USERNAME, identity.client_name.as_ref()),
        (CREDENTIAL_IDENTIFIER, identity.key_id.as_ref()),
    ];
    for (name, value) in pairs {
        if let Some(value) = value {
            headers.insert(name, value.clone());
        }
    }
    if identity.client_id.is_none() {
        headers.insert(ANONYMOUS_CONSUMER, HeaderValue::from_static("true"));
    }
}

/// Whether `X-Forwarded-Proto` says, of each hop, one of the schemes there are.
fn says_scheme(headers: &HeaderMap) -> bool {
    let is_scheme =
        |part: &[u8]| matches!(part.trim_ascii(), b"ws" | b"wss") || forwarded::scheme(part.trim_ascii()).is_some();
    let mut lines = headers.get_all(X_FORWARDED_PROTO).iter().peekable();
    lines.peek().is_some() && lines.all(|line| line.as_bytes().split(|byte| *byte == b',').all(is_scheme))
}

/// Whether a name has an underscore: refused under `server.underscore_headers = "refuse"`.
#[must_use]
pub fn has_underscore(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().contains('_'))
}

/// The names on all `Connection` lines. Names that would change who is meant or where the
/// message ends are not for a caller to remove.
fn named_by_connection(headers: &HeaderMap, rewrite: &Rewrite<'_>) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for line in headers.get_all(CONNECTION) {
        for token in line.as_bytes().split(|byte| *byte == b',') {
            let token = token.trim_ascii();
            if token.is_empty() || token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            let Ok(name) = HeaderName::from_bytes(token) else { continue };
            let kept = name == HOST
                || name == CONTENT_LENGTH
                || name == VIA
                || (rewrite.trusted && tells_about_the_caller(name.as_str()));
            if !kept {
                names.push(name);
            }
        }
    }
    names
}

fn remove_bearer(headers: &mut HeaderMap) {
    let is_bearer = |value: &HeaderValue| {
        let scheme = value.as_bytes().split(u8::is_ascii_whitespace).next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"bearer")
    };
    if headers.get_all(AUTHORIZATION).iter().any(is_bearer) {
        headers.remove(AUTHORIZATION);
    }
}

/// Headers that mean something only between two neighbours (RFC 9110 §7.6.1), and those that
/// would start another protocol. `Expect` is among them because we answer it ourselves: the
/// caller is told to go on when the upstream takes the body.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == TE
        || *name == TRAILER
        || *name == UPGRADE
        || *name == EXPECT
        || is_hop_by_hop_text(name.as_str())
}

fn is_hop_by_hop_text(text: &str) -> bool {
    matches!(text, "keep-alive" | "http2-settings" | "proxy") || text.starts_with("proxy-")
}

/// Names that frame a message or say where it goes.
fn is_framing(folded: &str) -> bool {
    matches!(folded, "host" | "connection" | "content-length" | "transfer-encoding" | "via" | "upgrade" | "expect")
        || is_hop_by_hop_text(folded)
}

/// Removes from the trailers of a request whatever would speak, or could be read as speaking, in
/// our name, frame the message, or carry a credential.
pub fn keep_harmless(trailers: &mut HeaderMap) {
    let harms = |name: &HeaderName| {
        let folded = name.as_str().replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        is_hop_by_hop(name)
            || is_ours(&folded)
            || is_framing(&folded)
            || tells_about_the_caller(&folded)
            || is_override(&folded)
            || is_of_kong(&folded)
            || matches!(folded.as_str(), "authorization" | "cookie" | "x-api-key")
    };
    let gone: Vec<HeaderName> = trailers.keys().filter(|name| harms(name)).cloned().collect();
    for name in gone {
        trailers.remove(name);
    }
}

/// Names by which some frameworks are asked to serve another method or path than the one that was
/// matched and authorised.
fn is_override(folded: &str) -> bool {
    folded.starts_with("x-")
        && matches!(
            folded,
            "x-http-method-override" | "x-http-method" | "x-method-override" | "x-original-url" | "x-rewrite-url"
        )
}

/// Names in which services behind Kong believe.
fn is_of_kong(folded: &str) -> bool {
    folded.starts_with("x-consumer-")
        || folded.starts_with("x-credential-")
        || matches!(
            folded,
            "x-anonymous-consumer" | "x-authenticated-groups" | "x-authenticated-scope" | "x-authenticated-userid"
        )
}

fn is_ours(folded: &str) -> bool {
    folded.strip_prefix(OUR_NAMESPACE).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_', '.']))
}

pub(super) fn tells_about_the_caller(folded: &str) -> bool {
    matches!(folded, "x-request-id" | "forwarded" | "x-real-ip") || folded.starts_with("x-forwarded-")
}

/// Removes from an upstream's headers what was only for us. `Trailer` stays: it announces what
/// follows the body, and the caller gets that.
pub fn strip_response(headers: &mut HeaderMap) {
    let mut gone: Vec<HeaderName> = Vec::new();
    for line in headers.get_all(CONNECTION) {
        let tokens = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        gone.extend(
            tokens.filter_map(|token| HeaderName::from_bytes(token).ok()).filter(|name| *name != CONTENT_LENGTH),
        );
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        // The body was read by its chunks; a length beside them is wrong or a trap.
        gone.push(CONTENT_LENGTH);
    }
    for name in headers.keys() {
        if (is_hop_by_hop(name) && *name != TRAILER) || *name == X_REQUEST_ID {
            gone.push(name.clone());
        }
    }
    for name in gone {
        headers.remove(name);
    }
}

/// The request id of a trusted peer, if it is one.
#[must_use]
pub fn presented_request_id(headers: &HeaderMap) -> Option<RequestId> {
    let mut values = headers.get_all(X_REQUEST_ID).iter();
    let value = values.next()?;
    values.next().is_none().then(|| RequestId::parse(value.as_bytes())).flatten()
}

#[cfg(test)]
mod tests;
