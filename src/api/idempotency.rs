//! `Idempotency-Key`: a write that is sent twice is done once (draft-ietf-httpapi-idempotency-key).
//!
//! The answer of a write that was done is kept for a day, without what is shown once: a key or token
//! that was lost on the way is not shown again, and the answer says so by leaving it out. What was
//! refused (4xx) changed nothing, and is tried anew. What failed (5xx) may have changed something, be
//! it after its answer (a job that a store goes on with, a commit whose answer was lost): the key stays
//! taken, and whoever asks again is told to look.
//!
//! A request is known again by its hash. There may be a key or a password in it, so that is made under
//! the pepper: who reads the table can try no guesses against it.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use zeroize::Zeroizing;

use super::caller::Caller;
use super::extract::{etag, whole};
use super::fault::{Fault, Result};
use crate::auth::Mint;
use crate::store::idempotency::{Claim, IdempotencyKey, StoredAnswer};

/// The header.
pub(super) const HEADER: &str = "idempotency-key";

/// Says of an answer that it was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The longest key.
const LONGEST: usize = 255;

/// Few changes take longer.
const CUT_SHORT: SignedDuration = SignedDuration::from_mins(2);

/// Members of answers that are shown once.
const SHOWN_ONCE: [&str; 2] = ["key", "token"];

/// Does a write, or gives the answer that it got before.
pub(super) async fn once(caller: &Caller, mint: &Mint, request: Request, next: Next) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let body = whole(body).await?;
    let text = parts.headers.get(HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if text.is_empty() || text.len() > LONGEST {
        return Err(Fault::bad_request(format!("an Idempotency-Key has 1 to {LONGEST} visible ASCII characters")));
    }
    let uri = parts.uri.to_string();
    // Room for everything at once: what grows leaves copies behind.
    let mut covered = Zeroizing::new(Vec::with_capacity(body.len() + uri.len() + 64));
    for part in [parts.method.as_str().as_bytes(), uri.as_bytes(), &body] {
        covered.extend_from_slice(&part.len().to_be_bytes());
        covered.extend_from_slice(part);
    }
    let actor = caller.actor();
    let key = IdempotencyKey {
        scope: format!("{}:{}:{}", actor.kind.as_str(), actor.id, actor.name),
        key: text.to_owned(),
        request_hash: mint.hash(&covered).to_hex(),
    };
    let store = &caller.store.idempotency;
    match store.claim(&key).await? {
        Claim::New => {}
        Claim::Answered(answer) if is_failure(answer.status) => return Err(unknown()),
        Claim::Answered(answer) => return Ok(replay(&answer)),
        Claim::Mismatch => return Err(Fault::idempotency_mismatch()),
        Claim::Running(since) => return Err(running(caller, since)),
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    // What was done is answered, also where that cannot be noted.
    let unnoted = |error| tracing::warn!(%error, "the answer of a write was not kept: sent again, it will be refused");
    if response.status().is_client_error() {
        let _ = store.release(&key).await.map_err(unnoted);
        return Ok(response);
    }
    let status = response.status().as_u16();
    if is_failure(status) {
        let answer = StoredAnswer { status, body: String::new() };
        let _ = store.complete(&key, &answer).await.map_err(unnoted);
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.map_err(|_| Fault::internal())?;
    let answer = StoredAnswer { status, body: without_secrets(&body) };
    let _ = store.complete(&key, &answer).await.map_err(unnoted);
    Ok(Response::from_parts(head, Body::from(body)))
}

/// Whether nobody knows what an answer of this status left behind.
fn is_failure(status: u16) -> bool {
    status >= 500
}

/// The same request failed, takes long, or was cut short: nobody here knows how far it came.
fn unknown() -> Fault {
    Fault::conflict(
        "the same request was begun, and whether it was done is not known, for it failed, takes long, or the process \
         that had it ended: look whether it was done, and send it with another Idempotency-Key if not",
    )
}

/// The same request is not answered yet, for it takes long or was cut short by the end of a process.
fn running(caller: &Caller, since: Timestamp) -> Fault {
    let age = caller.at.duration_since(since);
    if age < CUT_SHORT {
        return Fault::conflict("the same request is being done: ask again in a moment");
    }
    unknown()
}

fn without_secrets(body: &[u8]) -> String {
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else { return String::new() };
    if let Some(object) = value.as_object_mut() {
        object.retain(|name, _| !SHOWN_ONCE.contains(&name.as_str()));
    }
    value.to_string()
}

fn replay(answer: &StoredAnswer) -> Response {
    let mut response = Response::new(Body::from(answer.body.clone()));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    if !answer.body.is_empty() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // A tag is made of what is shown, so that it comes out as it was.
        let shown = serde_json::from_str::<Value>(&answer.body).ok();
        let tag = shown.and_then(|shown| HeaderValue::from_str(&etag(&shown)).ok());
        response.headers_mut().extend(tag.map(|tag| (header::ETAG, tag)));
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_once_is_not_kept() {
        let body = br#"{"id":"1","key":"octroi_live_secret","token":"octroi_admin_secret","key_id":"octroi_live_1"}"#;
        assert_eq!(without_secrets(body), r#"{"id":"1","key_id":"octroi_live_1"}"#);
        assert_eq!(without_secrets(b""), "");
    }

    #[test]
    fn an_answer_that_is_given_again_has_the_tag_that_it_had() {
        let shown = serde_json::json!({"name": "acme", "id": "1", "burst": null, "metadata": {"z": 1.5, "a": [7]}});
        let first = axum::response::IntoResponse::into_response(crate::api::extract::Tagged(shown.clone()));
        let again = replay(&StoredAnswer { status: 201, body: without_secrets(shown.to_string().as_bytes()) });
        assert!(first.headers().contains_key(header::ETAG));
        assert_eq!(again.headers().get(header::ETAG), first.headers().get(header::ETAG));
    }
}
