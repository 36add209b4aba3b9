//! WebSocket through the gateway: what a service and its callers say to each other passes as it
//! is, each byte is in the books once, and a tunnel ends when what it rests on does.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use tungstenite::handshake::client::Response;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, WebSocket};

use crate::books::Books;
use crate::callers::{connect, fetch, parse, raw, read_head};
use crate::harness::{Key, Setup, eventually};

/// Answers what it is told, on any number of connections; says hello first.
pub(crate) fn echo_service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let Ok(mut socket) = tungstenite::accept(stream) else { return };
                let _ = socket.send(Message::text("hello"));
                while let Ok(message) = socket.read() {
                    if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Answers each request on a connection with these bytes, whatever it is.
fn stubborn_service(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            read_head(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
            // What is sent behind it is nothing this one asked for.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
        }
    });
    address
}

fn open(setup: &Setup, key: &Key, path: &str) -> Result<(WebSocket<TcpStream>, Response), Error> {
    let request = http::Request::builder()
        .uri(format!("ws://{}{path}", setup.data))
        .header("host", setup.data.to_string())
        .header("upgrade", "websocket")
        .header("connection", "Upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", tungstenite::handshake::client::generate_key())
        .header("x-api-key", &key.raw)
        .body(())
        .unwrap();
    tungstenite::client(request, connect(setup.data)).map_err(|error| match error {
        tungstenite::HandshakeError::Failure(error) => error,
        tungstenite::HandshakeError::Interrupted(_) => unreachable!("the socket blocks"),
    })
}

#[test]
fn messages_pass_both_ways_and_the_handshake_is_one_event() {
    let setup = Setup::sqlite_with(echo_service(), "[metering]\nstream_interval = \"1s\"\n");
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let gateway = setup.start();
    let (mut socket, response) = open(&setup, &key, "/chat").unwrap();
    assert_eq!(response.status(), 101);
    let request_id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert!(response.headers().contains_key("ratelimit"), "{response:?}");
    assert_eq!(socket.read().unwrap(), Message::text("hello"));
    // Frame headers: 2 bytes, 4 of a mask upwards; 2 or 8 of a length.
    let (mut up, mut down) = (0_i64, 7_i64);
    for size in [0_usize, 1, 125, 126, 70_000, 1_000_000] {
        let message = Message::binary(vec![7; size]);
        socket.send(message.clone()).unwrap();
        assert_eq!(socket.read().unwrap(), message, "{size} bytes");
        let length = match size {
            0..126 => 0,
            126..65_536 => 2,
            _ => 8,
        };
        up += i64::try_from(size + 6 + length).unwrap();
        down += i64::try_from(size + 2 + length).unwrap();
    }
    // A part of it is in the books while it goes on.
    let books = Books::sqlite(&setup.path("octroi.db"));
    let sum = |column: &str, more: &str| {
        let sum = format!(
            "SELECT CAST(COALESCE(SUM({column}), 0) AS text) FROM usage_events WHERE request_id = '{request_id}' {more}"
        );
        books.text(&sum)[0].parse::<i64>().unwrap()
    };
    eventually("an interim record", || sum("bytes_out", "AND kind = 'stream'") > 0);
    socket.close(None).unwrap();
    let end = loop {
        match socket.read() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(end, Error::ConnectionClosed), "{end}");
    eventually("the event of the request", || sum("1", "AND kind = 'request'") == 1);
    // Two close frames: 6 bytes without a code upwards, its echo downwards.
    assert_eq!((sum("bytes_in", ""), sum("bytes_out", "")), (up + 6, down + 2));
    let event = books.events().into_iter().find(|event| event.request_id == request_id && event.bytes_in >= 0).unwrap();
    assert_eq!((event.status, event.outcome.as_str()), (Some(101), "complete"), "{event:?}");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn without_a_key_nothing_is_opened_and_the_service_hears_nothing() {
    let setup = Setup::sqlite(stubborn_service("never"));
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let _gateway = setup.start();
    let wrong = Key { raw: "octroi_live_nothing".to_owned(), ..key };
    let Err(Error::Http(answer)) = open(&setup, &wrong, "/") else { panic!("it was opened") };
    assert_eq!(answer.status(), 401);
}

#[test]
fn what_follows_a_declined_handshake_is_a_request_like_any_other() {
    let setup = Setup::sqlite(stubborn_service("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno"));
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let _gateway = setup.start();
    let handshake = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: {}\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        key.raw
    );
    // Smuggled behind the handshake: it has no credential, and is refused for that.
    let smuggled = "GET /admin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answers = String::from_utf8(raw(setup.data, format!("{handshake}{smuggled}").as_bytes())).unwrap();
    let statuses: Vec<&str> = answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["426", "401"], "{answers}");
}

#[test]
fn an_upgrade_without_its_proof_is_a_bad_gateway() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    ] {
        let setup = Setup::sqlite(stubborn_service(answer));
        let key = setup.key(&setup.client(&["acme"]), &[]);
        let _gateway = setup.start();
        let Err(Error::Http(response)) = open(&setup, &key, "/") else { panic!("it was opened") };
        assert_eq!(response.status(), 502);
    }
}

#[test]
fn a_route_may_decline_websockets() {
    let upstream = crate::upstream::Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    setup.write_config(&format!("{}websocket = false\n", setup.config()));
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let _gateway = setup.start();
    let Err(Error::Http(response)) = open(&setup, &key, "/plain") else { panic!("it was opened") };
    assert_eq!(response.status(), 200);
    let seen = upstream.last();
    assert_eq!(seen.target, "/plain");
    assert!(!seen.headers.contains_key("upgrade") && !seen.headers.contains_key("connection"), "{:?}", seen.headers);
}

#[test]
fn a_revoked_key_closes_its_tunnels_and_a_stop_says_goodbye() {
    let setup = Setup::sqlite_with(echo_service(), "[server.drain]\ntimeout = \"1s\"\n");
    let client = setup.client(&["acme"]);
    let (revoked, stays) = (setup.key(&client, &[]), setup.key(&client, &[]));
    let mut gateway = setup.start();
    let close_code = |socket: &mut WebSocket<TcpStream>| loop {
        match socket.read() {
            Ok(Message::Close(frame)) => return frame.map(|frame| frame.code),
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    };
    let (mut first, _) = open(&setup, &revoked, "/").unwrap();
    let (mut second, _) = open(&setup, &stays, "/").unwrap();
    setup.json(&["key", "revoke", &revoked.public_id]);
    assert_eq!(close_code(&mut first), Some(CloseCode::Policy));
    second.send(Message::text("still here")).unwrap();
    gateway.signal("TERM");
    assert_eq!(close_code(&mut second), Some(CloseCode::Away));
    assert_eq!(gateway.wait_exit(), 0);
    let books = Books::sqlite(&setup.path("octroi.db"));
    let reasons = || {
        let mut reasons: Vec<_> = books.events().into_iter().map(|event| (event.outcome, event.reason)).collect();
        reasons.sort();
        reasons
    };
    let cut = |reason: &str| ("cut".to_owned(), Some(reason.to_owned()));
    assert_eq!(reasons(), [cut("revoked"), cut("shutdown")]);
}

#[test]
fn bytes_sent_behind_the_handshake_wait_for_the_agreement() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = Setup::sqlite(listener.local_addr().unwrap());
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let _gateway = setup.start();
    let mut caller = connect(setup.data);
    let handshake = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: {}\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nEARLY",
        key.raw
    );
    caller.write_all(handshake.as_bytes()).unwrap();
    let (mut service, _) = listener.accept().unwrap();
    let head = String::from_utf8(read_head(&mut service)).unwrap().to_ascii_lowercase();
    assert!(head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"), "{head}");
    service.set_nonblocking(true).unwrap();
    assert_eq!(service.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    service.set_nonblocking(false).unwrap();
    let agreed = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nLATE";
    service.write_all(agreed.as_bytes()).unwrap();
    let mut early = [0; 5];
    service.read_exact(&mut early).unwrap();
    assert_eq!(&early, b"EARLY");
    let answer = parse(&read_head(&mut caller), true).unwrap();
    assert_eq!(
        (answer.status, answer.header("connection"), answer.header("upgrade")),
        (101, Some("upgrade"), Some("websocket"))
    );
    assert_eq!(answer.header("content-length"), None);
    let mut late = [0; 4];
    caller.read_exact(&mut late).unwrap();
    assert_eq!(&late, b"LATE");
    // Each side ends for itself.
    caller.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(service.read(&mut [0; 8]).unwrap(), 0);
    service.write_all(b"last").unwrap();
    drop(service);
    let mut rest = Vec::new();
    caller.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"last");
    assert_eq!(fetch(setup.data, "/.octroi/livez", &[]).status, 200);
}

#[test]
fn a_browser_that_can_set_no_header_shows_its_key_in_the_query() {
    let upstream = crate::upstream::Upstream::start();
    let setup = Setup::sqlite_with(upstream.address, "[auth]\nquery_param = \"key\"\n");
    setup.write_config(&setup.config().replace("access_log = false", "access_log = true"));
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let gateway = setup.start();
    let answer = fetch(setup.data, &format!("/events?a=1&key={}&b=2", key.raw), &[]);
    assert_eq!(answer.status, 200);
    let seen = upstream.last();
    assert_eq!(seen.target, "/events?a=1&b=2");
    assert!(!seen.headers.contains_key("authorization") && seen.headers.contains_key("x-octroi-client-id"));
    let both = fetch(setup.data, &format!("/x?key={}", key.raw), &[&format!("X-API-Key: {}", key.raw)]);
    assert_eq!(both.status, 400);
    assert_eq!(fetch(setup.data, "/x?key=wrong", &[]).status, 401);
    gateway.wait_for_log("\"path\":\"/x\"");
    assert!(!gateway.log().contains(&key.raw), "the key is in the log");
}
