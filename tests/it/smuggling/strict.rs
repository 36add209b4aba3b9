//! An upstream that is as strict as can be.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// An upstream that reads in one way only, answers with what it read, and notes what it could not.
pub(super) struct Strict {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Strict {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let noted = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let noted = Arc::clone(&noted);
                std::thread::spawn(move || serve(stream, &noted));
            }
        });
        Self { address, seen }
    }

    pub(super) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<String>>) {
    stream.set_nodelay(true).unwrap();
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match read_request(&bytes) {
            Read::Request(text, length) => {
                bytes.drain(..length);
                seen.lock().unwrap().push(text.clone());
                let head = format!("HTTP/1.1 200 OK\r\nX-Upstream: 1\r\nContent-Length: {}\r\n\r\n", text.len());
                if stream.write_all((head + &text).as_bytes()).is_err() {
                    return;
                }
            }
            Read::Malformed(why) => {
                seen.lock().unwrap().push(format!("{why}: {}", bytes.escape_ascii()));
                return;
            }
            Read::Missing => match stream.read(&mut buffer) {
                Ok(0) | Err(_) => {
                    // We may have begun to forward a body that turned out to be none: then the
                    // connection ends, and the upstream knows that it has no request.
                    return;
                }
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            },
        }
    }
}

enum Read {
    /// `METHOD TARGET BODY`, and how many bytes it was.
    Request(String, usize),
    Malformed(&'static str),
    Missing,
}

fn read_request(bytes: &[u8]) -> Read {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Read::Missing };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let request_line = lines.next().unwrap_or_default();
    let Some(request) = request_line.strip_suffix(" HTTP/1.1") else { return Read::Malformed("a request line") };
    if request.split(' ').count() != 2 || head.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        return Read::Malformed("a request line, or line ends");
    }
    let mut fields = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(": ") else { return Read::Malformed("a header line") };
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^`|~".contains(&byte)) {
            return Read::Malformed("a header name");
        }
        fields.push((name.to_lowercase(), value.to_owned()));
    }
    if fields.iter().any(|(_, value)| value.to_lowercase().contains("forged")) {
        return Read::Malformed("something forged");
    }
    let all = |name: &str| fields.iter().filter(|field| field.0 == name).map(|field| &*field.1).collect::<Vec<_>>();
    let is_empty = |name: &str| all(name).is_empty();
    if all("host").len() != 1
        || all("x-request-id").len() != 1
        || !["te", "upgrade", "trailer"].into_iter().all(is_empty)
    {
        return Read::Malformed("Host, the request's id, or words for one hop");
    }
    let body = &bytes[end + 4..];
    let (content, length) = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => (Some(Vec::new()), 0),
        ([length], []) => {
            let Ok(length) = length.parse::<usize>() else { return Read::Malformed("a length") };
            (body.get(..length).map(<[u8]>::to_vec), length)
        }
        ([], ["chunked"]) => match unchunk(body) {
            Ok(Some((content, length))) => (Some(content), length),
            Ok(None) => (None, 0),
            Err(why) => return Read::Malformed(why),
        },
        _ => return Read::Malformed("more than one framing"),
    };
    match content {
        Some(content) => Read::Request(format!("{request} {}", String::from_utf8_lossy(&content)), end + 4 + length),
        None => Read::Missing,
    }
}

/// The content and how many bytes it took; none: it has not ended. Neither extensions nor trailers
/// are let through.
fn unchunk(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let (mut content, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = bytes[at..].windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&bytes[at..at + end]).map_err(|_| "a chunk's size")?;
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("a chunk's size");
        }
        let size = usize::from_str_radix(size, 16).map_err(|_| "a chunk's size")?;
        at += end + 2;
        let Some(data) = bytes.get(at..at + size + 2) else { return Ok(None) };
        if &data[size..] != b"\r\n" {
            return Err(if size == 0 { "trailers" } else { "a chunk's end" });
        }
        content.extend_from_slice(&data[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((content, at)));
        }
    }
}
