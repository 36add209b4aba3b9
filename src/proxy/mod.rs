//! The data path: from a request's head to the end of its response.
//!
//! ```text
//! server ─▶ gateway::handle (total)
//!             └ run (fallible): frame ─ route ─ authenticate ─ authorize ─ limit ─ admit ─ forward
//!                                 │       │          │             │         │       │       │
//!                              Rejection, turned into its answer by the one table in `rejection`
//!           ◀─ the response streams; at its end `context` settles, once
//! ```
//!
//! | file | owns |
//! |---|---|
//! | [`gateway`] | the order of the phases and why it is so |
//! | `shared` | what all workers read: routes, settings, the domain's parts |
//! | `context` | one request's facts, and the settling of them exactly once |
//! | [`path`] | the canonical form: what is matched is what is forwarded |
//! | [`route`] | host, prefix, method → route |
//! | [`headers`] | what crosses to the upstream, what comes back |
//! | `header_rules` | what a route's own rules do to headers |
//! | `forwarded` | who calls, as trusted proxies tell it |
//! | `cors` | what is told to web pages of other origins |
//! | `grpc` | refusals as gRPC puts them |
//! | `trace` | `traceparent` |
//! | `spans` | which requests are recorded as spans, under which ids |
//! | `loops` | our name in `Via`, and requests that come back for ever |
//! | `shedding` | what a worker refuses when it cannot keep up, and whose |
//! | `forward` | the request as the upstream gets it, the response as the caller gets it |
//! | `intake` | the request's body on its way up: counted, limited, without trailers |
//! | `interim` | what is told of a long transfer before its end |
//! | `upstream` | one call: endpoint, connection, retry; below it HTTP/1.1 towards upstreams |
//! | [`cluster`] | the endpoints as all workers see them: which is next, which is out |
//! | [`health`] | checks of endpoints |
//! | `pool` | idle connections of one endpoint |
//! | `returning` | the response's body on its way down, with its deadline |
//! | [`rejection`] | every refusal: status, code, texts, headers |
//! | `query_credential` | a credential in the query, where that is allowed |
//! | `reserved` | `/.octroi/…`: what is answered here |
//! | `tokens` | the endpoints of the token issuer |
//! | `explaining` | what would become of a request, told step by step |
//!
//! To add a phase: a function in `gateway` called from `run`, with the reason for its position;
//! what it can refuse is a variant of [`rejection::Rejection`], which does not compile until the
//! table has its row. Refuses to own: rules (`auth`, `limit`, `metering`), and never sees the
//! store.

pub mod cluster;
mod context;
mod cors;
mod cost;
mod explaining;
mod forward;
pub mod forwarded;
pub mod gateway;
mod grpc;
pub mod header_rules;
pub mod headers;
pub mod health;
mod intake;
mod interim;
mod loops;
pub mod path;
mod pool;
mod query_credential;
pub mod rejection;
mod reserved;
mod returning;
pub mod route;
mod shared;
mod shedding;
mod spans;
mod tokens;
mod trace;
mod upstream;

pub use explaining::{Asked, Weighed};
pub use gateway::WorkerGateway;
pub use shared::{Gateway, Parts, UnknownUpstream};
pub use spans::Recorder;
