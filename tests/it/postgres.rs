//! PostgreSQL for tests: one throw-away server for all, a database for each test; and servers of
//! their own for tests that stop one.
//!
//! `OCTROI_TEST_POSTGRES` names a server that is there already (its superuser's database). Else
//! `scripts/postgres hold` makes one, tied to this process by a pipe: however the tests end, it
//! ends with them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, NoTls};

use octroi::tasks::Tasks;

/// A server that belongs to one test, which may stop and start it.
pub(crate) struct PrivatePostgres {
    folder: PathBuf,
    url: String,
    process: Child,
    /// Its end is the sign to stop and to delete the folder.
    pipe: Option<ChildStdin>,
}

impl PrivatePostgres {
    /// Makes a cluster and starts it; takes about a second.
    pub(crate) fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // Not below a private folder: the server runs as another user when we are root.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("octroi-pg-{}-{number}", std::process::id()));
        let mut process = script()
            .arg("hold")
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scripts/postgres is there");
        let mut url = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut url).expect("the script prints a line");
        assert!(url.starts_with("postgres://"), "scripts/postgres could not start a server; it says why above");
        let pipe = process.stdin.take();
        Self { folder, url: url.trim().to_owned(), process, pipe }
    }

    /// The address of the superuser's database.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Stops the server as a crash would: connections break, nothing is said.
    pub(crate) fn stop(&self) {
        assert!(script().arg("stop").arg(&self.folder).arg("immediate").status().unwrap().success());
    }

    /// Makes a standby that streams, and then lags: what is committed from now on it has not.
    pub(crate) fn make_standby(&self) {
        assert!(script().arg("standby").arg(&self.folder).status().unwrap().success());
    }

    /// The server crashes, and the standby takes its place.
    pub(crate) fn promote_standby(&self) {
        assert!(script().arg("promote").arg(&self.folder).status().unwrap().success());
    }

    /// Starts it again, with what it had.
    pub(crate) fn restart(&self) {
        assert!(script().arg("start").arg(&self.folder).stdout(Stdio::null()).status().unwrap().success());
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // A script that failed has said so; a test that is unwinding must not panic twice.
        let _ = self.process.wait();
    }
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/postgres"))
}

/// The server that all tests share.
#[expect(clippy::disallowed_methods, reason = "only `config` reads the environment of the program; this is a test's")]
fn shared_url() -> &'static str {
    static SHARED: OnceLock<(String, Option<PrivatePostgres>)> = OnceLock::new();
    let (url, _) = SHARED.get_or_init(|| {
        if let Ok(url) = std::env::var("OCTROI_TEST_POSTGRES") {
            return (url, None);
        }
        let server = PrivatePostgres::start();
        (server.url().to_owned(), Some(server))
    });
    url
}

/// A database of its own for a test.
pub(crate) struct Database {
    /// Its address.
    pub(crate) url: String,
    name: String,
}

impl Database {
    /// Makes one on the shared server.
    pub(crate) async fn create() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("octroi_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        connect(shared_url()).await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        Self { url: with_name(shared_url(), &name), name }
    }

    /// Drops it, with whoever is still connected.
    pub(crate) async fn remove(self) {
        let statement = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        connect(shared_url()).await.batch_execute(&statement).await.unwrap();
    }
}

/// A plain connection, as `psql` would have it.
pub(crate) async fn connect(url: &str) -> Client {
    // tokio-postgres would try the host before the path as well as the one in the query.
    let url = if url.contains("host=") { url.replace("@localhost/", "@/") } else { url.to_owned() };
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    // Ends when the client is dropped, or the server is stopped: then the client says so.
    Tasks::spawn_here(async move { drop(connection.await) });
    client
}

fn with_name(url: &str, name: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, String::new()), |(base, query)| (base, format!("?{query}")));
    let (server, _) = base.rsplit_once('/').expect("the address names a database");
    format!("{server}/{name}{query}")
}
