//! Paths and routes: what is matched is what is forwarded, whoever reads it.

use std::path::Path;
use std::sync::OnceLock;

use http::Method;

use crate::config::route::RouteConfig;
use crate::config::{self, Environment};
use crate::proxy::path::{CanonicalPath, canonicalise};
use crate::proxy::route::{NoRoute, RouteTable};

/// Lines: first the prefixes of routes (`!` in front takes encoded slashes, `/` twice merges), an
/// empty line, then the path that is asked for.
///
/// # Panics
/// A promise is broken.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (routes, path) = text.split_once("\n\n").unwrap_or(("", text));
    let Ok(canonical) = canonicalise(path) else { return };
    check_form(path, &canonical);
    let routes = routes_of(routes);
    let found = RouteTable::new(&routes).find(Some("h"), &canonical, &Method::GET);
    let as_written = by_definition(&routes, canonical.as_str());
    match found {
        Ok(route) => {
            let route = usize::from(route);
            assert_eq!(Some(route), as_written, "{path:?} as {:?}", canonical.as_str());
            // Whichever way an upstream reads it, the same rules hold there.
            for reading in [canonical.with_plain_slashes(), canonical.without_parameters()].into_iter().flatten() {
                assert_eq!(Some(route), by_definition(&routes, &reading), "{path:?} read as {reading:?}");
            }
            assert!(routes[route].merge_slashes || !canonical.was_merged());
            assert!(routes[route].encoded_slash || canonical.with_plain_slashes().is_none());
        }
        Err(NoRoute::Unknown) => assert_eq!(as_written, None, "{path:?}"),
        Err(NoRoute::Ambiguous(_)) => assert!(as_written.is_some(), "{path:?}"),
        Err(NoRoute::Method(_)) => panic!("these routes take any method"),
    }
}

fn check_form(sent: &str, canonical: &CanonicalPath<'_>) {
    let form = canonical.as_str();
    let again = canonicalise(form).expect("a canonical path is accepted");
    assert!(again.is_as_sent() && again.as_str() == form, "{sent:?} is {form:?}, which is {:?}", again.as_str());
    assert!(form.starts_with('/') && !form.contains("//"), "{sent:?} is {form:?}");
    assert!(form.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#' | b'?')), "{form:?}");
    assert!(canonical.is_as_sent() || form != sent, "{sent:?} was copied for nothing");
    // What a reader gets who decodes once more than he should, and knows both slashes.
    let decoded = decoded(form);
    assert!(!decoded.contains(&0), "{form:?}");
    let names = decoded.split(|byte| matches!(byte, b'/' | b'\\')).map(|name| {
        let name = name.split(|byte| *byte == b';').next().unwrap_or_default();
        name.trim_ascii_end()
    });
    assert!(names.into_iter().all(|name| name != b"." && name != b".."), "{sent:?} climbs as {form:?}");
    assert_eq!(decoded, self::decoded(&sent_once(sent)), "{sent:?} means something else than {form:?}");
}

/// What was sent, without empty segments.
fn sent_once(sent: &str) -> String {
    let mut once = sent.to_owned();
    while once.contains("//") {
        once = once.replace("//", "/");
    }
    once
}

/// Percent-decoded.
fn decoded(path: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), path.as_bytes());
    while let Some((first, more)) = rest.split_first() {
        let escape = more.get(..2).filter(|_| *first == b'%');
        let value = escape.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(value.unwrap_or(*first));
        rest = if value.is_some() { &more[2..] } else { more };
    }
    bytes
}

/// The longest prefix that ends where a segment does.
fn by_definition(routes: &[RouteConfig], path: &str) -> Option<usize> {
    let below = |route: &RouteConfig| {
        let stem = route.path.strip_suffix('/').unwrap_or(&route.path);
        path == route.path || path.strip_prefix(stem).is_some_and(|rest| rest.starts_with('/'))
    };
    let found = routes.iter().enumerate().filter(|(_, route)| below(route));
    found.max_by_key(|(_, route)| route.path.len()).map(|(index, _)| index)
}

/// Routes as a configuration could have them: canonical, and each once.
fn routes_of(lines: &str) -> Vec<RouteConfig> {
    let mut routes: Vec<RouteConfig> = Vec::new();
    for line in lines.lines().take(8) {
        let merge_slashes = line.starts_with("//");
        let encoded_slash = line.starts_with('!');
        let path = if merge_slashes { &line[1..] } else { line.trim_start_matches('!') };
        let is_canonical = canonicalise(path).is_ok_and(|canonical| {
            canonical.is_as_sent()
                && canonical.with_plain_slashes().is_none()
                && canonical.without_parameters().is_none()
        });
        if is_canonical && routes.iter().all(|route| route.path != path) {
            routes.push(RouteConfig { merge_slashes, encoded_slash, ..route(path) });
        }
    }
    routes
}

/// A route with nothing special about it.
fn route(path: &str) -> RouteConfig {
    static PLAIN: OnceLock<RouteConfig> = OnceLock::new();
    let plain = PLAIN.get_or_init(|| {
        let text = "[[upstreams]]\nname = \"up\"\nendpoints = [\"http://127.0.0.1:1\"]\n\
                    [[routes]]\npath = \"/\"\nupstream = \"up\"\nauth = \"none\"\n";
        let pepper = "f3b1a4c2d5e6978812aa34bb56cc78dd90ee12ff34ab56cd78ef90a1b2c3d4e5";
        let environment = Environment::of(&[("API_KEY_PEPPER", pepper)], Path::new("/nonexistent"));
        let loaded = config::parse(text, Some("/nonexistent/octroi.toml".into()), &environment);
        loaded.expect("one plain route is a configuration").config.routes.remove(0)
    });
    RouteConfig { name: path.to_owned(), path: path.to_owned(), ..plain.clone() }
}
