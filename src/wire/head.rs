//! The head grammar: what an HTTP/1.1 library lets through and two parsers could read differently.
//!
//! hyper has parsed the head already, and refuses by itself what is not a head at all (obs-fold,
//! spaces before colons, NUL, bad lengths). What it lets pass and we refuse stands here. One thing
//! cannot be seen any more: where `Content-Length` came together with `Transfer-Encoding`, hyper
//! follows the latter, drops the former and closes the connection after the answer (RFC 9112
//! §6.3), so the upstream never sees both.

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{Method, Request, Uri, Version};
use thiserror::Error;

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeadError {
    /// No `Host`, several, or one that is no authority.
    #[error("exactly one valid Host is needed")]
    Host,
    /// The target's authority is not the `Host`.
    #[error("the target names another host than the Host header")]
    Authority,
    /// A target in no form that is forwarded.
    #[error("the request target is not an absolute path")]
    Target,
    /// Any transfer coding but `chunked` alone.
    #[error("Transfer-Encoding must be chunked, once")]
    TransferEncoding,
    /// Several lengths.
    #[error("Content-Length stands more than once")]
    ContentLength,
    /// CONNECT or TRACE.
    #[error("this method is never forwarded")]
    Method,
}

/// A head that may be forwarded: its host in lower case, without port and trailing dot.
pub fn check<B>(request: &Request<B>) -> Result<HostName<'_>, HeadError> {
    let headers = request.headers();
    if *request.method() == Method::CONNECT || *request.method() == Method::TRACE {
        return Err(HeadError::Method);
    }
    check_framing(headers, request.version())?;
    let host = check_host(headers, request.version())?;
    check_target(request.uri(), request.method(), host)?;
    Ok(HostName(host))
}

fn check_framing(headers: &HeaderMap, version: Version) -> Result<(), HeadError> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        if !chunked || codings.next().is_some() || version != Version::HTTP_11 {
            return Err(HeadError::TransferEncoding);
        }
    }
    if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(HeadError::ContentLength);
    }
    Ok(())
}

fn check_host(headers: &HeaderMap, version: Version) -> Result<&str, HeadError> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            let host = host.to_str().map_err(|_| HeadError::Host)?;
            let valid = host.parse::<Authority>().is_ok() && !host.contains('@');
            if valid { Ok(host) } else { Err(HeadError::Host) }
        }
        (None, _) if version == Version::HTTP_10 => Ok(""),
        _ => Err(HeadError::Host),
    }
}

fn check_target(uri: &Uri, method: &Method, host: &str) -> Result<(), HeadError> {
    match (uri.scheme_str(), uri.authority()) {
        (None, None) => {}
        (Some("http"), Some(authority)) => {
            if authority.as_str().contains('@') {
                return Err(HeadError::Target);
            }
            if !authority.as_str().eq_ignore_ascii_case(host) {
                return Err(HeadError::Authority);
            }
        }
        _ => return Err(HeadError::Target),
    }
    let path = uri.path();
    if path.starts_with('/') || (path == "*" && *method == Method::OPTIONS) {
        return Ok(());
    }
    Err(HeadError::Target)
}

/// A host as routes compare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostName<'a>(&'a str);

impl<'a> HostName<'a> {
    /// Without port and one trailing dot; case as it came.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        let host = match self.0.strip_prefix('[') {
            // An IPv6 address: the port follows the bracket.
            Some(_) => self.0.split_inclusive(']').next().unwrap_or(self.0),
            None => self.0.split(':').next().unwrap_or(self.0),
        };
        host.strip_suffix('.').unwrap_or(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(
        method: &str,
        target: &str,
        version: Version,
        headers: &[(&'static str, &str)],
    ) -> Result<String, HeadError> {
        let mut request = Request::builder().method(method).uri(target).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap()).map(|host| host.as_str().to_owned())
    }

    #[test]
    fn heads_that_two_parsers_could_read_differently_are_refused() {
        use HeadError::{Authority, ContentLength, Host, Target, TransferEncoding};
        let one = ("host", "a.example:8080");
        for (target, headers, expected) in [
            ("/x", &[one][..], Ok("a.example")),
            ("/x", &[("host", "A.Example.")], Ok("A.Example")),
            ("/x", &[("host", "[::1]:80")], Ok("[::1]")),
            ("/x", &[], Err(Host)),
            ("/x", &[one, one], Err(Host)),
            ("/x", &[("host", "a b")], Err(Host)),
            ("/x", &[("host", "u@a")], Err(Host)),
            ("http://a.example:8080/x", &[one], Ok("a.example")),
            ("http://b.example/x", &[one], Err(Authority)),
            ("http://u:p@a.example:8080/x", &[one], Err(Target)),
            ("ftp://a.example:8080/x", &[one], Err(Target)),
            ("*", &[one], Err(Target)),
            ("a.example:8080", &[one], Err(Target)),
            ("/x", &[one, ("transfer-encoding", "chunked")], Ok("a.example")),
            ("/x", &[one, ("transfer-encoding", "Chunked ")], Ok("a.example")),
            ("/x", &[one, ("transfer-encoding", "gzip, chunked")], Err(TransferEncoding)),
            ("/x", &[one, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], Err(TransferEncoding)),
            ("/x", &[one, ("content-length", "1"), ("content-length", "1")], Err(ContentLength)),
        ] {
            let expected = expected.map(str::to_owned);
            assert_eq!(verdict("GET", target, Version::HTTP_11, headers), expected, "{target} {headers:?}");
        }
        let old = verdict("POST", "/", Version::HTTP_10, &[("transfer-encoding", "chunked")]);
        assert_eq!(old, Err(TransferEncoding));
        assert_eq!(verdict("GET", "/", Version::HTTP_10, &[]), Ok(String::new()));
        assert_eq!(verdict("OPTIONS", "*", Version::HTTP_11, &[one]), Ok("a.example".into()));
        assert_eq!(verdict("TRACE", "/", Version::HTTP_11, &[one]), Err(HeadError::Method));
    }
}
