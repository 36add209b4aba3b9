//! How a route changes what passes through it: the settings of `[[routes]]` that are about that.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use super::check::{Check, Zero};
use super::cors::CorsConfig;
use super::header_rules::{Direction, HeaderRules};
use super::route::{RawRoute, is_host};
use super::route_path;

/// What a route changes. What is not asked for costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Shaping {
    /// What takes the place of the route's path before forwarding.
    pub prefix: Option<String>,
    /// What the upstream gets as Host.
    pub host: Option<HeaderValue>,
    /// What happens to the headers of requests.
    pub request_headers: Option<Box<HeaderRules>>,
    /// What happens to the headers of the upstream's responses.
    pub response_headers: Option<Box<HeaderRules>>,
    /// Which web pages may read the answers.
    pub cors: Option<Box<CorsConfig>>,
    /// Set: every request is refused.
    pub maintenance: Option<Maintenance>,
    /// Whether headers that ask for another method or path pass.
    pub forwards_overrides: bool,
}

/// What a route under maintenance answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// For people; empty: a usual one.
    pub message: Arc<str>,
    /// When it may be over.
    pub retry_after: Duration,
}

impl RawRoute {
    pub(super) fn resolve_shaping(
        &self,
        check: &Check<'_>,
        methods: &[Method],
        credentials: &[HeaderName],
        key_headers: &[HeaderName],
    ) -> Shaping {
        let rules = |key: &str, direction| {
            let raw = if direction == Direction::Request { &self.request_headers } else { &self.response_headers };
            raw.resolve(&check.below(key), direction, key_headers)
        };
        let shaping = Shaping {
            prefix: self.resolve_prefix(check),
            host: self.resolve_host_header(check),
            request_headers: rules("request_headers", Direction::Request),
            response_headers: rules("response_headers", Direction::Response),
            cors: self.cors.resolve(&check.below("cors"), methods, credentials),
            maintenance: self.resolve_maintenance(check),
            forwards_overrides: check.choice(
                "override_headers",
                &self.override_headers,
                &[("drop", false), ("forward", true)],
            ),
        };
        if self.delegated {
            check_delegated(check, &shaping);
        }
        shaping
    }

    fn resolve_prefix(&self, check: &Check<'_>) -> Option<String> {
        if self.replace_prefix.is_empty() {
            return None;
        }
        if self.strip_prefix {
            check.refuse("replace_prefix", "`strip_prefix` removes what this would replace", "write one of the two");
        }
        if let Err(defect) = route_path::check(&self.replace_prefix) {
            check.refuse("replace_prefix", format!("`{}` {}", self.replace_prefix, defect.message), defect.remedy);
        }
        Some(self.replace_prefix.clone())
    }

    fn resolve_host_header(&self, check: &Check<'_>) -> Option<HeaderValue> {
        if self.host_header.is_empty() {
            return None;
        }
        let name = match self.host_header.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() => name,
            _ => &self.host_header,
        };
        let value = HeaderValue::from_str(&self.host_header).ok().filter(|_| is_host(&name.to_ascii_lowercase()));
        if value.is_none() {
            let remedy = "write a name or an address, with a port if need be, like \"orders.internal\"";
            check.refuse("host_header", format!("`{}` is not a host", self.host_header), remedy);
        }
        value
    }

    fn resolve_maintenance(&self, check: &Check<'_>) -> Option<Maintenance> {
        let retry_after = check.duration("maintenance_retry_after", &self.maintenance_retry_after, Zero::Refused);
        if self.maintenance_message.chars().any(char::is_control) {
            let remedy = "write one line, without control characters";
            check.refuse("maintenance_message", "this is no message", remedy);
        }
        let message = self.maintenance_message.as_str().into();
        self.maintenance.then_some(Maintenance { message, retry_after })
    }
}

/// Nothing of a delegated route passes through here.
fn check_delegated(check: &Check<'_>, shaping: &Shaping) {
    for (key, is_set) in [
        ("replace_prefix", shaping.prefix.is_some()),
        ("host_header", shaping.host.is_some()),
        ("request_headers", shaping.request_headers.is_some()),
        ("response_headers", shaping.response_headers.is_some()),
        ("cors", shaping.cors.is_some()),
    ] {
        if is_set {
            check.refuse(key, "a delegated route forwards nothing", "remove it: whoever forwards sees to that");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Environment, parse};

    fn problems(route: &str) -> Vec<String> {
        let text = format!(
            "[[upstreams]]\nname = \"up\"\nendpoints = [\"http://127.0.0.1:1\"]\n\
             [[routes]]\npath = \"/a\"\nupstream = \"up\"\n{route}\n"
        );
        match parse(&text, Some("/x.toml".into()), &Environment::of(&[], Path::new("/"))) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.0.into_iter().map(|problem| problem.path).collect(),
        }
    }

    #[test]
    fn what_does_not_pass_through_is_not_shaped() {
        let text = "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n[[routes]]\npath = \"/a\"\ndelegated = true\n\
                    replace_prefix = \"/v2\"\nhost_header = \"a\"\nrequest_headers.remove = [\"a\"]\n\
                    response_headers.remove = [\"a\"]\ncors.origins = [\"*\"]\n";
        let problems = parse(text, Some("/x.toml".into()), &Environment::of(&[], Path::new("/"))).unwrap_err();
        let mut paths: Vec<String> = problems.0.into_iter().map(|problem| problem.path).collect();
        paths.sort_unstable();
        let expected = ["cors", "host_header", "replace_prefix", "request_headers", "response_headers"];
        assert_eq!(paths, expected.map(|key| format!("routes[0].{key}")));
    }

    #[test]
    fn a_route_s_shaping_is_checked() {
        for (route, path) in [
            ("replace_prefix = \"/v2\"", None),
            ("replace_prefix = \"/\"", None),
            ("replace_prefix = \"/v2\"\nstrip_prefix = true", Some("routes[0].replace_prefix")),
            ("replace_prefix = \"/v2/\"", Some("routes[0].replace_prefix")),
            ("replace_prefix = \"/../x\"", Some("routes[0].replace_prefix")),
            ("replace_prefix = \"v2\"", Some("routes[0].replace_prefix")),
            ("replace_prefix = \"/v%2f\"", Some("routes[0].replace_prefix")),
            ("host_header = \"orders.internal\"", None),
            ("host_header = \"Orders.internal:8080\"", None),
            ("host_header = \"[::1]:80\"", None),
            ("host_header = \"a b\"", Some("routes[0].host_header")),
            ("host_header = \"a:99999\"", Some("routes[0].host_header")),
            ("maintenance = true", None),
            ("maintenance = true\nmaintenance_retry_after = \"0s\"", Some("routes[0].maintenance_retry_after")),
            ("maintenance_message = \"a\\nb\"", Some("routes[0].maintenance_message")),
            ("override_headers = \"forward\"", None),
            ("override_headers = \"pass\"", Some("routes[0].override_headers")),
            ("[routes.request_headers]\nset = { x-a = \"${client_id}\" }", None),
            ("[routes.request_headers.set]\nx-a = 1", Some("routes[0].request_headers.set.x-a")),
            ("[routes.request_headers]\nsett = {}", Some("routes[0].request_headers.sett")),
            ("[routes.response_headers]\nremove = [\"server\"]", None),
            ("host_header = \"a\"\nrequest_headers.remove = [\"a\"]", None),
            ("[routes.cors]\norigins = [\"*\"]\ncredentials = true", Some("routes[0].cors.origins")),
        ] {
            assert_eq!(problems(route), path.into_iter().map(str::to_owned).collect::<Vec<_>>(), "{route}");
        }
    }
}
