//! The admin listener and what it answers from, put together.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::erasing;
use super::error::StartError;
use super::running::Running;
use crate::api::{Api, Oidc, Parts};
use crate::auth::{IdTokens, Mint};
use crate::config::oidc::OidcConfig;
use crate::config::tls::{CallerCertificates, TlsConfig};
use crate::config::token_issuer::KeyLocation;
use crate::config::{Config, Effective, Problem};
use crate::crypto::pepper::Peppers;
use crate::crypto::shell_text::ShellTexts;
use crate::issuer::TokenIssuer;
use crate::model::causes::with_causes;
use crate::model::clock::SharedClock;
use crate::model::secret::SecretBytes;
use crate::operators::Operators;
use crate::proxy::Gateway;
use crate::server::outbound::{AuthorityFault, Outbound, OutboundRules};
use crate::server::tls::Tls;
use crate::store::Store;
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;
use crate::telemetry::refusals::Refusals;
use crate::telemetry::tail::Tail;

/// How long a provider may take to redeem a code.
const PROVIDER_DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

/// What requests tell operators of themselves.
pub(super) struct Told {
    pub(super) refusals: Arc<Refusals>,
    pub(super) tail: Arc<Tail>,
}

/// What the admin API is made of, besides the gateway.
pub(super) struct Administration<'a> {
    pub(super) config: &'a Config,
    pub(super) effective: &'a Effective,
    pub(super) store: Store,
    pub(super) mint: Mint,
    pub(super) issuer: Option<Arc<TokenIssuer>>,
    pub(super) clock: SharedClock,
    pub(super) tasks: &'a Tasks,
}

impl Administration<'_> {
    /// The admin API, with everything it answers from.
    pub(super) fn api(
        self,
        gateway: &Arc<Gateway>,
        metrics: &Arc<Metrics>,
        readiness: &Arc<Readiness>,
        told: Told,
    ) -> Result<Arc<Api>, Problem> {
        let Self { config, effective, store, mint, issuer, clock, tasks } = self;
        erasing::follow(Arc::clone(&store.erasure), Arc::clone(&told.refusals), &clock, tasks);
        let running = Running {
            gateway: Arc::clone(gateway),
            store: store.clone(),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(metrics),
            refusals: told.refusals,
            tail: told.tail,
            written: config.written.clone(),
            since: clock.wall(),
            default_limit: config.limits.default,
        };
        let secret = config.issuer.secret.as_ref();
        let operators = Arc::new(Operators::new(store.clone(), config.admin.sessions, secret, Arc::clone(&clock)));
        operators.keep_up(tasks);
        let oidc = config.admin.oidc.as_ref().map(|config| provider(config, &clock, tasks, metrics)).transpose()?;
        let pepper = config.auth.require_pepper().expect("nothing is built without a pepper");
        Ok(Api::new(Parts {
            operators,
            oidc,
            shells: shells(config, pepper),
            store,
            mint,
            prefix: config.auth.prefix.clone(),
            peppers: Peppers::new(pepper, config.auth.pepper_previous.as_ref()),
            clock,
            settings: serde_json::to_value(effective).unwrap_or_default(),
            hosts: config.admin.hosts.clone(),
            secure: config.admin.is_secure(),
            origin: config.admin.public_url.as_ref().map(|url| url.origin().ascii_serialization()),
            default_limit: config.limits.default,
            rates_by_cost: config.limits.by_cost,
            journals: config.metering.dir.clone(),
            issuer,
            readiness: Arc::clone(readiness),
            gateway: Arc::new(running),
            tasks: tasks.clone(),
        }))
    }
}

/// How the command line on this machine is known; none: only by tokens.
fn shells(config: &Config, pepper: &SecretBytes) -> Option<ShellTexts> {
    let left = ShellTexts::leave_secret(&config.data_dir, pepper);
    let lost = |error: &std::io::Error| {
        let folder = config.data_dir.display();
        tracing::warn!(%folder, %error, "no secret can be left for the command line on this machine: it needs --server and a token");
    };
    left.inspect_err(lost).ok()
}

/// Where operators may sign in besides here.
fn provider(config: &OidcConfig, clock: &SharedClock, tasks: &Tasks, metrics: &Arc<Metrics>) -> Result<Oidc, Problem> {
    let unusable = |fault: AuthorityFault| {
        Problem::new("admin.oidc.ca_file", fault.to_string(), "put the PEM text of the provider's authority there")
    };
    let KeyLocation::Url(keys) = &config.rules.keys else { unreachable!("the settings name an address") };
    let rules = OutboundRules {
        deadline: PROVIDER_DEADLINE,
        body_max: 256 * 1024,
        allow_private_addresses: keys.allow_private_addresses,
        ca_file: keys.ca_file.clone(),
    };
    let outbound = Outbound::new(rules).map_err(unusable)?;
    let tokens = IdTokens::follow(&config.rules, clock, tasks, metrics).map_err(unusable)?;
    Ok(Oidc { config: config.clone(), tokens, outbound })
}

/// What handshakes on the admin listener are made with, where it speaks TLS.
pub(super) fn admin_tls(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Arc<Tls>>, Problem> {
    let Some(files) = &config.admin.tls else { return Ok(None) };
    let settings = TlsConfig {
        offers_http2: false,
        certificates: vec![files.clone()],
        allows_tls12: false,
        caller_certificates: CallerCertificates::None,
        acme: None,
    };
    Tls::load(settings, "admin", Arc::clone(metrics)).map(Some).map_err(|fault| {
        let remedy = "put PEM texts there: a chain with the listener's own certificate first, and its private key";
        Problem::new("admin.tls", with_causes(&fault), remedy)
    })
}

pub(super) async fn listen_admin(config: &Config) -> Result<(Vec<TcpListener>, SocketAddr), StartError> {
    let mut listeners = Vec::new();
    let named = [("admin.listen", Some(config.admin.listen)), ("admin.metrics_listen", config.admin.metrics_listen)];
    for (setting, address) in named {
        let Some(address) = address else { continue };
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.map_err(|source| StartError::Listen {
            setting,
            address: address.to_string(),
            source,
        })?);
    }
    let address = listeners[0].local_addr().map_err(StartError::Runtime)?;
    Ok((listeners, address))
}
