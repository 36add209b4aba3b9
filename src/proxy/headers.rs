//! What crosses: headers to the upstream and back.
//!
//! The order to the upstream is the rule (each step undoes what a later one could be fooled by):
//! first whatever the caller's `Connection` names, then the hop-by-hop fields, then everything
//! that speaks in our name or in a proxy's, then ours are set, last. `Connection` is rebuilt by
//! the next hop's own framing and never copied.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{
    CONNECTION, EXPECT, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use ipnet::IpNet;

use crate::clients::Principal;
use crate::config::route::RouteConfig;
use crate::config::server::UnderscoreHeaders;

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const CLIENT_ID: HeaderName = HeaderName::from_static("x-octroi-client-id");
const CLIENT_NAME: HeaderName = HeaderName::from_static("x-octroi-client-name");
const KEY_ID: HeaderName = HeaderName::from_static("x-octroi-key-id");
const SUBJECT: HeaderName = HeaderName::from_static("x-octroi-subject");
const SCOPES: HeaderName = HeaderName::from_static("x-octroi-scopes");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

const HTTP: HeaderValue = HeaderValue::from_static("http");
const VIA_US: HeaderValue = HeaderValue::from_static("1.1 octroi");

/// Fields that belong to one connection (RFC 9110 §7.6.1), and those of proxies.
const HOP_BY_HOP: [HeaderName; 10] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
];

/// Our namespace, after folding.
const OURS: &str = "x-octroi-";

/// Names that say where a request came from: a proxy's to set, not a caller's.
const ORIGIN: [&str; 3] = ["x-request-id", "forwarded", "x-real-ip"];
const ORIGIN_PREFIX: &str = "x-forwarded-";

/// A header name that `server.underscore_headers = "refuse"` refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnderscoreRefused;

/// What is needed to rewrite a request's headers.
pub struct Outgoing<'a> {
    /// The route it goes by.
    pub route: &'a RouteConfig,
    /// Who calls.
    pub principal: &'a Principal,
    /// What the request is called.
    pub request_id: HeaderValue,
    /// The peer's address, as the socket says.
    pub peer: IpAddr,
    /// Whether the peer is a proxy of ours.
    pub trusted: bool,
    /// The endpoint's own name, where the caller's is not kept.
    pub host: &'a HeaderValue,
}

/// Whether the caller's names are legal where underscores are refused.
pub fn check_names(headers: &HeaderMap, policy: UnderscoreHeaders) -> Result<(), UnderscoreRefused> {
    if policy == UnderscoreHeaders::Refuse && headers.keys().any(|name| name.as_str().contains('_')) {
        return Err(UnderscoreRefused);
    }
    Ok(())
}

/// Rewrites the headers of a request that goes to an upstream.
pub fn rewrite_request(headers: &mut HeaderMap, underscores: UnderscoreHeaders, out: &Outgoing<'_>) {
    remove_named_by_connection(headers);
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    // Our side has answered it: the body is asked for when it is wanted.
    headers.remove(EXPECT);
    for name in &out.route.credentials {
        remove_credential(headers, name);
    }
    remove_reserved(headers, underscores, out.trusted);
    let host = headers.get(HOST).cloned();
    set_origin(headers, out, host.as_ref());
    if !out.route.preserve_host || host.is_none() {
        headers.insert(HOST, out.host.clone());
    }
    set_identity(headers, out.principal);
}

/// Rewrites the headers of a response that goes to a caller.
pub fn rewrite_response(headers: &mut HeaderMap, request_id: HeaderValue) {
    // A trailer's announcement stays true: trailers of responses pass.
    let trailer = headers.remove(TRAILER);
    remove_named_by_connection(headers);
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if let Some(trailer) = trailer {
        headers.insert(TRAILER, trailer);
    }
    headers.insert(X_REQUEST_ID, request_id);
}

fn remove_named_by_connection(headers: &mut HeaderMap) {
    if !headers.contains_key(CONNECTION) {
        return;
    }
    let mut named = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',') {
            // Not a name: it names nothing that is there.
            if let Ok(name) = HeaderName::from_bytes(token.trim_ascii()) {
                named.push(name);
            }
        }
    }
    for name in named {
        // A caller cannot have the host taken away: it was checked, and routing went by it.
        if name != HOST {
            headers.remove(name);
        }
    }
}

/// Only a credential of ours: another scheme's `Authorization` passes on.
fn remove_credential(headers: &mut HeaderMap, name: &HeaderName) {
    let Some(value) = headers.get(name) else { return };
    let other_scheme = *name == http::header::AUTHORIZATION && !is_bearer(value.as_bytes());
    if !other_scheme {
        headers.remove(name);
    }
}

fn is_bearer(value: &[u8]) -> bool {
    value.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))
        && value.get(6).is_none_or(|byte| *byte == b' ')
}

fn remove_reserved(headers: &mut HeaderMap, underscores: UnderscoreHeaders, trusted: bool) {
    let drop_underscores = underscores != UnderscoreHeaders::Forward;
    let reserved = |name: &HeaderName| is_reserved(name.as_str(), drop_underscores, trusted);
    // Nearly no request has one, so nearly no request pays for a list.
    if !headers.keys().any(reserved) {
        return;
    }
    let found: Vec<HeaderName> = headers.keys().filter(|name| reserved(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

fn is_reserved(name: &str, drop_underscores: bool, trusted: bool) -> bool {
    let odd = name.contains(['_', '.']);
    if !odd {
        // `x-request-id` and `x-forwarded-for` are replaced by insertion; the rest goes here.
        return name.starts_with(OURS) || (!trusted && speaks_of_origin(name));
    }
    if drop_underscores && name.contains('_') {
        return true;
    }
    let folded = name.replace(['_', '.'], "-");
    // Even a trusted proxy has no reason to spell these so.
    folded.starts_with(OURS) || speaks_of_origin(&folded)
}

fn speaks_of_origin(name: &str) -> bool {
    ORIGIN.contains(&name) || name.starts_with(ORIGIN_PREFIX)
}

fn set_origin(headers: &mut HeaderMap, out: &Outgoing<'_>, host: Option<&HeaderValue>) {
    headers.insert(X_REQUEST_ID, out.request_id.clone());
    let peer = address_value(out.peer);
    match headers.get(X_FORWARDED_FOR) {
        // Only a trusted peer's is still there.
        Some(before) => {
            let mut list = before.as_bytes().to_vec();
            list.extend_from_slice(b", ");
            list.extend_from_slice(peer.as_bytes());
            headers.insert(X_FORWARDED_FOR, HeaderValue::from_bytes(&list).unwrap_or(peer));
        }
        None => drop(headers.insert(X_FORWARDED_FOR, peer)),
    }
    if !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HTTP);
    }
    if let Some(host) = host
        && !headers.contains_key(X_FORWARDED_HOST)
    {
        headers.insert(X_FORWARDED_HOST, host.clone());
    }
    headers.append(VIA, VIA_US);
}

fn set_identity(headers: &mut HeaderMap, principal: &Principal) {
    let identity = &principal.headers;
    for (name, value) in [
        (CLIENT_ID, &identity.client_id),
        (CLIENT_NAME, &identity.client_name),
        (KEY_ID, &identity.key_id),
        (SUBJECT, &identity.subject),
        (SCOPES, &identity.scopes),
    ] {
        // Absent and never empty: an upstream must not take an empty header for an answer.
        if let Some(value) = value {
            headers.insert(name, value.clone());
        }
    }
}

fn address_value(address: IpAddr) -> HeaderValue {
    use std::io::Write as _;
    let mut text = [0; 48];
    let mut rest = &mut text[..];
    // 39 characters are the longest form of an address.
    let _ = write!(rest, "{}", address.to_canonical());
    let left = rest.len();
    let length = text.len() - left;
    HeaderValue::from_bytes(&text[..length]).expect("an address is visible ASCII")
}

/// Whether a peer is one of our own proxies.
pub fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    trusted.iter().any(|network| network.contains(&peer))
}

/// The caller's address: the peer's own, or, behind trusted proxies, the first from the right of
/// `X-Forwarded-For` that is none of them.
pub fn caller_address(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    if trusted.is_empty() || !is_trusted(peer, trusted) {
        return peer.to_canonical();
    }
    let mut hops: Vec<&[u8]> = Vec::new();
    for value in headers.get_all(X_FORWARDED_FOR) {
        hops.extend(value.as_bytes().split(|byte| *byte == b','));
    }
    let mut last = peer.to_canonical();
    for hop in hops.iter().rev() {
        // What cannot be read ends the chain that can be believed.
        let Some(address) = std::str::from_utf8(hop).ok().and_then(|hop| hop.trim().parse::<IpAddr>().ok()) else {
            break;
        };
        last = address.to_canonical();
        if !is_trusted(last, trusted) {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_our_namespace_are_reserved_however_they_are_spelt() {
        for (name, reserved) in [
            ("x-octroi-client-id", true),
            ("x_octroi_client_id", true),
            ("x-octroi.client-id", true),
            ("x.octroi_scopes", true),
            ("x-forwarded-for", true),
            ("x_forwarded_for", true),
            ("x-request-id", true),
            ("x-real-ip", true),
            ("forwarded", true),
            ("some_name", true),
            ("some.name", false),
            ("x-octro", false),
            ("accept", false),
        ] {
            assert_eq!(is_reserved(name, true, false), reserved, "{name}");
        }
        assert!(!is_reserved("x-forwarded-for", true, true), "a trusted proxy's");
        assert!(is_reserved("x_forwarded_for", false, true), "but not so spelt");
        assert!(is_reserved("x_octroi_client_id", false, true));
        assert!(!is_reserved("some_name", false, false));
    }

    #[test]
    fn connection_names_what_goes_and_cannot_take_the_host() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static("X-One, close"));
        headers.append(CONNECTION, HeaderValue::from_static("x-two,,HOST, bad name"));
        for name in ["x-one", "x-two", "host", "x-three"] {
            headers.insert(name, HeaderValue::from_static("v"));
        }
        remove_named_by_connection(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["connection", "host", "x-three"]);
    }

    #[test]
    fn another_scheme_s_authorization_passes_on() {
        for (value, stays) in
            [("Bearer key", false), ("bearer key", false), ("Basic dTpw", true), ("Bearerish x", true)]
        {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", HeaderValue::from_static(value));
            remove_credential(&mut headers, &http::header::AUTHORIZATION);
            assert_eq!(headers.contains_key("authorization"), stays, "{value}");
        }
    }

    #[test]
    fn the_caller_is_the_first_from_the_right_that_is_no_proxy_of_ours() {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "192.0.2.1/32"].map(|network| network.parse().unwrap()).to_vec();
        for (peer, forwarded, caller) in [
            ("203.0.113.9", Some("1.2.3.4"), "203.0.113.9"),
            ("10.0.0.1", None, "10.0.0.1"),
            ("10.0.0.1", Some("1.2.3.4"), "1.2.3.4"),
            ("10.0.0.1", Some("6.6.6.6, 1.2.3.4, 192.0.2.1"), "1.2.3.4"),
            ("::ffff:10.0.0.1", Some("1.2.3.4"), "1.2.3.4"),
            ("10.0.0.1", Some("1.2.3.4, nonsense, 10.0.0.2"), "10.0.0.2"),
            ("10.0.0.1", Some("2001:db8::7"), "2001:db8::7"),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(forwarded) = forwarded {
                headers.insert("x-forwarded-for", HeaderValue::from_static(forwarded));
            }
            let found = caller_address(&headers, peer.parse().unwrap(), &trusted);
            assert_eq!(found, caller.parse::<IpAddr>().unwrap(), "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn addresses_are_written_in_their_usual_form() {
        for (address, text) in
            [("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1"), ("255.255.255.255", "255.255.255.255")]
        {
            assert_eq!(address_value(address.parse().unwrap()), text);
        }
    }
}
