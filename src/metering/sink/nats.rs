//! A stream of NATS JetStream: each record a message, its id in `Nats-Msg-Id`, acknowledged by the
//! stream.
//!
//! A client of our own, since what is needed of the protocol is small (`CONNECT`, `SUB`, `HPUB`,
//! `PING`), and the usual crate would bring dozens of others. Publishes a batch at once and waits
//! for its acknowledgements: the order is kept. A repeat is a duplicate to a stream within its
//! `duplicate_window`.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf as _, BytesMut};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Mutex;
use url::Url;
use uuid::Uuid;

use super::record::Record;
use super::{Failure, Refused, Sink};
use crate::config::sinks::Endpoint;
use crate::model::causes::with_causes;
use crate::model::secret::SecretText;
use crate::server::outbound::{AuthorityFault, Outbound, OutboundRules};

/// Where servers listen unless their address says otherwise.
const PORT: u16 = 4222;
/// The most that is read for one message.
const MESSAGE_MAX: usize = 64 * 1024;

/// The receiver.
pub(super) struct Nats {
    outbound: Outbound,
    url: Url,
    subject: String,
    user: String,
    token: Option<SecretText>,
    timeout: Duration,
    connection: Mutex<Option<Connection>>,
}

/// Anything that bytes go over.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

struct Connection {
    stream: Box<dyn Stream>,
    unread: BytesMut,
    inbox: String,
    sent: u64,
}

/// What a server says.
enum Said {
    Info,
    Ping,
    Pong,
    Ok,
    Error(String),
    Message { subject: String, status: Option<String>, body: Vec<u8> },
}

impl Nats {
    pub(super) fn new(
        endpoint: &Endpoint,
        subject: &str,
        user: &str,
        token: Option<&SecretText>,
    ) -> Result<Self, AuthorityFault> {
        let outbound = Outbound::new(OutboundRules {
            deadline: endpoint.timeout,
            body_max: MESSAGE_MAX,
            allow_private_addresses: endpoint.allow_private_addresses,
            ca_file: endpoint.ca_file.clone(),
        })?;
        Ok(Self {
            outbound,
            url: endpoint.url.clone(),
            subject: subject.to_owned(),
            user: user.to_owned(),
            token: token.cloned(),
            timeout: endpoint.timeout,
            connection: Mutex::default(),
        })
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let mut stream =
            self.outbound.open(&self.url, PORT).await.map_err(|fault| Failure::away(with_causes(&fault)))?;
        // The server speaks first, in the clear; then TLS begins.
        let mut info = Vec::new();
        while !info.ends_with(b"\r\n") {
            if info.len() > MESSAGE_MAX {
                return Err(Failure::away("this is no NATS server"));
            }
            info.push(stream.read_u8().await?);
        }
        if !info.starts_with(b"INFO ") {
            return Err(Failure::away("this is no NATS server"));
        }
        let stream: Box<dyn Stream> = if self.url.scheme() == "tls" {
            let secured = self.outbound.secure(&self.url, stream).await;
            Box::new(secured.map_err(|fault| Failure::away(with_causes(&fault)))?)
        } else {
            Box::new(stream)
        };
        let inbox = format!("_INBOX.{}", Uuid::new_v4().simple());
        let mut connection = Connection { stream, unread: BytesMut::new(), inbox, sent: 0 };
        let hello = format!("CONNECT {}\r\nSUB {}.* 1\r\nPING\r\n", self.introduction(), connection.inbox);
        connection.stream.write_all(hello.as_bytes()).await?;
        loop {
            match connection.next().await? {
                Said::Pong => return Ok(connection),
                Said::Error(error) => return Err(Failure::away(error)),
                _ => {}
            }
        }
    }

    fn introduction(&self) -> Value {
        let mut introduction = json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true, "protocol": 1,
            "name": "octroi", "lang": "rust", "version": env!("CARGO_PKG_VERSION"),
            "tls_required": self.url.scheme() == "tls",
        });
        if let Some(token) = &self.token {
            let key = if self.user.is_empty() { "auth_token" } else { "pass" };
            introduction[key] = token.expose().into();
        }
        if !self.user.is_empty() {
            introduction["user"] = self.user.as_str().into();
        }
        introduction
    }

    async fn send_over(&self, connection: &mut Connection, records: &[Record]) -> Result<Vec<Refused>, Failure> {
        let mut waiting = HashMap::new();
        let mut bytes = Vec::new();
        for (index, record) in records.iter().enumerate() {
            connection.sent += 1;
            let reply = format!("{}.{}", connection.inbox, connection.sent);
            let head = format!("NATS/1.0\r\nNats-Msg-Id: {}\r\n\r\n", record.id());
            let body = record.line();
            let body = &body[..body.len() - 1];
            let lengths = format!("{} {}", head.len(), head.len() + body.len());
            bytes.extend_from_slice(format!("HPUB {} {reply} {lengths}\r\n{head}", self.subject).as_bytes());
            bytes.extend_from_slice(body);
            bytes.extend_from_slice(b"\r\n");
            waiting.insert(reply, index);
        }
        connection.stream.write_all(&bytes).await?;
        let mut refused = Vec::new();
        while !waiting.is_empty() {
            match connection.next().await? {
                Said::Ping => connection.stream.write_all(b"PONG\r\n").await?,
                Said::Error(error) => return Err(Failure::away(error)),
                Said::Message { subject, status, body } => {
                    let Some(index) = waiting.remove(&subject) else { continue };
                    if status.is_some_and(|status| status.starts_with("503")) {
                        return Err(Failure::away(format!("no stream takes the subject `{}`", self.subject)));
                    }
                    if let Some(reason) = verdict(&body)? {
                        refused.push(Refused { index, reason, certain: true });
                    }
                }
                Said::Info | Said::Pong | Said::Ok => {}
            }
        }
        Ok(refused)
    }
}

/// What a stream says to a message: taken (or taken before), or why it never will be.
fn verdict(body: &[u8]) -> Result<Option<String>, Failure> {
    let answer = serde_json::from_slice::<Value>(body).unwrap_or_default();
    if answer["seq"].is_u64() && answer["error"].is_null() {
        return Ok(None);
    }
    let reason = answer["error"]["description"].as_str().unwrap_or("no acknowledgement of a stream").to_owned();
    // A message that is too large for its stream; all else (no room, no leader) passes.
    if answer["error"]["err_code"] == 10_054 { Ok(Some(reason)) } else { Err(Failure::away(reason)) }
}

#[async_trait]
impl Sink for Nats {
    async fn send(&self, records: &[Record]) -> Result<Vec<Refused>, Failure> {
        let exchange = async {
            let mut kept = self.connection.lock().await;
            // Taken out: what fails, or is cut off, does not come back.
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let refused = self.send_over(&mut connection, records).await?;
            *kept = Some(connection);
            Ok(refused)
        };
        let late = || Err(Failure::away(format!("no answer within {:?}", self.timeout)));
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or_else(|_| late())
    }
}

impl Connection {
    /// The next thing that the server says.
    async fn next(&mut self) -> io::Result<Said> {
        loop {
            if let Some(said) = self.parse()? {
                return Ok(said);
            }
            if self.unread.len() > MESSAGE_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too large"));
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn parse(&mut self) -> io::Result<Option<Said>> {
        let Some(end) = memchr::memmem::find(&self.unread, b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        let mut words = line.split_ascii_whitespace();
        let verb = words.next().unwrap_or_default().to_ascii_uppercase();
        let words: Vec<&str> = words.collect();
        let said = match verb.as_str() {
            "INFO" => Said::Info,
            "PING" => Said::Ping,
            "PONG" => Said::Pong,
            "+OK" => Said::Ok,
            "-ERR" => Said::Error(line),
            "MSG" | "HMSG" => return self.parse_message(&words, verb == "HMSG", end + 2),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "this is not NATS")),
        };
        self.unread.advance(end + 2);
        Ok(Some(said))
    }

    /// `MSG subject sid [reply] bytes`, `HMSG subject sid [reply] headers total`.
    fn parse_message(&mut self, words: &[&str], headers: bool, from: usize) -> io::Result<Option<Said>> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "a message without its length");
        let number = |back: usize| -> io::Result<usize> {
            let word = words.len().checked_sub(back).and_then(|at| words.get(at)).ok_or_else(invalid)?;
            word.parse().ok().filter(|length| *length <= MESSAGE_MAX).ok_or_else(invalid)
        };
        let total = number(1)?;
        let head = if headers { number(2)? } else { 0 };
        if head > total {
            return Err(invalid());
        }
        if self.unread.len() < from + total + 2 {
            return Ok(None);
        }
        let content = &self.unread[from..from + total];
        let first = String::from_utf8_lossy(&content[..head]);
        let status = first.strip_prefix("NATS/1.0").and_then(|rest| rest.lines().next());
        let status = status.map(|status| status.trim().to_owned());
        let said = Said::Message {
            subject: (*words.first().ok_or_else(invalid)?).to_owned(),
            status,
            body: content[head..].to_vec(),
        };
        self.unread.advance(from + total + 2);
        Ok(Some(said))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn connection(bytes: &[u8]) -> Connection {
        let stream = Box::new(tokio::io::join(tokio::io::empty(), tokio::io::sink()));
        Connection { stream, unread: BytesMut::from(bytes), inbox: String::new(), sent: 0 }
    }

    #[test]
    fn messages_are_read_whole_and_only_then() {
        let bytes =
            b"INFO {}\r\nPING\r\nMSG a.1 1 3\r\nx\r\n\r\nHMSG b 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n-ERR 'no'\r\n";
        for cut in 0..=bytes.len() {
            let mut connection = connection(&bytes[..cut]);
            let mut said = Vec::new();
            while let Some(one) = connection.parse().unwrap() {
                said.push(one);
            }
            connection.unread.extend_from_slice(&bytes[cut..]);
            while let Some(one) = connection.parse().unwrap() {
                said.push(one);
            }
            let [Said::Info, Said::Ping, Said::Message { body, .. }, Said::Message { status, .. }, Said::Error(error)] =
                said.as_slice()
            else {
                panic!("cut at {cut}: {} things", said.len());
            };
            assert_eq!((body.as_slice(), status.as_deref(), error.as_str()), (&b"x\r\n"[..], Some("503"), "-ERR 'no'"));
        }
    }

    #[test]
    fn only_an_acknowledgement_of_a_stream_is_one() {
        assert!(matches!(verdict(br#"{"stream":"S","seq":7,"duplicate":true}"#), Ok(None)));
        assert!(matches!(verdict(br#"{"error":{"err_code":10054,"description":"too large"}}"#), Ok(Some(_))));
        for away in [&b""[..], b"ok", b"{}", br#"{"error":{"code":503,"err_code":10077,"description":"no room"}}"#] {
            assert!(matches!(verdict(away), Err(Failure::Away { .. })));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_server_end_the_process(bytes in proptest::collection::vec(any::<u8>(), 0..200), verb in 0_usize..4) {
            let verb = [&b"MSG a 1 "[..], b"HMSG a 1 9 ", b"", b"INFO "][verb];
            let mut connection = connection(&[verb, bytes.as_slice(), b"\r\n"].concat());
            while let Ok(Some(_)) = connection.parse() {}
        }
    }
}
