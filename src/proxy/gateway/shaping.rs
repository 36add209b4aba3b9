//! Where a request is changed on its way, and where its route answers for itself.

use bytes::Bytes;
use http::header::HOST;
use http::request::Parts as Head;
use http::{HeaderName, HeaderValue, Response};

use super::WorkerGateway;
use crate::clients::Principal;
use crate::config::route::RouteAuth;
use crate::proxy::context::RequestContext;
use crate::proxy::forwarded::scheme;
use crate::proxy::header_rules::{Edits, Facts};
use crate::proxy::headers::{Rewrite, Shape, X_FORWARDED_PROTO};
use crate::proxy::path::CanonicalPath;
use crate::proxy::rejection::Rejection;
use crate::proxy::shared::Route;
use crate::proxy::{cors, trace};
use crate::server::Peer;
use crate::wire::head::named_host;
use crate::wire::percent;

/// Whom the certificate that the caller showed is for.
const CERTIFICATE_SUBJECT: HeaderName = HeaderName::from_static("x-octroi-certificate-subject");

impl WorkerGateway {
    /// The answer to a preflight; none: it is none, or its route says nothing about other origins.
    pub(super) fn preflight(
        &self,
        head: &Head,
        path: &CanonicalPath<'_>,
        context: &mut RequestContext,
    ) -> Option<Response<Bytes>> {
        let asked = cors::preflight(&head.method, &head.headers)?;
        let index = self.shared.table.find(named_host(&head.headers, &head.uri), path, &asked).ok()?;
        let config = self.shared.routes[usize::from(index)].config.shaping.cors.as_deref()?;
        context.found_route(index);
        let (response, is_allowed) = cors::answer(config, &asked, &head.headers);
        self.shared.metrics.preflight_answered(is_allowed);
        Some(response)
    }

    /// Makes a caller's headers those of the upstream's request. What is to be done to the headers of
    /// its response is given back.
    pub(super) fn rewrite<'r>(
        &self,
        route: &'r Route,
        head: &mut Head,
        principal: &Principal,
        context: &mut RequestContext,
    ) -> Option<Edits<'r>> {
        let (config, shaping) = (&route.config, &route.config.shaping);
        let edits_of = |rules| Edits::of(rules, &facts(head, route, principal, context));
        let edits_up = shaping.request_headers.as_deref().map(edits_of);
        let edits_down = shaping.response_headers.as_deref().map(edits_of);
        Rewrite {
            // What was only looked at is still for whoever asked for it until now.
            credentials: if config.auth == RouteAuth::None || context.is_observed() {
                &[]
            } else {
                &config.credentials
            },
            underscores: self.shared.underscores,
            trusted: context.is_trusted(),
            peer: context.peer().address_value(),
            request_id: context.request_id_value(),
            identity: Some(&principal.headers),
            shape: self.shape(route, head, edits_up.as_ref(), context),
        }
        .apply(&mut head.headers);
        // Under a name that no caller can send.
        if let Some(subject) = context.peer().secured().and_then(|secured| secured.subject.as_ref())
            && let Ok(subject) = HeaderValue::try_from(percent::encoded(&subject.text))
        {
            head.headers.insert(CERTIFICATE_SUBJECT, subject);
        }
        if let Some(host) = &shaping.host {
            head.headers.insert(HOST, host.clone());
        }
        let trace = trace::pass(&mut head.headers, context.event(), self.shared.proxy.traceparent, context.spans());
        context.belongs_to(trace);
        edits_down
    }

    /// What is asked for besides the rules that always hold.
    pub(super) fn shape<'a>(
        &'a self,
        route: &Route,
        head: &Head,
        edits: Option<&'a Edits<'a>>,
        context: &RequestContext,
    ) -> Shape<'a> {
        let proxy = &self.shared.proxy;
        Shape {
            scheme: own_scheme(context.peer()),
            caller: context.is_trusted().then(|| context.caller()),
            edits,
            forwards_overrides: route.config.shaping.forwards_overrides,
            identity: proxy.identity,
            via: Some(self.shared.pseudonym.via(head.version)),
            forwarded: proxy.forwarded.then(|| context.peer().address()),
        }
    }
}

/// What a route says before anybody is asked who they are.
pub(super) fn greet(route: &Route, head: &Head, context: &mut RequestContext) -> Result<(), Rejection> {
    let shaping = &route.config.shaping;
    if let Some(config) = &shaping.cors {
        context.comes_from(cors::allowed_origin(config, &head.headers));
    }
    match &shaping.maintenance {
        Some(maintenance) => Err(Rejection::Maintenance(maintenance.clone())),
        None => Ok(()),
    }
}

fn facts<'a>(head: &'a Head, route: &'a Route, principal: &'a Principal, context: &'a RequestContext) -> Facts<'a> {
    let said = head.headers.get(X_FORWARDED_PROTO).filter(|_| context.is_trusted());
    Facts {
        identity: &principal.headers,
        request_id: context.request_id_value(),
        caller: context.caller(),
        route: &route.config.name,
        host: named_host(&head.headers, &head.uri),
        method: &head.method,
        scheme: said.and_then(|said| scheme(said.as_bytes())).unwrap_or_else(|| own_scheme(context.peer())),
    }
}

fn own_scheme(peer: &Peer) -> &'static str {
    if peer.secured().is_some() { "https" } else { "http" }
}
