//! The dashboard behind a proxy that ends TLS: what browsers see is said by a setting.

use super::{Bench, PASSWORD};
use crate::callers::{parse, raw};
use crate::harness::{Setup, text};
use crate::upstream::Upstream;

/// What a proxy sends on, which listens as `https://admin.example.com`.
fn passed_on(bench: &Bench, request: &str, host: &str, headers: &[&str], body: &str) -> crate::callers::Answer {
    let mut head = format!(
        "{request} HTTP/1.1\r\nhost: {host}\r\nx-forwarded-for: 198.51.100.7\r\nx-forwarded-proto: https\r\n\
         content-type: application/x-www-form-urlencoded\r\naccept: text/html\r\ncontent-length: {}\r\nconnection: close\r\n",
        body.len()
    );
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    let answer = raw(bench.setup.admin, format!("{head}\r\n{body}").as_bytes());
    parse(&answer, false).unwrap_or_else(|| panic!("{}", text(&answer)))
}

#[test]
fn behind_a_proxy_that_ends_tls_the_dashboard_is_where_the_setting_says() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let listen = format!("listen = \"{}\"\n", setup.admin);
    let public = format!("{listen}public_url = \"https://admin.example.com\"\n");
    setup.write_config(&setup.config().replacen(&format!("[admin]\n{listen}"), &format!("[admin]\n{public}"), 1));
    let bench = Bench::start(setup);
    let login = format!("name=admin&user=admin&password={}", PASSWORD.replace(' ', "+"));
    // Whatever host the proxy sends: its own, or where it found us.
    for host in ["admin.example.com".to_owned(), bench.setup.admin.to_string()] {
        let ours = ["origin: https://admin.example.com", "sec-fetch-site: same-origin"];
        let signed_in = passed_on(&bench, "POST /login", &host, &ours, &login);
        assert_eq!(signed_in.status, 303, "{}", text(&signed_in.body));
        let cookie = signed_in.header("set-cookie").expect("a cookie").to_owned();
        assert!(cookie.starts_with("__Host-octroi-session=") && cookie.contains("; Secure"), "{cookie}");
        let cookie = format!("cookie: {}", cookie.split(';').next().unwrap());
        let form = "name=initech";
        let made = passed_on(&bench, "POST /clients/new", &host, &[&[cookie.as_str()], &ours[..]].concat(), form);
        assert_eq!(made.status, 303, "{host}: {}", text(&made.body));
        for origin in ["origin: https://evil.example", "origin: http://admin.example.com"] {
            let stranger = passed_on(&bench, "POST /clients/new", &host, &[&cookie, origin], form);
            assert_eq!(stranger.status, 403, "{origin}");
        }
    }
}
