//! What is told to web pages of other origins (CORS, the Fetch standard §3.2).
//!
//! A preflight is answered before authentication, because browsers never send a credential with
//! it; it finds its route by the method that it asks about, and nothing of it reaches an upstream.
//! A foreign origin gets the same answer without the fields that would allow anything: it is for
//! the browser to refuse. Every other answer of such a route, refusals of ours included, says who
//! may read it, in place of whatever the upstream said: a page has to see why it got a 429.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::config::cors::{CorsConfig, Origins};

const TRUE: HeaderValue = HeaderValue::from_static("true");
const ANY: HeaderValue = HeaderValue::from_static("*");
const BY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
const BY_QUESTION: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");

/// The method that a preflight asks about; none: it is an OPTIONS like any other.
pub(super) fn preflight(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    let mut asked = headers.get_all(ACCESS_CONTROL_REQUEST_METHOD).iter();
    let (Some(asked), None) = (asked.next(), asked.next()) else { return None };
    Method::from_bytes(asked.as_bytes()).ok()
}

/// The answer to a preflight about `asked`, and whether it allows anything.
pub(super) fn answer(config: &CorsConfig, asked: &Method, headers: &HeaderMap) -> (Response<Bytes>, bool) {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answer = response.headers_mut();
    answer.insert(VARY, BY_QUESTION);
    let origin = allowed_origin(config, headers);
    let is_allowed = origin.is_some();
    if let Some(origin) = origin {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let methods = config.methods.clone().or_else(|| HeaderValue::from_str(asked.as_str()).ok());
        if let Some(methods) = methods {
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, config.headers.clone());
        answer.insert(ACCESS_CONTROL_MAX_AGE, config.max_age.clone());
        if config.credentials {
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
    }
    (response, is_allowed)
}

/// What `Access-Control-Allow-Origin` says to whoever sent these headers; none: nothing.
pub(super) fn allowed_origin(config: &CorsConfig, headers: &HeaderMap) -> Option<HeaderValue> {
    let mut origins = headers.get_all(ORIGIN).iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else { return None };
    match &config.origins {
        Origins::Any => Some(ANY),
        Origins::These(known) => known.contains(origin).then(|| origin.clone()),
    }
}

/// Says on an answer who may read it. `origin`: see [`allowed_origin`].
pub(super) fn write(config: &CorsConfig, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let is_about_origins = |name: &&HeaderName| name.as_str().starts_with("access-control-");
    let theirs: Vec<HeaderName> = headers.keys().filter(is_about_origins).cloned().collect();
    for name in theirs {
        headers.remove(name);
    }
    // A cache must not give one origin what was said to another, nor what was said to none.
    headers.append(VARY, BY_ORIGIN);
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, config.expose.clone());
        if config.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "https://app.example";

    fn config(origins: Origins, credentials: bool) -> CorsConfig {
        CorsConfig {
            origins,
            methods: None,
            headers: HeaderValue::from_static("x-api-key"),
            expose: HeaderValue::from_static("x-request-id"),
            credentials,
            max_age: HeaderValue::from_static("600"),
        }
    }

    fn these() -> Origins {
        Origins::These(vec![HeaderValue::from_static(PAGE)])
    }

    fn asking(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_preflight_has_an_origin_and_asks_about_one_method() {
        const ASKED: HeaderName = ACCESS_CONTROL_REQUEST_METHOD;
        for (method, headers, about) in [
            (Method::OPTIONS, vec![(ORIGIN, PAGE), (ASKED, "PUT")], Some(Method::PUT)),
            (Method::GET, vec![(ORIGIN, PAGE), (ASKED, "PUT")], None),
            (Method::OPTIONS, vec![(ASKED, "PUT")], None),
            (Method::OPTIONS, vec![(ORIGIN, PAGE)], None),
            (Method::OPTIONS, vec![(ORIGIN, PAGE), (ASKED, "PUT"), (ASKED, "GET")], None),
            (Method::OPTIONS, vec![(ORIGIN, PAGE), (ASKED, "P T")], None),
        ] {
            assert_eq!(preflight(&method, &asking(&headers)), about, "{headers:?}");
        }
    }

    #[test]
    fn only_known_origins_are_allowed_anything() {
        for (origins, sent, allowed) in [
            (these(), vec![PAGE], Some(PAGE)),
            (these(), vec!["https://app.example:8443"], None),
            (these(), vec!["https://APP.example"], None),
            (these(), vec!["null"], None),
            (these(), vec![PAGE, PAGE], None),
            (these(), vec![], None),
            (Origins::Any, vec!["https://evil.example"], Some("*")),
        ] {
            let sent: Vec<(HeaderName, &'static str)> = sent.into_iter().map(|origin| (ORIGIN, origin)).collect();
            let config = config(origins, false);
            let (response, is_allowed) = answer(&config, &Method::PUT, &asking(&sent));
            assert_eq!(response.status(), 204);
            let told = response.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap());
            assert_eq!((told, is_allowed), (allowed, allowed.is_some()), "{sent:?}");
            assert_eq!(response.headers().contains_key(ACCESS_CONTROL_ALLOW_METHODS), is_allowed);
            assert!(response.headers()[VARY].to_str().unwrap().starts_with("Origin"));
        }
    }

    #[test]
    fn the_upstream_s_word_is_replaced() {
        let theirs =
            asking(&[(ACCESS_CONTROL_ALLOW_ORIGIN, "*"), (ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"), (VARY, "Accept")]);
        let config = config(these(), false);
        let mut headers = theirs.clone();
        write(&config, None, &mut headers);
        assert_eq!(headers, asking(&[(VARY, "Accept"), (VARY, "Origin")]));
        let mut headers = theirs;
        write(&config, Some(&HeaderValue::from_static(PAGE)), &mut headers);
        let ours = [
            (VARY, "Accept"),
            (VARY, "Origin"),
            (ACCESS_CONTROL_ALLOW_ORIGIN, PAGE),
            (ACCESS_CONTROL_EXPOSE_HEADERS, "x-request-id"),
        ];
        assert_eq!(headers, asking(&ours));
    }
}
