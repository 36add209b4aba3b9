//! Tables of good and bad settings.

use std::time::Duration;

use super::*;

const ONE_ROUTE: &str = "[[upstreams]]\nname = \"up\"\nendpoints = [\"http://127.0.0.1:3000\"]\n\
                         [[routes]]\npath = \"/\"\nupstream = \"up\"\n";

fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let parsed = Config::parse(text, Some(Path::new("/etc/octroi/octroi.toml")), &Environment::of(variables));
    parsed.map_err(|problems| problems.0.into_iter().map(|problem| problem.path).collect())
}

#[test]
fn nothing_at_all_is_the_defaults() {
    let config = parse("", &[]).unwrap();
    assert_eq!(config.server.listen, ["0.0.0.0:8080".parse().unwrap()]);
    assert!(config.server.workers >= 1);
    assert_eq!(config.limits.default.burst.get(), 100);
    assert_eq!(config.data_dir, Path::new("/etc/octroi"));
    assert_eq!(config.metering.dir, Path::new("/etc/octroi/journal"));
    assert!(config.auth.require_pepper().is_err(), "a missing setting opens no door");
}

#[test]
fn each_problem_names_its_path() {
    for (text, path) in [
        ("nonsense = 1", "nonsense"),
        ("[tls]\nx = 1", "tls"),
        ("[server]\nlisten_on = 1", "server.listen_on"),
        ("[server]\nlisten = \"0.0.0.0:80\"", "server.listen"),
        ("[server]\nlisten = [\"80\"]", "server.listen[0]"),
        ("[server]\nworkers = -1", "server.workers"),
        ("[server.timeouts]\nrequest_head = \"0s\"", "server.timeouts.request_head"),
        ("[server.timeouts]\nrequest_head = 10", "server.timeouts.request_head"),
        ("[server.limits]\nuri = \"9MiB\"", "server.limits.uri"),
        ("[server]\nunderscore_headers = \"pass\"", "server.underscore_headers"),
        ("[admin]\nlisten = \"8081\"", "admin.listen"),
        ("[store]\nurl = \"mysql://x\"", "store.url"),
        ("[auth]\nprefix = \"Octroi\"", "auth.prefix"),
        ("[auth]\npepper_file = \"/does/not/exist\"", "auth.pepper_file"),
        ("[auth.failures]\nrate = \"many\"", "auth.failures.rate"),
        ("[[auth.issuers]]\nissuer = \"x\"", "auth.issuers"),
        ("[limits.default]\nburst = 0", "limits.default.burst"),
        ("[metering]\nsegment_bytes = \"5000B\"", "metering.segment_bytes"),
        ("[metering]\nsync = \"sometimes\"", "metering.sync"),
        ("[[upstreams]]\nname = \"a\"\nendpoints = []", "upstreams[0].endpoints"),
        ("[[upstreams]]\nname = \"a\"\nendpoints = [\"https://a\"]", "upstreams[0].endpoints[0]"),
    ] {
        let paths = parse(text, &[]).expect_err(text);
        assert!(paths.contains(&path.to_owned()), "{text}: {paths:?}");
    }
    for (line, path) in [
        ("upstream = \"other\"", "routes[1].upstream"),
        ("upstream = \"up\"\npath = \"relative\"", "routes[1].path"),
        ("upstream = \"up\"\npath = \"/a/../b\"", "routes[1].path"),
        ("upstream = \"up\"\npath = \"/\"\nname = \"x\"", "routes[1].path"),
        ("upstream = \"up\"\npath = \"/b\"\nname = \"/\"", "routes[1].name"),
        ("upstream = \"up\"\npath = \"/b\"\nauth = \"optional\"", "routes[1].auth"),
        ("upstream = \"up\"\npath = \"/b\"\nmethods = [\"get\"]", "routes[1].methods[0]"),
        ("upstream = \"up\"\npath = \"/b\"\ncredentials = [\"cookie\"]", "routes[1].credentials[0]"),
        ("upstream = \"up\"\npath = \"/b\"\nmode = \"observe\"", "routes[1].mode"),
        ("upstream = \"up\"\npath = \"/b\"\nscopes = [\"a b\"]", "routes[1].scopes"),
    ] {
        let paths = parse(&format!("{ONE_ROUTE}[[routes]]\n{line}\n"), &[]).expect_err(line);
        assert!(paths.contains(&path.to_owned()), "{line}: {paths:?}");
    }
}

#[test]
fn all_problems_are_told_at_once_and_a_slip_gets_a_hint() {
    let text = "[server]\nworker = 2\n[metering]\nsink = \"x\"\n[limits.default]\nrate = \"x\"\n";
    let problems = Config::parse(text, None, &Environment::default()).unwrap_err();
    let paths: Vec<_> = problems.0.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["server.worker", "limits.default.rate", "metering.sink"]);
    assert_eq!(problems.0[0].remedy, "did you mean `workers`?");
}

#[test]
fn broken_toml_names_line_and_column() {
    let problems = Config::parse("[server]\nworkers = = 2", None, &Environment::default()).unwrap_err();
    assert!(problems.0[0].message.starts_with("line 2, column"), "{problems}");
}

#[test]
fn environment_beats_file() {
    let pepper = "x".repeat(32);
    let config = parse(
        "[store]\nurl = \"sqlite:file.db\"\n[server.timeouts]\nkeep_alive = \"5s\"",
        &[
            ("DATABASE_URL", "sqlite:/var/env.db"),
            ("API_KEY_PEPPER", &pepper),
            ("OCTROI__SERVER__TIMEOUTS__KEEP_ALIVE", "7s"),
            ("OCTROI_DATA", "/data"),
        ],
    )
    .unwrap();
    assert!(matches!(&config.store.url, store::StoreUrl::Sqlite(path) if path == Path::new("/var/env.db")));
    assert_eq!(config.server.timeouts.keep_alive, Duration::from_secs(7));
    assert_eq!(config.auth.require_pepper().unwrap().len(), 32);
    assert_eq!(config.metering.dir, Path::new("/data/journal"));
    assert_eq!(parse("", &[("API_KEY_PEPPER", "short")]).unwrap_err(), ["API_KEY_PEPPER"]);
    assert!(parse("[auth]\nallow_short_pepper = true", &[("API_KEY_PEPPER", "short")]).is_ok());
}

#[test]
fn effective_settings_hold_no_secret() {
    let config =
        parse(ONE_ROUTE, &[("DATABASE_URL", "postgres://octroi:hunter2@db/x"), ("API_KEY_PEPPER", &"p".repeat(40))])
            .unwrap();
    let shown = config.effective.to_string();
    assert!(!shown.contains("hunter2") && !shown.contains("pppp"), "{shown}");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(config.routes[0].name, "/");
    assert_eq!(config.routes[0].credentials.len(), 2);
}
