//! `auth.query_param`: a credential in the query, for callers that cannot set a header (a browser's
//! WebSocket and EventSource). It becomes the header that everybody else sends, and leaves the target,
//! so that there is one way to look at it and the upstream never sees it.

use http::header::AUTHORIZATION;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;

/// Takes the parameter `name` out of `target` and puts it, once for each time it stands there,
/// beside the headers: two of them are two credentials.
pub(super) fn take(name: &str, target: &mut PathAndQuery, headers: &mut HeaderMap) {
    let Some(query) = target.query() else { return };
    let is_it = |pair: &&str| decoded(pair.split_once('=').map_or(*pair, |(name, _)| name)) == name.as_bytes();
    let found: Vec<&str> = query.split('&').filter(is_it).collect();
    if found.is_empty() {
        return;
    }
    for pair in &found {
        let value = decoded(pair.split_once('=').map_or("", |(_, value)| value));
        // What can be no header is no credential either: presented, and empty.
        let bearer = HeaderValue::from_bytes(&[b"Bearer ".as_slice(), &value].concat());
        let mut bearer = bearer.unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
        bearer.set_sensitive(true);
        headers.append(AUTHORIZATION, bearer);
    }
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_it(pair)).collect();
    let path = target.path();
    let shorter = if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) };
    *target = PathAndQuery::try_from(shorter).expect("a part of a target is a target");
}

/// As forms write it (WHATWG URL §5): a plus is a blank.
fn decoded(text: &str) -> Vec<u8> {
    percent_decode_str(&text.replace('+', " ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_becomes_a_header_and_leaves_the_target() {
        for (target, left, credentials) in [
            ("/a", "/a", &[][..]),
            ("/a?b=c", "/a?b=c", &[]),
            ("/a?key=x", "/a", &["Bearer x"]),
            ("/a?b=c&key=x&d", "/a?b=c&d", &["Bearer x"]),
            ("/a?k%65y=x%5Fy", "/a", &["Bearer x_y"]),
            ("/a?key", "/a", &["Bearer "]),
            ("/a?key=%0d%0ax", "/a", &["Bearer"]),
            ("/a?key=x&key=y", "/a", &["Bearer x", "Bearer y"]),
            ("/a?keys=x&KEY=y", "/a?keys=x&KEY=y", &[]),
        ] {
            let mut headers = HeaderMap::new();
            let mut shortened: PathAndQuery = target.parse().unwrap();
            take("key", &mut shortened, &mut headers);
            assert_eq!(shortened, left, "{target}");
            let found: Vec<_> = headers.get_all(AUTHORIZATION).iter().map(|v| v.to_str().unwrap().to_owned()).collect();
            assert_eq!(found, credentials, "{target}");
        }
    }
}
