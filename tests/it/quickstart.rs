//! The first five minutes: one command, one `curl` line, one line that shows the usage.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::callers::fetch;
use crate::harness::{Gateway, Setup, free_address, text};
use crate::upstream::Upstream;

fn shell(line: &str, folder: &std::path::Path) -> String {
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_octroi")).parent().unwrap().to_owned();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new("sh").args(["-c", line]).current_dir(folder).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{line}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn quickstart(setup: &Setup, more: &[&str]) -> (Gateway, String, String) {
    let (data, admin) = (setup.data.to_string(), setup.admin.to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_octroi"));
    command.args(["quickstart", "--listen", &data, "--admin", &admin]).args(more);
    command.current_dir(setup.folder()).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let begun = Instant::now();
    let gateway = Gateway::run(command);
    let curl = gateway.wait_for_out("curl ");
    let usage = gateway.wait_for_out(" usage");
    shell(&format!("{curl} --silent --show-error --fail"), setup.folder());
    assert!(begun.elapsed() < Duration::from_secs(5), "the first answer took {:?}", begun.elapsed());
    (gateway, curl, usage)
}

#[test]
fn in_front_of_a_service_that_runs() {
    let upstream = Upstream::start();
    let setup = Setup::unmigrated(upstream.address, "sqlite:unused.db", "");
    let (gateway, curl, usage) = quickstart(&setup, &["--upstream", &format!("http://{}", upstream.address)]);
    assert!(upstream.last().headers.contains_key("x-octroi-client-id"));
    assert_eq!(fetch(setup.data, "/", &[]).problem(), "missing_credentials");
    let key = curl.split_whitespace().find(|word| word.contains("octroi_live_")).expect("a key in the line");
    assert!(!gateway.log().contains(key.trim_matches(|quote| "'\"".contains(quote))), "the key is in the log");
    for name in ["octroi.toml", "octroi.db", "journal"] {
        assert!(setup.path("octroi-data").join(name).exists(), "{name}");
    }
    for entry in std::fs::read_dir(setup.path("octroi-data")).unwrap() {
        use std::os::unix::fs::PermissionsExt as _;
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.contains("pepper") || name.contains("secret") {
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
    }
    assert_eq!(gateway.stop(), 0);
    let shown: serde_json::Value =
        serde_json::from_str(&shell(&format!("{usage} --output json"), setup.folder())).unwrap();
    assert_eq!(shown["total"]["requests"], 1);

    // One that cannot serve leaves the key of the one that does alone.
    let (gateway, curl, _) = quickstart(&setup, &["--upstream", &format!("http://{}", upstream.address)]);
    let (data, admin) = (setup.data.to_string(), setup.admin.to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_octroi"));
    command.args(["quickstart", "--listen", &data, "--admin", &admin]).current_dir(setup.folder());
    let beside = command.output().unwrap();
    assert!(!beside.status.success() && text(&beside.stderr).contains("--listen"), "{}", text(&beside.stderr));
    shell(&format!("{curl} --silent --fail"), setup.folder());
    assert_eq!(gateway.stop(), 0);

    // A second run keeps everything and changes only the demo key.
    let config = std::fs::read_to_string(setup.path("octroi-data/octroi.toml")).unwrap();
    let (gateway, second, _) = quickstart(&setup, &["--upstream", &format!("http://{}", upstream.address)]);
    assert_ne!(curl, second);
    assert_eq!(std::fs::read_to_string(setup.path("octroi-data/octroi.toml")).unwrap(), config);
    let old = Command::new("sh").args(["-c", &format!("{curl} --silent --fail")]).output().unwrap();
    assert!(!old.status.success(), "the first demo key still works");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn with_the_built_in_demo_upstream() {
    let setup = Setup::unmigrated(free_address(), "sqlite:unused.db", "");
    let (gateway, curl, _) = quickstart(&setup, &["--dir", "elsewhere"]);
    let answer = shell(&format!("{curl} --silent"), setup.folder());
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["headers"]["x-octroi-client-name"], "demo");
    assert!(answer["headers"].get("x-api-key").is_none());
    assert!(setup.path("elsewhere/octroi.toml").exists());
    assert_eq!(gateway.stop(), 0);
}
