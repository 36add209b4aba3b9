//! Bodies of every kind and size, both ways, through real sockets; memory stays flat.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::books::Books;
use crate::callers::{connect, fetch, parse, raw, read_head, send};
use crate::harness::{Setup, eventually, free_address};
use crate::upstream::Upstream;

const MIB: usize = 1024 * 1024;

/// Debian's or anyone's Python: a service nobody here wrote.
struct FileServer(Child);

impl Drop for FileServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn files_of_python_s_http_server_come_through_whole() {
    let files = tempfile::tempdir().unwrap();
    for (name, size) in [("empty", 0), ("small", 1024), ("large", 100 * MIB)] {
        std::fs::write(files.path().join(name), vec![b'x'; size]).unwrap();
    }
    let address = free_address();
    let server = Command::new("python3")
        .args(["-m", "http.server", &address.port().to_string(), "--bind", "127.0.0.1"])
        .current_dir(files.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 is there");
    let _server = FileServer(server);
    eventually("the file server listens", || std::net::TcpStream::connect(address).is_ok());
    let setup = Setup::sqlite(address);
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let gateway = setup.start();
    let header = format!("X-API-Key: {}", key.raw);
    for (name, size) in [("empty", 0), ("small", 1024), ("large", 100 * MIB), ("small", 1024)] {
        let answer = fetch(setup.data, &format!("/{name}"), &[&header]);
        assert_eq!((answer.status, answer.body.len()), (200, size), "{name}");
        assert!(answer.body.iter().all(|byte| *byte == b'x'));
    }
    assert_eq!(send(setup.data, "HEAD", "/small", &[&header], b"").header("content-length"), Some("1024"));
    assert_eq!(fetch(setup.data, "/absent", &[&header]).status, 404);
    assert_eq!(gateway.stop(), 0);
    let total = &setup.usage("outcome")["total"];
    assert_eq!(total["requests"], 6);
    assert!(total["bytes_out"].as_u64().unwrap() > 100 * MIB as u64 + 2048);
}

#[test]
fn a_hundred_mebibytes_each_way_leave_memory_flat() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let gateway = setup.start();
    let header = format!("X-API-Key: {}", key.raw);
    assert_eq!(fetch(setup.data, "/", &[&header]).status, 200);
    let before = gateway.anonymous_kib();

    let body = vec![7; 100 * MIB];
    let mut peak = 0;
    let up = std::thread::scope(|scope| {
        let up = scope.spawn(|| send(setup.data, "POST", "/sink", &[&header], &body));
        while !up.is_finished() {
            peak = peak.max(gateway.anonymous_kib());
            std::thread::sleep(Duration::from_millis(1));
        }
        up.join().unwrap()
    });
    assert_eq!(up.status, 200);
    assert!(peak > 0, "it was looked at while the body went up");
    assert_eq!(upstream.last().body_bytes, body.len() as u64);
    let mut stream = connect(setup.data);
    write!(stream, "GET /bytes/{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n\r\n", 100 * MIB).unwrap();
    read_head(&mut stream);
    let (mut received, mut piece) = (0, vec![0; 256 * 1024]);
    loop {
        let read = stream.read(&mut piece).unwrap();
        if read == 0 {
            break;
        }
        received += read;
        peak = peak.max(gateway.anonymous_kib());
    }
    assert_eq!(received, 100 * MIB);
    assert!(peak < before + 16 * 1024, "memory grew from {before} to {peak} KiB");
}

#[test]
fn a_caller_that_leaves_and_an_upstream_that_breaks_are_billed_as_what_they_were() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite_with(upstream.address, "");
    let broken = breaking_upstream();
    let more = format!(
        "\n[[upstreams]]\nname = \"broken\"\nendpoints = [\"http://{broken}\"]\n\
         [[upstreams]]\nname = \"nobody\"\nendpoints = [\"http://{}\"]\n\
         [[upstreams]]\nname = \"slow\"\nendpoints = [\"http://{}\"]\nresponse_timeout = \"500ms\"\n\
         [[upstreams]]\nname = \"short\"\nendpoints = [\"http://{}\"]\nrequest_timeout = \"700ms\"\n\
         [[routes]]\nname = \"short\"\npath = \"/short\"\nupstream = \"short\"\nstrip_prefix = true\n\
         [[routes]]\nname = \"broken\"\npath = \"/broken\"\nupstream = \"broken\"\n\
         [[routes]]\nname = \"nobody\"\npath = \"/nobody\"\nupstream = \"nobody\"\n\
         [[routes]]\nname = \"slow\"\npath = \"/hang\"\nupstream = \"slow\"\n",
        free_address(),
        upstream.address,
        upstream.address
    );
    setup.write_config(&(setup.config() + &more));
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let gateway = setup.start();
    let header = format!("X-API-Key: {}", key.raw);

    // The caller leaves in the middle of a stream.
    let mut stream = connect(setup.data);
    write!(stream, "GET /stream HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n").unwrap();
    read_head(&mut stream);
    drop(stream);
    // The upstream breaks in the middle of its body: never a clean end.
    let cut = raw(setup.data, format!("GET /broken HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n").as_bytes());
    assert!(cut.starts_with(b"HTTP/1.1 200") && parse(&cut, false).is_none(), "{:?}", String::from_utf8_lossy(&cut));
    let refused = fetch(setup.data, "/nobody", &[&header]);
    assert_eq!((refused.status, refused.problem().as_str()), (502, "upstream_unavailable"));
    let late = fetch(setup.data, "/hang", &[&header]);
    assert_eq!((late.status, late.problem().as_str()), (504, "upstream_timeout"));

    // A stream without an end, on a route that allows none.
    let endless = raw(setup.data, format!("GET /short/stream HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n").as_bytes());
    assert!(endless.starts_with(b"HTTP/1.1 200") && parse(&endless, false).is_none());

    let books = Books::sqlite(&setup.path("octroi.db"));
    eventually("all five are in the books", || books.events().len() == 5);
    assert_eq!(gateway.stop(), 0);
    let mut outcomes: Vec<(String, Option<i64>)> =
        books.events().into_iter().map(|event| (event.outcome, event.status)).collect();
    outcomes.sort();
    let expected =
        [("client_gone", 200), ("cut", 200), ("upstream_error", 200), ("upstream_error", 502), ("upstream_error", 504)];
    assert_eq!(outcomes, expected.map(|(outcome, status)| (outcome.to_owned(), Some(status))));
}

/// Promises ten bytes, sends four, closes.
fn breaking_upstream() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            read_head(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        }
    });
    address
}

#[test]
fn answers_of_every_framing_come_through() {
    let rows: [(&str, &[u8], u16, &[u8]); 6] = [
        ("close-delimited", b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
        ("HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\nold", 200, b"old"),
        ("204", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        ("304", b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 5\r\n\r\n", 304, b""),
        (
            "100 before the answer",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            200,
            b"ok",
        ),
        (
            "chunked with a trailer",
            b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
            200,
            b"abc",
        ),
    ];
    for (what, wire, status, body) in rows {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let setup = Setup::sqlite(listener.local_addr().unwrap());
        let key = setup.key(&setup.client(&["acme"]), &[]);
        let _gateway = setup.start();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                read_head(&mut stream);
                let _ = stream.write_all(wire);
            }
        });
        let bytes = raw(
            setup.data,
            format!(
                "GET / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: close, TE\r\nX-API-Key: {}\r\n\r\n",
                key.raw
            )
            .as_bytes(),
        );
        let mut answer =
            parse(&bytes, status == 304).unwrap_or_else(|| panic!("{what}: {:?}", String::from_utf8_lossy(&bytes)));
        assert_eq!(answer.status, status, "{what}");
        if status == 304 {
            assert!(bytes.ends_with(b"\r\n\r\n"), "{what} has no body");
            answer.body.clear();
        }
        assert_eq!(answer.body, body, "{what}");
        if what.contains("trailer") {
            assert!(String::from_utf8_lossy(&bytes).to_lowercase().contains("x-sum: 1"), "the trailer is lost");
        }
    }
}

#[test]
fn a_body_over_its_limit_is_refused_before_it_is_read() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite_with(upstream.address, "[server.limits]\nbody = \"1KiB\"\n");
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let _gateway = setup.start();
    let header = format!("X-API-Key: {}", key.raw);
    assert_eq!(send(setup.data, "POST", "/", &[&header], &[1; 1024]).status, 200);
    let announced = send(setup.data, "POST", "/", &[&header], &[1; 1025]);
    assert_eq!((announced.status, announced.problem().as_str()), (413, "body_too_large"));
    let mut chunked =
        format!("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\nTransfer-Encoding: chunked\r\n\r\n")
            .into_bytes();
    for _ in 0..3 {
        chunked.extend_from_slice(b"200\r\n");
        chunked.extend_from_slice(&[1; 0x200]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let answer = parse(&raw(setup.data, &chunked), false).expect("an answer");
    assert_eq!((answer.status, answer.problem().as_str()), (413, "body_too_large"));
}

#[test]
fn expect_continue_is_answered_only_when_the_body_is_wanted() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let _gateway = setup.start();
    let ask = |credential: &str| {
        let mut stream = connect(setup.data);
        write!(stream, "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{credential}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n").unwrap();
        let head = read_head(&mut stream);
        (stream, String::from_utf8(head).unwrap())
    };
    let (mut stream, head) = ask(&format!("X-API-Key: {}\r\n", key.raw));
    assert!(head.starts_with("HTTP/1.1 100"), "{head}");
    stream.write_all(b"body").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(parse(&answer, false).unwrap().body, b"body");
    let (_, head) = ask("");
    assert!(head.starts_with("HTTP/1.1 401"), "{head}");
}

#[test]
fn a_keep_alive_connection_the_upstream_closed_costs_no_request() {
    // Answers once, keeps the connection for a moment, then closes it without a word.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = Setup::sqlite(listener.local_addr().unwrap());
    let key = setup.key(&setup.client(&["acme", "--rate", "10000/s"]), &[]);
    let gateway = setup.start();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                read_head(&mut stream);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                std::thread::sleep(Duration::from_millis(3));
            });
        }
    });
    for number in 0..300 {
        let answer = fetch(setup.data, "/", &[&format!("X-API-Key: {}", key.raw)]);
        assert_eq!(answer.status, 200, "request {number}: {}", String::from_utf8_lossy(&answer.body));
        std::thread::sleep(Duration::from_millis(number % 5));
    }
    assert_eq!(gateway.stop(), 0);
    assert_eq!(setup.usage("outcome")["total"]["requests"], 300);
}
