//! From a body to parameters.
//!
//! A parameter that comes twice is refused (RFC 6749 §3.2), but for `audience`, of which a token may
//! have several (RFC 8693 §2.1). An empty one counts as absent.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts as Head;
use http_body_util::BodyExt as _;
use percent_encoding::percent_decode_str;
use thiserror::Error;
use tokio::time::timeout;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::super::rejection::Rejection;
use crate::auth::AuthError;
use crate::server::{BodyFault, RequestBody};

/// Why a form cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FormFault {
    /// Another media type.
    #[error("the body is not application/x-www-form-urlencoded")]
    MediaType,
    /// A parameter twice.
    #[error("a parameter came twice")]
    Duplicate,
    /// A parameter that the endpoint cannot do without.
    #[error("a parameter is missing")]
    Missing,
    /// A scope that is none.
    #[error("a scope is malformed")]
    Scope,
    /// `Authorization: Basic` with something else than base64 of a name and a password.
    #[error("the Basic credentials are malformed")]
    Basic,
}

/// The parameters of a request. Some are secrets, so none is printed.
pub(super) struct Form {
    parameters: Vec<(String, Zeroizing<String>)>,
}

impl Form {
    /// Reads a body whole.
    pub(super) async fn read(head: &Head, body: RequestBody) -> Result<Self, Rejection> {
        let media_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(FormFault::MediaType.into());
        }
        let whole = timeout(DEADLINE, collect(body)).await.map_err(|_elapsed| Rejection::BodyLate)??;
        Ok(Self::parse(&whole))
    }

    fn parse(text: &[u8]) -> Self {
        let parameters = form_urlencoded::parse(text);
        let owned = parameters.map(|(name, value)| (name.into_owned(), Zeroizing::new(value.into_owned())));
        Self { parameters: owned.filter(|(_, value)| !value.is_empty()).collect() }
    }

    /// All values of a parameter.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.parameters.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that comes at most once.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, FormFault> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(FormFault::Duplicate),
        }
    }

    /// The value of a parameter that comes exactly once.
    pub(super) fn required(&self, name: &str) -> Result<&str, FormFault> {
        self.one(name)?.ok_or(FormFault::Missing)
    }
}

async fn collect(mut body: RequestBody) -> Result<Zeroizing<Vec<u8>>, Rejection> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|fault| match fault {
            BodyFault::Late => Rejection::BodyLate,
            BodyFault::Broken(_) => Rejection::CallerGone,
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > LENGTH_MAX {
            return Err(Rejection::BodyTooLarge);
        }
        whole.extend_from_slice(&data);
    }
    Ok(Zeroizing::new(whole.into()))
}

/// A key presented as OAuth clients do: the password of Basic, or `client_secret` (RFC 6749 §2.3.1).
#[derive(Default)]
pub(super) struct ClientSecret {
    client_id: Option<String>,
    key: Option<Zeroizing<String>>,
}

impl ClientSecret {
    /// What a request presents so; both ways at once are refused.
    pub(super) fn find(head: &Head, form: &Form) -> Result<Self, Rejection> {
        let in_form = Self {
            client_id: form.one("client_id")?.map(ToOwned::to_owned),
            key: form.one("client_secret")?.map(|key| Zeroizing::new(key.to_owned())),
        };
        let Some(in_header) = Self::basic(head)? else { return Ok(in_form) };
        if in_form.key.is_some() {
            return Err(AuthError::Ambiguous("a header and the body carry one each").into());
        }
        Ok(in_header)
    }

    pub(super) fn client_id(&self) -> Option<&str> {
        self.client_id.as_deref()
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        self.key.as_ref().map(|key| key.as_bytes())
    }

    fn basic(head: &Head) -> Result<Option<Self>, FormFault> {
        let Some(value) = head.headers.get(AUTHORIZATION) else { return Ok(None) };
        let Some((scheme, encoded)) = value.as_bytes().split_at_checked(BASIC.len()) else { return Ok(None) };
        if !scheme.eq_ignore_ascii_case(BASIC) {
            return Ok(None);
        }
        let decoded = STANDARD.decode(encoded.trim_ascii()).map(Zeroizing::new).map_err(|_| FormFault::Basic)?;
        let text = std::str::from_utf8(&decoded).map_err(|_| FormFault::Basic)?;
        let (name, password) = text.split_once(':').ok_or(FormFault::Basic)?;
        let present = |text: &str| (!text.is_empty()).then(|| form_decoded(text));
        let key = present(password).map(Zeroizing::new).ok_or(FormFault::Basic)?;
        Ok(Some(Self { client_id: present(name), key: Some(key) }))
    }
}

/// Both halves are form-encoded before they are put together (RFC 6749 §2.3.1), by those who know;
/// `curl -u` sends them as they are. So `%XX` is decoded and a `+` is one: no key has a space in it.
fn form_decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_owned(), Cow::into_owned)
}

/// The scheme and its space.
const BASIC: &[u8] = b"basic ";

/// Nobody's parameters are longer.
const LENGTH_MAX: usize = 16 * 1024;

/// How long a form may take to arrive.
const DEADLINE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(authorization: Option<&str>) -> Head {
        let mut request = Request::post("/");
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_parameter_comes_at_most_once_and_empty_ones_not_at_all() {
        let form = Form::parse(b"a=1&b=&c=x+y%26&a=2&audience=p&audience=q");
        assert_eq!(form.one("a"), Err(FormFault::Duplicate));
        assert_eq!(form.one("b"), Ok(None));
        assert_eq!(form.one("c"), Ok(Some("x y&")));
        assert_eq!(form.required("b"), Err(FormFault::Missing));
        assert_eq!(form.all("audience").collect::<Vec<_>>(), ["p", "q"]);
    }

    #[test]
    fn a_key_is_a_password_or_a_parameter_and_never_both() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let ask = |authorization: Option<String>, form: &str| {
            let found = ClientSecret::find(&head(authorization.as_deref()), &Form::parse(form.as_bytes()));
            found.map(|secret| {
                let key = secret.key().map(|key| String::from_utf8(key.to_vec()).unwrap());
                (secret.client_id.unwrap_or_default(), key.unwrap_or_default())
            })
        };
        for (authorization, form, expected) in [
            (None, "", ("", "")),
            (None, "client_id=acme&client_secret=k", ("acme", "k")),
            (Some(basic("acme:k")), "", ("acme", "k")),
            (Some(basic(":k")), "client_id=other", ("", "k")),
            (Some(basic("two%20words:a+b:c")), "", ("two words", "a+b:c")),
            (Some(basic("a:k%3Dx=y&z%")), "", ("a", "k=x=y&z%")),
            (Some("bAsIc YTpi".into()), "", ("a", "b")),
            (Some("Bearer k".into()), "client_id=acme", ("acme", "")),
        ] {
            let found = ask(authorization, form).unwrap();
            assert_eq!((found.0.as_str(), found.1.as_str()), expected, "{form}");
        }
        for (authorization, form) in [
            (Some(basic("acme:k")), "client_secret=k"),
            (Some(basic("no colon")), ""),
            (Some(basic("acme:")), ""),
            (Some("Basic !".into()), ""),
            (None, "client_secret=a&client_secret=b"),
        ] {
            assert!(ask(authorization.clone(), form).is_err(), "{authorization:?} {form}");
        }
    }
}
