//! A stream's request as a handler gets it, and a handler's response as a stream carries it.
//!
//! After this there is one vocabulary: a `Host`, one `Cookie`, and an upgrade that is asked for as
//! HTTP/1.1 does. What a head may be is checked where all heads are
//! ([`wire::head`](crate::wire::head)).

use bytes::{BufMut as _, BytesMut};
use h2::ext::Protocol;
use http::header::{CONNECTION, COOKIE, DATE, HOST, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, response};

use crate::server::watch::Watch;
use crate::wire::websocket;

/// Makes a request's head one that any handler understands. Whether it asks for a WebSocket
/// (RFC 8441), which the other side gets as the `GET` that HTTP/1.1 asks with.
pub(super) fn request(head: &mut Parts) -> bool {
    if !head.headers.contains_key(HOST)
        && let Some(authority) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.insert(HOST, host);
    }
    join_cookies(head);
    let is_tunnel = head.method == Method::CONNECT
        && head.extensions.get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket");
    if is_tunnel && let Ok(key) = random_key() {
        head.method = Method::GET;
        websocket::open_handshake(&mut head.headers, key);
        return true;
    }
    false
}

fn random_key() -> Result<[u8; 16], getrandom::Error> {
    let mut key = [0; 16];
    getrandom::fill(&mut key)?;
    Ok(key)
}

/// HTTP/2 may split what everywhere else is one line (RFC 9113 §8.2.3).
fn join_cookies(head: &mut Parts) {
    let lines = head.headers.get_all(COOKIE);
    if lines.iter().nth(1).is_none() {
        return;
    }
    let mut joined = BytesMut::new();
    for line in lines {
        if !joined.is_empty() {
            joined.put_slice(b"; ");
        }
        joined.put_slice(line.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(joined.freeze()) {
        head.headers.insert(COOKIE, joined);
    }
}

/// Makes a response's head one that a stream carries. `is_tunnel`: the request asked for one, so
/// that 101 is 200 here (RFC 8441 §5).
pub(super) fn response(head: &mut response::Parts, is_tunnel: bool, watch: &Watch) {
    if is_tunnel && head.status == StatusCode::SWITCHING_PROTOCOLS {
        head.status = StatusCode::OK;
        head.headers.remove(SEC_WEBSOCKET_ACCEPT);
    }
    head.headers.remove(CONNECTION);
    head.headers.remove(UPGRADE);
    if !head.headers.contains_key(DATE)
        && let Ok(date) = HeaderValue::from_bytes(&watch.date())
    {
        head.headers.insert(DATE, date);
    }
}
