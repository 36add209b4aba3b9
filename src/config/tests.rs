//! The configuration as a whole: tables of good and bad settings with the paths they are found
//! at, precedence, places.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::listener::{ListenAddress, ListenProtocol, ListenerConfig};
use super::metering::SyncPolicy;
use super::route::RouteAuth;
use super::store::StoreUrl;
use super::tls::CallerCertificates;
use super::*;
use crate::model::clock::{Clock as _, ManualClock};

const ROUTE: &str = "[[upstreams]]\nname = \"a\"\nendpoints = [\"http://127.0.0.1:3000\"]\n[[routes]]\npath = \"/\"\nupstream = \"a\"\n";

fn load_with(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Problems> {
    parse(text, Some(PathBuf::from("/srv/octroi.toml")), &Environment::of(variables, Path::new("/home/op")))
}

pub(super) fn loaded(text: &str) -> Config {
    load_with(text, &[]).unwrap_or_else(|problems| panic!("{text}\n{problems}")).config
}

pub(super) fn paths(text: &str) -> Vec<String> {
    match load_with(text, &[]) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0.into_iter().map(|problem| problem.path).collect(),
    }
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let config = loaded("");
    assert_eq!(config.server.listeners, [ListenerConfig::plain("0.0.0.0:8080".parse().unwrap())]);
    assert!(config.server.workers > 0);
    assert_eq!(config.server.limits.body, None);
    assert_eq!(config.server.timeouts.keep_alive, Duration::from_secs(75));
    assert_eq!(config.limits.default.burst.get(), 100);
    assert_eq!(config.metering.sync, SyncPolicy::Every(Duration::from_secs(1)));
    assert_eq!(config.metering.dir, Path::new("/srv/journal"));
    assert!(matches!(config.store.url, StoreUrl::Sqlite(path) if path == Path::new("/srv/octroi.db")));
    assert!(config.routes.is_empty() && config.auth.pepper.is_none());
}

#[test]
fn values_are_resolved() {
    assert_eq!(loaded("limits.default.rate = \"10/s\"").limits.default.burst.get(), 10);
    assert_eq!(loaded("limits.default.rate = \"1/m\"").limits.default.burst.get(), 1);
    assert_eq!(loaded("limits.default.burst = 7").limits.default.burst.get(), 7);
    assert_eq!(loaded("metering.sync = \"every\"").metering.sync, SyncPolicy::EachRequest);
    assert_eq!(loaded("metering.sync = \"never\"").metering.sync, SyncPolicy::Never);
    assert_eq!(loaded("metering.retention = \"\"").metering.retention, None);
    for (written, interval) in [("0", None), ("0s", None), ("1s", Some(1)), ("5m", Some(300))] {
        let interval = interval.map(Duration::from_secs);
        assert_eq!(loaded(&format!("metering.stream_interval = \"{written}\"")).metering.stream_interval, interval);
    }
    assert_eq!(loaded("metering.retention = \"0\"").metering.retention, None);
    assert_eq!(loaded("metering.retention = \"35d\"").metering.retention, Some(Duration::from_hours(35 * 24)));
    assert_eq!(loaded("server.workers = 3").server.workers, 3);
    let trusted = loaded("server.trusted_proxies = [\"10.0.0.0/8\", \"::1\"]").server.trusted_proxies;
    assert_eq!(trusted, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);

    let route = &loaded(ROUTE).routes[0];
    assert_eq!((route.name.as_str(), route.auth, route.preserve_host), ("/", RouteAuth::Required, true));
    assert_eq!(route.credentials, ["authorization", "x-api-key"]);
    let route = &loaded(&format!("{ROUTE}host = \"API.example.com\"\ncredentials = [\"X-API-Key\"]")).routes[0];
    assert_eq!((route.name.as_str(), route.host.as_deref()), ("API.example.com/", Some("api.example.com")));
    assert_eq!(route.credentials, ["x-api-key"]);
    let route = &loaded(&format!("{ROUTE}auth = \"none\"\nmode = \"enforce\"\nmax_body = \"1MiB\"")).routes[0];
    assert_eq!((route.auth, route.credentials.len(), route.max_body), (RouteAuth::None, 0, Some(1 << 20)));
}

#[test]
fn who_writes_listeners_opens_no_other() {
    let tls = "[[server.tls.certificates]]\ncertificate = \"a.pem\"\nkey = \"/b.pem\"\n";
    let server = loaded(&format!(
        "[server]\ntrusted_proxies = [\"10.0.0.1\"]\n[server.tls]\ncaller_certificates = \"optional\"\ncaller_ca = \"ca.pem\"\n{tls}\
         [[server.listeners]]\naddress = \"[::]:443\"\nprotocol = \"https\"\nproxy_protocol = true\n\
         [[server.listeners]]\naddress = \"unix:o.sock\"\nprotocol = \"h2c\"\n"
    ))
    .server;
    let expected = [
        (ListenAddress::Tcp("[::]:443".parse().unwrap()), ListenProtocol::Https, true),
        (ListenAddress::Unix("/srv/o.sock".into()), ListenProtocol::H2c, false),
    ];
    let expected =
        expected.map(|(address, protocol, proxy_protocol)| ListenerConfig { address, protocol, proxy_protocol });
    assert_eq!(server.listeners, expected);
    assert_eq!(server.tls.certificates[0].certificate, Path::new("/srv/a.pem"));
    assert_eq!(server.tls.certificates[0].key, Path::new("/b.pem"));
    assert_eq!(server.tls.caller_certificates, CallerCertificates::Optional("/srv/ca.pem".into()));
    let both = loaded("[server]\nlisten = [\"[::]:80\"]\n[[server.listeners]]\naddress = \"unix:o.sock\"\n").server;
    assert_eq!(both.listeners.len(), 2);
}

#[test]
fn each_bad_setting_is_found_at_its_path() {
    for (text, path) in [
        ("server.listen = []", "server.listen"),
        ("server.listen = [\"localhost:80\"]", "server.listen[0]"),
        ("server.listen = [\"0.0.0.0:80\", \"0.0.0.0:80\"]", "server.listen[1]"),
        ("[[server.listeners]]", "server.listeners[0].address"),
        ("[[server.listeners]]\naddress = \"[::]:1\"\nprotocol = \"tls\"", "server.listeners[0].protocol"),
        ("[[server.listeners]]\naddress = \"unix:\"", "server.listeners[0].address"),
        ("[[server.listeners]]\naddress = \"[::]:1\"\nproxy_protocol = true", "server.listeners[0].proxy_protocol"),
        (
            "[[server.listeners]]\naddress = \"unix:a\"\n[[server.listeners]]\naddress = \"unix:a\"",
            "server.listeners[1].address",
        ),
        ("[[server.listeners]]\naddress = \"[::]:1\"\nprotocol = \"https\"", "server.tls.certificates"),
        ("[[server.tls.certificates]]\ncertificate = \"a\"", "server.tls.certificates[0].key"),
        ("server.tls.min_version = \"1.1\"", "server.tls.min_version"),
        ("server.tls.caller_certificates = \"required\"", "server.tls.caller_ca"),
        ("server.tls.caller_ca = \"a\"", "server.tls.caller_certificates"),
        ("server.workers = -1", "server.workers"),
        ("server.workers = 5000", "server.workers"),
        ("server.trusted_proxies = [\"10.0.0.0/8\", \"proxy\"]", "server.trusted_proxies[1]"),
        ("server.underscore_headers = \"keep\"", "server.underscore_headers"),
        ("server.timeouts.request_head = \"0s\"", "server.timeouts.request_head"),
        ("server.timeouts.body_idle = \"soon\"", "server.timeouts.body_idle"),
        ("server.limits.uri = \"0\"", "server.limits.uri"),
        ("server.limits.headers = \"2MiB\"", "server.limits.headers"),
        ("server.limits.header_count = 0", "server.limits.header_count"),
        ("server.limits.connections = 0", "server.limits.connections"),
        ("server.limits.body = \"many\"", "server.limits.body"),
        ("server.drain.timeout = \"-1s\"", "server.drain.timeout"),
        ("admin.listen = \"\"", "admin.listen"),
        ("admin.listen = \"0.0.0.0:8080\"", "admin.listen"),
        ("admin.public_url = \"admin.example.com\"", "admin.public_url"),
        ("admin.public_url = \"http://admin.example.com\"", "admin.public_url"),
        ("admin.public_url = \"https://admin.example.com/octroi\"", "admin.public_url"),
        ("admin.public_url = \"https://ada@admin.example.com\"", "admin.public_url"),
        ("admin.metrics_listen = \"127.0.0.1:8081\"", "admin.metrics_listen"),
        ("store.url = \"mysql://h/d\"", "store.url"),
        ("store.start_timeout = \"x\"", "store.start_timeout"),
        ("auth.prefix = \"Octroi\"", "auth.prefix"),
        ("auth.prefix = \"toolongprefix\"", "auth.prefix"),
        ("auth.prefix = \"\"", "auth.prefix"),
        ("auth.key_headers = [\"x api\"]", "auth.key_headers[0]"),
        ("auth.key_headers = [\"Authorization\"]", "auth.key_headers[0]"),
        ("auth.key_headers = [\"x-octroi-key\"]", "auth.key_headers[0]"),
        ("auth.key_headers = [\"x-a\", \"X-A\"]", "auth.key_headers[1]"),
        ("auth.cache_ttl = \"0s\"", "auth.cache_ttl"),
        ("auth.max_stale = \"1s\"", "auth.max_stale"),
        ("auth.failures.rate = \"10\"", "auth.failures.rate"),
        ("auth.failures.burst = 0", "auth.failures.burst"),
        ("auth.query_param = \"my key\"", "auth.query_param"),
        ("auth.pepper = \"x\"", "auth.pepper"),
        ("limits.default.rate = \"0/s\"", "limits.default.rate"),
        ("limits.default.burst = 0", "limits.default.burst"),
        ("limits.default = {rate = \"1/d\", burst = 1000000}", "limits.default.burst"),
        ("metering.dir = \"\"", "metering.dir"),
        ("metering.segment_bytes = \"100KB\"", "metering.segment_bytes"),
        ("metering.segment_bytes = \"100001\"", "metering.segment_bytes"),
        ("metering.segment_bytes = \"1KiB\"", "metering.segment_bytes"),
        ("metering.max_bytes = \"4MiB\"", "metering.max_bytes"),
        ("metering.on_full = \"drop\"", "metering.on_full"),
        ("metering.sync = \"0s\"", "metering.sync"),
        ("metering.sync = \"always\"", "metering.sync"),
        ("metering.retention = \"34d\"", "metering.retention"),
        ("metering.retention = \"long\"", "metering.retention"),
        ("metering.drain_interval = \"0s\"", "metering.drain_interval"),
        ("metering.stream_interval = \"999ms\"", "metering.stream_interval"),
        ("metering.stream_interval = \"often\"", "metering.stream_interval"),
        ("telemetry.log_format = \"xml\"", "telemetry.log_format"),
        ("proxy.identity = \"krakend\"", "proxy.identity"),
        ("[[upstreams]]\nendpoints = [\"http://h\"]", "upstreams[0].name"),
        ("[[upstreams]]\nname = \"a\"", "upstreams[0].endpoints"),
        ("[[upstreams]]\nname = \"a\"\nendpoints = [\"http://h\", \"ftp://h\"]", "upstreams[0].endpoints[1]"),
        ("[[upstreams]]\nname = \"a\"\nendpoints = [\"http://h\"]\nkeep_alive = \"0s\"", "upstreams[0].keep_alive"),
    ] {
        assert_eq!(paths(text), [path], "{text}");
    }
}

#[test]
fn each_bad_route_is_found_at_its_path() {
    for (addition, path) in [
        ("auth = \"optional\"", "routes[0].auth"),
        ("auth = \"jwt\"", "routes[0].auth"),
        ("mode = \"watch\"", "routes[0].mode"),
        ("mode = \"observe\"", "routes[0].observe_until"),
        ("mode = \"observe\"\nobserve_until = \"soon\"", "routes[0].observe_until"),
        ("[[routes]]\npath = \"/b\"\ndelegated = true", "routes[1].delegated"),
        ("delegated = true\n[server]\ntrusted_proxies = [\"10.0.0.1/32\"]", "routes[0].upstream"),
        ("[[routes]]\npath = \"/b\"\ndelegated = true\n[server]\ntrusted_proxies = [\"10.0.0.1/32\"]", ""),
        ("mode = \"enforce\"\nobserve_until = \"2027-01-01\"", "routes[0].observe_until"),
        ("plan = \"gold\"", "routes[0].plan"),
        ("host = \"example.com:80\"", "routes[0].host"),
        ("host = \"*.example.com\"", "routes[0].host"),
        ("host = \"a..b\"", "routes[0].host"),
        ("methods = [\"GET\", \"get\"]", "routes[0].methods[1]"),
        ("methods = [\"TRACE\"]", "routes[0].methods[0]"),
        ("methods = [\"GET\", \"GET\"]", "routes[0].methods[1]"),
        ("credentials = [\"x-other\"]", "routes[0].credentials[0]"),
        ("auth = \"none\"\ncredentials = [\"x-api-key\"]", "routes[0].credentials"),
        ("auth = \"none\"\nscopes = [\"a\"]", "routes[0].scopes"),
        ("scopes = [\"two words\"]", "routes[0].scopes"),
        ("max_body = \"1\"\n[server.limits]\nbody = \"2MiB\"", ""),
        ("max_body = \"3MiB\"\n[server.limits]\nbody = \"2MiB\"", "routes[0].max_body"),
        ("[[routes]]\npath = \"orders\"\nupstream = \"a\"", "routes[1].path"),
        ("[[routes]]\nupstream = \"a\"", "routes[1].path"),
        ("[[routes]]\npath = \"/b\"", "routes[1].upstream"),
        ("[[routes]]\npath = \"/b\"\nupstream = \"b\"", "routes[1].upstream"),
        ("[[routes]]\npath = \"/\"\nupstream = \"a\"", "routes[1].path"),
        ("[[routes]]\npath = \"/\"\nupstream = \"a\"\nname = \"other\"", "routes[1].path"),
        ("[[routes]]\npath = \"/b\"\nupstream = \"a\"\nname = \"/\"", "routes[1].name"),
        ("[[routes]]\npath = \"/\"\nupstream = \"a\"\nname = \"get\"\nmethods = [\"GET\"]", ""),
        ("[[upstreams]]\nname = \"a\"\nendpoints = [\"http://h\"]", "upstreams[1].name"),
    ] {
        let expected: &[&str] = if path.is_empty() { &[] } else { &[path] };
        assert_eq!(paths(&format!("{ROUTE}{addition}\n")), expected, "{addition}");
    }
}

#[test]
fn where_browsers_see_the_dashboard_decides_cookies_hosts_and_the_way_back() {
    const PROVIDER: &str = "[admin.oidc]\nissuer = \"https://id.example.com/\"\nclient_id = \"octroi\"\n\
        authorization_url = \"https://id.example.com/a\"\ntoken_url = \"https://id.example.com/t\"\n\
        jwks_url = \"https://id.example.com/k\"\nroles = { admins = \"owner\" }\n";
    let public = "admin.public_url = \"https://Admin.example.com\"\nadmin.hosts = [\"other.example.com\"]\n";
    let admin = loaded(&format!("{public}{PROVIDER}")).admin;
    assert!(admin.is_secure() && !loaded("").admin.is_secure());
    assert_eq!(admin.hosts, ["other.example.com", "admin.example.com"]);
    let back = admin.oidc.map(|oidc| oidc.redirect_url.to_string());
    assert_eq!(back.as_deref(), Some("https://admin.example.com/login/callback"));
    assert!(!loaded("admin.public_url = \"http://localhost:9000\"\n").admin.is_secure());
    let elsewhere = "redirect_url = \"https://other.example.com/login/callback\"\n";
    for (text, path) in [
        (format!("{public}{PROVIDER}{elsewhere}"), Some("admin.oidc.redirect_url")),
        (format!("{PROVIDER}{elsewhere}"), None),
        (PROVIDER.to_owned(), Some("admin.oidc.redirect_url")),
    ] {
        assert_eq!(paths(&text), path.into_iter().collect::<Vec<_>>(), "{text}");
    }
}

#[test]
fn a_route_observes_until_its_moment_and_not_in_it() {
    let clock = ManualClock::at("2020-02-29T23:59:59.999999Z".parse().unwrap());
    let observes = |more: &str| loaded(&format!("{ROUTE}{more}")).routes[0].observes(|| clock.wall());
    let dated = "mode = \"observe\"\nobserve_until = \"2020-03-01\"\n";
    assert!(observes(dated) && !observes("mode = \"enforce\"\n") && !observes(""));
    clock.advance(Duration::from_micros(1));
    assert!(!observes(dated));
    // An operator who sets the clock back opens the door again: the date is the only rule.
    clock.set_wall("2020-02-29T12:00:00Z".parse().unwrap());
    assert!(observes(dated));
}

const ISSUER: &str = "issuer = \"https://id.example.com/\"\naudiences = [\"api\"]\nalgorithms = [\"RS256\"]\n";
const JWKS: &str = "jwks_url = \"https://id.example.com/jwks.json\"\n";

#[test]
fn issuers_of_tokens_are_believed_as_far_as_is_written() {
    let issuer = &loaded(&format!("[[auth.issuers]]\n{ISSUER}{JWKS}")).auth.issuers[0];
    assert_eq!((issuer.client_claim.as_str(), issuer.scopes_claim.as_str()), ("client_id", "scope"));
    assert_eq!((issuer.leeway, issuer.max_lifetime), (Duration::from_secs(30), Duration::from_hours(24)));
    for (typ, allowed) in [
        (None, true),
        (Some("JWT"), true),
        (Some("jwt"), true),
        (Some("at+JWT"), true),
        (Some("application/at+jwt"), true),
        (Some("logout+jwt"), false),
        (Some(""), false),
    ] {
        assert_eq!(issuer.types.contain(typ), allowed, "{typ:?}");
    }
    let route = format!("{ROUTE}auth = \"jwt\"\n[[auth.issuers]]\n{ISSUER}{JWKS}");
    assert_eq!(loaded(&route).routes[0].auth, RouteAuth::Jwt);
}

#[test]
fn each_bad_issuer_is_found_at_its_path() {
    let strict = format!("{ISSUER}{JWKS}");
    let at = |url: &str| format!("{ISSUER}jwks_url = \"{url}\"\n");
    for (text, key) in [
        ("audiences = [\"a\"]\nalgorithms = [\"RS256\"]\njwks_url = \"https://h/\"".to_owned(), "issuer"),
        ("issuer = \"i\"\nalgorithms = [\"RS256\"]\njwks_url = \"https://h/\"".to_owned(), "audiences"),
        (
            "issuer = \"i\"\naudiences = [\"\"]\nalgorithms = [\"RS256\"]\njwks_url = \"https://h/\"".to_owned(),
            "audiences[0]",
        ),
        ("issuer = \"i\"\naudiences = [\"a\"]\njwks_url = \"https://h/\"".to_owned(), "algorithms"),
        (strict.replace("RS256", "none"), "algorithms[0]"),
        (strict.replace("RS256", "HS256"), "algorithms[0]"),
        (strict.replace("\"RS256\"", "\"RS256\", \"RS256\""), "algorithms[1]"),
        (ISSUER.to_owned(), "jwks_url"),
        (format!("{strict}jwks_file = \"keys.json\""), "jwks_file"),
        (format!("{ISSUER}jwks_file = \"absent.json\""), "jwks_file"),
        (format!("{strict}jwks_ca_file = \"absent.pem\""), "jwks_ca_file"),
        (at("http://id.example.com/jwks.json"), "jwks_url"),
        (at("ftp://id.example.com/jwks.json"), "jwks_url"),
        (at("https://user:hunter2@id.example.com/"), "jwks_url"),
        (at("id.example.com/jwks.json"), "jwks_url"),
        (at("https://127.0.0.1/jwks.json"), "jwks_url"),
        (at("https://localhost/jwks.json"), "jwks_url"),
        (at("https://[::1]/jwks.json"), "jwks_url"),
        (format!("{strict}leeway = \"31s\""), "leeway"),
        (format!("{strict}max_lifetime = \"0s\""), "max_lifetime"),
        (format!("{strict}types = []"), "types"),
        (format!("{strict}client_claim = \"\""), "client_claim"),
        (format!("{strict}client_claim = \"aud\""), "client_claim"),
        (format!("{strict}scopes_claim = \"exp\""), "scopes_claim"),
        (format!("{strict}algorithm = \"RS256\""), "algorithm"),
    ] {
        assert_eq!(paths(&format!("[[auth.issuers]]\n{text}\n")), [format!("auth.issuers[0].{key}")], "{text}");
    }
    let twice = format!("[[auth.issuers]]\n{strict}[[auth.issuers]]\n{strict}");
    assert_eq!(paths(&twice), ["auth.issuers[1].issuer"]);
    let allowed = "allow_http = true\nallow_private_addresses = true\n";
    assert!(paths(&format!("[[auth.issuers]]\n{}{allowed}", at("http://127.0.0.1:9000/jwks"))).is_empty());
    let keys_only = format!("{ROUTE}auth = \"jwt\"\ncredentials = [\"x-api-key\"]\n[[auth.issuers]]\n{strict}");
    assert_eq!(paths(&keys_only), ["routes[0].credentials"]);
}

#[test]
fn all_problems_are_told_at_once_each_with_a_remedy() {
    let text = "colour = 1\n[server]\nworkers = \"2\"\nlistenn = 1\n[auth]\ncache_ttl = \"never\"\n\
                [[routes]]\npath = \"x\"\nupstream = \"nowhere\"\nauth = true\n";
    let Err(Problems(problems)) = load_with(text, &[("API_KEY_PEPPER", "short")]) else { panic!("it loaded") };
    let mut paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    paths.sort_unstable();
    let expected = [
        "API_KEY_PEPPER",
        "auth.cache_ttl",
        "colour",
        "routes[0].auth",
        "routes[0].path",
        "routes[0].upstream",
        "server.listenn",
        "server.workers",
    ];
    assert_eq!(paths, expected);
    for problem in problems {
        assert!(!problem.message.is_empty() && !problem.remedy.is_empty(), "{problem:?}");
    }
}

#[test]
fn text_that_is_not_toml_says_where_and_quotes_nothing() {
    let text = "[server]\nworkers = 2\n[store]\nurl = \"postgres://u:hunter2@h/d\n";
    let Err(Problems(problems)) = load_with(text, &[]) else { panic!("it loaded") };
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.contains("/srv/octroi.toml"), "{problems:?}");
    assert!(problems[0].message.contains("line 4, column"), "{problems:?}");
    assert!(!problems[0].message.contains("hunter2"), "{problems:?}");
}

#[test]
fn the_environment_beats_the_file_and_is_named_when_it_is_wrong() {
    let config = load_with("server.workers = 1", &[("OCTROI__SERVER__WORKERS", "2")]).unwrap().config;
    assert_eq!(config.server.workers, 2);
    for (variable, value, path) in [
        ("OCTROI__SERVER__WORKERS", "many", "server.workers"),
        ("OCTROI__SERVER__TIMEOUTS__BODY_IDLE", "x", "server.timeouts.body_idle"),
        ("OCTROI__SERVER__LISTEN", "x", "server.listen[0]"),
        ("OCTROI__SERVER__COLOUR", "x", "server.colour"),
        ("DATABASE_URL", "mysql://u:hunter2@h/d", "store.url"),
    ] {
        let Err(Problems(problems)) = load_with("", &[(variable, value)]) else { panic!("{variable}") };
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].path, path);
        assert!(problems[0].message.contains(&format!("(from {variable})")), "{problems:?}");
        assert!(!problems[0].message.contains("hunter2"));
    }
}

#[test]
fn the_store_is_named_by_database_url_first() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("url"), "postgres://u:p@h/from_file\n").unwrap();
    let file = folder.path().join("url").display().to_string();
    for (variables, expected) in [
        (&[][..], "sqlite /srv/setting.db"),
        (&[("OCTROI__STORE__URL", "sqlite:own.db")], "sqlite /srv/own.db"),
        (&[("OCTROI__STORE__URL", "sqlite:own.db"), ("DATABASE_URL", "sqlite:/abs.db")], "sqlite /abs.db"),
        (&[("DATABASE_URL", "postgres://h/d")], "postgres://h/d"),
        (&[("DATABASE_URL_FILE", file.as_str())], "postgres://u:p@h/from_file"),
    ] {
        let config = load_with("store.url = \"sqlite:setting.db\"", variables).unwrap().config;
        let found = match &config.store.url {
            StoreUrl::Sqlite(path) => format!("sqlite {}", path.display()),
            StoreUrl::Postgres(address) => address.expose().to_owned(),
        };
        assert_eq!(found, expected, "{variables:?}");
    }
    let both = load_with("", &[("DATABASE_URL", "sqlite:a"), ("DATABASE_URL_FILE", &file)]).unwrap_err();
    assert_eq!(both.0[0].path, "DATABASE_URL");
}

#[test]
fn the_data_folder_is_looked_for_in_order() {
    let at = |file: Option<&str>, setting: &str, variables: &[(&str, &str)]| {
        let text = format!("data_dir = \"{setting}\"");
        let environment = Environment::of(variables, Path::new("/home/op"));
        parse(&text, file.map(PathBuf::from), &environment).map(|loaded| loaded.config.data_dir.display().to_string())
    };
    let file = Some("/etc/octroi/octroi.toml");
    let all = [("OCTROI_DATA", "/env"), ("STATE_DIRECTORY", "/state:/other"), ("XDG_DATA_HOME", "/xdg")];
    assert_eq!(at(file, "", &all).unwrap(), "/env");
    assert_eq!(at(file, "/set", &all).unwrap(), "/env");
    assert_eq!(at(file, "", &[("OCTROI_DATA", "here")]).unwrap(), "/home/op/here");
    assert_eq!(at(file, "/set", &all[1..]).unwrap(), "/set");
    assert_eq!(at(file, "set", &all[1..]).unwrap(), "/etc/octroi/set");
    assert_eq!(at(file, "", &all[1..]).unwrap(), "/state");
    assert_eq!(at(file, "", &all[2..]).unwrap(), "/etc/octroi");
    assert_eq!(at(None, "", &all[2..]).unwrap(), "/xdg/octroi");
    assert_eq!(at(None, "", &[("HOME", "/home/op")]).unwrap(), "/home/op/.local/share/octroi");
    assert_eq!(at(None, "", &[]).unwrap_err().0[0].path, "data_dir");
}

#[test]
fn the_file_is_looked_for_in_order_and_one_that_is_named_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, workers: u32| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("data_dir = \"/d\"\nserver.workers = {workers}\n")).unwrap();
        path
    };
    let (flag, variable) = (write("flag.toml", 1), write("variable.toml", 2));
    let workers = |flag: Option<&Path>, variables: &[(&str, &str)]| {
        load(flag, &Environment::of(variables, folder.path())).map(|loaded| loaded.config.server.workers)
    };
    let variables = [("OCTROI_CONFIG", "variable.toml"), ("HOME", "/home/op")];
    assert_eq!(workers(Some(&flag), &variables).unwrap(), 1);
    assert_eq!(workers(None, &variables).unwrap(), 2);
    assert!(variable.exists());
    assert!(load(None, &Environment::of(&variables[1..], folder.path())).unwrap().file.is_none());
    write("octroi.toml", 3);
    assert_eq!(workers(None, &variables[1..]).unwrap(), 3);
    let absent = workers(Some(Path::new("absent.toml")), &variables).unwrap_err();
    assert!(absent.0[0].message.contains("absent.toml"), "{absent}");
}

#[test]
fn a_pepper_is_asked_for_only_where_it_is_needed() {
    let without = load_with("", &[]).unwrap().config;
    let problem = without.auth.require_pepper().unwrap_err();
    assert!(problem.remedy.contains("openssl rand -hex 32"), "{problem}");

    let text = "p".repeat(32);
    let with = load_with("", &[("API_KEY_PEPPER", &text), ("API_KEY_PEPPER_PREVIOUS", &"q".repeat(32))]).unwrap();
    assert_eq!(with.config.auth.require_pepper().unwrap().expose(), text.as_bytes());
    assert_eq!(with.config.auth.pepper_previous.unwrap().len(), 32);

    let short = load_with("auth.allow_short_pepper = true", &[("API_KEY_PEPPER", "short")]).unwrap();
    assert_eq!(short.config.auth.require_pepper().unwrap().expose(), b"short");
}

#[test]
fn settings_in_force_are_shown_without_secrets_and_load_again() {
    let text = format!("{ROUTE}[limits.default]\nrate = \"20/s\"\n");
    let pepper = "hunter2-".repeat(8);
    let variables = [
        ("DATABASE_URL", "postgres://u:hunter2@h/d?sslmode=require"),
        ("API_KEY_PEPPER", pepper.as_str()),
        ("JWT_SECRET", pepper.as_str()),
        ("OCTROI__SERVER__WORKERS", "3"),
    ];
    let loaded = load_with(&text, &variables).unwrap();
    let shown = loaded.effective.to_toml().unwrap();
    assert!(!shown.contains("hunter2"), "{shown}");
    let table: toml::Table = shown.parse().unwrap();
    assert_eq!(table["server"]["workers"].as_integer(), Some(3));
    assert_eq!(table["limits"]["default"]["burst"].as_integer(), Some(20));
    assert_eq!(table["store"]["url"].as_str(), Some("postgres://u:[secret]@h/d?sslmode=require"));
    assert_eq!(table["auth"]["pepper"].as_str(), Some("[secret]"));
    assert_eq!(table["issuer"]["secret"].as_str(), Some("[secret]"));
    assert_eq!(table["routes"][0]["name"].as_str(), Some("/"));
    assert_eq!(table["data_dir"].as_str(), Some("/srv"));
    assert!(!format!("{loaded:?}").contains("hunter2"));

    let shown = load_with(&text, &[]).unwrap().effective.to_toml().unwrap();
    assert!(load_with(&shown, &[]).is_ok(), "{shown}");
}

#[test]
fn what_has_no_effect_is_told() {
    let loaded = load_with("", &[("REDIS_URL", "redis://h")]).unwrap();
    assert!(loaded.warnings[0].contains("REDIS_URL"), "{:?}", loaded.warnings);
}
