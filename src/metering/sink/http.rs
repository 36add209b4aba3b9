//! Posting to a receiver, and what its answer means: the same for all that speak HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use url::Url;

use super::Failure;
use crate::config::sinks::Endpoint;
use crate::model::causes::with_causes;
use crate::model::secret::SecretText;
use crate::server::outbound::{AuthorityFault, Outbound, OutboundRules, Posts};

/// The largest answer that is read: reasons, for a batch.
const ANSWER_MAX: usize = 256 * 1024;
/// The longest pause that a receiver may ask for.
const AFTER_MAX: Duration = Duration::from_mins(10);
/// How much of an answer is repeated in logs.
const REASON_MAX: usize = 300;

/// A receiver that speaks HTTP.
pub(super) struct Http {
    outbound: Outbound,
    url: Url,
    authorization: Option<HeaderValue>,
}

impl Http {
    pub(super) fn new(endpoint: &Endpoint, token: Option<&SecretText>) -> Result<Self, AuthorityFault> {
        let outbound = Outbound::new(OutboundRules {
            deadline: endpoint.timeout,
            body_max: ANSWER_MAX,
            allow_private_addresses: endpoint.allow_private_addresses,
            ca_file: endpoint.ca_file.clone(),
        })?;
        let authorization = token.map(|token| {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
            let mut value = value.expect("the configuration takes only graphic ASCII");
            value.set_sensitive(true);
            value
        });
        Ok(Self { outbound, url: endpoint.url.clone(), authorization })
    }

    /// The same with more of a path.
    pub(super) fn below(mut self, path: &str) -> Self {
        let base = self.url.path().trim_end_matches('/').to_owned();
        self.url.set_path(&format!("{base}{path}"));
        self
    }

    /// The headers of every request.
    pub(super) fn headers(&self, content_type: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(http::header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(value) = &self.authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        headers
    }

    /// A connection for some posts.
    pub(super) fn posts(&self) -> Posts<'_> {
        self.outbound.to(&self.url)
    }
}

/// Posts, and sorts the answer: a 2xx is one, everything else a failure.
pub(super) async fn post(posts: &mut Posts<'_>, headers: &HeaderMap, body: Vec<u8>) -> Result<Bytes, Failure> {
    let response = post_raw(posts, headers, body).await?;
    match response.status() {
        status if status.is_success() => Ok(response.into_body()),
        _ => Err(failure(&response)),
    }
}

/// Posts; the answer, whatever its status.
pub(super) async fn post_raw(
    posts: &mut Posts<'_>,
    headers: &HeaderMap,
    body: Vec<u8>,
) -> Result<Response<Bytes>, Failure> {
    posts.post(headers, body.into()).await.map_err(|fault| Failure::away(with_causes(&fault)))
}

/// What an answer means that is no success: only what speaks of the content is a refusal. A key
/// that is not taken or a path that is not there is mended by a person, and then goes on.
pub(super) fn failure(response: &Response<Bytes>) -> Failure {
    let reason = reason(response);
    match response.status() {
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            Failure::Refused(reason)
        }
        _ => Failure::Away { reason, after: after(response) },
    }
}

/// An answer in a few words.
pub(super) fn reason(response: &Response<Bytes>) -> String {
    let body = String::from_utf8_lossy(response.body());
    let body: String = body.chars().filter(|letter| !letter.is_control()).take(REASON_MAX).collect();
    format!("{}: {body}", response.status())
}

fn after(response: &Response<Bytes>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(AFTER_MAX))
}
