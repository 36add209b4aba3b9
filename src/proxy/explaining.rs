//! What would become of a request, step by step, and which line of configuration decides: the walk of
//! [`super::gateway`] by what is known of its parts, without sending, spending or writing anything.
//!
//! Judges by the same functions as the walk: the table of routes, the canonical path, the table of
//! refusals, the counters that enforce. What it cannot see it says: the failure budget of an address,
//! and the bytes of a head.

use http::header::HOST;
use http::{Method, Request, Uri};
use jiff::Timestamp;

use super::path::canonicalise;
use super::rejection::Rejection;
use super::reserved;
use super::route::NoRoute;
use super::shared::{Gateway, Route};
use crate::auth::{AuthError, InvalidReason};
use crate::config::balancing::Balance;
use crate::config::route::RouteAuth;
use crate::config::written::Written;
use crate::limit::{self, When};
use crate::model::client::Client;
use crate::model::explanation::{EndpointView, Explanation, Finding, LimitState, Question, Setting, Step};
use crate::model::key::{ApiKey, KeyDefect};
use crate::wire::head::named_host;

/// A question, with what the store knows of its key.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The request.
    pub question: &'a Question,
    /// The key and its client; none: no key.
    pub key: Option<(&'a ApiKey, &'a Client)>,
    /// Where settings are written.
    pub written: &'a Written,
    /// What of quotas is used by the ledger, where no counter of this process knows.
    pub quotas: Vec<LimitState>,
}

/// The steps so far, and the refusal that ends them.
struct Walk<'a> {
    asked: &'a Asked<'a>,
    told: Explanation,
}

/// Ends the walk.
struct Refused;

type Outcome<T> = Result<T, Refused>;

/// Kinds of limits.
const RATE: &str = "rate";
const QUOTA: &str = "quota";

impl Gateway {
    /// What would become of a request.
    #[must_use]
    pub fn explain(&self, asked: &Asked<'_>) -> Explanation {
        let mut walk = Walk { asked, told: Explanation::default() };
        if self.walk(&mut walk).is_ok() {
            walk.told.verdict = match &walk.told.route {
                Some(route) => format!("it is forwarded by the route `{route}`"),
                None => "it is answered by the gateway itself".to_owned(),
            };
        }
        walk.told
    }

    /// Endpoints of all upstreams as they stand.
    pub fn endpoints(&self) -> Vec<EndpointView> {
        (0..self.clusters.len()).flat_map(|upstream| self.endpoints_of(upstream)).collect()
    }

    /// What a setting of a route says, and where: `routes[2].auth`.
    #[must_use]
    pub fn setting_of_route(&self, name: &str, written: &Written) -> Option<Setting> {
        let index = self.routes.iter().position(|route| route.config.name == name)?;
        Some(setting(written, &format!("routes[{index}]"), name))
    }

    fn endpoints_of(&self, upstream: usize) -> Vec<EndpointView> {
        let cluster = &self.clusters[upstream];
        let view = |(endpoint, available, open): (&str, bool, u64)| EndpointView {
            upstream: cluster.name().to_owned(),
            endpoint: endpoint.to_owned(),
            available,
            open,
        };
        cluster.view(self.clock.monotonic()).map(view).collect()
    }

    fn walk(&self, walk: &mut Walk<'_>) -> Outcome<()> {
        let question = walk.asked.question;
        let Some(index) = self.explain_route(walk, question)? else { return Ok(()) };
        let route = &self.routes[usize::from(index)];
        walk.told.route = Some(route.config.name.clone());
        let path = format!("routes[{index}]");
        if let Some(maintenance) = &route.config.shaping.maintenance {
            let (refusal, setting) = (Rejection::Maintenance(maintenance.clone()), format!("{path}.maintenance"));
            return walk.refuse("route", &refusal, "the route is under maintenance", Some(&setting));
        }
        let now = self.clock.wall();
        if route.config.observes(|| now) {
            walk.note("route", "the route only observes: what is refused below would be counted and let pass", None);
        }
        self.explain_credential(walk, route, &path)?;
        Self::explain_access(walk, route, &path)?;
        self.explain_limits(walk, now)?;
        self.explain_upstream(walk, route, &path)
    }

    fn explain_route(&self, walk: &mut Walk<'_>, question: &Question) -> Outcome<Option<u16>> {
        let (Ok(method), Ok(uri)) = (question.method.parse::<Method>(), question.target.parse::<Uri>()) else {
            return walk.refuse("path", &Rejection::NoRoute, "this is no request line of HTTP", None);
        };
        let mut request = Request::new(());
        if let Ok(host) = question.host.parse() {
            request.headers_mut().insert(HOST, host);
        }
        let path = match canonicalise(uri.path()) {
            Ok(path) => path,
            Err(fault) => {
                let why = format!("the path can be read in more than one way: {fault}");
                return walk.refuse("path", &fault.into(), &why, None);
            }
        };
        walk.pass("path", &format!("the path is matched and forwarded as `{}`", path.as_str()), None);
        if reserved::owns(&path) {
            walk.pass("route", "paths under /.octroi/ are answered by the gateway itself", None);
            return Ok(None);
        }
        let host = named_host(request.headers(), &uri);
        match self.table.find(host, &path, &method) {
            Ok(index) => {
                let route = &self.routes[usize::from(index)].config;
                let host = route.host.as_deref().map_or("any host", |host| host);
                let why = format!("the route `{}` is for {host} and paths from {} on", route.name, route.path);
                walk.pass("route", &why, Some((&format!("routes[{index}].path"), &route.path)));
                Ok(Some(index))
            }
            Err(NoRoute::Unknown) => {
                walk.refuse("route", &Rejection::NoRoute, "no route is for this host and path", None)
            }
            Err(NoRoute::Method(allow)) => {
                let why = format!("the routes for this path take {}", allow.to_str().unwrap_or_default());
                walk.refuse("route", &Rejection::Method(allow), &why, None)
            }
            Err(NoRoute::Ambiguous(fault)) => {
                let why = format!("the route does not allow a path like this: {fault}");
                walk.refuse("route", &Rejection::Path(fault), &why, None)
            }
        }
    }

    fn explain_credential(&self, walk: &mut Walk<'_>, route: &Route, path: &str) -> Outcome<()> {
        let auth = format!("{path}.auth");
        let Some((key, client)) = walk.asked.key else {
            if route.config.auth == RouteAuth::None {
                walk.pass("credential", "the route asks for none", Some((&auth, "none")));
                return Ok(());
            }
            return walk.refuse("credential", &AuthError::Missing.into(), "there is no credential", Some(&auth));
        };
        walk.told.api_key_id = Some(key.id.0);
        walk.told.client_id = Some(client.id.0);
        walk.told.client_name = Some(client.name.clone());
        walk.told.plan = client.allowance.plan.as_ref().map(|plan| plan.name.clone());
        match route.config.auth {
            RouteAuth::None => {
                walk.pass("credential", "the route asks for none: whoever calls is nobody", Some((&auth, "none")));
                return Ok(());
            }
            RouteAuth::Jwt => {
                let refusal = AuthError::invalid(InvalidReason::WrongKind).into();
                return walk.refuse(
                    "credential",
                    &refusal,
                    "the route takes tokens only, and this is a key",
                    Some(&auth),
                );
            }
            RouteAuth::Required | RouteAuth::Key => {}
        }
        let named = key.key_id.clone().unwrap_or_else(|| key.id.to_string());
        let invalid = |reason| Rejection::from(AuthError::invalid(reason));
        match key.defect(self.clock.wall()) {
            Some(KeyDefect::Revoked) => {
                let at = key.revoked_at.map(|at| at.to_string()).unwrap_or_default();
                let why = format!("the key {named} was revoked at {at}");
                return walk.refuse("credential", &invalid(InvalidReason::Revoked), &why, None);
            }
            Some(KeyDefect::Expired) => {
                let at = key.expires_at.map(|at| at.to_string()).unwrap_or_default();
                let why = format!("the key {named} expired at {at}");
                return walk.refuse("credential", &invalid(InvalidReason::Expired), &why, None);
            }
            None => {}
        }
        let known = match self.authenticator.remembered(key.id) {
            None => "; this process does not know it yet: its next request looks it up".to_owned(),
            Some(seen) if seen.is_confirmed => format!("; known to this process for {} s", seen.age.as_secs()),
            Some(seen) => {
                format!("; known to this process for {} s, and to be confirmed with the store", seen.age.as_secs())
            }
        };
        walk.pass("credential", &format!("the key {named} is good{known}"), Some((&auth, word(route.config.auth))));
        if client.is_suspended() {
            let refusal = AuthError::ClientSuspended { client: client.id, key: key.id }.into();
            let why = format!("the client `{}` is suspended (octroi client resume {})", client.name, client.id);
            return walk.refuse("client", &refusal, &why, None);
        }
        walk.pass("client", &format!("the client `{}` is active", client.name), None);
        Ok(())
    }

    fn explain_access(walk: &mut Walk<'_>, route: &Route, path: &str) -> Outcome<()> {
        let Some((key, _)) = walk.asked.key.filter(|_| route.config.auth != RouteAuth::None) else { return Ok(()) };
        if !key.allowed_addresses.is_empty() {
            match walk.asked.question.address {
                None => {
                    walk.note("addresses", &format!("the key may be used from {} only", key.allowed_addresses), None);
                }
                Some(address) if key.allowed_addresses.admit(address) => {
                    walk.pass("addresses", &format!("{address} is among {}", key.allowed_addresses), None);
                }
                Some(address) => {
                    let why = format!("{address} is not among {}", key.allowed_addresses);
                    return walk.refuse("addresses", &AuthError::AddressDenied.into(), &why, None);
                }
            }
        }
        let scopes = format!("{path}.scopes");
        if !key.scopes.contain_all(&route.config.scopes) {
            let why = format!("the route asks for `{}`, the key has `{}`", route.config.scopes, key.scopes);
            return walk.refuse("scopes", &AuthError::InsufficientScope.into(), &why, Some(&scopes));
        }
        if !route.config.scopes.is_empty() {
            let why = format!("the key has what the route asks for: `{}`", route.config.scopes);
            walk.pass("scopes", &why, Some((&scopes, &route.config.scopes.to_string())));
        }
        Ok(())
    }

    fn explain_limits(&self, walk: &mut Walk<'_>, now: Timestamp) -> Outcome<()> {
        let Some((key, client)) = walk.asked.key else { return Ok(()) };
        let seen = self.authenticator.remembered(key.id);
        let limits = match &seen {
            Some(seen) => {
                let terms = seen.principal.client.terms();
                let when = When { arrived: now, now: self.clock.monotonic() };
                let quotas: Vec<&str> =
                    terms.quotas.iter().filter_map(|quotas| quotas.enforced()).map(|limit| &*limit.name).collect();
                let state = |policy: limit::PolicyStanding<'_>| LimitState {
                    policy: policy.policy.to_owned(),
                    kind: if quotas.contains(&policy.policy) { QUOTA } else { RATE }.to_owned(),
                    allows: format!("{} in {} s", policy.quota, policy.window_seconds),
                    left: policy.remaining,
                    resets_in: policy.reset_seconds,
                };
                limit::policies(&seen.principal, &terms, when).map(state).collect()
            }
            None => walk.asked.quotas.clone(),
        };
        walk.told.limits = limits;
        if let Some(most) =
            client.allowance.concurrency.or(client.allowance.plan.as_ref().and_then(|plan| plan.concurrency))
        {
            let open = seen.as_ref().map_or(0, |seen| seen.principal.client.open_requests());
            walk.note("limits", &format!("{open} of {most} requests at once are open in this process"), None);
        }
        let spent = walk.told.limits.iter().find(|limit| limit.left == 0).cloned();
        if let Some(limit) = spent {
            let why =
                format!("nothing is left of `{}` ({}); more in {} s", limit.policy, limit.allows, limit.resets_in);
            let code = if limit.kind == QUOTA { "quota_exhausted" } else { "rate_limited" };
            let path = (limit.policy == "default").then_some("limits.default.rate");
            return walk.end("limits", 429, code, &why, path);
        }
        let why = match seen {
            Some(_) => "every limit has something left",
            None => "rates are full, because nothing was spent in this process lately; quotas have something left",
        };
        let is_default = walk.told.limits.iter().any(|limit| limit.policy == "default");
        walk.pass("limits", why, is_default.then_some(("limits.default.rate", "for clients without one of their own")));
        Ok(())
    }

    fn explain_upstream(&self, walk: &mut Walk<'_>, route: &Route, path: &str) -> Outcome<()> {
        if !self.readiness.report().refusing.is_empty() {
            let why = format!("the gateway refuses: {}", self.readiness.report().refusing.join(", "));
            return walk.end("metering", 503, "metering_unavailable", &why, Some("metering.on_full"));
        }
        walk.pass("metering", "the journal takes entries", None);
        let Some((upstream, _)) = route.upstream else {
            walk.pass(
                "upstream",
                "another proxy forwards (forward-auth)",
                Some((&format!("{path}.delegated"), "true")),
            );
            return Ok(());
        };
        walk.told.endpoints = self.endpoints_of(upstream);
        let name = self.clusters[upstream].name().to_owned();
        let serving: Vec<&str> = walk
            .told
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.available)
            .map(|endpoint| endpoint.endpoint.as_str())
            .collect();
        if serving.is_empty() {
            let why = format!("no endpoint of `{name}` gets requests: all are unhealthy or ejected");
            return walk.end("upstream", 503, "no_healthy_upstream", &why, Some(&format!("upstreams[{upstream}]")));
        }
        let how = match (serving.len(), self.clusters[upstream].balance()) {
            (1, _) => "the only one that gets requests",
            (_, Balance::RoundRobin) => "in turn",
            (_, Balance::LeastRequests) => "the one with the fewest open requests",
            (_, Balance::PowerOfTwo) => "the less busy of two",
            (_, Balance::Hash) => "by the client",
        };
        let why = format!("it goes to `{name}`: {} ({how})", serving.join(", "));
        walk.pass("upstream", &why, Some((&format!("{path}.upstream"), &name)));
        Ok(())
    }
}

fn word(auth: RouteAuth) -> &'static str {
    match auth {
        RouteAuth::Required => "required",
        RouteAuth::Key => "key",
        RouteAuth::Jwt => "jwt",
        RouteAuth::None => "none",
    }
}

/// A setting; one that is not written itself is shown with the line of its table.
fn setting(written: &Written, path: &str, value: &str) -> Setting {
    Setting { path: path.to_owned(), value: value.to_owned(), written_at: written.place(path) }
}

impl Walk<'_> {
    fn push(&mut self, step: &str, finding: Finding, detail: &str, setting: Option<Setting>) {
        self.told.steps.push(Step { step: step.to_owned(), finding, detail: detail.to_owned(), setting });
    }

    fn pass(&mut self, step: &str, detail: &str, by: Option<(&str, &str)>) {
        let by = by.map(|(path, value)| setting(self.asked.written, path, value));
        self.push(step, Finding::Passes, detail, by);
    }

    fn note(&mut self, step: &str, detail: &str, by: Option<(&str, &str)>) {
        let by = by.map(|(path, value)| setting(self.asked.written, path, value));
        self.push(step, Finding::Notes, detail, by);
    }

    fn refuse<T>(&mut self, step: &str, by: &Rejection, why: &str, path: Option<&str>) -> Outcome<T> {
        let public = by.public();
        self.end(step, public.status.as_u16(), public.code, why, path)
    }

    fn end<T>(&mut self, step: &str, status: u16, code: &str, why: &str, path: Option<&str>) -> Outcome<T> {
        let by = path.map(|path| setting(self.asked.written, path, ""));
        self.push(step, Finding::Refuses, why, by);
        self.told.status = Some(status);
        self.told.code = Some(code.to_owned());
        self.told.verdict = format!("it is refused with {status} {code}: {why}");
        Err(Refused)
    }
}
