//! What a request's head may be, checked before anything is decided from it.
//!
//! hyper accepts more than a gateway may: what two parsers can read differently is how requests
//! are smuggled. Everything refused here is refused with the connection closed, because nobody
//! can say where the next request on it would begin.
//!
//! What an engine has already settled cannot be seen here (how lines end; of a message with both
//! Content-Length and Transfer-Encoding, hyper drops the length): that is judged before, by the
//! bytes, in [`http1::request`](super::http1::request).

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, Uri};
use http::{HeaderMap, Method, Version};
use thiserror::Error;

use crate::config::server::ServerLimits;

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeadFault {
    /// 400: malformed, or two parsers could differ about it.
    #[error("{0}")]
    Malformed(&'static str),
    /// 405: CONNECT and TRACE are for proxies of another kind.
    #[error("the method is never served")]
    Method,
    /// 414
    #[error("the request target is longer than server.limits.uri")]
    UriTooLong,
    /// 431
    #[error("the header section is larger than server.limits.headers or server.limits.header_count")]
    HeadersTooLarge,
}

/// Each header line adds `: ` and CR LF to its name and value.
const LINE_OVERHEAD: usize = 4;

/// Checks a head.
pub fn check(head: &Parts, limits: &ServerLimits) -> Result<(), HeadFault> {
    sizes(head, limits)?;
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return Err(HeadFault::Method);
    }
    framing(head)?;
    let host = host(head)?;
    target(head, host)
}

fn sizes(head: &Parts, limits: &ServerLimits) -> Result<(), HeadFault> {
    if target_length(&head.uri) > limits.uri {
        return Err(HeadFault::UriTooLong);
    }
    let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + LINE_OVERHEAD).sum();
    if bytes > limits.headers || head.headers.len() > limits.header_count {
        return Err(HeadFault::HeadersTooLarge);
    }
    Ok(())
}

/// The length as sent, near enough: `http://` of an absolute form is not counted.
fn target_length(uri: &Uri) -> usize {
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    path + uri.authority().map_or(0, |authority| authority.as_str().len())
}

fn framing(head: &Parts) -> Result<(), HeadFault> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if head.version != Version::HTTP_11 {
            return Err(HeadFault::Malformed("Transfer-Encoding in another version than HTTP/1.1"));
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(HeadFault::Malformed("Transfer-Encoding is something else than one `chunked`"));
        }
        if head.headers.contains_key(CONTENT_LENGTH) {
            return Err(HeadFault::Malformed("both Content-Length and Transfer-Encoding"));
        }
    }
    if head.headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
        return Err(HeadFault::Malformed("more than one Content-Length"));
    }
    Ok(())
}

/// The one Host of a request, `None` where HTTP/1.0 may leave it out.
fn host(head: &Parts) -> Result<Option<&str>, HeadFault> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        if head.version == Version::HTTP_10 {
            return Ok(None);
        }
        return Err(HeadFault::Malformed("no Host"));
    };
    if hosts.next().is_some() {
        return Err(HeadFault::Malformed("more than one Host"));
    }
    let host = host.to_str().map_err(|_| HeadFault::Malformed("a Host that is no name"))?;
    if is_host(host) { Ok(Some(host)) } else { Err(HeadFault::Malformed("a Host that is no name")) }
}

/// Whether `text` is `host [ ":" port ]` (RFC 9110 §7.2), with a host of letters, digits, `-`, `.`
/// and `_`, or an address in brackets. Nothing of a URI beyond that has business in a Host.
fn is_host(text: &str) -> bool {
    let (name, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else { return false };
        if !address.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')) {
            return false;
        }
        (address, rest.strip_prefix(':').or(rest.is_empty().then_some("")))
    } else {
        let (name, port) = text.split_once(':').unwrap_or((text, ""));
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')) {
            return false;
        }
        (name, Some(port))
    };
    // One dot at the end is a name's root; an empty label is no name (RFC 1123 §2.1).
    let has_empty_label = name.starts_with('.') || name.contains("..");
    !name.is_empty()
        && !has_empty_label
        && port.is_some_and(|port| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn target(head: &Parts, host: Option<&str>) -> Result<(), HeadFault> {
    let uri = &head.uri;
    if uri.path() == "*" && uri.authority().is_none() {
        return if head.method == Method::OPTIONS {
            Ok(())
        } else {
            Err(HeadFault::Malformed("`*` is a target of OPTIONS only"))
        };
    }
    if !uri.path().starts_with('/') {
        return Err(HeadFault::Malformed("a target that is neither a path nor a URI"));
    }
    match (uri.scheme_str(), uri.authority()) {
        (None, None) => Ok(()),
        // A name without a scheme cannot be asked for in HTTP/2 (RFC 9113 §8.3.1).
        (Some("http"), Some(authority)) => absolute(authority, host, ":80"),
        (Some("https"), Some(authority)) if head.version == Version::HTTP_2 => absolute(authority, host, ":443"),
        (Some("http" | "https"), None) if head.version == Version::HTTP_2 => Ok(()),
        _ => Err(HeadFault::Malformed("a target with a scheme other than http")),
    }
}

/// `default`: the port that needs not be named.
fn absolute(authority: &Authority, host: Option<&str>, default: &str) -> Result<(), HeadFault> {
    if authority.as_str().contains('@') {
        return Err(HeadFault::Malformed("userinfo in the target"));
    }
    let plain = |host: &str| without_port(host, default).to_ascii_lowercase();
    let same = |host: &str| plain(host) == plain(authority.as_str());
    if host.is_none_or(same) { Ok(()) } else { Err(HeadFault::Malformed("the target's authority is not the Host")) }
}

fn without_port<'a>(host: &'a str, default: &str) -> &'a str {
    host.strip_suffix(default).or_else(|| host.strip_suffix(':')).unwrap_or(host)
}

/// The host a checked request names, without port and one trailing dot, in the case it was
/// written. An absolute-form target counts where there is no Host (HTTP/1.0).
#[must_use]
pub fn named_host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let host = match headers.get(HOST) {
        Some(host) => host.to_str().ok()?,
        None => uri.authority()?.as_str(),
    };
    let name = if host.starts_with('[') { &host[..=host.find(']')?] } else { host.split(':').next().unwrap_or(host) };
    Some(name.strip_suffix('.').unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const LIMITS: ServerLimits = ServerLimits {
        uri: 64,
        headers: 256,
        header_count: 8,
        connections: 1,
        connections_per_address: None,
        body: None,
        queue_delay: None,
    };

    fn verdict(method: &str, target: &str, version: Version, headers: &[(&str, &str)]) -> Result<(), HeadFault> {
        let mut request = Request::builder().method(method).uri(target).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap().into_parts().0, &LIMITS)
    }

    type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], bool);

    #[test]
    fn heads_that_could_be_read_in_two_ways_are_refused() {
        let host = ("host", "a.example");
        let rows: &[Row<'_>] = &[
            ("GET", "/", &[host], true),
            ("GET", "/", &[("host", "a.example:8080")], true),
            ("GET", "/", &[("host", "[::1]:8080")], true),
            ("GET", "/", &[], false),
            ("GET", "/", &[("host", "")], false),
            ("GET", "/", &[host, host], false),
            ("GET", "/", &[("host", "u@a.example")], false),
            ("GET", "/", &[("host", "a.example/x")], false),
            ("GET", "/", &[("host", "a.example:80x")], false),
            ("GET", "/", &[("host", "a,b")], false),
            ("GET", "/", &[("host", "a.example..")], false),
            ("GET", "/", &[("host", ".example")], false),
            ("GET", "/", &[("host", "[::1")], false),
            ("GET", "/", &[("host", "[::1]x")], false),
            ("GET", "http://a.example/", &[host], true),
            ("GET", "http://A.EXAMPLE:80/", &[host], true),
            ("GET", "http://b.example/", &[host], false),
            ("GET", "http://u:p@a.example/", &[host], false),
            ("GET", "ftp://a.example/", &[host], false),
            ("GET", "https://a.example/", &[host], false),
            ("GET", "a.example:80", &[host], false),
            ("OPTIONS", "*", &[host], true),
            ("GET", "*", &[host], false),
            ("POST", "/", &[host, ("transfer-encoding", "chunked")], true),
            ("POST", "/", &[host, ("transfer-encoding", "CHUNKED")], true),
            ("POST", "/", &[host, ("transfer-encoding", "gzip, chunked")], false),
            ("POST", "/", &[host, ("transfer-encoding", "chunked, chunked")], false),
            ("POST", "/", &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false),
            ("POST", "/", &[host, ("transfer-encoding", "identity")], false),
            ("POST", "/", &[host, ("transfer-encoding", "chunked"), ("content-length", "1")], false),
            ("POST", "/", &[host, ("content-length", "1"), ("content-length", "2")], false),
        ];
        for (method, target, headers, accepted) in rows {
            let verdict = verdict(method, target, Version::HTTP_11, headers);
            let expected = if *accepted { verdict.is_ok() } else { matches!(verdict, Err(HeadFault::Malformed(_))) };
            assert!(expected, "{method} {target} {headers:?}: {verdict:?}");
        }
    }

    #[test]
    fn older_callers_and_methods_of_proxies() {
        let host = [("host", "a.example")];
        assert_eq!(verdict("GET", "/", Version::HTTP_10, &[]), Ok(()));
        let coded = [("host", "a.example"), ("transfer-encoding", "chunked")];
        assert!(matches!(verdict("POST", "/", Version::HTTP_10, &coded), Err(HeadFault::Malformed(_))));
        assert_eq!(verdict("TRACE", "/", Version::HTTP_11, &host), Err(HeadFault::Method));
        assert_eq!(verdict("CONNECT", "a.example:80", Version::HTTP_11, &host), Err(HeadFault::Method));
    }

    #[test]
    fn http_2_has_the_same_rules() {
        let host = ("host", "a.example");
        let rows: &[Row<'_>] = &[
            ("GET", "https://a.example/", &[host], true),
            ("GET", "https://A.example:443/", &[host], true),
            ("GET", "http://a.example:80/", &[host], true),
            ("GET", "https://a.example:80/", &[host], false),
            ("GET", "https://b.example/", &[host], false),
            ("GET", "https://u@a.example/", &[host], false),
            ("GET", "ftp://a.example/", &[host], false),
            ("GET", "/", &[], false),
            ("GET", "https://a.example/", &[host, host], false),
            ("POST", "https://a.example/", &[host, ("transfer-encoding", "chunked")], false),
            ("POST", "https://a.example/", &[host, ("content-length", "1"), ("content-length", "1")], false),
        ];
        for (method, target, headers, accepted) in rows {
            let verdict = verdict(method, target, Version::HTTP_2, headers);
            let expected = if *accepted { verdict.is_ok() } else { matches!(verdict, Err(HeadFault::Malformed(_))) };
            assert!(expected, "{method} {target} {headers:?}: {verdict:?}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let host = ("host", "a");
        let long = format!("/{}", "x".repeat(64));
        assert_eq!(verdict("GET", &long, Version::HTTP_11, &[host]), Err(HeadFault::UriTooLong));
        assert_eq!(verdict("GET", &long[..64], Version::HTTP_11, &[host]), Ok(()));
        let wide = "x".repeat(256);
        assert_eq!(verdict("GET", "/", Version::HTTP_11, &[host, ("a", &wide)]), Err(HeadFault::HeadersTooLarge));
        let many = [host, ("a", "1"), ("a", "2"), ("a", "3"), ("a", "4"), ("a", "5"), ("a", "6"), ("a", "7")];
        assert_eq!(verdict("GET", "/", Version::HTTP_11, &many), Ok(()));
        let more = [many.as_slice(), &[("a", "8")]].concat();
        assert_eq!(verdict("GET", "/", Version::HTTP_11, &more), Err(HeadFault::HeadersTooLarge));
    }

    #[test]
    fn the_named_host_is_without_port_and_trailing_dot() {
        for (host, named) in [
            ("a.example", "a.example"),
            ("A.Example.:8080", "A.Example"),
            ("[::1]:80", "[::1]"),
            ("a.example..", "a.example."),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            assert_eq!(named_host(&headers, &Uri::from_static("/")), Some(named));
        }
        assert_eq!(named_host(&HeaderMap::new(), &Uri::from_static("http://a:1/")), Some("a"));
        assert_eq!(named_host(&HeaderMap::new(), &Uri::from_static("/")), None);
    }
}
