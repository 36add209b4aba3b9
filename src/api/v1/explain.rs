//! `/v1/explain` and `/v1/refusals`: why a request was or would be answered as it is.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::usage::{EventsQuery, event_found, events_listed};
use super::{Problems, keys};
use crate::api::caller::Caller;
use crate::api::extract::{Body, Named, Parameters};
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::api::views::{EventView, Listed};
use crate::model::explanation::{Explanation, Place, Proof, Question};
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::key::ApiKey;
use crate::model::operator::Permission;
use crate::model::secret::SecretText;
use crate::store::events::EventRow;
use crate::telemetry::refusals::{Refusal, RefusalQuery};

/// Which refusals.
#[derive(Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct RefusalsQuery {
    /// Only this client's.
    pub(in crate::api) client: Option<Uuid>,
    /// Only with this code.
    pub(in crate::api) code: Option<String>,
    /// At most so many; 100 without it.
    #[param(minimum = 1, maximum = 1000)]
    pub(in crate::api) limit: Option<u32>,
}

/// A request that was refused lately by the process that answers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::api) struct RefusalView {
    pub(in crate::api) at: Timestamp,
    pub(in crate::api) request_id: String,
    #[schema(required)]
    pub(in crate::api) route: Option<String>,
    pub(in crate::api) method: String,
    /// Without the query; what looks like a key is masked.
    pub(in crate::api) path: String,
    #[schema(required)]
    pub(in crate::api) client_id: Option<Uuid>,
    #[schema(required)]
    pub(in crate::api) api_key_id: Option<Uuid>,
    pub(in crate::api) address: String,
    pub(in crate::api) status: u16,
    /// What the caller was told.
    pub(in crate::api) code: &'static str,
    /// Why, in truth.
    pub(in crate::api) reason: String,
    /// The limits as they stood: `RateLimit-Policy`.
    #[schema(required)]
    pub(in crate::api) limit_policies: Option<String>,
    /// What was left of them: `RateLimit`.
    #[schema(required)]
    pub(in crate::api) limit_levels: Option<String>,
    #[schema(required)]
    pub(in crate::api) retry_after: Option<u64>,
}

impl From<&Refusal> for RefusalView {
    fn from(refusal: &Refusal) -> Self {
        let refusal = refusal.clone();
        Self {
            at: refusal.at,
            request_id: refusal.request_id,
            route: refusal.route,
            method: refusal.method,
            path: refusal.path,
            client_id: refusal.client_id.map(|client| client.0),
            api_key_id: refusal.api_key_id.map(|key| key.0),
            address: refusal.address.to_string(),
            status: refusal.status,
            code: refusal.code,
            reason: refusal.reason,
            limit_policies: refusal.limit_policies,
            limit_levels: refusal.limit_levels,
            retry_after: refusal.retry_after,
        }
    }
}

/// A request that might be sent.
#[derive(Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ExplainInput {
    /// Like `GET`.
    #[schema(min_length = 1, max_length = 32, pattern = "^[A-Za-z]+$")]
    pub(in crate::api) method: String,
    /// A URL, or a path with `host` beside it.
    #[schema(min_length = 1, max_length = 8000)]
    pub(in crate::api) url: String,
    /// The key it would come with: its row's id or its public id; never the key itself.
    #[serde(default)]
    pub(in crate::api) key_id: Option<String>,
    /// The token (JWT) it would come with, in place of a key: it is judged as its next request would
    /// be, and written nowhere.
    #[serde(default)]
    #[schema(max_length = 8192, format = Password)]
    pub(in crate::api) token: Option<String>,
    /// From where it would come.
    #[serde(default)]
    pub(in crate::api) address: Option<String>,
}

/// The whole story of one request.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct StoryView {
    pub(in crate::api) request_id: String,
    /// What was metered: it was admitted.
    #[schema(required)]
    pub(in crate::api) event: Option<EventView>,
    /// Why it was not admitted.
    #[schema(required)]
    pub(in crate::api) refusal: Option<RefusalView>,
    /// What would become of it now.
    #[schema(required)]
    pub(in crate::api) now: Option<Explanation>,
}

/// Recent refusals with their true reason, the latest first: those of the process that answers, in its
/// memory.
#[utoipa::path(get, path = "/v1/refusals", tag = "explain", params(RefusalsQuery),
    responses((status = 200, body = Listed<RefusalView>), Problems))]
pub(in crate::api) async fn refusals(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Parameters(query): Parameters<RefusalsQuery>,
) -> Result<Json<Listed<RefusalView>>> {
    Ok(Json(Listed::whole(refusals_listed(&api, &caller, &query)?)))
}

/// The refusals that are asked for.
pub(in crate::api) fn refusals_listed(api: &Api, caller: &Caller, query: &RefusalsQuery) -> Result<Vec<RefusalView>> {
    let client = caller.confined_to(Permission::ReadUsage, query.client.map(ClientId))?;
    let limit = super::limit(query.limit)? as usize;
    let found = api.gateway.refusals().list(&RefusalQuery { client, code: query.code.clone(), limit });
    Ok(found.iter().map(|refusal| RefusalView::from(refusal.as_ref())).collect())
}

/// Say what would become of a request: each step, and which line of configuration decides.
#[utoipa::path(post, path = "/v1/explain", tag = "explain", request_body = ExplainInput,
    responses((status = 200, body = Explanation), Problems))]
pub(in crate::api) async fn explain(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Body(input): Body<ExplainInput>,
) -> Result<Json<Explanation>> {
    Ok(Json(explained(&api, &caller, input).await?))
}

/// What would become of a request.
pub(in crate::api) async fn explained(api: &Api, caller: &Caller, input: ExplainInput) -> Result<Explanation> {
    let proof = match (&input.key_id, input.token) {
        (Some(_), Some(_)) => return Err(Fault::bad_request("give `key_id` or `token`: a request comes with one")),
        (Some(named), None) => Proof::Key(key_named(caller, named).await?.id),
        (None, Some(token)) => Proof::Token(SecretText::new(token)),
        (None, None) if caller.actor().role.is_confined() => {
            return Err(Fault::bad_request("say with which key or token: this role is for some clients only"));
        }
        (None, None) => Proof::Nothing,
    };
    let address = input.address.as_deref().map(str::parse::<IpAddr>).transpose();
    let address = address.map_err(|_| Fault::bad_request("`address` is an IP address, like 192.0.2.7"))?;
    let (host, target) = split(&input.url)?;
    let place = Place::Target { host, target };
    let told = api.gateway.explain(Question { method: input.method.to_ascii_uppercase(), place, proof, address }).await;
    // Whose a token is shows when it is judged.
    match told.client_id.map(ClientId) {
        Some(client) => caller.reach(Permission::Explain, client).map(|()| told),
        None => Ok(told),
    }
}

async fn key_named(caller: &Caller, named: &str) -> Result<ApiKey> {
    if let Ok(id) = named.parse::<ApiKeyId>() {
        return keys::found(caller, Permission::Explain, id).await;
    }
    let missing = || {
        // Somebody may have pasted the whole key: it is not repeated.
        Fault::not_found("there is no key of this id: give the id of its row or its key_id, not the whole key")
    };
    let key = caller.store.keys.find_by_key_id(named).await?.ok_or_else(missing)?;
    caller.reach(Permission::Explain, key.client_id).map_err(|_| missing())?;
    Ok(key)
}

/// Host, and path with query.
fn split(url: &str) -> Result<(String, String)> {
    if url.starts_with('/') {
        return Ok((String::new(), url.to_owned()));
    }
    let wrong = || Fault::bad_request("`url` is one like https://api.example.com/orders, or a path like /orders");
    let (_, rest) = url.split_once("://").ok_or_else(wrong)?;
    let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    if host.is_empty() {
        return Err(wrong());
    }
    // As it would be sent: neither decoded nor made nicer.
    let path = path.split('#').next().unwrap_or_default();
    Ok((host.to_owned(), if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }))
}

/// Tell the story of one request, by the id that its caller was told: what was metered, or why it was
/// refused, and what would become of it now.
#[utoipa::path(get, path = "/v1/requests/{request_id}", tag = "explain", params(("request_id" = String, Path)),
    responses((status = 200, body = StoryView), Problems))]
pub(in crate::api) async fn request(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(request_id): Named<String>,
) -> Result<Json<StoryView>> {
    Ok(Json(story(&api, &caller, &request_id).await?))
}

/// The story of one request.
pub(in crate::api) async fn story(api: &Api, caller: &Caller, request_id: &str) -> Result<StoryView> {
    let refusal = api.gateway.refusals().find(request_id);
    let refusal = refusal.filter(|refusal| match refusal.client_id {
        Some(client) => caller.reach(Permission::Explain, client).is_ok(),
        None => !caller.actor().role.is_confined(),
    });
    let event = match &refusal {
        // What was refused has no event.
        Some(_) => None,
        None => event_of(api, caller, request_id).await?,
    };
    if refusal.is_none() && event.is_none() {
        return Err(Fault::not_found(format!(
            "nothing is known of the request {request_id}: refusals are kept in memory for a while, by the process that \
             refused; an event shows within 2 s of its end; one whose id a trusted proxy made is looked for in the last \
             24 hours (octroi usage events --request-id ID --from T finds older ones)"
        )));
    }
    let again = match (&refusal, &event) {
        (Some(refusal), _) => question_of_refusal(refusal),
        (None, Some(event)) => Some(question_of_event(event)),
        (None, None) => None,
    };
    let now = match again {
        Some(question) => Some(api.gateway.explain(question).await),
        None => None,
    };
    Ok(StoryView {
        request_id: request_id.to_owned(),
        event: event.as_ref().map(EventView::from),
        refusal: refusal.as_deref().map(RefusalView::from),
        now,
    })
}

/// The event of a request, if it is there for whoever asks. An id that we made is the event's; one that
/// a trusted proxy made is looked for among the latest.
async fn event_of(api: &Api, caller: &Caller, request_id: &str) -> Result<Option<EventRow>> {
    if let Ok(id) = request_id.parse::<Uuid>()
        && let Some(event) = event_found(caller, id).await?
    {
        return Ok(Some(event));
    }
    let actor = caller.actor();
    let own = actor.clients.iter().map(|client| Some(client.0));
    let clients: Vec<_> = if actor.role.is_confined() { own.collect() } else { vec![None] };
    for client in clients {
        let query = EventsQuery {
            client,
            from: Some("-24h".to_owned()),
            request_id: Some(request_id.to_owned()),
            limit: Some(1),
            ..EventsQuery::default()
        };
        let (mut found, _) = events_listed(api, caller, &query).await?;
        if let Some(event) = found.pop() {
            return Ok(Some(event));
        }
    }
    Ok(None)
}

/// The same request again; none: of its head nothing is known.
fn question_of_refusal(refusal: &Refusal) -> Option<Question> {
    if refusal.path.is_empty() {
        return None;
    }
    let place = match &refusal.route {
        Some(route) => Place::Route(route.clone()),
        // No route was for it, whatever its host was: those for every host are judged again.
        None => Place::Target { host: String::new(), target: refusal.path.clone() },
    };
    let proof = match refusal.client_id {
        Some(client) => Proof::Client(client, refusal.api_key_id),
        None if refusal.code == MISSING => Proof::Nothing,
        None => {
            Proof::Unknown { status: refusal.status, code: refusal.code.to_owned(), reason: refusal.reason.clone() }
        }
    };
    Some(Question { method: refusal.method.clone(), place, proof, address: Some(refusal.address) })
}

fn question_of_event(event: &EventRow) -> Question {
    let proof = match ClientId(event.client_id) {
        nobody if nobody.is_nil() => Proof::Nothing,
        client => Proof::Client(client, event.api_key_id.map(ApiKeyId)),
    };
    Question { method: event.method.clone(), place: Place::Route(event.route.clone()), proof, address: None }
}

/// The code of a refusal of a request without a credential.
const MISSING: &str = "missing_credentials";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_as_it_would_be_sent() {
        for (url, host, target) in [
            ("/orders?x=1", "", "/orders?x=1"),
            ("https://api.example.com/a%2fb#c", "api.example.com", "/a%2fb"),
            ("http://api.example.com:8080", "api.example.com:8080", "/"),
            ("http://api.example.com?x", "api.example.com", "/?x"),
        ] {
            assert_eq!(split(url).unwrap(), (host.to_owned(), target.to_owned()), "{url}");
        }
        for url in ["orders", "", "https:///x"] {
            assert!(split(url).is_err(), "{url}");
        }
    }
}
