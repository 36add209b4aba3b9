//! One upstream call: a connection, the head out, the head back, bodies streaming.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::body::{BodyDeadlines, ResponseBody};
use super::exchange::Exchange;
use super::headers::rewrite_response;
use super::pool::{ConnectError, Lease, Pool};
use super::rejection::Rejection;
use super::upload::{Upload, UploadFailure, UploadState};
use crate::model::usage::{CutReason, Outcome};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no answer in time")]
    TimedOut,
    #[error("the upstream broke off: {0}")]
    Broken(#[source] hyper::Error),
    #[error("the upstream switched protocols without being asked")]
    Switched,
}

/// Sends an admitted request and returns the caller's response; its body settles the exchange.
pub(super) async fn forward(
    mut exchange: Exchange,
    pool: &Arc<Pool>,
    upstream: usize,
    request: Request<Upload>,
) -> Result<Response<ResponseBody>, Rejection> {
    let sent = match pool.config.request_timeout {
        None => send(&mut exchange, pool, request).await,
        Some(limit) => match tokio::time::timeout(limit, send(&mut exchange, pool, request)).await {
            Ok(sent) => sent,
            Err(_) => Err(SendError::TimedOut),
        },
    };
    match sent {
        Ok((lease, response)) => {
            let gateway = exchange.gateway();
            let took = gateway.shared.clock.monotonic().since(exchange.context().started);
            gateway.shared.metrics.upstream_answered(upstream, took);
            Ok(answer(exchange, lease, response, pool))
        }
        Err(error) => Err(give_up(&mut exchange, &error)),
    }
}

/// The seam: a head and a body go out, a head and a body come back. An HTTP/1 half of our own can
/// take hyper's place here and nothing around it would notice.
async fn send(
    exchange: &mut Exchange,
    pool: &Arc<Pool>,
    mut request: Request<Upload>,
) -> Result<(Lease, Response<Incoming>), SendError> {
    let endpoint = pool.next_endpoint();
    let mut may_reuse = true;
    loop {
        let mut lease = connection(pool, endpoint, may_reuse).await?;
        let again = replay(&request, lease.reused);
        exchange.mark_sent();
        let sending = lease.sender.try_send_request(request);
        let answered = in_time(sending, exchange.upload.as_deref(), pool.config.response_timeout).await;
        let mut error = match answered {
            Some(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                return Err(SendError::Switched);
            }
            Some(Ok(response)) => return Ok((lease, response)),
            Some(Err(error)) => error,
            None => return Err(SendError::TimedOut),
        };
        request = match (take_back(&mut error), again) {
            // Never written: it may go out on another connection, whatever it is.
            (Some(request), _) => {
                exchange.clear_sent();
                // A fresh connection that takes nothing will not take it the second time either.
                if !lease.reused {
                    return Err(SendError::Broken(error.into_error()));
                }
                request
            }
            // Written on a connection that the upstream had given up, and no byte came back: a
            // safe method without a body may be sent once more (RFC 9110 §9.2.2).
            (None, Some(request)) => request,
            (None, None) => return Err(SendError::Broken(error.into_error())),
        };
        may_reuse = false;
    }
}

fn take_back(error: &mut TrySendError<Request<Upload>>) -> Option<Request<Upload>> {
    error.take_message()
}

/// A kept connection, or a new one; where an endpoint refuses, the next one is asked.
async fn connection(pool: &Arc<Pool>, endpoint: usize, may_reuse: bool) -> Result<Lease, SendError> {
    if may_reuse && let Some(lease) = pool.take_idle(endpoint).await {
        return Ok(lease);
    }
    let mut failure = None;
    for step in 0..pool.endpoints() {
        match pool.connect((endpoint + step) % pool.endpoints()).await {
            Ok(lease) => return Ok(lease),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.map_or(SendError::TimedOut, SendError::Connect))
}

/// A copy to send again, for safe methods without a body on a connection that was used before:
/// only there can the upstream have closed it in the same moment. It costs a copy of the head.
fn replay(request: &Request<Upload>, reused: bool) -> Option<Request<Upload>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !reused || !safe || !matches!(request.body(), Upload::Empty) {
        return None;
    }
    let mut copy = Request::new(Upload::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Waits for the head of an answer; the deadline moves on while the request's body moves.
async fn in_time<T>(sending: impl Future<Output = T>, upload: Option<&UploadState>, limit: Duration) -> Option<T> {
    let mut sending = pin!(sending);
    let mut moved = 0;
    loop {
        if let Ok(answer) = tokio::time::timeout(limit, sending.as_mut()).await {
            return Some(answer);
        }
        let bytes = upload.map_or(0, UploadState::bytes);
        if bytes == moved {
            return None;
        }
        moved = bytes;
    }
}

fn answer(
    mut exchange: Exchange,
    lease: Lease,
    response: Response<Incoming>,
    pool: &Arc<Pool>,
) -> Response<ResponseBody> {
    let (mut head, body) = response.into_parts();
    rewrite_response(&mut head.headers, exchange.context().request_id_value());
    if let Some(standing) = exchange.context().standing {
        standing.write(&mut head.headers);
    }
    head.version = Version::HTTP_11;
    exchange.status = Some(head.status.as_u16());
    exchange.lease = Some(lease);
    let passed = exchange.gateway().shared.clock.monotonic().since(exchange.context().started);
    let whole = pool.config.request_timeout.map(|limit| limit.saturating_sub(passed));
    let body = ResponseBody::streaming(body, exchange, BodyDeadlines { idle: pool.config.idle_timeout, whole });
    Response::from_parts(head, body)
}

/// Settles an exchange that got no answer, and says what the caller is told.
fn give_up(exchange: &mut Exchange, error: &SendError) -> Rejection {
    let upload = exchange.upload.as_ref().and_then(|upload| upload.failure());
    let (rejection, outcome, reason) = match (upload, error) {
        (Some(UploadFailure::TooLarge), _) => (Rejection::BodyTooLarge, Outcome::Cut, Some(CutReason::BodyTooLarge)),
        (Some(UploadFailure::Stalled), _) => (Rejection::BodyTimeout, Outcome::Cut, Some(CutReason::Deadline)),
        (Some(UploadFailure::Broken), _) => (Rejection::BodyBroken, Outcome::ClientGone, None),
        (None, SendError::TimedOut | SendError::Connect(ConnectError::TimedOut)) => {
            (Rejection::UpstreamTimeout, Outcome::UpstreamError, None)
        }
        (None, SendError::Connect(_) | SendError::Broken(_) | SendError::Switched) => {
            (Rejection::UpstreamUnavailable, Outcome::UpstreamError, None)
        }
    };
    tracing::debug!(request_id = %exchange.context().request_id, error = error as &dyn std::error::Error, "no answer from the upstream");
    exchange.status = Some(rejection.status());
    exchange.settle(outcome, reason);
    rejection
}

/// The length a caller announces for its body; none where it is chunked.
pub(super) fn announced_length(value: Option<&HeaderValue>) -> Option<u64> {
    value?.to_str().ok()?.parse().ok()
}

/// The name under which a length is announced.
pub(super) const ANNOUNCED: http::HeaderName = CONTENT_LENGTH;
