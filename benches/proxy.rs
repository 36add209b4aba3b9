//! What the proxy does to every request before and after the network: the route, the path, the
//! headers. `cargo bench --bench proxy`.

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use octroi::clients::IdentityHeaders;
use octroi::config::route::{RouteAuth, RouteConfig};
use octroi::config::server::UnderscoreHeaders;
use octroi::model::access::Scopes;
use octroi::proxy::headers::{Rewrite, Shape};
use octroi::proxy::path::canonicalise;
use octroi::proxy::route::RouteTable;
use octroi::server::Peer;

fn route(index: usize) -> RouteConfig {
    RouteConfig {
        name: format!("route-{index}"),
        host: (index.is_multiple_of(4)).then(|| format!("host-{index}.example")),
        path: format!("/service-{index}/v1"),
        methods: Vec::new(),
        upstream: "up".to_owned(),
        delegated: false,
        observe_until: None,
        strip_prefix: false,
        auth: RouteAuth::Required,
        credentials: Vec::new(),
        certificate: false,
        scopes: Scopes::default(),
        max_body: None,
        merge_slashes: false,
        encoded_slash: false,
        response_timeout: None,
        idle_timeout: None,
        request_timeout: None,
        websocket: false,
        preserve_host: false,
        cost: 1,
        shaping: octroi::config::shaping::Shaping::default(),
    }
}

fn routes(criterion: &mut Criterion) {
    for count in [1, 100] {
        let routes: Vec<RouteConfig> = (0..count).map(route).collect();
        let table = RouteTable::new(&routes);
        let path = format!("/service-{}/v1/orders/7", count - 1);
        let host = if count == 1 { "host-0.example" } else { "api.example" };
        let path = canonicalise(&path).expect("canonical");
        assert!(table.find(Some(host), &path, &Method::GET).is_ok());
        criterion.bench_function(&format!("route/find/{count}"), |bencher| {
            bencher.iter(|| table.find(black_box(Some(host)), black_box(&path), &Method::GET));
        });
    }
}

fn paths(criterion: &mut Criterion) {
    for (name, path) in [
        ("plain", "/service-7/v1/orders/0199f7a2-7d4c-7bce-9d6b-1f6e2a3b4c5d"),
        ("dots", "/static/app.1f6e2a3b.min.js"),
        ("escaped", "/service-7/v1/caf%c3%a9/%7euser"),
    ] {
        criterion.bench_function(&format!("path/canonicalise/{name}"), |bencher| {
            bencher.iter(|| canonicalise(black_box(path)));
        });
    }
}

fn headers(criterion: &mut Criterion) {
    let mut sent = HeaderMap::new();
    for (name, value) in [
        ("host", "api.example"),
        ("user-agent", "bench/1.0"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, br"),
        ("connection", "keep-alive"),
        ("content-type", "application/json"),
        ("x-api-key", "octroi_live_0123456789ab0123456789abcdef0123456789abcdef012345"),
        ("x-custom", "value"),
    ] {
        sent.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let peer = Peer::detached(SocketAddr::from(([192, 0, 2, 1], 1)));
    let request_id = HeaderValue::from_static("0199f7a2-7d4c-7bce-9d6b-1f6e2a3b4c5d");
    let credentials = [AUTHORIZATION, HeaderName::from_static("x-api-key")];
    let identity = IdentityHeaders {
        client_id: Some(HeaderValue::from_static("0199f7a2-7d4c-7bce-9d6b-1f6e2a3b4c5d")),
        client_name: Some(HeaderValue::from_static("acme")),
        key_id: Some(HeaderValue::from_static("octroi_live_0123456789ab")),
        ..IdentityHeaders::default()
    };
    let rewrite = Rewrite {
        credentials: &credentials,
        underscores: UnderscoreHeaders::Drop,
        trusted: false,
        peer: peer.address_value(),
        request_id: &request_id,
        identity: Some(&identity),
        shape: Shape::default(),
    };
    criterion.bench_function("headers/rewrite/8", |bencher| {
        bencher.iter_batched_ref(|| sent.clone(), |headers| rewrite.apply(headers), BatchSize::SmallInput);
    });
}

criterion_group!(benches, routes, paths, headers);
criterion_main!(benches);
