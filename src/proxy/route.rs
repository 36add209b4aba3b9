//! Host, prefix, method → route.
//!
//! A route for the request's host beats one for any host; among those the longest prefix wins;
//! then the method decides, and there is no falling back to a shorter prefix: a route that says
//! `methods = ["POST"]` owns its path, and everything else is 405.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use http::{HeaderValue, Method};
use matchit::Router;

use super::path::{CanonicalPath, PathFault};
use crate::config::route::RouteConfig;

/// No route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// 404: nothing for this host and path.
    Unknown,
    /// 405: the path is known, the method is not.
    Method(HeaderValue),
    /// 400: the path reads in more than one way, and the route does not allow it.
    Ambiguous(PathFault),
}

/// All routes, by host and prefix.
pub struct RouteTable {
    hosts: HashMap<String, Router<Prefix>>,
    any_host: Router<Prefix>,
    switches: Vec<Switches>,
}

/// The routes that share host and prefix.
#[derive(Clone, Debug, Default)]
struct Prefix {
    routes: Vec<(Vec<Method>, u16)>,
}

#[derive(Clone, Copy, Debug)]
struct Switches {
    merge_slashes: bool,
    encoded_slash: bool,
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("RouteTable").field("routes", &self.switches.len()).finish_non_exhaustive()
    }
}

impl RouteTable {
    /// A table of `routes`; a route is known by its place in the list.
    #[must_use]
    pub fn new(routes: &[RouteConfig]) -> Self {
        let mut prefixes: HashMap<(Option<&str>, &str), Prefix> = HashMap::new();
        for (index, route) in (0..u16::MAX).zip(routes) {
            let prefix = prefixes.entry((route.host.as_deref(), &route.path)).or_default();
            prefix.routes.push((route.methods.clone(), index));
        }
        let mut built = Self {
            hosts: HashMap::new(),
            any_host: Router::new(),
            switches: routes
                .iter()
                .map(|route| Switches { merge_slashes: route.merge_slashes, encoded_slash: route.encoded_slash })
                .collect(),
        };
        // `/a/` after `/a`: where both are there, the longer one has what lies below.
        let mut prefixes: Vec<_> = prefixes.into_iter().collect();
        prefixes.sort_by_key(|((_, path), _)| path.len());
        for ((host, path), prefix) in prefixes {
            let tree = match host {
                Some(host) => built.hosts.entry(host.to_owned()).or_default(),
                None => &mut built.any_host,
            };
            insert(tree, path, &prefix);
        }
        built
    }

    /// The route of a request. `host` in any case, without port and trailing dot.
    ///
    /// # Errors
    /// See [`NoRoute`].
    pub fn find(&self, host: Option<&str>, path: &CanonicalPath<'_>, method: &Method) -> Result<u16, NoRoute> {
        let prefix = self.prefix(host, path.as_str()).ok_or(NoRoute::Unknown)?;
        let route = prefix.select(method)?;
        let allowed = self.switches[usize::from(route)];
        if path.was_merged() && !allowed.merge_slashes {
            return Err(NoRoute::Ambiguous(PathFault::DoubleSlash));
        }
        if let Some(plain) = path.with_plain_slashes() {
            let other = self.prefix(host, &plain).and_then(|prefix| prefix.select(method).ok());
            if !allowed.encoded_slash || other != Some(route) {
                return Err(NoRoute::Ambiguous(PathFault::EncodedSlash));
            }
        }
        // Where another reading leads to another route, nobody can say which rules hold.
        if let Some(plain) = path.without_parameters()
            && self.prefix(host, &plain).and_then(|prefix| prefix.select(method).ok()) != Some(route)
        {
            return Err(NoRoute::Ambiguous(PathFault::Parameters));
        }
        Ok(route)
    }

    fn prefix(&self, host: Option<&str>, path: &str) -> Option<&Prefix> {
        let of_host = || {
            let router = self.hosts.get(lower_case(host?).as_ref())?;
            router.at(path).ok()
        };
        let of_host = if self.hosts.is_empty() { None } else { of_host() };
        of_host.or_else(|| self.any_host.at(path).ok()).map(|found| found.value)
    }
}

impl Prefix {
    fn select(&self, method: &Method) -> Result<u16, NoRoute> {
        let named = self.routes.iter().find(|(methods, _)| methods.contains(method));
        let any = || self.routes.iter().find(|(methods, _)| methods.is_empty());
        match named.or_else(any) {
            Some((_, route)) => Ok(*route),
            None => Err(NoRoute::Method(self.allow())),
        }
    }

    fn allow(&self) -> HeaderValue {
        let mut names: Vec<&str> = self.routes.iter().flat_map(|(methods, _)| methods).map(Method::as_str).collect();
        names.sort_unstable();
        names.dedup();
        HeaderValue::from_str(&names.join(", ")).expect("a method is a token")
    }
}

fn lower_case(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// A prefix ends at a segment's end: `/a` is the tree's `/a`, `/a/` and `/a/*`.
fn insert(router: &mut Router<Prefix>, path: &str, prefix: &Prefix) {
    const DISTINCT: &str = "prefixes of one host are distinct and literal";
    let literal = path.replace('{', "{{").replace('}', "}}");
    let stem = literal.strip_suffix('/').unwrap_or(&literal);
    if !literal.ends_with('/') {
        router.insert(literal.clone(), prefix.clone()).expect(DISTINCT);
    }
    router.remove(format!("{stem}/"));
    router.remove(format!("{stem}/{{*rest}}"));
    router.insert(format!("{stem}/"), prefix.clone()).expect(DISTINCT);
    router.insert(format!("{stem}/{{*rest}}"), prefix.clone()).expect(DISTINCT);
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::path::canonicalise;
    use super::*;
    use crate::config::route::RouteAuth;
    use crate::model::access::Scopes;

    /// A route with nothing special about it.
    pub(in super::super) fn route(name: &str, path: &str) -> RouteConfig {
        RouteConfig {
            name: name.to_owned(),
            host: None,
            path: path.to_owned(),
            methods: Vec::new(),
            upstream: "up".to_owned(),
            delegated: false,
            observe_until: None,
            strip_prefix: false,
            auth: RouteAuth::None,
            credentials: Vec::new(),
            certificate: false,
            scopes: Scopes::default(),
            max_body: None,
            merge_slashes: false,
            encoded_slash: false,
            response_timeout: None,
            idle_timeout: None,
            request_timeout: None,
            websocket: false,
            preserve_host: false,
            cost: 1,
            shaping: crate::config::shaping::Shaping::default(),
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "reads better in a table")]
    fn find(table: &RouteTable, host: &str, path: &str, method: Method) -> Result<u16, NoRoute> {
        table.find(Some(host), &canonicalise(path).unwrap(), &method)
    }

    #[test]
    fn the_most_specific_route_is_found() {
        let routes = [
            route("root", "/"),
            route("orders", "/orders"),
            RouteConfig { methods: vec![Method::POST], ..route("write", "/orders/items") },
            RouteConfig { methods: vec![Method::GET, Method::HEAD], ..route("read", "/orders/items") },
            RouteConfig { host: Some("api.example".into()), ..route("api", "/orders") },
            route("braces", "/{x}"),
        ];
        let table = RouteTable::new(&routes);
        for (host, path, method, found) in [
            ("a", "/", Method::GET, Ok(0)),
            ("a", "/ordersfoo", Method::GET, Ok(0)),
            ("a", "/orders", Method::GET, Ok(1)),
            ("a", "/orders/", Method::GET, Ok(1)),
            ("a", "/orders/x/y", Method::DELETE, Ok(1)),
            ("a", "/orders/itemsx", Method::GET, Ok(1)),
            ("a", "/orders/items", Method::POST, Ok(2)),
            ("a", "/orders/items/7", Method::HEAD, Ok(3)),
            ("a", "/orders/items", Method::DELETE, Err(NoRoute::Method(HeaderValue::from_static("GET, HEAD, POST")))),
            ("API.example", "/orders/items", Method::DELETE, Ok(4)),
            ("api.example", "/other", Method::GET, Ok(0)),
            ("a", "/{x}/y", Method::GET, Ok(5)),
            ("a", "/z/y", Method::GET, Ok(0)),
        ] {
            assert_eq!(find(&table, host, path, method), found, "{host} {path}");
        }
        let bare = RouteTable::new(&routes[1..2]);
        assert_eq!(find(&bare, "a", "/other", Method::GET), Err(NoRoute::Unknown));
    }

    #[test]
    fn a_prefix_with_a_trailing_slash_is_only_what_lies_below() {
        let table = RouteTable::new(&[route("below", "/a/"), route("root", "/")]);
        for (path, found) in [("/a", 1), ("/a/", 0), ("/a/b", 0)] {
            assert_eq!(find(&table, "h", path, Method::GET), Ok(found), "{path}");
        }
    }

    #[test]
    fn a_switch_never_opens_a_route_with_other_rules() {
        let lax = |name, path| RouteConfig { merge_slashes: true, encoded_slash: true, ..route(name, path) };
        let table = RouteTable::new(&[lax("files", "/files"), route("secret", "/files/secret"), route("strict", "/s")]);
        let slash = Err(NoRoute::Ambiguous(PathFault::EncodedSlash));
        let double = Err(NoRoute::Ambiguous(PathFault::DoubleSlash));
        for (path, found) in [
            ("/files/a%2Fb", Ok(0)),
            ("/files//a", Ok(0)),
            ("/files%2Fsecret", Err(NoRoute::Unknown)),
            ("/files/x%2F..y/secret", Ok(0)),
            ("/files/secret%2Fx", slash.clone()),
            ("/files//secret", double.clone()),
            ("/s/a%5Cb", slash),
            ("/s//a", double),
        ] {
            assert_eq!(find(&table, "h", path, Method::GET), found, "{path}");
        }
    }

    #[test]
    fn parameters_lead_past_no_route() {
        let lax = RouteConfig { encoded_slash: true, ..route("root", "/") };
        let table = RouteTable::new(&[lax, route("admin", "/admin")]);
        let past = Err(NoRoute::Ambiguous(PathFault::Parameters));
        for (path, found) in [
            ("/admin;x=1/secret", past.clone()),
            ("/admin;x", past.clone()),
            ("/;x/admin", past.clone()),
            ("/admin%3Bx/secret", past.clone()),
            ("/admin%3bx", past.clone()),
            ("/a;v%2Fadmin", Ok(0)),
            ("/;a%2Fadmin", past),
            ("/admin/a;x=1", Ok(1)),
            ("/cars;color=red/list", Ok(0)),
            ("/;", Ok(0)),
        ] {
            assert_eq!(find(&table, "h", path, Method::GET), found, "{path}");
        }
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_the_definition(
            prefixes in prop::collection::btree_set("(/[ab]{1,2}){1,3}", 1..6),
            path in "(/[abc]{1,2}){1,4}/?",
        ) {
            let prefixes: Vec<String> = prefixes.into_iter().collect();
            let routes: Vec<RouteConfig> = prefixes.iter().map(|prefix| route("r", prefix)).collect();
            let below = |prefix: &String| path == **prefix || path.starts_with(&format!("{prefix}/"));
            let longest = (0u16..).zip(&prefixes).filter(|(_, prefix)| below(prefix)).max_by_key(|(_, prefix)| prefix.len());
            let expected = longest.map(|(index, _)| index).ok_or(NoRoute::Unknown);
            prop_assert_eq!(find(&RouteTable::new(&routes), "h", &path, Method::GET), expected);
        }
    }
}
