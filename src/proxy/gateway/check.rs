//! `/.octroi/check`: another proxy asks whether a request may pass, and forwards it itself.
//!
//! It is decided like any request: one canonical path, the same routes, credentials, limits and
//! quotas, one usage event. Only what follows differs: an answer without a body says who it is, and
//! the event is of kind `delegated`, because nobody here sees what becomes of the request.
//!
//! What is asked about stands in headers or in the path, and both can be written by a caller
//! wherever the proxy does not replace them. So it is believed of `server.trusted_proxies` only,
//! and there is one way to say it, whole:
//!
//! | proxy | method | host | target |
//! |---|---|---|---|
//! | nginx | `X-Original-Method` | `X-Original-Host` | `X-Original-URI` |
//! | Traefik, Caddy | `X-Forwarded-Method` | `X-Forwarded-Host` | `X-Forwarded-Uri` |
//! | Envoy | the method | `Host` | what follows `/.octroi/check` |
//!
//! Two ways at once are refused, and so is one that lacks a part: what a caller adds to what its
//! proxy says leads nowhere.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HOST};
use http::request::Parts as Head;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use thiserror::Error;

use super::{WorkerGateway, canonical_path};
use crate::proxy::context::RequestContext;
use crate::proxy::headers::{impersonates, write_identity, write_nobody};
use crate::proxy::rejection::Rejection;
use crate::proxy::reserved;
use crate::wire::head;

/// Where it stands; what follows is Envoy's.
const PLACE: &str = "/.octroi/check";

/// The headers of one way to say it.
struct Way {
    method: &'static str,
    host: &'static str,
    target: &'static str,
}

const ORIGINAL: Way = Way { method: "x-original-method", host: "x-original-host", target: "x-original-uri" };
const FORWARDED: Way = Way { method: "x-forwarded-method", host: "x-forwarded-host", target: "x-forwarded-uri" };

/// Why a check is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CheckFault {
    /// 403: it comes from somebody whose word does not count.
    #[error("the peer is not one of server.trusted_proxies")]
    UntrustedPeer,
    /// 400: nobody can say which request is meant.
    #[error("{0}")]
    Unclear(&'static str),
}

impl WorkerGateway {
    /// Decides about the request that is asked about.
    pub(super) async fn check(&self, head: &Head, context: &mut RequestContext) -> Result<Response<Bytes>, Rejection> {
        if !context.is_trusted() {
            return Err(CheckFault::UntrustedPeer.into());
        }
        // The proxy replaces what is named as ours are, and passes this on.
        if head.headers.keys().any(impersonates) {
            return Err(CheckFault::Unclear("a header's name can be read as one of ours").into());
        }
        let original = original(head)?;
        context.asks_about(&original);
        head::check(&original, &self.shared.limits)?;
        let path = canonical_path(&original)?;
        if reserved::owns(&path) {
            return Err(Rejection::NoRoute);
        }
        let route = self.find_route(&original, &path, context)?;
        let principal = self.decide(route, &original.headers, context).await?;
        let mut response = Response::new(Bytes::new());
        // All of them, empty where there is nothing: a proxy that copies them replaces what the caller
        // wrote. What is not in the answer some proxies would pass on, and one writes its own variable.
        write_nobody(response.headers_mut());
        write_identity(response.headers_mut(), &principal.headers);
        // Whoever keeps it lets requests pass that were neither counted nor limited.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

/// The head of the request that is asked about, with the credentials of the one that asks.
fn original(head: &Head) -> Result<Head, CheckFault> {
    let sent = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let below = sent.strip_prefix(PLACE).ok_or(CheckFault::Unclear("the path is written in another way"))?;
    let ways = [&ORIGINAL, &FORWARDED].map(|way| is_said(&head.headers, way).then_some(way));
    let (method, host, target) = match (below.starts_with('/'), ways) {
        (true, [None, None]) => {
            let host = head.headers.get(HOST).ok_or(CheckFault::Unclear("no Host"))?;
            (head.method.clone(), host, target(below.as_bytes())?)
        }
        (false, [Some(way), None] | [None, Some(way)]) => {
            let method = Method::from_bytes(the_one(&head.headers, way.method)?.as_bytes())
                .map_err(|_| CheckFault::Unclear("the original method is none"))?;
            (method, the_one(&head.headers, way.host)?, target(the_one(&head.headers, way.target)?.as_bytes())?)
        }
        (false, [None, None]) => return Err(CheckFault::Unclear("no original request is named")),
        _ => return Err(CheckFault::Unclear("original requests are named in two ways")),
    };
    let (mut original, ()) = Request::new(()).into_parts();
    original.method = method;
    original.uri = Uri::from(target);
    original.headers.clone_from(&head.headers);
    original.headers.insert(HOST, host.clone());
    Ok(original)
}

/// Hosts do not tell the ways apart: proxies send `X-Forwarded-Host` with whatever they forward.
fn is_said(headers: &HeaderMap, way: &Way) -> bool {
    headers.contains_key(way.target) || headers.contains_key(way.method)
}

fn the_one<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h HeaderValue, CheckFault> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        (None, _) => Err(CheckFault::Unclear("method, host or target of the original request is missing")),
        (Some(_), Some(_)) => Err(CheckFault::Unclear("method, host or target of the original request came twice")),
    }
}

/// A path and a query, as a request line has them.
fn target(text: &[u8]) -> Result<PathAndQuery, CheckFault> {
    // A fragment would be dropped without a word.
    let is_plain = text.first() == Some(&b'/') && text.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#');
    let target = is_plain.then(|| PathAndQuery::try_from(text).ok()).flatten();
    target.ok_or(CheckFault::Unclear("the original target is none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Named<'t> = Result<(&'t str, &'t str, &'t str), ()>;
    /// The check's target, its headers, and what is asked about.
    type Row<'t> = (&'t str, Vec<(&'t str, &'t str)>, Named<'t>);

    fn read(uri: &str, headers: &[(&str, &str)]) -> Result<(String, String, String), CheckFault> {
        let mut request = Request::builder().method("GET").uri(uri).header("host", "front.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let original = original(&request.body(()).unwrap().into_parts().0)?;
        let host = original.headers[HOST].to_str().unwrap().to_owned();
        Ok((original.method.to_string(), host, original.uri.to_string()))
    }

    #[test]
    fn a_request_is_named_in_one_way_whole_or_not_at_all() {
        const CHECK: &str = "/.octroi/check";
        let nginx = [("x-original-method", "PUT"), ("x-original-host", "a.example"), ("x-original-uri", "/a?b")];
        let caddy = [("x-forwarded-method", "PUT"), ("x-forwarded-host", "a.example"), ("x-forwarded-uri", "/a?b")];
        let without = |all: &[(&'static str, &'static str)], name: &str| {
            all.iter().copied().filter(|(key, _)| *key != name).collect::<Vec<_>>()
        };
        let and = |all: &[(&'static str, &'static str)], more| [all, &[more]].concat();
        let put: Named<'_> = Ok(("PUT", "a.example", "/a?b"));
        let rows: Vec<Row<'_>> = vec![
            (CHECK, nginx.to_vec(), put),
            (CHECK, caddy.to_vec(), put),
            // The query of the check itself says nothing.
            ("/.octroi/check?/a", nginx.to_vec(), put),
            ("/.octroi/check?/a", vec![], Err(())),
            ("/.octroi/check/a?b", vec![], Ok(("GET", "front.example", "/a?b"))),
            ("/.octroi/check/", vec![], Ok(("GET", "front.example", "/"))),
            ("/.octroi/check//a", vec![], Ok(("GET", "front.example", "//a"))),
            ("/.octroi/check/a", vec![("x-forwarded-host", "b.example")], Ok(("GET", "front.example", "/a"))),
            (CHECK, vec![], Err(())),
            // Each part, once.
            (CHECK, without(&nginx, "x-original-method"), Err(())),
            (CHECK, without(&nginx, "x-original-host"), Err(())),
            (CHECK, without(&nginx, "x-original-uri"), Err(())),
            (CHECK, without(&caddy, "x-forwarded-method"), Err(())),
            (CHECK, without(&caddy, "x-forwarded-host"), Err(())),
            (CHECK, without(&caddy, "x-forwarded-uri"), Err(())),
            (CHECK, and(&nginx, ("x-original-uri", "/public")), Err(())),
            (CHECK, and(&nginx, ("x-original-method", "GET")), Err(())),
            (CHECK, and(&caddy, ("x-forwarded-host", "b.example")), Err(())),
            // Of two ways, nobody knows which one the proxy wrote.
            (CHECK, and(&nginx, ("x-forwarded-uri", "/public")), Err(())),
            (CHECK, and(&nginx, ("x-forwarded-method", "GET")), Err(())),
            (CHECK, and(&caddy, ("x-original-uri", "/public")), Err(())),
            ("/.octroi/check/a", vec![("x-forwarded-uri", "/public")], Err(())),
            ("/.octroi/check/a", nginx.to_vec(), Err(())),
            // Written so that somebody else may read another path.
            ("/%2Eoctroi/check/a", vec![], Err(())),
            ("/.octroi//check/a", vec![], Err(())),
        ];
        for (uri, headers, expected) in rows {
            let read = read(uri, &headers);
            let read = read.as_ref().map(|(method, host, target)| (method.as_str(), host.as_str(), target.as_str()));
            assert_eq!(read.map_err(|_| ()), expected, "{uri} {headers:?}");
        }
    }

    #[test]
    fn what_is_no_target_is_none() {
        for text in ["", "a", "*", "http://a.example/", "/a#b", "/a b", "/a\tb", "/ä", "?/a", "#/a"] {
            assert!(target(text.as_bytes()).is_err(), "{text}");
        }
        for text in ["/", "//a", "/a?b?c", "/a/../b", "/%2e", "/a?x=%23"] {
            assert_eq!(target(text.as_bytes()).unwrap().as_str(), text);
        }
    }
}
