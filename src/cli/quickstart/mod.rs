//! `octroi quickstart`: from nothing to an answered request in one command.
//!
//! Writes a folder (see `folder`), migrates its database, makes the client `demo` and a key for
//! it, starts a demo upstream unless one is named, and serves. On stdout stand two lines: a
//! request that works, which is the only time the key is shown, and how to see the usage.

mod folder;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::failure::Failure;
use super::serve::control_runtime;
use crate::app::{self, Addresses, DemoUpstream};
use crate::config::upstream::Endpoint;
use crate::config::{Config, Environment};
use crate::crypto::key_text::{self, KeyEnvironment};
use crate::crypto::pepper::{Pepper, Peppers};
use crate::model::access::Scopes;
use crate::model::client::{Client, NewClient};
use crate::model::clock::{Clock, SystemClock};
use crate::model::key::NewApiKey;
use crate::model::secret::SecretText;
use crate::store::Store;
use crate::tasks::Tasks;

/// The demo's name: of its client and of its upstream.
const DEMO: &str = "demo";

/// The name of the key that each run replaces.
const KEY_NAME: &str = "quickstart";

/// Where the demo upstream listens, if that is free.
const DEMO_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8082);

/// What the command line may say.
#[derive(Debug, clap::Args)]
pub(super) struct QuickstartArguments {
    /// The service to put the gateway in front of; without it, a built-in demo answers
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Where callers connect [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where operators connect [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// The folder for everything it makes
    #[arg(long, value_name = "FOLDER", default_value = "octroi-data")]
    dir: PathBuf,
}

/// Prepares the folder, prints the two lines once everything listens, and serves.
pub(super) fn run(arguments: &QuickstartArguments, environment: &Environment) -> Result<(), Failure> {
    let path = prepare_folder(arguments)?;
    let mut config = Config::load(Some(&path), environment)?;
    config.overrule_addresses(arguments.listen, arguments.admin);
    let clock = SystemClock::shared();
    let runtime = control_runtime()?;
    runtime.block_on(async {
        overrule_upstream(&mut config, arguments)?;
        start_demo(&mut config).await?;
        let store = app::await_store(&config.store, clock.as_ref()).await?;
        app::migrations_applied(&store, true).await?;
        let key = demo_key(&config, &store, clock.as_ref()).await?;
        let configuration = path.clone();
        app::serve(config, clock, move |addresses| announce(addresses, &key, &configuration)).await?;
        Ok(())
    })
}

fn prepare_folder(arguments: &QuickstartArguments) -> Result<PathBuf> {
    let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let demo = format!("http://{DEMO_ADDRESS}");
    folder::make(
        &arguments.dir,
        &folder::Choices {
            listen: arguments.listen.unwrap_or_else(|| loopback(8080)),
            admin: arguments.admin.unwrap_or_else(|| loopback(8081)),
            upstream: arguments.upstream.as_deref().map_or(demo.as_str(), |url| url.trim_end_matches('/')),
            demo: arguments.upstream.is_none(),
        },
    )
}

/// A flag beats the file that an earlier run made, for this run.
fn overrule_upstream(config: &mut Config, arguments: &QuickstartArguments) -> Result<(), Failure> {
    let (Some(url), Some(upstream)) = (&arguments.upstream, config.upstreams.first_mut()) else { return Ok(()) };
    let endpoint = Endpoint::read(url.trim_end_matches('/'))
        .map_err(|message| Failure::usage(format!("--upstream: {message}")))?;
    if upstream.endpoints != [endpoint.clone()] {
        eprintln!(
            "octroi: for this run requests go to {url}; {} names another upstream",
            arguments.dir.join("octroi.toml").display()
        );
        upstream.endpoints = vec![endpoint];
        DEMO.clone_into(&mut upstream.name);
    }
    Ok(())
}

/// Starts the demo upstream where the configuration still asks for it.
async fn start_demo(config: &mut Config) -> Result<()> {
    let demo = config.upstreams.iter_mut().find(|upstream| upstream.name == DEMO);
    let Some(endpoint) = demo.and_then(|upstream| upstream.endpoints.first_mut()) else { return Ok(()) };
    if endpoint.authority != DEMO_ADDRESS.to_string() {
        return Ok(());
    }
    let demo = DemoUpstream::bind(DEMO_ADDRESS).await.context("the demo upstream cannot listen")?;
    let address = demo.address().context("the demo upstream has no address")?;
    endpoint.port = address.port();
    endpoint.authority = address.to_string();
    Tasks::spawn_here(demo.serve());
    Ok(())
}

/// The demo client with one new key; the key of an earlier run stops working.
async fn demo_key(config: &Config, store: &Store, clock: &dyn Clock) -> Result<SecretText, Failure> {
    let client = demo_client(store).await?;
    let page = store.keys.list(Some(client.id), None, super::session::PAGE).await?;
    for old in page.items.iter().filter(|key| key.name == KEY_NAME && key.revoked_at.is_none()) {
        store.keys.revoke(old.id, clock.wall()).await?;
    }
    let peppers = Peppers::new(Pepper::new(config.auth.require_pepper()?), None);
    let versions = crate::auth::guard_pepper(&peppers, store.peppers.as_ref()).await??;
    let made = key_text::generate(&config.auth.prefix, KeyEnvironment::Live);
    let key = NewApiKey {
        client_id: client.id,
        name: KEY_NAME.to_owned(),
        key_id: Some(made.key_id),
        hash: peppers.hash(made.text.expose().as_bytes()),
        pepper_version: Some(versions.current),
        scopes: Scopes::default(),
        expires_at: None,
    };
    store.keys.create(key).await?;
    Ok(made.text)
}

async fn demo_client(store: &Store) -> Result<Client, Failure> {
    if let Some(client) = store.clients.find_by_name(DEMO).await?.into_iter().next() {
        return Ok(client);
    }
    let client = NewClient { name: DEMO.to_owned(), rate: None, burst: None, metadata: serde_json::json!({}) };
    Ok(store.clients.create(client).await?)
}

/// The two lines. A closed stdout is nobody's fault: the gateway serves all the same.
fn announce(addresses: &Addresses, key: &SecretText, configuration: &Path) {
    let Some(address) = addresses.data.first() else { return };
    let mut shown = *address;
    if shown.ip().is_unspecified() {
        shown.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "curl -H 'X-API-Key: {}' http://{shown}/", key.expose());
    let _ = writeln!(out, "octroi --config {} usage", configuration.display());
    let _ = out.flush();
}
