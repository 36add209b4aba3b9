//! What handlers read of a request, with errors that say what is wrong with it; and ETags.

use std::time::Duration;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroize as _;

use super::fault::{Fault, Result};
use crate::crypto::pepper::sha256;

/// The most of a body that is read.
const BODY_MAX: usize = 1024 * 1024;

/// How long a body may take to come: a connection that says nothing is not worth a place.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// The whole body.
///
/// # Errors
/// It is larger than is read, does not come in time, or breaks off.
pub(super) async fn whole(body: axum::body::Body) -> Result<Bytes> {
    let read = tokio::time::timeout(BODY_PATIENCE, to_bytes(body, BODY_MAX)).await;
    read.map_err(|_| Fault::too_slow(BODY_PATIENCE))?.map_err(|_| Fault::too_large(BODY_MAX))
}

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Body<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let bytes = json(request).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| Fault::bad_request(format!("the body: {error}")))
    }
}

/// A JSON body with keys in it: no fault repeats a part of it, and it is wiped once it is read, as far as it
/// is ours alone.
pub(super) struct Confidential<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Confidential<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let bytes = json(request).await?;
        let read = serde_json::from_slice(&bytes).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let detail = format!("the body is not what it should be (/docs), at line {line}, column {column}");
            Fault::bad_request(detail)
        });
        if let Ok(mut alone) = bytes.try_into_mut() {
            alone.as_mut().zeroize();
        }
        read.map(Self)
    }
}

async fn json(request: Request) -> Result<Bytes> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    // Also what keeps a form of a stranger's page out: a form cannot send this.
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Fault::unsupported_media_type("application/json"));
    }
    whole(request.into_body()).await
}

/// A form, as a page without JavaScript sends it.
pub(super) struct Form<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Form<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let bytes = whole(request.into_body()).await?;
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(&bytes).into_owned().collect();
        // Fields that were left empty were not filled in.
        let pairs: Vec<_> = pairs.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
        let text = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let uri = format!("/?{text}").parse().map_err(|_| Fault::bad_request("the form cannot be read"))?;
        let Query(read) = Query::try_from_uri(&uri).map_err(|error| Fault::bad_request(error.body_text()))?;
        Ok(Self(read))
    }
}

/// Parameters of the query.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let Query(read) = Query::try_from_uri(&parts.uri).map_err(|error| Fault::bad_request(error.body_text()))?;
        Ok(Self(read))
    }
}

/// A part of the path.
pub(super) struct Named<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let read = Path::<T>::from_request_parts(parts, state).await;
        read.map(|Path(read)| Self(read)).map_err(|error| Fault::bad_request(error.body_text()))
    }
}

/// `If-Match` (RFC 9110 §13.1.1): change it only if it is still as it was read.
pub(super) struct IfMatch(Option<String>);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let value = parts.headers.get(header::IF_MATCH);
        let text = value.map(|value| value.to_str().map(ToOwned::to_owned));
        text.transpose().map(Self).map_err(|_| Fault::bad_request("If-Match has characters that no ETag has"))
    }
}

impl IfMatch {
    /// Whether there is a condition.
    pub(super) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// That it is still as it was read.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn check(&self, now: &impl Serialize) -> Result<()> {
        let Some(wanted) = &self.0 else { return Ok(()) };
        let tag = etag(now);
        let fits = wanted.split(',').map(str::trim).any(|wanted| wanted == "*" || wanted == tag);
        if fits { Ok(()) } else { Err(Fault::precondition_failed()) }
    }
}

/// Members that move by themselves, without anybody having changed the thing.
const MOVING: [&str; 2] = ["last_used_at", "last_login_at"];

/// The tag of what is shown: another one, whatever somebody changes of it.
pub(super) fn etag(shown: &impl Serialize) -> String {
    let mut value = serde_json::to_value(shown).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.retain(|name, _| !MOVING.contains(&name.as_str()));
    }
    let bytes = serde_json::to_vec(&value).unwrap_or_default();
    format!("\"{}\"", &sha256(&bytes).to_hex()[..24])
}

/// An object with its ETag.
pub(super) struct Tagged<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::new();
        headers.extend(HeaderValue::from_str(&etag(&self.0)).map(|tag| (header::ETAG, tag)));
        (headers, Json(self.0)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_holds_while_nothing_changed() {
        let (before, after) = (serde_json::json!({"rate": "1/s"}), serde_json::json!({"rate": "2/s"}));
        let tag = etag(&before);
        for (condition, holds) in [
            (None, true),
            (Some(tag.clone()), true),
            (Some("*".to_owned()), true),
            (Some(format!("\"other\", {tag}")), true),
            (Some(etag(&after)), false),
            (Some(format!("W/{tag}")), false),
        ] {
            assert_eq!(IfMatch(condition.clone()).check(&before).is_ok(), holds, "{condition:?}");
        }
    }
}
