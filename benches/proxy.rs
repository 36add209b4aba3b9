//! What it costs to find a route and to rewrite a head.
//!
//! `cargo bench --bench proxy`

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method};
use octroi::clients::{CredentialKind, IdentityHeaders, LiveClient, Principal};
use octroi::config::server::UnderscoreHeaders;
use octroi::config::{Config, Environment};
use octroi::model::access::Scopes;
use octroi::model::id::{ApiKeyId, TokenId};
use octroi::proxy::headers::{Outgoing, rewrite_request};
use octroi::proxy::path::CanonicalPath;
use octroi::proxy::route::RouteTable;

fn configuration() -> Config {
    let mut text = "[[upstreams]]\nname = \"u\"\nendpoints = [\"http://a\"]\n".to_owned();
    for number in 0..100 {
        let _ = write!(text, "[[routes]]\npath = \"/service{number}/api\"\nupstream = \"u\"\n");
    }
    Config::parse(&text, None, &Environment::default()).expect("a configuration")
}

fn request_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "api.example.com"),
        ("user-agent", "curl/8.5.0"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, br"),
        ("content-type", "application/json"),
        ("x-api-key", "octroi_live_0123456789AB0123456789abcdefghijklmnopqrstuv012345"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

fn principal() -> Principal {
    let value = |text| Some(HeaderValue::from_static(text));
    Principal {
        client: LiveClient::nobody(),
        kind: CredentialKind::Key,
        api_key_id: ApiKeyId::NIL,
        token_id: TokenId::NIL,
        scopes: Scopes::default(),
        headers: IdentityHeaders {
            client_id: value("0199f7a2-7d4c-7bce-9d6b-1f6e2a3b4c5d"),
            client_name: value("acme"),
            key_id: value("octroi_live_0123456789AB"),
            subject: None,
            scopes: value("orders:read"),
        },
    }
}

fn proxy(criterion: &mut Criterion) {
    let config = configuration();
    let table = RouteTable::new(config.routes.clone());
    criterion.bench_function("route/find among 100", |bencher| {
        bencher.iter(|| table.find(black_box("api.example.com"), black_box("/service42/api/orders/7"), &Method::GET));
    });
    for (name, path) in [("plain", "/service42/api/orders/7"), ("escaped", "/service42/api/caf%c3%a9/%7Euser")] {
        criterion.bench_function(&format!("path/canonical, {name}"), |bencher| {
            bencher.iter(|| CanonicalPath::of(black_box(path)).expect("a legal path"));
        });
    }
    let (headers, principal, host) = (request_headers(), principal(), HeaderValue::from_static("10.0.0.5:3000"));
    let id = HeaderValue::from_static("0199f7a2-7d4c-7bce-9d6b-1f6e2a3b4c5d");
    criterion.bench_function("headers/rewrite a request", |bencher| {
        bencher.iter_batched(
            || headers.clone(),
            |mut headers| {
                let out = Outgoing {
                    route: &config.routes[0],
                    principal: &principal,
                    request_id: id.clone(),
                    peer: std::net::Ipv4Addr::LOCALHOST.into(),
                    trusted: false,
                    host: &host,
                };
                rewrite_request(&mut headers, UnderscoreHeaders::Drop, &out);
                headers
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, proxy);
criterion_main!(benches);
