//! The route table: host, then the longest prefix on segment boundaries, then method.

use std::collections::HashMap;

use http::Method;
use matchit::Router;

use crate::config::route::RouteConfig;

/// A route's place in the configuration: labels, the journal and metrics know it by this number.
pub type RouteIndex = u16;

/// The route table. Built once, read by every worker.
#[derive(Debug)]
pub struct RouteTable {
    routes: Vec<RouteConfig>,
    hosts: HashMap<String, Router<Vec<RouteIndex>>>,
    any_host: Router<Vec<RouteIndex>>,
}

/// What was found for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// This route.
    Route(RouteIndex),
    /// Routes that do not take the method; the number is one of them.
    MethodNotAllowed(RouteIndex),
    /// Nothing.
    None,
}

impl RouteTable {
    /// A table of these, whose order is their numbers.
    ///
    /// # Panics
    /// When two routes contradict each other or there are more than 65,535: the configuration
    /// has refused both.
    #[must_use]
    pub fn new(routes: Vec<RouteConfig>) -> Self {
        let mut groups: HashMap<(Option<&str>, &str), Vec<RouteIndex>> = HashMap::new();
        for (index, route) in routes.iter().enumerate() {
            let index = RouteIndex::try_from(index).expect("the configuration bounds the number of routes");
            let path = route.path.trim_end_matches('/');
            groups.entry((route.host.as_deref(), path)).or_default().push(index);
        }
        let (mut hosts, mut any_host) = (HashMap::<String, Router<_>>::new(), Router::new());
        for ((host, path), group) in groups {
            let router = match host {
                Some(host) => hosts.entry(host.to_owned()).or_default(),
                None => &mut any_host,
            };
            insert(router, path, &group);
        }
        Self { routes, hosts, any_host }
    }

    /// The routes, by number.
    #[must_use]
    pub fn routes(&self) -> &[RouteConfig] {
        &self.routes
    }

    /// The route with this number.
    #[must_use]
    pub fn route(&self, index: RouteIndex) -> &RouteConfig {
        &self.routes[usize::from(index)]
    }

    /// Finds the route: a host of its own before any host, the longest prefix, then the method.
    #[must_use]
    pub fn find(&self, host: &str, path: &str, method: &Method) -> Match {
        let group = self.of_host(host).and_then(|router| router.at(path).ok()).or_else(|| self.any_host.at(path).ok());
        let Some(group) = group else { return Match::None };
        let takes = |index: &&RouteIndex| {
            let methods = &self.route(**index).methods;
            methods.is_empty() || methods.contains(method)
        };
        match group.value.iter().find(takes) {
            Some(index) => Match::Route(*index),
            None => Match::MethodNotAllowed(group.value[0]),
        }
    }

    fn of_host(&self, host: &str) -> Option<&Router<Vec<RouteIndex>>> {
        if self.hosts.is_empty() {
            return None;
        }
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.hosts.get(&host.to_ascii_lowercase());
        }
        self.hosts.get(host)
    }

    /// The methods that routes beside `index` take, for an `Allow` field.
    #[must_use]
    pub fn allowed(&self, index: RouteIndex) -> String {
        let one = self.route(index);
        let same = |route: &&RouteConfig| {
            route.host == one.host && route.path.trim_end_matches('/') == one.path.trim_end_matches('/')
        };
        let methods = self.routes.iter().filter(same).flat_map(|route| route.methods.iter().map(Method::as_str));
        methods.collect::<Vec<_>>().join(", ")
    }
}

/// A prefix is itself, itself with a slash, and everything below.
fn insert(router: &mut Router<Vec<RouteIndex>>, path: &str, group: &[RouteIndex]) {
    let mut add = |pattern: String| {
        router.insert(pattern, group.to_vec()).expect("the configuration refuses routes that contradict each other");
    };
    if !path.is_empty() {
        add(path.to_owned());
    }
    add(format!("{path}/"));
    add(format!("{path}/{{*rest}}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    fn table(routes: &str) -> RouteTable {
        let upstream = "[[upstreams]]\nname = \"u\"\nendpoints = [\"http://a\"]\n";
        let routes: String = routes
            .lines()
            .flat_map(|line| ["[[routes]]\nupstream = \"u\"\n".to_owned(), line.replace("; ", "\n"), "\n".to_owned()])
            .collect();
        RouteTable::new(Config::parse(&(upstream.to_owned() + &routes), None, &Environment::default()).unwrap().routes)
    }

    #[test]
    fn host_then_longest_prefix_then_method() {
        let table = table(
            "path = \"/\"\n\
             path = \"/orders\"\n\
             path = \"/orders/archive/\"\n\
             path = \"/items\"; methods = [\"GET\"]; name = \"read\"\n\
             path = \"/items\"; methods = [\"POST\", \"PUT\"]; name = \"write\"\n\
             path = \"/orders\"; host = \"API.example.com.\"",
        );
        for (host, path, method, expected) in [
            ("x", "/", Method::GET, Match::Route(0)),
            ("x", "/other", Method::GET, Match::Route(0)),
            ("x", "/orders", Method::GET, Match::Route(1)),
            ("x", "/orders/", Method::GET, Match::Route(1)),
            ("x", "/orders/7/lines", Method::GET, Match::Route(1)),
            ("x", "/ordersx", Method::GET, Match::Route(0)),
            ("x", "/orders/archive", Method::GET, Match::Route(2)),
            ("x", "/orders/archive/1", Method::GET, Match::Route(2)),
            ("x", "/orders/archives", Method::GET, Match::Route(1)),
            ("x", "/items/1", Method::GET, Match::Route(3)),
            ("x", "/items/1", Method::PUT, Match::Route(4)),
            ("x", "/items/1", Method::DELETE, Match::MethodNotAllowed(3)),
            ("api.example.com", "/orders/1", Method::GET, Match::Route(5)),
            ("Api.Example.Com", "/orders/1", Method::GET, Match::Route(5)),
            ("api.example.com", "/elsewhere", Method::GET, Match::Route(0)),
        ] {
            assert_eq!(table.find(host, path, &method), expected, "{method} {host}{path}");
        }
        assert_eq!(table.allowed(3), "GET, POST, PUT");
    }

    #[test]
    fn without_a_route_there_is_none() {
        assert_eq!(table("path = \"/a\"").find("x", "/b", &Method::GET), Match::None);
    }
}
