//! Who asks, and whether they may: the guard in front of every row of the admin API and every page.
//!
//! A bearer token is a program's; a cookie is a browser's, and a browser also carries it for pages of
//! strangers, so that what changes anything must come from a page of our own (`Sec-Fetch-Site`,
//! `Origin`). What a role may do is asked here, from the row's permission; whose clients those are is
//! asked by handlers, which know them ([`Caller::reach`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use jiff::Timestamp;

use super::fault::{Fault, Result};
use super::idempotency;
use super::state::{Api, Peer};
use super::turns::Turn;
use crate::model::id::ClientId;
use crate::model::operator::{Actor, Permission};
use crate::operators::{Attendance, Known};
use crate::store::Store;

/// The cookie of sessions; off TLS, where browsers keep no `__Host-` cookie, without that prefix.
pub(super) const COOKIE: &str = "octroi-session";

/// Marks what a page asks by itself: it keeps no session alive. Who sends it without need only loses by it.
pub(super) const REFRESH: &str = "x-octroi-refresh";

/// How long one waits for its turn at reports.
const TURN_PATIENCE: Duration = Duration::from_secs(5);

/// A turn at a report, until it is dropped.
#[derive(Debug)]
pub(super) struct ReportTurn {
    _own: Turn,
    _of_all: Option<Turn>,
}

/// Who may use a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Whoever is known.
    Known,
    /// Who may do this.
    To(Permission),
    /// The same for what only asks, though with a body: it is done anew each time, and nothing of it is kept.
    ToAsk(Permission),
}

/// The id of a request, for its answer, the log and the audit.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) String);

/// Somebody who is known and may do what the row is for.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) known: Known,
    /// The store in its hand: what is changed with it stands in the audit as its doing.
    pub(super) store: Store,
    pub(super) request_id: String,
    pub(super) address: IpAddr,
    /// When it came.
    pub(super) at: Timestamp,
}

impl Caller {
    pub(super) fn actor(&self) -> &Actor {
        &self.known.actor
    }

    /// That it may do this to a client. A client that it is not for is not there for it.
    ///
    /// # Errors
    /// It may not.
    pub(super) fn reach(&self, permission: Permission, client: ClientId) -> Result<()> {
        if self.actor().may(permission, Some(client)) {
            return Ok(());
        }
        if self.actor().role.may(permission) {
            return Err(Fault::not_found(format!("there is no client {client}")));
        }
        Err(refused(self.actor(), permission))
    }

    /// A turn at what may read much of the store. Who operates the gateway has a few at once; roles that
    /// are for some clients share one, one after the other, so that no customer's questions, however
    /// many, take the store from operators or from metering. Each waits for its own before it waits for
    /// others: who asks much stands in the line of all once.
    ///
    /// # Errors
    /// Its own or others' took too long.
    pub(super) async fn turn(&self, api: &Api) -> Result<ReportTurn> {
        let who = self.actor().id;
        let turn = async {
            if !self.actor().role.is_confined() {
                return Some(ReportTurn { _own: api.operators_turns.wait(who).await?, _of_all: None });
            }
            let own = api.customers_turns.wait(who).await?;
            let of_all = Arc::clone(&api.customers_turn).acquire_owned().await.ok()?;
            Some(ReportTurn { _own: own, _of_all: Some(of_all) })
        };
        let turn = tokio::time::timeout(TURN_PATIENCE, turn).await.ok().flatten();
        turn.ok_or_else(|| Fault::unavailable("too_many_reports", "reports are being read: ask again"))
    }

    /// Whether it may; for what is shown on a page.
    pub(super) fn may(&self, permission: Permission) -> bool {
        self.actor().role.may(permission)
    }

    /// The client that a question is confined to: the one that is asked for, or its only one.
    ///
    /// # Errors
    /// It may not ask for this one, or has to say which.
    pub(super) fn confined_to(&self, permission: Permission, asked: Option<ClientId>) -> Result<Option<ClientId>> {
        match (asked, self.actor().role.is_confined(), self.actor().clients.as_slice()) {
            (Some(client), ..) => self.reach(permission, client).map(|()| Some(client)),
            (None, false, _) => Ok(None),
            (None, true, [only]) => Ok(Some(*only)),
            (None, true, _) => Err(Fault::bad_request("say for which client: this role is for some only")),
        }
    }
}

fn refused(actor: &Actor, permission: Permission) -> Fault {
    Fault::forbidden(format!("the role {} may not do this ({permission:?})", actor.role))
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        // The guard put it there; a row without a guard cannot be written (`super::rows`).
        parts.extensions.get::<Self>().cloned().ok_or_else(Fault::missing_credentials)
    }
}

/// Lets through who may use a row; answers idempotent writes that were answered before.
pub(super) async fn guard(
    State((api, access)): State<(Arc<Api>, Access)>,
    request: Request,
    next: Next,
) -> Result<Response> {
    let (mut head, body) = request.into_parts();
    let caller = identify(&api, &head).await?;
    if let Access::To(permission) | Access::ToAsk(permission) = access
        && !caller.may(permission)
    {
        return Err(refused(caller.actor(), permission));
    }
    head.extensions.insert(caller.clone());
    let request = Request::from_parts(head, body);
    if request.method().is_safe() || matches!(access, Access::ToAsk(_)) {
        return Ok(next.run(request).await);
    }
    // A change that began is finished, whether its caller waits for the answer or not.
    let mint = api.mint.clone();
    let change = async move {
        if request.headers().contains_key(idempotency::HEADER) {
            idempotency::once(&caller, &mint, request, next).await
        } else {
            Ok(next.run(request).await)
        }
    };
    api.tasks.spawn_control(change).await.unwrap_or_else(|_| Err(Fault::internal()))
}

/// Who sends a request.
pub(super) async fn identify(api: &Arc<Api>, head: &Parts) -> Result<Caller> {
    let peer = head.extensions.get::<Peer>().ok_or_else(Fault::internal)?.0.ip();
    let request_id = head.extensions.get::<RequestId>().ok_or_else(Fault::internal)?.0.clone();
    let known = if let Some(text) = bearer(&head.headers)? {
        with_token(api, text, peer, &head.headers).await?
    } else {
        let text = cookie(&head.headers, api.secure).ok_or_else(Fault::missing_credentials)?;
        same_site(api, &head.method, &head.headers)?;
        let unattended = head.headers.contains_key(REFRESH);
        let attendance = if unattended { Attendance::Unattended } else { Attendance::Attended };
        api.operators.authenticate_session(&text, Some(peer), attendance).await?
    };
    let store = api.operators.store_for(&known.actor, Some(&request_id));
    Ok(Caller { known, store, request_id, address: peer, at: api.clock.wall() })
}

async fn with_token(api: &Arc<Api>, text: &str, peer: IpAddr, headers: &HeaderMap) -> Result<Known> {
    // A shell's text is good on this machine only, whoever got hold of it: not through a proxy that
    // stands here.
    if peer.to_canonical().is_loopback()
        && !FORWARDED.iter().any(|name| headers.contains_key(*name))
        && let Some(user) = api.shells.as_ref().and_then(|shells| shells.read(text, api.clock.wall().as_second()))
    {
        return Ok(Known { actor: Arc::new(Actor::shell(user)), session: None });
    }
    Ok(api.operators.authenticate_bearer(text, Some(peer)).await?)
}

/// What proxies say of whom they speak for (RFC 7239, RFC 9110 §7.6.3, and what came before).
const FORWARDED: [&str; 6] =
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];

/// The text after `Bearer`.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        let is_there = headers.contains_key(header::AUTHORIZATION);
        return if is_there { Err(Fault::bad_request("send one Authorization header")) } else { Ok(None) };
    };
    let text = value.to_str().map_err(|_| Fault::invalid_credentials())?;
    match text.split_once(' ') {
        Some((scheme, text)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(text.trim())),
        _ => Err(Fault::invalid_credentials()),
    }
}

/// The session's text.
pub(super) fn cookie(headers: &HeaderMap, secure: bool) -> Option<String> {
    let wanted = cookie_name(secure);
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned())
}

/// What the cookie is called here.
pub(super) fn cookie_name(secure: bool) -> String {
    if secure { format!("__Host-{COOKIE}") } else { COOKIE.to_owned() }
}

/// That a change is asked for by a page of our own (Fetch Metadata; RFC 6454 §7).
pub(super) fn same_site(api: &Api, method: &Method, headers: &HeaderMap) -> Result<()> {
    if method.is_safe() {
        return Ok(());
    }
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    // A browser says at least one of them with whatever a page sends; who says neither is none, and
    // has no cookie to be misused, but neither has it to be believed.
    let site = text(header::HeaderName::from_static("sec-fetch-site"));
    let origin = text(header::ORIGIN);
    // Behind a proxy that ends TLS neither scheme nor host of what comes here are those of the page.
    let listener = || text(header::HOST).map(|host| format!("{}://{host}", if api.secure { "https" } else { "http" }));
    let ours = api.origin.clone().or_else(listener);
    let site_is_good = site.is_none_or(|site| matches!(site, "same-origin" | "none"));
    let origin_is_good = origin.is_none_or(|origin| ours.is_some_and(|ours| ours.eq_ignore_ascii_case(origin)));
    if (site.is_none() && origin.is_none()) || !site_is_good || !origin_is_good {
        return Err(Fault::cross_site());
    }
    Ok(())
}

/// Refuses names that are not ours: a stranger's name that leads here would make its pages ours in the
/// eyes of a browser (DNS rebinding). A token is known to no page: where one is asked for, whoever has
/// it passes under every name. Who names no host at all (HTTP/1.0) is no browser.
pub(super) async fn known_host(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    if host.is_none_or(|host| is_ours(host, &api.hosts))
        || (asks_for_token(&request) && matches!(bearer(request.headers()), Ok(Some(_))))
    {
        return next.run(request).await;
    }
    let detail = "this host name is not one of `admin.hosts`: add it there, or use the address";
    Fault::forbidden(detail).into_response()
}

/// Whether a row of the API is asked for that refuses whoever brings no good token.
fn asks_for_token(request: &Request) -> bool {
    let path = request.uri().path();
    path.starts_with("/v1/") && (path != "/v1/sessions" || request.method().is_safe())
}

fn is_ours(host: &str, named: &[String]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    name == "localhost" || name.parse::<IpAddr>().is_ok() || named.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_may_come_under_addresses_and_names_that_are_ours() {
        let named = ["admin.example.com".to_owned()];
        for (host, ours) in [
            ("127.0.0.1:8081", true),
            ("[::1]:8081", true),
            ("localhost", true),
            ("Admin.Example.com:443", true),
            ("evil.example.com", false),
            ("localhost.evil.example", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(is_ours(host, &named), ours, "{host}");
        }
    }

    #[test]
    fn of_cookies_the_one_of_this_listener_is_read() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "a=1; octroi-session=x.y.z".parse().unwrap());
        headers.append(header::COOKIE, "__Host-octroi-session=s.t.u".parse().unwrap());
        assert_eq!(cookie(&headers, false).as_deref(), Some("x.y.z"));
        assert_eq!(cookie(&headers, true).as_deref(), Some("s.t.u"));
    }

    #[test]
    fn one_bearer_and_no_other_scheme() {
        let read = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer(&headers).map(|text| text.map(ToOwned::to_owned)).map_err(|fault| fault.status.as_u16())
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["bearer  abc"]), Ok(Some("abc".to_owned())));
        assert_eq!(read(&["Basic abc"]), Err(401));
        assert_eq!(read(&["Bearer a", "Bearer b"]), Err(400));
    }
}
