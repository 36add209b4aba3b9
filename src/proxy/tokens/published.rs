//! What anybody may read: the public keys, and where the endpoints are.

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Response};
use serde_json::json;

use super::super::rejection::Rejection;
use super::{Visit, json as json_response};
use crate::issuer::TokenIssuer;

/// The public keys (RFC 7517). Empty where a secret signs: nobody is ever told that one.
pub(super) fn key_set(issuer: &TokenIssuer) -> Response<Bytes> {
    json_response(issuer.keys().published().clone(), KEPT)
}

/// The metadata (RFC 8414). Without `issuer.url` the addresses are those under which it was asked
/// for, and nobody may keep them.
pub(super) fn metadata(visit: &Visit<'_>) -> Result<Response<Bytes>, Rejection> {
    let issuer = visit.issuer;
    let (base, cache) = match issuer.url() {
        Some(url) => (url.to_owned(), KEPT),
        None => (asked_under(visit)?, HeaderValue::from_static("no-store")),
    };
    let at = |path: &str| format!("{base}/.octroi/{path}");
    let methods = ["client_secret_basic", "client_secret_post"];
    let grants = if issuer.gives_refresh_tokens() {
        ["client_credentials", "refresh_token"].as_slice()
    } else {
        ["client_credentials"].as_slice()
    };
    let body = json!({
        "issuer": issuer.name(),
        "token_endpoint": at("token"),
        "revocation_endpoint": at("revoke"),
        "introspection_endpoint": at("introspect"),
        "jwks_uri": at("jwks.json"),
        "grant_types_supported": grants,
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_methods_supported": methods,
        "introspection_endpoint_auth_methods_supported": methods,
        "access_token_signing_alg_values_supported": [issuer.keys().algorithm().as_str()],
    });
    Ok(json_response(body.to_string().into(), cache))
}

fn asked_under(visit: &Visit<'_>) -> Result<String, Rejection> {
    let head = visit.head;
    let header = |name| head.headers.get(name).filter(|_| visit.context.is_trusted());
    let is_secure = header("x-forwarded-proto").is_some_and(|scheme| scheme.as_bytes() == b"https");
    let scheme = if is_secure { "https" } else { "http" };
    let asked = header("x-forwarded-host").or_else(|| head.headers.get(HOST));
    let named =
        asked.and_then(|host| host.to_str().ok()).or_else(|| head.uri.authority().map(http::uri::Authority::as_str));
    let host = named.ok_or(Rejection::NoRoute)?;
    Ok(format!("{scheme}://{host}"))
}

/// As long as a next key is published before it signs, at the least.
const KEPT: HeaderValue = HeaderValue::from_static("public, max-age=300");
