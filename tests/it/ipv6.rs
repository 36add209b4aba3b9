//! The same over IPv6: listeners, upstreams, address ranges, and IPv4 callers on a socket for both.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread;

use crate::callers::fetch;
use crate::harness::{Setup, free_address};

/// Answers every request and tells its head's lines.
fn upstream() -> (SocketAddr, mpsc::Receiver<Vec<String>>) {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("a port of ::1");
    let address = listener.local_addr().expect("bound");
    let (told, heads) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.expect("a connection"));
            let lines = stream.by_ref().lines().map(|line| line.expect("text"));
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            if told.send(head).is_err() || stream.get_mut().write_all(answer).is_err() {
                return;
            }
        }
    });
    (address, heads)
}

#[test]
fn callers_and_services_may_be_at_ipv6_addresses() {
    let (service, heads) = upstream();
    let setup = Setup::sqlite(service);
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, free_address().port()));
    let (six, four) =
        (SocketAddr::from((Ipv6Addr::LOCALHOST, both.port())), SocketAddr::from(([127, 0, 0, 1], both.port())));
    setup.write_config(&setup.config().replace(&setup.data.to_string(), &both.to_string()));
    let client = setup.client(&["acme"]);
    let header = |ranges: &[&str]| format!("X-API-Key: {}", setup.key(&client, ranges).raw);
    let (anywhere, only_six, only_four) =
        (header(&[]), header(&["--allow", "::1/128"]), header(&["--allow", "127.0.0.0/8"]));
    let _gateway = setup.start();
    for (caller, key, status) in [
        (six, &anywhere, 200),
        (four, &anywhere, 200),
        (six, &only_six, 200),
        (four, &only_six, 403),
        (six, &only_four, 403),
        (four, &only_four, 200),
    ] {
        assert_eq!(fetch(caller, "/", &[key]).status, status, "{caller} {key}");
        if status == 200 {
            let head = heads.recv().expect("the service was asked");
            let says = |wanted: String| assert!(head.iter().any(|line| *line.to_lowercase() == wanted), "{head:?}");
            says(format!("host: {caller}"));
            // An IPv4 caller is one, whatever the socket.
            says(format!("x-forwarded-for: {}", caller.ip()));
        }
    }
}
