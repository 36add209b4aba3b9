//! Runs the real binary: a folder, a configuration, the process, and what it wrote.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::secrets::{self, Searched};

/// A pepper for tests: 64 characters.
pub(crate) const PEPPER: &str = "f3b1a4c2d5e6978812aa34bb56cc78dd90ee12ff34ab56cd78ef90a1b2c3d4e5";

/// Lets an address fail as often as it likes, for tests that are about something else.
pub(crate) const NO_BUDGET: &str = "[auth.failures]\nrate = \"100000/s\"\nburst = 100000\n";

/// How long anything that must happen may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with a configuration, in which the binary runs as often as a test likes.
pub(crate) struct Setup {
    folder: TempDir,
    /// Where callers connect.
    pub(crate) data: SocketAddr,
    /// Where operators connect.
    pub(crate) admin: SocketAddr,
    store_url: String,
    environment: Vec<(String, String)>,
}

/// A key as `key create` prints it.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) public_id: String,
    pub(crate) raw: String,
}

impl Setup {
    /// On SQLite, with one route `/` to `upstream`, migrated.
    pub(crate) fn sqlite(upstream: SocketAddr) -> Self {
        Self::new(upstream, "sqlite:octroi.db", "")
    }

    /// On SQLite, with more configuration behind the usual one.
    pub(crate) fn sqlite_with(upstream: SocketAddr, more: &str) -> Self {
        Self::new(upstream, "sqlite:octroi.db", more)
    }

    /// On any store.
    pub(crate) fn new(upstream: SocketAddr, store_url: &str, more: &str) -> Self {
        let setup = Self::unmigrated(upstream, store_url, more);
        let output = setup.octroi(&["migrate", "up"]);
        assert!(output.status.success(), "migrate up: {}", text(&output.stderr));
        setup
    }

    /// The same without tables.
    pub(crate) fn unmigrated(upstream: SocketAddr, store_url: &str, more: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("octroi-it-").tempdir().expect("a temporary folder");
        let (data, admin) = (free_address(), free_address());
        let setup = Self { folder, data, admin, store_url: store_url.to_owned(), environment: Vec::new() };
        setup.write_config(&format!(
            "[server]\nlisten = [\"{data}\"]\nworkers = 2\n[admin]\nlisten = \"{admin}\"\n\
             [telemetry]\naccess_log = false\n{more}\n\
             [[upstreams]]\nname = \"up\"\nendpoints = [\"http://{upstream}\"]\n\
             [[routes]]\nname = \"all\"\npath = \"/\"\nupstream = \"up\"\n"
        ));
        setup
    }

    /// Replaces the configuration.
    pub(crate) fn write_config(&self, config: &str) {
        std::fs::write(self.path("octroi.toml"), config).expect("the folder is writable");
    }

    /// The configuration as it stands.
    pub(crate) fn config(&self) -> String {
        std::fs::read_to_string(self.path("octroi.toml")).expect("the configuration is there")
    }

    /// Sets a variable for every later run.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        if ["SECRET", "TOKEN", "PEPPER", "PASSWORD", "HEADERS"].iter().any(|word| name.contains(word))
            && !name.ends_with("_FILE")
        {
            secrets::note(Some(self.data), value);
        }
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command of the binary, not run yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_octroi"));
        command
            .args(["--config", "octroi.toml"])
            .args(arguments)
            .current_dir(self.folder())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", &self.store_url)
            .env("API_KEY_PEPPER", PEPPER)
            .stdin(Stdio::null());
        for (name, value) in &self.environment {
            if value.is_empty() {
                command.env_remove(name)
            } else {
                command.env(name, value)
            };
        }
        command
    }

    /// Runs a command to its end.
    pub(crate) fn octroi(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().expect("the binary runs");
        // What makes a secret shows it, once and on stdout; nothing else does, and nothing on stderr.
        let shows = arguments.iter().any(|word| matches!(*word, "create" | "rotate" | "import"));
        let shown = if shows { Vec::new() } else { self.searched().find(&output.stdout) };
        let leaks = [shown, self.searched().find(&output.stderr)].concat();
        assert!(leaks.is_empty(), "{arguments:?} told secrets: {leaks:?}");
        output
    }

    /// Runs a command that must succeed, and reads its JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut with_output = vec!["--output", "json"];
        with_output.extend(arguments);
        let output = self.octroi(&with_output);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", text(&output.stdout)))
    }

    /// Makes a client and returns its id.
    pub(crate) fn client(&self, arguments: &[&str]) -> String {
        let mut create = vec!["client", "create"];
        create.extend(arguments);
        self.json(&create)["id"].as_str().expect("an id").to_owned()
    }

    /// Makes a key.
    pub(crate) fn key(&self, client: &str, more: &[&str]) -> Key {
        let mut create = vec!["key", "create", client];
        create.extend(more);
        let made = self.json(&create);
        let field = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("no {name} in {made}")).to_owned();
        secrets::note(Some(self.data), &field("key"));
        Key { id: field("id"), public_id: field("key_id"), raw: field("key") }
    }

    /// Starts `serve` and waits until it listens.
    pub(crate) fn start(&self) -> Gateway {
        let gateway = self.spawn(&["serve"]);
        gateway.wait_for_log("\"serving\"");
        gateway
    }

    /// Starts a command and collects what it writes.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Gateway {
        let mut gateway = Gateway::run(self.command(arguments));
        gateway.is_of(&[self.data, self.admin]);
        gateway
    }

    fn searched(&self) -> Searched {
        secrets::note(None, PEPPER);
        Searched::for_all_of(&[self.data, self.admin])
    }

    /// Secrets that stand in its folder, where they must not.
    pub(crate) fn leaks(&self) -> Vec<String> {
        self.searched().find_in_files(self.folder())
    }

    /// Sums of usage, from the command.
    pub(crate) fn usage(&self, by: &str) -> Value {
        self.json(&["usage", "--by", by])
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.leaks(), Vec::<String>::new(), "secrets stand in files");
        }
    }
}

/// A running process.
pub(crate) struct Gateway {
    child: Child,
    /// Whose secrets it could tell.
    addresses: Vec<SocketAddr>,
    log: Arc<Lines>,
    out: Arc<Lines>,
}

#[derive(Default)]
struct Lines {
    text: Mutex<Vec<String>>,
    /// Whether nothing more comes.
    ended: AtomicBool,
    more: Condvar,
}

impl Lines {
    fn collect(source: impl std::io::Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                kept.text.lock().expect("no panic holds it").push(line);
                kept.more.notify_all();
            }
            kept.ended.store(true, Ordering::Release);
        });
        lines
    }

    /// After the process has ended: what it wrote last may still be on its way.
    fn wait_end(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.ended.load(Ordering::Acquire) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn wait_for(&self, part: &str, patience: Duration) -> Option<String> {
        let deadline = Instant::now() + patience;
        let mut lines = self.text.lock().expect("no panic holds it");
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(part)) {
                return Some(line.clone());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            lines = self.more.wait_timeout(lines, left).expect("no panic holds it").0;
        }
    }

    fn all(&self) -> String {
        self.text.lock().expect("no panic holds it").join("\n")
    }

    fn take(&self) -> String {
        std::mem::take(&mut *self.text.lock().expect("no panic holds it")).join("\n")
    }
}

impl Gateway {
    /// Runs a command, collecting both of its streams.
    pub(crate) fn run(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let log = Lines::collect(child.stderr.take().expect("piped"));
        let out = Lines::collect(child.stdout.take().expect("piped"));
        Self { child, addresses: Vec::new(), log, out }
    }

    /// It could tell the secrets of these addresses.
    pub(crate) fn is_of(&mut self, addresses: &[SocketAddr]) {
        self.addresses = addresses.to_vec();
    }

    /// Secrets that it wrote on either stream; what it wrote is forgotten.
    pub(crate) fn take_leaks(&self) -> Vec<String> {
        let searched = Searched::for_all_of(&self.addresses);
        [&self.log, &self.out].map(|lines| searched.find(lines.take().as_bytes())).concat()
    }

    /// Waits for a line of the log that contains `part`.
    pub(crate) fn wait_for_log(&self, part: &str) -> String {
        self.log.wait_for(part, PATIENCE).unwrap_or_else(|| panic!("no log line with {part}:\n{}", self.log.all()))
    }

    /// Waits for a line on stdout that contains `part`.
    pub(crate) fn wait_for_out(&self, part: &str) -> String {
        self.out.wait_for(part, PATIENCE).unwrap_or_else(|| panic!("no output with {part}:\n{}", self.log.all()))
    }

    /// Everything on stdout so far.
    pub(crate) fn out(&self) -> String {
        self.out.all()
    }

    /// Everything logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.all()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// `kill -9`, and waits until the kernel is done with it.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was ours");
    }

    /// SIGTERM, and waits for the exit code.
    pub(crate) fn stop(mut self) -> i32 {
        self.signal("TERM");
        self.wait_exit()
    }

    /// Waits until the process ends by itself; its exit code.
    pub(crate) fn wait_exit(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE * 3;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                self.log.wait_end();
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "the process does not end:\n{}", self.log.all());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its number.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Memory of its own in KiB: what the kernel shares with a file on disk, such as the journal's
    /// segments that are made ready while it serves, is not counted.
    pub(crate) fn anonymous_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux says so");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let mut tail = String::new();
            for line in self.log.all().lines().rev().take(30).collect::<Vec<_>>().into_iter().rev() {
                let _ = writeln!(tail, "{line}");
            }
            eprintln!("the process's log ends:\n{tail}");
        } else {
            self.log.wait_end();
            self.out.wait_end();
            assert_eq!(self.take_leaks(), Vec::<String>::new(), "the process told secrets");
        }
    }
}

/// Bytes as text for a message.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An address nobody listens on, below the range from which the kernel draws ports for outgoing
/// connections: no other test's connection takes it while a gateway restarts.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 12_000 + u16::try_from(std::process::id() % 150).expect("small") * 100;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 4_000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Waits until `fact` holds; the test fails when it does not within [`PATIENCE`].
pub(crate) fn eventually(what: &str, mut fact: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !fact() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
