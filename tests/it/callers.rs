//! Callers: one that asks once, one that speaks bytes, and a crowd.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::secrets;

/// A response as bytes on the wire say it is.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The only value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} stands twice: {self:?}");
        value
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The `code` of a problem document, whose form is checked.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        let code = problem["code"].as_str().expect("a code").to_owned();
        assert_eq!(problem["type"], format!("urn:octroi:error:{code}"));
        assert_eq!(problem["status"], self.status);
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        assert!(problem["request_id"].is_string(), "{problem}");
        code
    }
}

/// Sends a GET and returns the answer. Each header is a whole line.
pub(crate) fn fetch(address: SocketAddr, path: &str, headers: &[&str]) -> Answer {
    send(address, "GET", path, headers, b"")
}

/// Sends a request with a body on a connection of its own.
pub(crate) fn send(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for line in headers {
        head.push_str(line);
        head.push_str("\r\n");
    }
    if !body.is_empty() {
        let _ = write!(head, "Content-Length: {}\r\n", body.len());
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    secrets::note_lines(address, headers);
    let answer = raw(address, &bytes);
    let answer =
        parse(&answer, method == "HEAD").unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&answer)));
    secrets::note_answer(address, &answer.body);
    answer
}

/// Sends bytes and reads until the other side closes.
pub(crate) fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(address);
    stream.write_all(bytes).expect("it takes the bytes");
    let mut answer = Vec::new();
    // A reset after the answer is as good as a close: what was read is the answer.
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// A connection with a deadline on each read.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a TCP socket");
    stream.set_nodelay(true).expect("a TCP socket");
    stream
}

/// Reads a head, byte by byte, so that nothing of what follows is taken.
pub(crate) fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    head
}

/// Parses an answer that was read to the end of its connection.
pub(crate) fn parse(answer: &[u8], head_only: bool) -> Option<Answer> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    if (100..200).contains(&status) && status != 101 {
        return parse(&answer[end + 4..], head_only);
    }
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let rest = &answer[end + 4..];
    let find = |name: &str| {
        headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    };
    let body = if head_only {
        Vec::new()
    } else if find("transfer-encoding").is_some() {
        unchunk(rest)?
    } else if let Some(length) = find("content-length") {
        rest.get(..length.parse().ok()?)?.to_vec()
    } else {
        rest.to_vec()
    };
    Some(Answer { status, headers, body })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 2 + size + 2..)?;
    }
}

/// Many keep-alive callers that ask without pause, reconnecting when cut, until told to stop.
pub(crate) struct Crowd {
    stop: Arc<AtomicBool>,
    tally: Arc<Tally>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// What a crowd saw.
#[derive(Default)]
pub(crate) struct Tally {
    /// (request id, status) of every answer that arrived whole.
    pub(crate) answered: Mutex<Vec<(String, u16)>>,
    /// Requests that got no whole answer.
    pub(crate) broken: AtomicU64,
}

impl Tally {
    /// How many whole answers had a status other than `expected`.
    pub(crate) fn other_than(&self, expected: u16) -> usize {
        self.answered.lock().expect("no panic holds it").iter().filter(|(_, status)| *status != expected).count()
    }

    /// How many whole answers there were.
    pub(crate) fn count(&self) -> usize {
        self.answered.lock().expect("no panic holds it").len()
    }
}

impl Crowd {
    /// `size` callers of `path`, with a pause between a caller's requests.
    pub(crate) fn start(address: SocketAddr, size: usize, path: &str, key: &str, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tally = Arc::new(Tally::default());
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {key}\r\n\r\n");
        let threads = (0..size)
            .map(|_| {
                let (stop, tally, request) = (Arc::clone(&stop), Arc::clone(&tally), request.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        ask_until_cut(address, request.as_bytes(), pause, &stop, &tally);
                    }
                })
            })
            .collect();
        Self { stop, tally, threads }
    }

    /// What it has seen so far.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Stops it and returns what it saw.
    pub(crate) fn stop(self) -> Arc<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("callers do not panic");
        }
        self.tally
    }
}

fn ask_until_cut(address: SocketAddr, request: &[u8], pause: Duration, stop: &AtomicBool, tally: &Tally) {
    let Ok(mut stream) = TcpStream::connect(address) else {
        std::thread::sleep(Duration::from_millis(5));
        return;
    };
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(Duration::from_mins(1)));
    let mut buffer = vec![0; 4096];
    while !stop.load(Ordering::Relaxed) {
        if stream.write_all(request).is_err() {
            return;
        }
        let Some((id, status)) = whole_answer(&mut stream, &mut buffer) else {
            tally.broken.fetch_add(1, Ordering::Relaxed);
            return;
        };
        tally.answered.lock().expect("no panic holds it").push((id, status));
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}

/// Asks on a connection that stays; none: it was closed without a whole answer.
pub(crate) fn ask(stream: &mut TcpStream, request: &[u8]) -> Option<u16> {
    stream.write_all(request).ok()?;
    whole_answer(stream, &mut [0; 4096]).map(|(_, status)| status)
}

/// Reads one answer with a Content-Length; its request id and status.
fn whole_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> Option<(String, u16)> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).ok()?;
        if read == 0 {
            return None;
        }
        filled += read;
        if let Some(answer) = parse(&buffer[..filled], false) {
            let id = answer.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-request-id"))?.1.clone();
            return Some((id, answer.status));
        }
    }
}
