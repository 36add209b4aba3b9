//! Requests and answers that are under way at the same time, and connections that were closed
//! while nobody used them.

use super::*;

/// The end of an idle connection is noticed before it is used: not even an unsafe request fails.
#[tokio::test]
async fn a_kept_connection_that_was_closed_before_is_not_used() {
    let (closed, mut told) = tokio::sync::mpsc::unbounded_channel();
    let address = upstream(move |_, mut connection| {
        let closed = closed.clone();
        async move {
            connection.until("\r\n\r\n").await;
            connection.send(OK).await;
            drop(connection);
            closed.send(()).unwrap();
        }
    });
    let front = Front::to(address.await);
    for _ in 0..5 {
        assert!(front.ask("POST").await.ends_with("\r\n\r\nok"));
        in_time(told.recv()).await.unwrap();
        // The runtime hears of the end when it next asks the kernel.
        tokio::task::yield_now().await;
    }
}

/// What an upstream sends that nobody asked for is nobody's answer.
#[tokio::test]
async fn a_connection_with_something_left_on_it_is_not_kept() {
    let more = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for bytes in [more, "HTTP/1.1 204 No Content\r\n\r\nbody", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n\r\n"] {
        let front = Front::to(answering(bytes, false).await);
        let answer = front.ask("GET").await;
        assert!(!answer.contains("evil") && !answer.contains("body"), "{answer}");
        assert_eq!(front.upstream.idle_connections(), 0, "{bytes:?}");
    }
}

/// An answer that comes before the request is whole is the answer.
#[tokio::test]
async fn an_early_answer_is_passed_on_and_its_connection_is_not_kept() {
    let early = upstream(|_, mut connection| async move {
        connection.until("\r\n\r\n").await;
        connection.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
        connection.rest().await;
    });
    let front = Front::to(early.await);
    let mut caller = front.server.connect().await;
    caller.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf").await;
    let answer = caller.until("big").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(caller.rest().await, "", "the rest of the body is not waited for");
    assert_eq!(front.upstream.idle_connections(), 0);
    assert_eq!(front.notes.all(), ["leaves", "Complete 3"]);
}

/// Each piece comes back before the next one is sent.
#[tokio::test]
async fn both_bodies_move_at_once() {
    let mirror = upstream(|_, mut connection| async move {
        connection.until("\r\n\r\n").await;
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let (mut read, mut write) = connection.0.split();
        // The chunks go back as they are, the last one included.
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let front = Front::to(mirror.await);
    let mut caller = front.server.connect().await;
    caller.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    caller.until("\r\n\r\n").await;
    let piece = "x".repeat(0x2000);
    let mut length = 0;
    for _ in 0..12 {
        caller.send(&format!("2000\r\n{piece}\r\n")).await;
        let mut back = 0;
        while back < piece.len() {
            let size = usize::from_str_radix(caller.until("\r\n").await.trim_end(), 16).unwrap();
            let mut data = vec![0; size + 2];
            in_time(tokio::io::AsyncReadExt::read_exact(&mut caller.0, &mut data)).await.unwrap();
            back += size;
        }
        length += back;
    }
    caller.send("0\r\n\r\n").await;
    caller.until("0\r\n\r\n").await;
    assert_eq!(length, 12 * piece.len());
    assert_eq!(front.notes.all(), ["leaves", &format!("Complete {length}")]);
}

/// Head and body in one write: an upstream sees them together.
#[tokio::test]
async fn a_small_request_arrives_in_one_piece() {
    let (seen, mut told) = tokio::sync::mpsc::unbounded_channel();
    let address = upstream(move |_, mut connection| {
        let seen = seen.clone();
        async move {
            connection.0.readable().await.unwrap();
            let mut bytes = vec![0; 4096];
            let length = connection.0.try_read(&mut bytes).unwrap();
            seen.send(String::from_utf8_lossy(&bytes[..length]).into_owned()).unwrap();
            connection.send(OK).await;
        }
    });
    let front = Front::to(address.await);
    front.server.ask("POST /x?y HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody").await;
    let request = told.recv().await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with(&format!("POST /x?y HTTP/1.1\r\nhost: {}\r\n", front.authority())), "{head}");
    assert_eq!(head.matches("content-length").count(), 1, "{head}");
    assert_eq!(body, "body");
}

/// More answers than one read takes, in sizes around those of the reads.
#[tokio::test]
async fn bodies_of_every_size_come_through_whole() {
    let sized = upstream(|_, mut connection| async move {
        loop {
            let head = connection.until("\r\n\r\n").await;
            let length: usize = head[5..].split(' ').next().unwrap().parse().unwrap();
            connection
                .send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length)))
                .await;
        }
    });
    let front = Front::to(sized.await);
    let mut caller = front.server.connect().await;
    for length in [0, 1, 8100, 8192, 65_536, 1_000_000, 3, 200_000] {
        caller.send(&format!("GET /{length} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
        caller.until("\r\n\r\n").await;
        let mut body = vec![0; length];
        in_time(tokio::io::AsyncReadExt::read_exact(&mut caller.0, &mut body)).await.unwrap();
        assert!(body.iter().all(|byte| *byte == b'x'), "{length}");
        assert_eq!(front.upstream.idle_connections(), 1, "{length}");
    }
}
