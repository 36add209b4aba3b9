//! The request as the upstream gets it, the response as the caller gets it.

use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::request::Parts as Head;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};

use super::headers::strip_response;
use super::path::CanonicalPath;
use crate::config::route::RouteConfig;
use crate::wire::websocket::{BY_UPGRADE, WEBSOCKET};

/// A prefix of paths, and what takes its place. Both are canonical and end at a segment's end, so
/// that what comes of it is canonical too and stays below the new prefix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replaced<'a> {
    prefix: &'a str,
    by: &'a str,
}

impl<'a> Replaced<'a> {
    /// What a route replaces, if anything.
    pub(super) fn of(config: &'a RouteConfig) -> Option<Self> {
        let by = if config.strip_prefix { Some("") } else { config.shaping.prefix.as_deref() };
        by.map(|by| Self { prefix: &config.path, by })
    }
}

/// Where the request goes: the canonical path with its prefix replaced, and the query untouched.
pub(super) fn target(uri: &Uri, path: &CanonicalPath<'_>, replaced: Option<Replaced<'_>>) -> PathAndQuery {
    let sent = uri.path_and_query();
    // Of `http://host?query` the library keeps only the query; its path is the slash that is not there.
    if let (None, true, Some(sent)) = (replaced, path.is_as_sent(), sent)
        && sent.as_str().starts_with('/')
    {
        return sent.clone();
    }
    let prefix = replaced.map_or(0, |replaced| replaced.prefix.trim_end_matches('/').len());
    let by = replaced.map_or("", |replaced| replaced.by.trim_end_matches('/'));
    let rest = path.as_str().get(prefix..).unwrap_or_default();
    let query = sent.and_then(PathAndQuery::query);
    let mut text = String::with_capacity(by.len() + rest.len() + 2 + query.map_or(0, str::len));
    text.push_str(by);
    text.push_str(rest);
    if text.is_empty() {
        text.push('/');
    }
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    PathAndQuery::try_from(text).expect("a canonical path and a parsed query are a target")
}

/// The head of a request of ours, whose headers were rewritten already.
pub(super) fn request(head: Head, target: PathAndQuery) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = head.method;
    *request.uri_mut() = Uri::from(target);
    *request.headers_mut() = head.headers;
    request
}

/// Makes an upstream's response one of ours. The body's framing is left to whoever writes it:
/// known length, chunks, or for old callers the connection's end.
pub(super) fn response<B: http_body::Body>(mut response: Response<B>, method: &Method) -> Response<B> {
    *response.version_mut() = Version::HTTP_11;
    strip_response(response.headers_mut());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, BY_UPGRADE);
        response.headers_mut().insert(UPGRADE, WEBSOCKET);
    }
    let has_no_body = *method == Method::HEAD || response.status() == StatusCode::NOT_MODIFIED;
    if !has_no_body && response.headers().contains_key(CONTENT_LENGTH) {
        // `5, 5` and two lines were read as one length, and are sent as one.
        match response.body().size_hint().exact() {
            Some(length) => drop(response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length))),
            None => drop(response.headers_mut().remove(CONTENT_LENGTH)),
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;

    use super::super::path::canonicalise;
    use super::*;

    #[test]
    fn the_target_is_the_canonical_path_with_its_prefix_replaced() {
        for (sent, replaced, up) in [
            ("/a/b?x=%2f..", None, "/a/b?x=%2f.."),
            ("/%61/b?x=//", None, "/a/b?x=//"),
            ("/a/b", Some(("/a", "")), "/b"),
            ("/a/b?q", Some(("/a/", "")), "/b?q"),
            ("/a", Some(("/a", "")), "/"),
            ("/a?q", Some(("/a", "")), "/?q"),
            ("/a/b", Some(("/", "")), "/a/b"),
            ("/a/b?q", Some(("/a", "/v2")), "/v2/b?q"),
            ("/a", Some(("/a", "/v2/x")), "/v2/x"),
            ("/a/", Some(("/a", "/v2")), "/v2/"),
            ("/a/b", Some(("/", "/v2")), "/v2/a/b"),
            ("/", Some(("/", "/v2")), "/v2/"),
            ("/a/b", Some(("/a", "/")), "/b"),
            ("/a", Some(("/a", "/")), "/"),
            ("http://h/a?q", None, "/a?q"),
            ("http://h", None, "/"),
            ("http://h?/admin", None, "/?/admin"),
        ] {
            let uri: Uri = sent.parse().unwrap();
            let path = canonicalise(uri.path()).unwrap();
            let prefix = replaced.map(|(prefix, by)| Replaced { prefix, by });
            assert_eq!(Uri::from(target(&uri, &path, prefix)).to_string(), up, "{sent} with {replaced:?}");
        }
    }

    #[test]
    fn a_response_has_one_length_or_none() {
        let body = || Full::new(Bytes::from_static(b"abcde"));
        let with = |lengths: &[&'static str], method| {
            let mut given = Response::new(body());
            for length in lengths {
                given.headers_mut().append(CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            let ours = response(given, &method);
            ours.headers().get_all(CONTENT_LENGTH).iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(with(&["5, 5"], Method::GET), ["5"]);
        assert_eq!(with(&["5", "5"], Method::GET), ["5"]);
        assert_eq!(with(&["77"], Method::HEAD), ["77"]);
        assert!(with(&[], Method::GET).is_empty());
    }
}
