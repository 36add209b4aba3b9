//! `/v1`: a file for each resource. A handler reads and answers; what it does stands beside it as a
//! function of its own, which the pages use, too.

#![expect(unused_qualifications, reason = "utoipa's macros name parameters by their whole path")]

pub(super) mod audit;
mod backfill;
mod books;
mod bounds;
pub(super) mod clients;
pub(super) mod explain;
pub(super) mod gateway;
mod imports;
pub(super) mod keys;
pub(super) mod operators;
pub(super) mod plans;
pub(super) mod sessions;
pub(super) mod sums;
pub(super) mod tokens;
pub(super) mod usage;

use std::sync::Arc;

use utoipa::openapi::OpenApi;
use utoipa::{IntoResponses, OpenApi as _};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::fault::{Fault, Result};
use super::rows::Rows;
use super::state::Api;
use super::views::ProblemView;
use crate::config::moment::Moment;
use crate::model::operator::Permission as P;

/// How long a page is where nobody says.
const PAGE: u32 = 100;

/// The longest page.
const LONGEST_PAGE: u32 = 1_000;

/// The description's head.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Octroi admin API",
        description = "Clients, keys, plans, usage and why a request was answered as it was. Errors are problem+json \
                       (RFC 9457) with a `code` for programs. Writes take an `Idempotency-Key`, updates `If-Match`.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    modifiers(&Credentials),
    security(("token" = []), ("session" = [])),
    tags(
        (name = "clients", description = "The customers that have keys, limits and a bill"),
        (name = "keys", description = "API keys"),
        (name = "plans", description = "Limits that many clients have in common"),
        (name = "usage", description = "Sums, single events, closed months, and whether the books balance"),
        (name = "explain", description = "Why a request was or would be answered as it is"),
        (name = "operators", description = "Who operates the gateway: people, sessions, tokens, the audit"),
        (name = "gateway", description = "The process that answers: settings, nodes, what goes on")
    )
)]
struct Head;

/// How one shows who one is.
struct Credentials;

impl utoipa::Modify for Credentials {
    fn modify(&self, document: &mut OpenApi) {
        use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
        let components = document.components.get_or_insert_default();
        let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("token", SecurityScheme::Http(token));
        let cookie = ApiKeyValue::new(format!("__Host-{}", super::caller::COOKIE));
        components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    }
}

/// What every row may answer besides what it is for.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes answers")]
pub(super) enum Problems {
    /// What was sent makes no sense.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(#[to_schema] ProblemView),
    /// Nobody, or nobody any more.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(#[to_schema] ProblemView),
    /// Not with this role, or from a page of another site.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(#[to_schema] ProblemView),
    /// It is not there, or not for whoever asks.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(#[to_schema] ProblemView),
    /// It cannot be, as things are.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(#[to_schema] ProblemView),
    /// It changed since its ETag was read.
    #[response(status = 412, content_type = "application/problem+json")]
    PreconditionFailed(#[to_schema] ProblemView),
    /// The body is too large.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(#[to_schema] ProblemView),
    /// The body is not JSON.
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(#[to_schema] ProblemView),
    /// The Idempotency-Key was for another request.
    #[response(status = 422, content_type = "application/problem+json")]
    IdempotencyMismatch(#[to_schema] ProblemView),
    /// Too many tries.
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(#[to_schema] ProblemView),
    /// Our fault.
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(#[to_schema] ProblemView),
    /// The store is away.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(#[to_schema] ProblemView),
}

/// All rows, each with who may use it.
pub(super) fn rows(api: &Arc<Api>) -> OpenApiRouter<Arc<Api>> {
    Rows::new(api, OpenApiRouter::with_openapi(Head::openapi()))
        .row_for_all(routes!(sessions::login))
        .row_for_known(routes!(sessions::current))
        .row_for_known(routes!(sessions::list))
        .row_for_known(routes!(sessions::logout))
        .row_for_known(routes!(sessions::change_password))
        .row(P::ReadClients, routes!(clients::list))
        .row(P::WriteClients, routes!(clients::create))
        .row(P::ReadClients, routes!(clients::show))
        .row(P::WriteClients, routes!(clients::update))
        .row(P::EraseClients, routes!(clients::erase))
        .row(P::ReadKeys, routes!(keys::list_of_client))
        .row(P::WriteKeys, routes!(keys::create))
        .row(P::ReadKeys, routes!(keys::list))
        .row(P::ReadKeys, routes!(keys::show))
        .row(P::WriteKeys, routes!(keys::update))
        .row(P::WriteKeys, routes!(keys::revoke))
        .row(P::WriteKeys, routes!(keys::rotate))
        .row_that_asks(P::ReadKeys, routes!(imports::verify))
        .row(P::ImportKeys, routes!(imports::import))
        .row(P::AdoptKeys, routes!(backfill::status))
        .row(P::AdoptKeys, routes!(backfill::run))
        .row(P::AdoptKeys, routes!(backfill::differences))
        .row(P::AdoptKeys, routes!(backfill::finish))
        .row(P::ReadPlans, routes!(plans::list))
        .row(P::WritePlans, routes!(plans::create))
        .row(P::ReadPlans, routes!(plans::show))
        .row(P::WritePlans, routes!(plans::update))
        .row(P::ReadPlans, routes!(books::replay))
        .row(P::ReadUsage, routes!(plans::marks))
        .row(P::ReadUsage, routes!(sums::sums))
        .row(P::ReadUsage, routes!(usage::events))
        .row(P::ReadUsage, routes!(usage::event))
        .row(P::ReadUsage, routes!(usage::statement))
        .row(P::WritePlans, routes!(usage::close))
        .row(P::ReadUsage, routes!(books::signed_statement))
        .row(P::ReadGateway, routes!(books::reconcile))
        .row(P::WritePlans, routes!(books::rebuild))
        .row(P::WritePlans, routes!(books::redrain))
        .row(P::ReadUsage, routes!(explain::refusals))
        .row(P::Explain, routes!(explain::explain))
        .row(P::Explain, routes!(explain::request))
        .row(P::ReadAudit, routes!(audit::list))
        .row(P::ManageOperators, routes!(operators::list))
        .row(P::ManageOperators, routes!(operators::create))
        .row(P::ManageOperators, routes!(operators::show))
        .row(P::ManageOperators, routes!(operators::update))
        .row(P::ManageOperators, routes!(operators::reset_password))
        .row(P::ManageOperators, routes!(operators::logout))
        .row(P::ManageOperators, routes!(tokens::list))
        .row(P::ManageOperators, routes!(tokens::create))
        .row(P::ManageOperators, routes!(tokens::show))
        .row(P::ManageOperators, routes!(tokens::revoke))
        .row(P::ReadGateway, routes!(gateway::settings))
        .row(P::ReadGateway, routes!(gateway::nodes))
        .row(P::ReadGateway, routes!(gateway::live))
        .row(P::ReadUsage, routes!(gateway::tail))
        .row(P::ReadGateway, routes!(gateway::peppers))
        .row(P::ReadGateway, routes!(gateway::migrations))
        .router
}

/// The length of a page.
pub(super) fn limit(asked: Option<u32>) -> Result<u32> {
    match asked {
        None => Ok(PAGE),
        Some(limit) if (1..=LONGEST_PAGE).contains(&limit) => Ok(limit),
        Some(_) => Err(Fault::bad_request(format!("`limit` is a whole number from 1 to {LONGEST_PAGE}"))),
    }
}

/// Nothing comes after what is not there.
pub(super) fn no_cursor(after: impl std::fmt::Display) -> Fault {
    Fault::bad_request(format!("`after`: there is no {after} to go on after"))
}

/// A point in time, as a parameter names it.
pub(super) fn moment(name: &str, text: Option<&str>, now: jiff::Timestamp) -> Result<Option<jiff::Timestamp>> {
    let Some(text) = text else { return Ok(None) };
    let read = text.parse::<Moment>().map_err(|error| Fault::bad_request(format!("`{name}`: {error}")))?;
    Ok(Some(read.at(now)))
}
