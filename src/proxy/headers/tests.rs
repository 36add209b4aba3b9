use super::*;

const CREDENTIALS: [HeaderName; 2] = [AUTHORIZATION, HeaderName::from_static("x-api-key")];

fn map(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    headers
}

fn rewritten(pairs: &[(&str, &str)], trusted: bool, underscores: UnderscoreHeaders) -> HeaderMap {
    let identity = IdentityHeaders { client_id: Some(HeaderValue::from_static("c1")), ..IdentityHeaders::default() };
    let (peer, request_id) = (HeaderValue::from_static("192.0.2.1"), HeaderValue::from_static("r1"));
    let rewrite = Rewrite {
        credentials: &CREDENTIALS,
        underscores,
        trusted,
        peer: &peer,
        request_id: &request_id,
        identity: Some(&identity),
        shape: Shape::default(),
    };
    let mut headers = map(pairs);
    rewrite.apply(&mut headers);
    headers
}

fn ours() -> HeaderMap {
    rewritten(&[], false, UnderscoreHeaders::Drop)
}

/// Everything here reaches no upstream, whatever the underscore mode (but refusal) and spelling.
#[test]
fn nobody_speaks_in_our_name() {
    let spoofs = [
        "X-Octroi-Client-Id",
        "x-octroi-subject",
        "X_Octroi_Client_Id",
        "X-Octroi_Scopes",
        "x.octroi.scopes",
        "X-Octroi",
        "X-Request-Id",
        "x_request_id",
        "Forwarded",
        "X-Forwarded-For",
        "X_Forwarded_For",
        "X-Forwarded-Proto",
        "X-Forwarded-Anything",
        "X-Real-IP",
        "x_real.ip",
        "X-API-Key",
        "x_api_key",
        "Transfer_Encoding",
        "content_length",
        "Connection",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Upgrade",
        "X~Octroi~Client-Id",
        "x-octroi!client'id",
        "HTTP2-Settings",
        "Proxy-Authorization",
        "Proxy-Connection",
        "Proxy",
        "Expect",
        "X-HTTP-Method-Override",
        "x_original_url",
    ];
    for underscores in [UnderscoreHeaders::Drop, UnderscoreHeaders::Forward] {
        for spoof in spoofs {
            assert_eq!(rewritten(&[(spoof, "spoofed")], false, underscores), ours(), "{spoof}");
        }
    }
}

#[test]
fn connection_removes_what_it_names_and_nothing_of_ours() {
    let headers = rewritten(
        &[
            ("Connection", "close, X-Drop-Me"),
            ("connection", "X-ALSO , x-octroi-client-id, Host, Content-Length, Via,"),
            ("X-Drop-Me", "1"),
            ("X-Also", "1"),
            ("X-Stays", "1"),
            ("Host", "h"),
            ("Content-Length", "0"),
        ],
        false,
        UnderscoreHeaders::Drop,
    );
    let expected =
        [ours(), map(&[("x-stays", "1"), ("host", "h"), ("content-length", "0"), ("x-forwarded-host", "h")])];
    let expected: HeaderMap =
        expected.into_iter().flat_map(|part| part.into_iter().map(|(n, v)| (n.unwrap(), v))).collect();
    assert_eq!(headers, expected);
}

#[test]
fn underscores_follow_the_setting() {
    let odd = [("x_odd", "1")];
    assert!(!rewritten(&odd, false, UnderscoreHeaders::Drop).contains_key("x_odd"));
    assert!(rewritten(&odd, false, UnderscoreHeaders::Forward).contains_key("x_odd"));
    assert!(has_underscore(&map(&odd)) && !has_underscore(&map(&[("x.odd", "1")])));
    assert!(rewritten(&[("x.odd", "1")], false, UnderscoreHeaders::Refuse).contains_key("x.odd"));
}

#[test]
fn credentials_go_and_other_schemes_stay() {
    for (value, stays) in [("Bearer abc", false), ("bearer abc", false), ("Basic dTpw", true), ("Bearerish x", true)] {
        let headers = rewritten(&[("Authorization", value)], false, UnderscoreHeaders::Drop);
        assert_eq!(headers.contains_key(AUTHORIZATION), stays, "{value}");
    }
}

#[test]
fn a_trusted_proxy_s_word_is_kept_and_added_to() {
    let headers = rewritten(
        &[
            ("X-Forwarded-For", "203.0.113.7"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "public.example"),
            ("X-Real-IP", "203.0.113.7"),
            ("X-Octroi-Client-Id", "spoofed"),
            ("Connection", "x-forwarded-for"),
            ("Via", "2 edge"),
            ("Host", "inner"),
        ],
        true,
        UnderscoreHeaders::Drop,
    );
    let all = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(all("x-forwarded-for"), ["203.0.113.7, 192.0.2.1"]);
    assert_eq!(all("x-forwarded-proto"), ["https"]);
    assert_eq!(all("x-forwarded-host"), ["public.example"]);
    assert_eq!(all("x-real-ip"), ["203.0.113.7"]);
    assert_eq!(all("x-octroi-client-id"), ["c1"]);
    assert_eq!(all("via"), ["2 edge", "1.1 octroi"]);
}

#[test]
fn a_request_id_is_taken_once_and_if_it_is_one() {
    for (lines, id) in [(&["abc"][..], Some("abc")), (&["a b"], None), (&["a", "b"], None), (&[], None)] {
        let pairs: Vec<_> = lines.iter().map(|line| ("x-request-id", *line)).collect();
        assert_eq!(presented_request_id(&map(&pairs)).map(|id| id.to_string()).as_deref(), id, "{lines:?}");
    }
}

#[test]
fn a_response_keeps_what_is_the_caller_s() {
    let mut headers = map(&[
        ("Connection", "X-Hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Transfer-Encoding", "chunked"),
        ("Proxy-Authenticate", "Basic"),
        ("Upgrade", "h2c"),
        ("X-Request-Id", "theirs"),
        ("Trailer", "x-sum"),
        ("Content-Length", "1"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
    ]);
    strip_response(&mut headers);
    let kept = map(&[("Trailer", "x-sum"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]);
    assert_eq!(headers, kept);

    let mut headers = map(&[("Connection", "content-length"), ("Content-Length", "1")]);
    strip_response(&mut headers);
    assert_eq!(headers, map(&[("Content-Length", "1")]));
}
