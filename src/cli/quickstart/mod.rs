//! `octroi quickstart`: from nothing to an answered request in one command.
//!
//! Writes a folder (see `folder`), migrates its database, makes the client `demo` and a key for
//! it, starts a demo upstream unless one is named, and serves. On stdout stand two lines: a
//! request that works, which is the only time the key is shown, and how to see the usage.

pub(super) mod folder;

use std::io::{Write as _, stdout};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use tokio::net::TcpListener;

use super::key::{self, Kind};
use super::serve::{control_runtime, install_log, serve};
use super::{Context, Exit, Failure};
use crate::app::{self, Addresses, DemoUpstream};
use crate::config::listener::{ListenAddress, ListenerConfig};
use crate::config::telemetry::LogFormat;
use crate::config::upstream::Endpoint;
use crate::config::{self, Config};
use crate::model::client::{Client, NewClient};
use crate::model::clock::Clock;
use crate::model::id::ClientId;
use crate::model::secret::SecretText;
use crate::store::Store;
use crate::tasks::Tasks;

/// The demo's name: of its client and of its upstream.
const DEMO: &str = "demo";

/// The name of the key that each run replaces.
const KEY_NAME: &str = "quickstart";

/// Where the demo upstream listens, if that is free.
const DEMO_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8082);

/// How many keys are looked at in one page.
const PAGE: u32 = 500;

/// `octroi quickstart`
#[derive(Debug, Args)]
pub struct Arguments {
    /// A service that already runs, like <http://127.0.0.1:3000>; without it, a demo upstream starts
    #[arg(long, value_name = "URL", value_parser = endpoint)]
    upstream: Option<String>,
    /// Where callers connect [default: 127.0.0.1:8080]
    #[arg(long, value_name = "A")]
    listen: Option<SocketAddr>,
    /// Where operators connect [default: 127.0.0.1:8081]
    #[arg(long, value_name = "A")]
    admin: Option<SocketAddr>,
    /// The folder for settings, secrets, the database and the journal
    #[arg(long, value_name = "D", default_value = "octroi-data")]
    dir: PathBuf,
}

fn endpoint(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('/');
    let checked = Endpoint::parse(text);
    checked.map(|_| text.to_owned()).map_err(|defect| format!("{}; {}", defect.message(text), defect.remedy()))
}

/// Makes everything that is needed, then serves.
///
/// # Errors
/// Why it did not start, or did not end well.
pub fn run(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    install_log(context, LogFormat::Auto);
    let file = make_folder(arguments)?;
    let mut loaded = config::load(Some(&file), &context.environment)?;
    overrule(&mut loaded.config, arguments, &file, context)?;
    control_runtime()?.block_on(async {
        start_demo(&mut loaded.config).await?;
        let config = &loaded.config;
        let store = app::await_store(&config.store, context.clock.as_ref()).await?;
        app::migrations_applied(&store, true).await?;
        // Before the former key goes: where this cannot serve, it may be another quickstart that does.
        addresses_are_free(config).await?;
        let key = demo_key(config, &store, context.clock.as_ref()).await?;
        let shown = arguments.dir.join("octroi.toml");
        Box::pin(serve(loaded, context.clock.clone(), move |addresses| announce(addresses, &key, &shown))).await
    })
}

fn make_folder(arguments: &Arguments) -> Result<PathBuf, Failure> {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let demo = format!("http://{DEMO_ADDRESS}");
    let choices = folder::Choices {
        listen: arguments.listen.unwrap_or_else(|| loopback(8080)),
        admin: arguments.admin.unwrap_or_else(|| loopback(8081)),
        upstream: arguments.upstream.as_deref().unwrap_or(&demo),
        demo: arguments.upstream.is_none(),
    };
    folder::make(&arguments.dir, &choices).map_err(|error| Failure::new(Exit::Failed, "folder", format!("{error:#}")))
}

/// Flags beat the file that an earlier run made, for this run.
fn overrule(config: &mut Config, arguments: &Arguments, file: &Path, context: &Context) -> Result<(), Failure> {
    if let Some(listen) = arguments.listen {
        config.server.listeners = vec![ListenerConfig::plain(listen)];
    }
    if let Some(admin) = arguments.admin {
        config.admin.listen = admin;
    }
    let (Some(url), Some(upstream)) = (&arguments.upstream, config.upstreams.first_mut()) else { return Ok(()) };
    let endpoint = Endpoint::parse(url)
        .map_err(|defect| Failure::usage(format!("--upstream: {}; {}", defect.message(url), defect.remedy())))?;
    if upstream.endpoints != [endpoint.clone()] {
        let words = format!("for this run requests go to {url}; {} names another upstream", file.display());
        context.tell(&words);
        upstream.endpoints = vec![endpoint];
    }
    Ok(())
}

/// Starts the demo upstream where the configuration asks for it.
async fn start_demo(config: &mut Config) -> Result<(), Failure> {
    let demo = config.upstreams.iter_mut().find(|upstream| upstream.name == DEMO);
    let Some(endpoint) = demo.and_then(|upstream| upstream.endpoints.first_mut()) else { return Ok(()) };
    if endpoint.authority != DEMO_ADDRESS.to_string() {
        return Ok(());
    }
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Failed, "demo_upstream", format!("the demo upstream cannot listen: {error}"))
    };
    let demo = DemoUpstream::bind(DEMO_ADDRESS).await.map_err(failed)?;
    let address = demo.address().map_err(failed)?;
    endpoint.port = address.port();
    endpoint.authority = address.to_string();
    Tasks::spawn_here(demo.serve());
    Ok(())
}

/// That nobody else listens where this would.
async fn addresses_are_free(config: &Config) -> Result<(), Failure> {
    let data = config.server.listeners.iter().filter_map(|listener| match &listener.address {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    });
    for address in data.chain([config.admin.listen]) {
        if let Err(error) = TcpListener::bind(address).await {
            let detail = format!(
                "cannot listen on {address}: {error}; if another gateway serves there it goes on as it was, and this one \
                 takes other addresses with --listen and --admin"
            );
            return Err(Failure::new(Exit::Unavailable, "listen", detail));
        }
    }
    Ok(())
}

/// The demo client with one new key; the key of an earlier run stops working.
async fn demo_key(config: &Config, store: &Store, clock: &dyn Clock) -> Result<SecretText, Failure> {
    let client = demo_client(store).await?;
    revoke_former(store, client.id, clock).await?;
    key::make_plain(store, &config.auth, Kind::Live, client.id, KEY_NAME).await
}

/// Every run left one: all of them are looked at, page by page.
async fn revoke_former(store: &Store, client: ClientId, clock: &dyn Clock) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let page = store.keys.list(Some(client), after, PAGE).await?;
        for old in page.items.iter().filter(|key| key.name == KEY_NAME && key.revoked_at.is_none()) {
            store.keys.revoke(old.id, clock.wall()).await?;
        }
        after = page.items.last().map(|key| key.id);
        if !page.more {
            return Ok(());
        }
    }
}

async fn demo_client(store: &Store) -> Result<Client, Failure> {
    if let Some(client) = store.clients.find_by_name(DEMO).await?.into_iter().next() {
        return Ok(client);
    }
    Ok(store.clients.create(NewClient::named(DEMO)).await?)
}

/// The two lines. A closed stdout is nobody's fault: the gateway serves all the same.
fn announce(addresses: &Addresses, key: &SecretText, file: &Path) {
    let tcp = |address: &ListenAddress| match address {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    };
    let Some(mut shown) = addresses.data.iter().find_map(tcp) else { return };
    if shown.ip().is_unspecified() {
        shown.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let mut out = stdout().lock();
    let _ = writeln!(out, "curl -H 'X-API-Key: {}' http://{shown}/", key.expose());
    let _ = writeln!(out, "octroi --config {} usage", quoted(&file.display().to_string()));
    let _ = out.flush();
}

/// A word as a shell takes it: as it is, or in single quotes.
fn quoted(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+:@%".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_for_a_shell() {
        for (path, word) in
            [("octroi-data/octroi.toml", "octroi-data/octroi.toml"), ("my dir/o", "'my dir/o'"), ("it's", r"'it'\''s'")]
        {
            assert_eq!(quoted(path), word);
        }
    }
}
