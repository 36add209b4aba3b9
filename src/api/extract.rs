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
use crate::telemetry::masked::masked;

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
        no_escaped_zero(&bytes)?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| unread(&format!("the body: {error}")))
    }
}

/// A JSON body with keys in it: no fault repeats a part of it, and it is wiped once it is read, as far as it
/// is ours alone.
pub(super) struct Confidential<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Confidential<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let bytes = json(request).await?;
        no_escaped_zero(&bytes)?;
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
        no_zero(&String::from_utf8_lossy(&bytes))?;
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(&bytes).into_owned().collect();
        // Fields that were left empty were not filled in.
        let pairs: Vec<_> = pairs.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
        let text = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let uri = format!("/?{text}").parse().map_err(|_| Fault::bad_request("the form cannot be read"))?;
        let Query(read) = Query::try_from_uri(&uri).map_err(|error| unread(&error.body_text()))?;
        Ok(Self(read))
    }
}

/// Parameters of the query.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        no_zero(parts.uri.query().unwrap_or_default())?;
        let Query(read) = Query::try_from_uri(&parts.uri).map_err(|error| unread(&error.body_text()))?;
        Ok(Self(read))
    }
}

/// What cannot be read. It repeats what was sent, which may be a key or a token by mistake.
fn unread(said: &str) -> Fault {
    Fault::bad_request(masked(said).into_owned())
}

/// A zero is in no text of a database: PostgreSQL refuses the question, and SQLite finds nothing.
fn no_zero(encoded: &str) -> Result<()> {
    if encoded.contains("%00") { Err(zero("%00")) } else { Ok(()) }
}

/// The same of JSON, which can only write it as an escape; a backslash that is escaped itself begins none.
fn no_escaped_zero(json: &[u8]) -> Result<()> {
    let mut rest = json;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        if rest[at + 1..].starts_with(b"u0000") {
            return Err(zero("\\u0000"));
        }
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    Ok(())
}

fn zero(written: &str) -> Fault {
    Fault::bad_request(format!("a text has a character that none may have: {written}"))
}

/// A part of the path.
pub(super) struct Named<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        no_zero(parts.uri.path())?;
        let read = Path::<T>::from_request_parts(parts, state).await;
        read.map(|Path(read)| Self(read)).map_err(|error| unread(&error.body_text()))
    }
}

/// `If-Match` (RFC 9110 §13.1.1): change it only if it is still as it was read. Forms of pages say the
/// same in a field.
pub(super) struct IfMatch(Option<String>);

/// A row that is to be changed, and whether only if it is still as it was read: the store looks once
/// more, in the step that changes it.
pub(super) struct Held<T> {
    pub(super) row: T,
    is_condition: bool,
}

impl<T: Clone> Held<T> {
    /// A row that is changed however it looks by then.
    pub(super) fn anyhow(row: T) -> Self {
        Self { row, is_condition: false }
    }

    /// What a store holds the change to.
    pub(super) fn only_if(&self) -> Option<Box<T>> {
        self.is_condition.then(|| Box::new(self.row.clone()))
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let value = parts.headers.get(header::IF_MATCH);
        let text = value.map(|value| value.to_str().map(ToOwned::to_owned));
        text.transpose().map(Self).map_err(|_| Fault::bad_request("If-Match has characters that no ETag has"))
    }
}

impl IfMatch {
    /// What a form says, each of which has the tag of what it shows.
    ///
    /// # Errors
    /// It has none.
    pub(super) fn of_form(tag: Option<String>) -> Result<Self> {
        let missing = || Fault::bad_request("this form does not say what it shows: load the page again");
        tag.map(|tag| Self(Some(tag))).ok_or_else(missing)
    }

    /// The row that was just read, held to the condition; it is shown as `V`.
    ///
    /// # Errors
    /// It is another already.
    pub(super) fn held<V, T>(&self, row: T) -> Result<Held<T>>
    where
        T: Clone,
        V: Serialize + for<'row> From<&'row T>,
    {
        let Some(wanted) = &self.0 else { return Ok(Held::anyhow(row)) };
        let mut wanted = wanted.split(',').map(str::trim);
        // Any that is there.
        if wanted.clone().any(|wanted| wanted == "*") {
            return Ok(Held::anyhow(row));
        }
        let tag = etag(&V::from(&row));
        if wanted.any(|wanted| wanted == tag) {
            Ok(Held { row, is_condition: true })
        } else {
            Err(Fault::precondition_failed())
        }
    }
}

/// Members that move by themselves, without anybody having changed the thing.
const MOVING: [&str; 4] = ["last_used_at", "last_login_at", "hash_kind", "pepper_version"];

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
        let tag = etag(&Shown { rate: 1, last_used_at: 5 });
        for (condition, holds) in [
            (None, Some(false)),
            (Some(tag.clone()), Some(true)),
            (Some("*".to_owned()), Some(false)),
            (Some(format!("\"other\", {tag}")), Some(true)),
            (Some(etag(&Shown { rate: 2, last_used_at: 5 })), None),
            (Some(format!("W/{tag}")), None),
        ] {
            let held = IfMatch(condition.clone()).held::<Shown, u32>(1).ok();
            assert_eq!(held.map(|held| held.only_if().is_some()), holds, "{condition:?}");
        }
    }

    #[test]
    fn json_has_no_zero_however_it_is_written() {
        for (json, may) in [
            (r#"{"a": "b"}"#, true),
            (r#"{"a": "\u0000"}"#, false),
            (r#"{"a\u0000": 1}"#, false),
            (r#"{"a": "\\u0000"}"#, true),
            (r#"{"a": "\\\u0000"}"#, false),
            (r#"{"a": "\u00001"}"#, false),
            (r#"{"a": "\u0001"}"#, true),
            ("\\", true),
        ] {
            assert_eq!(no_escaped_zero(json.as_bytes()).is_ok(), may, "{json}");
        }
    }

    #[derive(Serialize)]
    struct Shown {
        rate: u32,
        last_used_at: u32,
    }

    impl From<&u32> for Shown {
        fn from(rate: &u32) -> Self {
            Self { rate: *rate, last_used_at: 6 }
        }
    }
}
