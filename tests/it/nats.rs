//! A real NATS server with JetStream, and just enough of a client to make a stream and read it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{PATIENCE, eventually, free_address};

/// The stream that the tests fill.
const STREAM: &str = "USAGE";
/// Its subject.
pub(crate) const SUBJECT: &str = "octroi.usage";

/// A server in a folder of its own; it ends when dropped.
pub(crate) struct NatsServer {
    pub(crate) address: SocketAddr,
    folder: TempDir,
    child: Option<Child>,
}

impl NatsServer {
    /// Starts one that knows this token, and makes the stream.
    pub(crate) fn start(token: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Self { address: free_address(), folder, child: None };
        let address = server.address;
        let config = format!(
            "listen: \"{address}\"\nauthorization {{ token: \"{token}\" }}\njetstream {{ store_dir: \"{}\" }}\n",
            server.folder.path().join("store").display()
        );
        std::fs::write(server.folder.path().join("nats.conf"), config).expect("writable");
        server.restart();
        let stream = json!({"name": STREAM, "subjects": ["octroi.>"], "storage": "file", "retention": "limits",
                            "max_msgs": -1, "max_bytes": -1, "max_age": 0, "num_replicas": 1,
                            "duplicate_window": 120_000_000_000_u64});
        let made = server.ask(&format!("$JS.API.STREAM.CREATE.{STREAM}"), &stream, token);
        assert!(made["error"].is_null(), "{made}");
        server
    }

    /// Starts it again.
    pub(crate) fn restart(&mut self) {
        let child = Command::new("nats-server")
            .arg("-c")
            .arg(self.folder.path().join("nats.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("nats-server is installed (scripts/test does it)"));
        eventually("nats-server listens", || TcpStream::connect(self.address).is_ok());
    }

    /// Stops it; what it holds stays.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The ids in the stream, in its order.
    pub(crate) fn ids(&self, token: &str) -> Vec<String> {
        let info = self.ask(&format!("$JS.API.STREAM.INFO.{STREAM}"), &json!({}), token);
        let last = info["state"]["last_seq"].as_u64().unwrap_or_else(|| panic!("no state in {info}"));
        let id = |sequence: u64| {
            let asked = json!({"seq": sequence});
            let message = self.ask(&format!("$JS.API.STREAM.MSG.GET.{STREAM}"), &asked, token);
            let text = |key: &str| STANDARD.decode(message["message"][key].as_str().expect("base64")).expect("base64");
            let body: Value = serde_json::from_slice(&text("data")).expect("JSON");
            let id = body["id"].as_str().expect("an id").to_owned();
            assert!(String::from_utf8_lossy(&text("hdrs")).contains(&format!("Nats-Msg-Id: {id}\r\n")));
            assert_eq!(message["message"]["subject"], SUBJECT);
            id
        };
        (1..=last).map(id).collect()
    }

    /// A request and its answer.
    fn ask(&self, subject: &str, body: &Value, token: &str) -> Value {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let body = body.to_string();
        let hello = json!({"verbose": false, "auth_token": token});
        let request = format!("CONNECT {hello}\r\nSUB answer 1\r\nPUB {subject} answer {}\r\n{body}\r\n", body.len());
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("it answers in time");
            assert!(!line.starts_with("-ERR") && !line.is_empty(), "{line}");
            if line.starts_with("MSG ") {
                let length = line.split_whitespace().last().and_then(|word| word.parse().ok()).expect("a length");
                let mut bytes = vec![0; length];
                reader.read_exact(&mut bytes).expect("the message");
                return serde_json::from_slice(&bytes).expect("JSON");
            }
        }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.stop();
    }
}
