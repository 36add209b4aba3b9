//! What a proof needs: a folder, a store of its own, an upstream, a client with a key, and a
//! gateway that reaches the store by a way that can be cut.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::gateway::Gateway;
use super::link::Link;
use super::persistently;
use super::upstream::Upstream;
use crate::app;
use crate::cli::key::{self, Kind};
use crate::cli::quickstart::folder::secret;
use crate::cli::{Context, Exit, Failure};
use crate::config::store::StoreUrl;
use crate::config::{self, Config, Environment};
use crate::model::client::NewClient;
use crate::model::id::ClientId;
use crate::model::secret::SecretText;
use crate::store::Store;
use crate::store::scratch::{self, Scratch};

/// The name of everything that a proof makes.
const NAME: &str = "octroi_prove";

/// Everything that stands.
pub(super) struct Scene {
    /// Made for this proof, removed with it.
    pub(super) folder: PathBuf,
    /// Where callers connect.
    pub(super) data: SocketAddr,
    /// Where operators do.
    pub(super) admin: SocketAddr,
    pub(super) upstream: Upstream,
    pub(super) gateway: Gateway,
    /// By the direct way.
    pub(super) store: Store,
    pub(super) way: Way,
    pub(super) client: ClientId,
    pub(super) key: SecretText,
    scratch: Scratch,
}

/// By which way the gateway reaches the store.
pub(super) enum Way {
    /// PostgreSQL.
    Link(Link),
    /// SQLite.
    File(PathBuf),
}

impl Scene {
    /// Sets everything up, the gateway not started yet. `tag` tells proofs apart.
    pub(super) async fn set(context: &Context, named: Option<&str>, tag: &str) -> Result<Self, Failure> {
        let named = named.map(StoreUrl::parse).transpose().map_err(|why| Failure::usage(format!("--store: {why}")))?;
        let folder = context.environment.working_directory().join(format!("{NAME}_{tag}"));
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|error| cannot("make", &folder, &error))?;
        match Self::set_in(context, named, tag, &folder).await {
            Ok(scene) => Ok(scene),
            Err(failure) => {
                // Nothing was proved: what it left says nothing.
                let _ = fs::remove_dir_all(&folder);
                Err(failure)
            }
        }
    }

    async fn set_in(context: &Context, named: Option<StoreUrl>, tag: &str, folder: &Path) -> Result<Self, Failure> {
        let beside = match named {
            Some(StoreUrl::Sqlite(path)) => StoreUrl::Sqlite(context.environment.working_directory().join(path)),
            Some(server) => server,
            None => StoreUrl::Sqlite(folder.join("octroi.db")),
        };
        let scratch = Scratch::make(&beside, &format!("{NAME}_{tag}")).await?;
        let made = Self::fill(context, folder, scratch.url()).await;
        match made {
            Ok(parts) => Ok(parts.scene(folder, scratch)),
            Err(failure) => {
                let _ = scratch.remove().await;
                Err(failure)
            }
        }
    }

    async fn fill(context: &Context, folder: &Path, store: &StoreUrl) -> Result<Parts, Failure> {
        let upstream = Upstream::start().await.map_err(|error| listening(&error))?;
        let (data, admin) = (free_address()?, free_address()?);
        secret(&folder.join("pepper")).map_err(|error| Failure::new(Exit::Failed, "folder", format!("{error:#}")))?;
        let file = folder.join("octroi.toml");
        fs::write(&file, configuration(data, admin, upstream.address))
            .map_err(|error| cannot("write", &file, &error))?;
        let config = load(&file, store)?;
        let direct = app::await_store(&config.store, context.clock.as_ref()).await?;
        app::migrations_applied(&direct, true).await?;
        let (client, key) = client_with_key(&direct, &config).await?;
        let (way, reached_by) = way(store).await?;
        let program =
            config::env::program().map_err(|error| Failure::new(Exit::Failed, "program", error.to_string()))?;
        let gateway = Gateway::new(program, folder, reached_by);
        Ok(Parts { data, admin, upstream, gateway, store: direct, way, client, key })
    }

    /// What the store is, in words.
    pub(super) fn store_name(&self) -> &str {
        self.scratch.name()
    }

    /// Removes all of it.
    pub(super) async fn clear(mut self) -> Result<(), Failure> {
        let _ = self.gateway.kill();
        drop(self.store);
        persistently(async || self.scratch.remove().await).await?;
        fs::remove_dir_all(&self.folder).map_err(|error| cannot("remove", &self.folder, &error))
    }
}

struct Parts {
    data: SocketAddr,
    admin: SocketAddr,
    upstream: Upstream,
    gateway: Gateway,
    store: Store,
    way: Way,
    client: ClientId,
    key: SecretText,
}

impl Parts {
    fn scene(self, folder: &Path, scratch: Scratch) -> Scene {
        let Self { data, admin, upstream, gateway, store, way, client, key } = self;
        Scene { folder: folder.to_owned(), data, admin, upstream, gateway, store, way, client, key, scratch }
    }
}

/// The way to a store, and the address by which the gateway goes it.
async fn way(store: &StoreUrl) -> Result<(Way, SecretText), Failure> {
    match store {
        StoreUrl::Sqlite(path) => Ok((Way::File(path.clone()), SecretText::new(format!("sqlite:{}", path.display())))),
        StoreUrl::Postgres(address) => {
            let (listener, near) = Link::bind().await.map_err(|error| listening(&error))?;
            let (far, reached_by) = scratch::detour(address, near)?;
            Ok((Way::Link(Link::start(listener, far)), reached_by))
        }
    }
}

async fn client_with_key(store: &Store, config: &Config) -> Result<(ClientId, SecretText), Failure> {
    let client = store.clients.create(NewClient::named(NAME)).await?.id;
    let key = key::make_plain(store, &config.auth, Kind::Test, client, NAME).await?;
    Ok((client, key))
}

/// The settings of a proof, whatever the environment says.
fn load(file: &Path, store: &StoreUrl) -> Result<Config, Failure> {
    let url = match store {
        StoreUrl::Sqlite(path) => format!("sqlite:{}", path.display()),
        StoreUrl::Postgres(address) => address.expose().to_owned(),
    };
    let folder = file.parent().unwrap_or(Path::new("/"));
    Ok(config::load(Some(file), &Environment::of(&[("DATABASE_URL", &url)], folder))?.config)
}

/// Segments are small: one is full, and goes, every second or so, and a kill meets that often.
fn configuration(data: SocketAddr, admin: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "[server]\nlisten = [\"{data}\"]\nworkers = 2\n[server.drain]\ntimeout = \"5s\"\n\
         [admin]\nlisten = \"{admin}\"\n\
         [auth]\npepper_file = \"pepper\"\n\
         [telemetry]\naccess_log = false\n\
         [metering]\nsegment_bytes = \"256KiB\"\n\
         [limits.default]\nrate = \"1000000/s\"\nburst = 1000000\n\
         [[upstreams]]\nname = \"proof\"\nendpoints = [\"http://{upstream}\"]\n\
         [[routes]]\nname = \"proof\"\npath = \"/\"\nupstream = \"proof\"\n"
    )
}

/// A port that is free now; the gateway takes it again at each start.
fn free_address() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| listening(&error))?;
    listener.local_addr().map_err(|error| listening(&error))
}

fn listening(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, "address", format!("cannot listen on 127.0.0.1: {error}"))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, "folder", format!("cannot {what} {}: {error}", path.display()))
}
