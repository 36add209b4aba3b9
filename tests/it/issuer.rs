//! An issuer of tokens behind a real HTTP server that behaves as a test says.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::signer::{Signer, key_set};

/// What it answers.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// A document.
    Document(String),
    /// More than anyone reads.
    Huge,
    /// A head, and then nothing for longer than anyone waits.
    Slow,
    /// To look elsewhere.
    Redirect(String),
    /// Nothing: the connection closes.
    Away,
}

/// A running issuer; its thread ends with the process.
pub(crate) struct Issuer {
    pub(crate) address: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
    fetches: Arc<AtomicU64>,
}

impl Issuer {
    /// One that publishes these keys.
    pub(crate) fn publishing(signers: &[&Signer]) -> Self {
        let issuer = Self::new(Behaviour::Away);
        issuer.publish(signers);
        issuer
    }

    /// One that behaves.
    pub(crate) fn new(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let behaviour = Arc::new(Mutex::new(behaviour));
        let fetches = Arc::<AtomicU64>::default();
        let (own_behaviour, own_fetches) = (Arc::clone(&behaviour), Arc::clone(&fetches));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, behaviour) = (stream.expect("a connection"), own_behaviour.lock().unwrap().clone());
                own_fetches.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || answer(stream, behaviour));
            }
        });
        Self { address, behaviour, fetches }
    }

    /// From now on.
    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// From now on these keys.
    pub(crate) fn publish(&self, signers: &[&Signer]) {
        self.behave(Behaviour::Document(key_set(signers)));
    }

    /// How often it was asked.
    pub(crate) fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::SeqCst)
    }

    /// What its tokens call it.
    pub(crate) fn name(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Its part of a gateway's configuration.
    pub(crate) fn config(&self) -> String {
        format!(
            "[[auth.issuers]]\nissuer = \"{}\"\naudiences = [\"api\"]\nalgorithms = [\"RS256\", \"ES256\", \"EdDSA\"]\n\
             jwks_url = \"http://{}/jwks.json\"\nclient_claim = \"azp\"\n\
             allow_http = true\nallow_private_addresses = true\n",
            self.name(),
            self.address
        )
    }

    /// A line with a token for `client` that says this besides, or instead.
    pub(crate) fn bearer(&self, signer: &Signer, client: &str, more: &Value) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let mut claims = json!({
            "iss": self.name(), "aud": "api", "azp": client, "sub": "user-1", "iat": now, "exp": now + 300,
        });
        for (name, value) in more.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        format!("Authorization: Bearer {}", signer.token(&claims))
    }
}

fn answer(mut stream: TcpStream, behaviour: Behaviour) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    let mut write = |text: &str| stream.write_all(text.as_bytes());
    // Who hangs up before the end of an answer is a case, not a failure.
    let _ = match behaviour {
        Behaviour::Document(text) => write(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())),
        Behaviour::Redirect(to) => write(&format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")),
        Behaviour::Away => Ok(()),
        Behaviour::Huge => write("HTTP/1.1 200 OK\r\n\r\n{\"keys\":[").and_then(|()| {
            let piece = " ".repeat(64 * 1024);
            (0..1_000).try_for_each(|_| write(&piece))
        }),
        Behaviour::Slow => write("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{").map(|()| {
            // The reader's deadline ends it, or the test.
            let _ = stream.set_read_timeout(Some(Duration::from_mins(1)));
            let _ = stream.read(&mut byte);
        }),
    };
}
