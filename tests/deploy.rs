//! Keeps `deploy/` true to the program: metrics, settings and commands that it names are there, each alert
//! has its paragraph, and the tools that read the files take them.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the tree has failed")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests are told by the environment what to write anew, or what is there"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All names that metrics are registered under, without prefix and suffix.
fn registered() -> BTreeSet<String> {
    let mut sources = read("src/telemetry/metrics.rs");
    for entry in std::fs::read_dir(root().join("src/telemetry/metrics")).unwrap() {
        sources.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    let mut names = BTreeSet::new();
    for piece in sources.split("register(").skip(1) {
        let name = piece.split('"').nth(1).unwrap_or_default();
        names.insert(name.to_owned());
    }
    names
}

/// Every metric of ours that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("octroi_") {
        let word: String =
            text[at..].chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect();
        let name = word.trim_start_matches("octroi_");
        let name = ["_total", "_bucket"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        names.insert(name.to_owned());
    }
    names
}

#[test]
fn alerts_and_the_dashboard_name_metrics_that_are_there() {
    let registered = registered();
    assert!(registered.len() > 30, "{registered:?}");
    for file in ["deploy/prometheus/alerts.yaml", "deploy/prometheus/alerts_test.yaml", "deploy/grafana/octroi.json"] {
        let unknown: Vec<_> = named(&read(file)).difference(&registered).cloned().collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
    serde_json::from_str::<serde_json::Value>(&read("deploy/grafana/octroi.json")).unwrap();
}

#[test]
fn each_alert_has_its_paragraph_and_each_paragraph_its_alert() {
    let (alerts, book) = (read("deploy/prometheus/alerts.yaml"), read("docs/operations.md"));
    let alerts: BTreeSet<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let paragraphs: BTreeSet<&str> =
        book.lines().filter_map(|line| line.strip_prefix("### ")).filter(|name| name.starts_with("Octroi")).collect();
    assert_eq!(alerts, paragraphs);
    for alert in &alerts {
        let place = format!("docs/operations.md#{}", alert.to_lowercase());
        assert!(read("deploy/prometheus/alerts.yaml").contains(&place), "{alert} leads to its paragraph");
    }
}

/// Runs a tool that reads these files, where it is installed.
fn taken_by(tool: &str, arguments: &[&str], folder: &str) {
    match Command::new(tool).args(arguments).current_dir(root().join(folder)).output() {
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{tool} {arguments:?}: {told}");
        }
        Err(error) => {
            assert!(std::env::var_os("OCTROI_TEST_POSTGRES").is_none(), "{tool}: {error}; scripts/test installs it");
        }
    }
}

#[test]
fn prometheus_takes_the_rules_and_fires_them_when_it_should() {
    taken_by("promtool", &["check", "rules", "alerts.yaml"], "deploy/prometheus");
    taken_by("promtool", &["test", "rules", "alerts_test.yaml"], "deploy/prometheus");
    taken_by("promtool", &["check", "config", "--syntax-only", "prometheus.yaml"], "deploy/prometheus");
}

#[test]
fn the_container_and_the_unit_start_what_there_is() {
    let (container, unit) = (read("deploy/Dockerfile"), read("deploy/systemd/octroi.service"));
    for part in ["USER 65532:65532", "EXPOSE 8080", "CMD [\"serve\"]", "OCTROI_DATA=/data"] {
        assert!(container.contains(part), "{part}");
    }
    assert!(
        read("config/reference.toml").contains("listen = [\"0.0.0.0:8080\"]"),
        "the port that is exposed is the default"
    );
    assert!(unit.contains("--config /etc/octroi/octroi.toml serve"));
    let help =
        Command::new(env!("CARGO_BIN_EXE_octroi")).args(["--config", "/none", "serve", "--help"]).output().unwrap();
    assert!(help.status.success());
    // Variables that are set are variables that are read.
    let sources = [
        "src/config/env.rs",
        "src/config/load.rs",
        "src/config/auth.rs",
        "src/config/issuer.rs",
        "src/config/secrets.rs",
    ];
    let sources: String = sources.iter().map(|path| read(path)).collect();
    let texts = [container, unit, read("deploy/compose.yaml")].concat();
    for variable in ["API_KEY_PEPPER", "JWT_SECRET", "DATABASE_URL", "OCTROI_DATA"] {
        assert!(texts.contains(variable) && sources.contains(variable), "{variable}");
    }
    let rust = read("Cargo.toml");
    let version = rust.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(texts.contains(&format!("rust:{version}-")), "the container builds with the version that is declared");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let Ok(output) =
        Command::new("systemd-analyze").args(["verify", "deploy/systemd/octroi.service"]).current_dir(root()).output()
    else {
        return;
    };
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    // The program and its manual are not installed where this is tested.
    let expected = |line: &&str| {
        !line.contains("/usr/bin/octroi is not executable") && !line.contains("man octroi") && line.contains("octroi")
    };
    let wrong: Vec<&str> = told.lines().filter(expected).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
