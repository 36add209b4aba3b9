//! What would become of a request, step by step, and which line of configuration decides: the walk of
//! [`super::gateway`] by what is known of its parts, without sending, spending or writing anything.
//!
//! Judges by the same functions as the walk: the table of routes, the canonical path, the table of
//! refusals, the counters that enforce. What it cannot see it says: the failure budget of an address,
//! and the bytes of a head.

use std::sync::Arc;

use http::header::HOST;
use http::{Method, Request, Uri};
use jiff::Timestamp;

mod credential;
mod limits;

use super::path::canonicalise;
use super::rejection::Rejection;
use super::reserved;
use super::route::NoRoute;
use super::shared::{Gateway, Route};
use crate::auth::AuthError;
use crate::clients::Principal;
use crate::config::balancing::Balance;
use crate::config::written::Written;
use crate::model::client::Client;
use crate::model::explanation::{EndpointView, Explanation, Finding, LimitState, Place, Question, Setting, Step};
use crate::model::key::ApiKey;
use crate::model::rate::RateLimit;
use crate::model::secret::SecretText;
use crate::wire::head::named_host;

/// A question, with what the store knows of whom it is about.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The request.
    pub question: &'a Question,
    /// The client that its credential is of; none: nobody's, or nobody is known by it.
    pub client: Option<&'a Client>,
    /// The key that its credential is, or stands for.
    pub key: Option<&'a ApiKey>,
    /// What its token came to, where it has one.
    pub token: Option<&'a Weighed>,
    /// Where settings are written.
    pub written: &'a Written,
    /// What of quotas is used by the ledger, where no counter of this process knows.
    pub quotas: Vec<LimitState>,
    /// What clients may who have no rate of their own.
    pub default_limit: RateLimit,
}

/// What a token came to.
pub type Weighed = Result<Arc<Principal>, AuthError>;

/// The steps so far, and the refusal that ends them.
struct Walk<'a> {
    asked: &'a Asked<'a>,
    now: Timestamp,
    told: Explanation,
    /// What a route that only observes would have refused with.
    would_be: Option<String>,
}

/// Ends the walk.
struct Refused;

type Outcome<T> = Result<T, Refused>;

impl Gateway {
    /// What would become of a request.
    #[must_use]
    pub fn explain(&self, asked: &Asked<'_>) -> Explanation {
        let now = self.clock.wall();
        let mut walk = Walk { asked, now, told: Explanation::default(), would_be: None };
        if self.walk(&mut walk).is_ok() {
            walk.told.verdict = match (&walk.told.route, &walk.would_be) {
                (Some(route), None) => format!("it is forwarded by the route `{route}`"),
                (Some(route), Some(would_be)) => {
                    format!("it is forwarded by the route `{route}`, which only observes; enforced, {would_be}")
                }
                (None, _) => "it is answered by the gateway itself".to_owned(),
            };
        }
        walk.told
    }

    /// Who a token is from, as its next request would find; see [`Authenticator::weigh`].
    ///
    /// # Errors
    /// Why that request would be refused.
    ///
    /// [`Authenticator::weigh`]: crate::auth::Authenticator::weigh
    pub async fn weigh(&self, token: &SecretText) -> Weighed {
        self.authenticator.weigh(token.expose().as_bytes()).await
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
        let index = match &question.place {
            Place::Target { host, target } => self.explain_target(walk, &question.method, host, target)?,
            Place::Route(name) => Some(self.explain_named(walk, name)?),
        };
        let Some(index) = index else { return Ok(()) };
        let route = &self.routes[usize::from(index)];
        walk.told.route = Some(route.config.name.clone());
        let path = format!("routes[{index}]");
        if let Some(maintenance) = &route.config.shaping.maintenance {
            let (refusal, setting) = (Rejection::Maintenance(maintenance.clone()), format!("{path}.maintenance"));
            return walk.refuse("route", &refusal, "the route is under maintenance", Some((&setting, "true")));
        }
        let caller = self.explain_caller(walk, route, &path);
        if route.config.observes(|| walk.now) {
            walk.observe(&format!("{path}.mode"));
        } else {
            caller?;
        }
        self.explain_upstream(walk, route, &path)
    }

    /// Who it is from, and whether that may do it.
    fn explain_caller(&self, walk: &mut Walk<'_>, route: &Route, path: &str) -> Outcome<()> {
        let Some(bearer) = self.explain_credential(walk, route, path)? else { return Ok(()) };
        Self::explain_access(walk, route, path, &bearer)?;
        self.explain_limits(walk, route, &bearer)
    }

    /// The route of a request that came to it once: which it is now.
    fn explain_named(&self, walk: &mut Walk<'_>, name: &str) -> Outcome<u16> {
        let index = self.routes.iter().position(|route| route.config.name == name);
        let Some(index) = index.and_then(|index| u16::try_from(index).ok()) else {
            let why = format!("the route `{name}`, by which it came, is not configured any more");
            return walk.refuse("route", &Rejection::NoRoute, &why, None);
        };
        let path = &self.routes[usize::from(index)].config.path;
        walk.pass("route", &format!("it came by the route `{name}`"), Some((&format!("routes[{index}].path"), path)));
        Ok(index)
    }

    /// The route of what is asked for; none: the gateway itself answers.
    fn explain_target(&self, walk: &mut Walk<'_>, method: &str, host: &str, target: &str) -> Outcome<Option<u16>> {
        let (Ok(method), Ok(uri)) = (method.parse::<Method>(), target.parse::<Uri>()) else {
            return walk.refuse("path", &Rejection::NoRoute, "this is no request line of HTTP", None);
        };
        let mut request = Request::new(());
        if let Ok(host) = host.parse() {
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

    fn explain_upstream(&self, walk: &mut Walk<'_>, route: &Route, path: &str) -> Outcome<()> {
        if !self.readiness.report().refusing.is_empty() {
            let why = format!("the gateway refuses: {}", self.readiness.report().refusing.join(", "));
            return walk.end("metering", 503, "metering_unavailable", &why, Some(("metering.on_full", "refuse")));
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
            return walk.end(
                "upstream",
                503,
                "no_healthy_upstream",
                &why,
                Some((&format!("upstreams[{upstream}]"), &name)),
            );
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

    /// The route refuses nothing: what would have been a refusal is told, and the walk goes on.
    fn observe(&mut self, setting: &str) {
        let told = &mut self.told;
        (told.status, told.code) = (None, None);
        let verdict = std::mem::take(&mut told.verdict);
        self.would_be = (!verdict.is_empty()).then_some(verdict);
        if self.would_be.is_some()
            && let Some(last) = self.told.steps.last_mut()
        {
            last.finding = Finding::Notes;
        }
        let detail = match self.would_be {
            Some(_) => "the route only observes: what would be refused is counted and let pass",
            None => "the route only observes, and nothing would be refused",
        };
        self.note("route", detail, Some((setting, "observe")));
    }

    fn refuse<T>(&mut self, step: &str, by: &Rejection, why: &str, at: Option<(&str, &str)>) -> Outcome<T> {
        let public = by.public();
        self.end(step, public.status.as_u16(), public.code, why, at)
    }

    fn end<T>(&mut self, step: &str, status: u16, code: &str, why: &str, at: Option<(&str, &str)>) -> Outcome<T> {
        let by = at.map(|(path, value)| setting(self.asked.written, path, value));
        self.push(step, Finding::Refuses, why, by);
        self.told.status = Some(status);
        self.told.code = Some(code.to_owned());
        self.told.verdict = format!("it is refused with {status} {code}: {why}");
        Err(Refused)
    }
}
