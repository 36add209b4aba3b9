//! What is written for which method, status and body.

use http::HeaderValue;

use super::*;

fn head(
    method: &Method,
    status: u16,
    headers: &[(&'static str, &'static str)],
    length: Option<u64>,
    closes: bool,
) -> String {
    let status = StatusCode::from_u16(status).unwrap();
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_static(value));
    }
    let framing = framing(method, status, length);
    let frame = Frame { framing, to_head: *method == Method::HEAD, closes, reason: None, date: b"now" };
    let mut out = BytesMut::new();
    write_head(&mut out, status, &map, &frame, length);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn every_answer_has_one_end() {
    let (get, head_) = (Method::GET, Method::HEAD);
    let lying = &[("content-length", "77"), ("transfer-encoding", "chunked")][..];
    for (method, status, headers, length, framing) in [
        (&get, 200, &[][..], Some(5), "content-length: 5\r\n"),
        (&get, 200, &[], Some(0), "content-length: 0\r\n"),
        (&get, 200, &[], None, "transfer-encoding: chunked\r\n"),
        (&get, 200, lying, Some(5), "content-length: 5\r\n"),
        (&get, 200, lying, None, "transfer-encoding: chunked\r\n"),
        (&get, 204, lying, Some(0), ""),
        (&get, 304, lying, Some(0), ""),
        (&head_, 200, lying, Some(0), "content-length: 77\r\n"),
        (&head_, 200, &[], Some(5), "content-length: 5\r\n"),
        (&head_, 200, &[], Some(0), ""),
        (&head_, 200, &[], None, ""),
    ] {
        let written = head(method, status, headers, length, false);
        let (line, rest) = written.split_once("\r\n").unwrap();
        assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{line}");
        assert_eq!(rest, format!("{framing}date: now\r\n\r\n"), "{method} {status} {headers:?} {length:?}");
    }
}

#[test]
fn the_end_of_the_connection_and_the_date_are_said_once() {
    let headers = &[("connection", "x-hop"), ("connection", "close"), ("date", "then"), ("a", "b")];
    let written = head(&Method::GET, 200, headers, Some(1), true);
    assert_eq!(written.matches("connection").count(), 1, "{written}");
    assert!(written.contains("date: then\r\n") && !written.contains("date: now") && written.contains("a: b\r\n"));
}

#[test]
fn trailers_are_those_that_were_announced_and_may_be() {
    let mut headers = HeaderMap::new();
    headers.append(TRAILER, HeaderValue::from_static("x-sum, Set-Cookie"));
    let mut trailers = HeaderMap::new();
    for name in ["x-sum", "set-cookie", "x-other"] {
        trailers.append(name, HeaderValue::from_static("1"));
    }
    let mut out = BytesMut::new();
    write_trailers(&mut out, &announced(&headers), &trailers);
    assert_eq!(&out[..], b"0\r\nx-sum: 1\r\n\r\n");
}
