//! Rules as they stand in a file, on headers as they come.

use std::path::Path;

use http::header::AUTHORIZATION;
use proptest::prelude::*;

use super::*;
use crate::config::server::UnderscoreHeaders;
use crate::config::{Environment, parse};
use crate::proxy::headers::{Rewrite, Shape, tells_about_the_caller};

/// The rules of a route's request headers; none: the file is refused, or there are none.
fn rules(toml: &str) -> Option<Box<HeaderRules>> {
    let text = format!(
        "[[upstreams]]\nname = \"up\"\nendpoints = [\"http://127.0.0.1:1\"]\n\
         [[routes]]\npath = \"/a\"\nupstream = \"up\"\n[routes.request_headers]\n{toml}\n"
    );
    let mut loaded = parse(&text, Some("/x.toml".into()), &Environment::of(&[], Path::new("/"))).ok()?;
    loaded.config.routes.remove(0).shaping.request_headers
}

fn map(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    headers
}

fn acme() -> IdentityHeaders {
    IdentityHeaders {
        client_id: Some(HeaderValue::from_static("c1")),
        client_name: Some(HeaderValue::from_static("acme")),
        ..IdentityHeaders::default()
    }
}

fn edited(toml: &str, identity: &IdentityHeaders, sent: &[(&str, &str)]) -> HeaderMap {
    let rules = rules(toml).unwrap_or_else(|| panic!("no rules: {toml}"));
    let request_id = HeaderValue::from_static("r1");
    let facts = Facts {
        identity,
        request_id: &request_id,
        caller: "192.0.2.1".parse().unwrap(),
        route: "Bücher",
        host: Some("api.example"),
        method: &Method::GET,
        scheme: "https",
    };
    let mut headers = map(sent);
    Edits::of(&rules, &facts).apply(&mut headers, is_needed_up);
    headers
}

#[test]
fn each_rule_does_what_it_says() {
    let acme = acme();
    for (toml, sent, left) in [
        ("set = { x-a = \"1\" }", &[("x-a", "0"), ("x-a", "2"), ("x-b", "3")][..], &[("x-b", "3"), ("x-a", "1")][..]),
        ("add = { x-a = \"1\" }", &[("x-a", "0")], &[("x-a", "0"), ("x-a", "1")]),
        ("remove = [\"x-a\"]", &[("x-a", "0"), ("x_a", "1"), ("x-b", "3")], &[("x-b", "3")]),
        (
            "allow = [\"x-a\"]",
            &[("x-a", "0"), ("x-b", "1"), ("host", "h"), ("content-type", "t")],
            &[("x-a", "0"), ("host", "h"), ("content-type", "t")],
        ),
        ("allow = [\"x-a\"]\nset = { x-b = \"1\" }", &[("x-b", "0")], &[("x-b", "1")]),
        ("set = { x-t = \"${client_id}/${client_name}\" }", &[], &[("x-t", "c1/acme")]),
        ("set = { x-t = \"${request_id} ${caller_address}\" }", &[], &[("x-t", "r1 192.0.2.1")]),
        (
            "set = { x-t = \"${method} ${scheme}://${host} ${route}\" }",
            &[],
            &[("x-t", "GET https://api.example B%C3%BCcher")],
        ),
        // Absent: the header is, too, and what the caller sent in its place, in any spelling.
        ("set = { x-t = \"${key_id}\" }", &[("x-t", "forged"), ("X_T", "forged")], &[]),
        ("add = { x-t = \"is ${subject}\" }", &[("x-t", "0")], &[("x-t", "0")]),
    ] {
        assert_eq!(edited(toml, &acme, sent), map(left), "{toml}");
    }
}

/// Names that rules and callers may think of, in spellings of all kinds.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "(x-octroi-client-id|X_Octroi_Scopes|x-request-id|x-forwarded-for|forwarded|x-real-ip|via|host)",
        "(connection|te|transfer-encoding|content-length|upgrade|proxy-authorization|authorization|x-api-key|x_api_key)",
        "(x-a|x-b|x_a|X\\.B|accept|cookie|traceparent)",
        "[a-zA-Z][a-zA-Z0-9_.-]{0,8}",
    ]
}

/// Names that rules may have, most of them.
fn rule_name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "(x-a|x-b|x_a|X\\.B|accept|cookie|x-real-ip|x-forwarded-port|x-consumer-id|te2)",
        2 => "[a-z][a-z0-9-]{0,8}",
        1 => name(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever the rules and the headers are: what is the gateway's own comes out as without rules.
    #[test]
    fn no_rule_has_the_last_word_on_what_is_ours(
        set in prop::collection::btree_map(rule_name(), "(v|\\$\\{host\\}|\\$\\{subject\\}|spoofed)", 0..3),
        add in prop::collection::btree_map(rule_name(), "(v|\\$\\{method\\}|spoofed)", 0..3),
        remove in prop::collection::vec(rule_name(), 0..3),
        allow in prop::collection::vec(rule_name(), 0..3),
        sent in prop::collection::vec((name(), "[a-z]{0,4}"), 0..6),
        trusted: bool,
    ) {
        let toml = format!("set = {set:?}\nadd = {add:?}\nremove = {remove:?}\nallow = {allow:?}").replace("\": \"", "\" = \"");
        // Refused, as it should be, or without any rule.
        let Some(rules) = rules(&toml) else { return Ok(()) };
        let pairs: Vec<(&str, &str)> = sent.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (peer, request_id) = (HeaderValue::from_static("192.0.2.1"), HeaderValue::from_static("r1"));
        let identity = acme();
        let credentials = [AUTHORIZATION, HeaderName::from_static("x-api-key")];
        let facts = Facts {
            identity: &identity,
            request_id: &request_id,
            caller: "192.0.2.1".parse().unwrap(),
            route: "r",
            host: Some("h"),
            method: &Method::GET,
            scheme: "http",
        };
        let edits = Edits::of(&rules, &facts);
        let rewritten = |edits| {
            let mut headers = map(&pairs);
            Rewrite {
                credentials: &credentials,
                underscores: UnderscoreHeaders::Forward,
                trusted,
                peer: &peer,
                request_id: &request_id,
                identity: Some(&identity),
                shape: Shape { edits, ..Shape::default() },
            }
            .apply(&mut headers);
            headers
        };
        let (with, without) = (rewritten(Some(&edits)), rewritten(None));
        let is_ours = |name: &str| {
            let folded = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
            folded.starts_with("x-octroi")
                || matches!(folded.as_str(), "connection" | "te" | "transfer-encoding" | "upgrade" | "content-length")
                || matches!(folded.as_str(), "host" | "via" | "proxy-authorization" | "x-api-key")
                || (tells_about_the_caller(&folded) && folded != "x-real-ip")
        };
        for name in with.keys().chain(without.keys()).filter(|name| is_ours(name.as_str())) {
            let all = |headers: &HeaderMap| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
            // A rule may set what the gateway merely passes on, but not what it answers for.
            let is_passed_on = name.as_str().starts_with("x-forwarded-")
                && !matches!(name.as_str(), "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host");
            prop_assert!(is_passed_on || all(&with) == all(&without), "{} of {} by {}", name, pairs.len(), toml);
        }
        prop_assert!(with.get_all(AUTHORIZATION).iter().eq(without.get_all(AUTHORIZATION).iter()) || with.get(AUTHORIZATION).is_none());
    }
}
