//! Callers' certificates: required, told to the upstream, and as the credential itself.

use std::process::Command;

use crate::authority::{Authority, Files};
use crate::harness::{Setup, eventually, text};
use crate::tls::Scene;

/// A gateway that asks callers for a certificate of `callers`.
fn asking(word: &str, callers: &Authority, scene: &Scene) {
    let asked = format!("[server.tls]\ncaller_certificates = {word:?}\ncaller_ca = \"{}\"\n", callers.file.display());
    let listed = "[[server.tls.certificates]]";
    scene.setup.write_config(&scene.setup.config().replace(listed, &format!("{asked}{listed}")));
}

#[test]
fn a_caller_s_certificate_can_be_required() {
    let scene = Scene::new("");
    let folder = scene.setup.folder().to_owned();
    let callers = Authority::new(&folder, "callers");
    let (good, foreign) =
        (callers.issue(&folder, "partner", &[]), Authority::new(&folder, "others").issue(&folder, "stranger", &[]));
    asking("required", &callers, &scene);
    let _gateway = scene.setup.start();
    let show = |files: &Files| {
        let (certificate, key) = (files.certificate.display().to_string(), files.key.display().to_string());
        scene.curl(&["--cert", &certificate, "--key", &key], "/").stdout.ends_with(b" 200")
    };
    assert!(show(&good));
    assert_eq!(scene.upstream.last().headers["x-octroi-certificate-subject"], "CN=partner");
    assert!(!show(&foreign));
    assert!(!scene.curl(&[], "/").stdout.ends_with(b" 200"));
}

/// Two routes that take certificates, one of them keys too.
const ROUTES: &str = "
[[routes]]
name = \"certificates\"
path = \"/mutual\"
upstream = \"up\"
credentials = [\"certificate\"]
[[routes]]
name = \"either\"
path = \"/either\"
upstream = \"up\"
credentials = [\"certificate\", \"x-api-key\"]
[[routes]]
name = \"asked\"
path = \"/asked\"
delegated = true
credentials = [\"certificate\"]
";

/// What curl is told, with or without a certificate and a key.
struct Caller<'s> {
    scene: &'s Scene,
    files: Option<Files>,
    key: Option<&'s str>,
}

impl Caller<'_> {
    /// The status and the body.
    fn ask(&self, path: &str, more: &[&str]) -> (String, String) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "-w", "\n%{http_code}", "--cacert"]).arg(&self.scene.authority.file);
        if let Some(files) = &self.files {
            curl.arg("--cert").arg(&files.certificate).arg("--key").arg(&files.key);
        }
        if let Some(key) = self.key {
            curl.args(["-H", &format!("X-API-Key: {key}")]);
        }
        let output = curl.args(more).arg(format!("https://localhost:{}{path}", self.scene.https.port())).output();
        let out = text(&output.expect("curl runs").stdout);
        let (body, status) = out.rsplit_once('\n').expect("what -w writes");
        (status.to_owned(), body.to_owned())
    }
}

/// Makes the certificate a key of a client's.
fn certify(setup: &Setup, client: &str, files: &Files) -> serde_json::Value {
    let file = files.certificate.display().to_string();
    setup.json(&["key", "create", client, "--certificate", &file])
}

#[test]
fn the_subject_of_a_certificate_can_be_the_key_of_a_client() {
    let scene = Scene::new("");
    let folder = scene.setup.folder().to_owned();
    let callers = Authority::new(&folder, "callers");
    let (partner, guest) = (callers.issue(&folder, "partner", &[]), callers.issue(&folder, "guest", &[]));
    let renewed = callers.issue(&folder, "renewed", &[]);
    let foreign = Authority::new(&folder, "others").issue(&folder, "partner2", &[]);
    asking("optional", &callers, &scene);
    let trusting = scene.setup.config().replace("workers = 2", "workers = 2\ntrusted_proxies = [\"127.0.0.1\"]");
    scene.setup.write_config(&format!("{trusting}{ROUTES}"));
    let client = scene.setup.client(&["mutual"]);
    let key = certify(&scene.setup, &client, &partner);
    assert_eq!((&key["name"], key.get("key")), (&"CN=partner".into(), None), "nothing to keep secret is made: {key}");
    let _gateway = scene.setup.start();

    let with = |files: Option<&Files>, key| Caller { scene: &scene, files: files.cloned(), key };
    let good = scene.key.raw.as_str();
    for (who, files, raw, path, status) in [
        ("the subject itself", Some(&partner), None, "/mutual", "200"),
        ("another of the same authority", Some(&guest), None, "/mutual", "401"),
        ("nobody", None, None, "/mutual", "401"),
        ("a key where certificates are wanted", None, Some(good), "/mutual", "401"),
        ("a key beside a certificate that is looked at", Some(&partner), Some(good), "/either", "400"),
        ("a key alone", None, Some(good), "/either", "200"),
        ("a certificate alone", Some(&partner), None, "/either", "200"),
        ("a certificate where none is looked at", Some(&partner), None, "/", "401"),
        ("a certificate where a key is", Some(&partner), Some(good), "/", "200"),
        ("another authority's: no connection", Some(&foreign), None, "/mutual", "000"),
    ] {
        let (told, body) = with(files, raw).ask(path, &[]);
        assert_eq!(told, status, "{who}: {body}");
    }
    // The proxy's own certificate says nothing of the caller that it asks about.
    let asked = ["-H", "X-Forwarded-Method: GET", "-H", "X-Forwarded-Host: a", "-H", "X-Forwarded-Uri: /asked"];
    assert_eq!(with(Some(&partner), None).ask("/.octroi/check", &asked).0, "401");

    assert_eq!(with(Some(&partner), None).ask("/mutual", &["--http2"]).0, "200");
    let seen = scene.upstream.last();
    assert_eq!(seen.headers["x-octroi-client-id"], client.as_str());
    assert_eq!(seen.headers["x-octroi-certificate-subject"], "CN=partner");

    // It is a key like the others: it counts, and it can be revoked.
    eventually("its use is known", || {
        !scene.setup.json(&["key", "show", key["id"].as_str().expect("an id")])["last_used_at"].is_null()
    });
    scene.setup.json(&["key", "revoke", key["id"].as_str().expect("an id")]);
    eventually("it is over", || with(Some(&partner), None).ask("/mutual", &[]).0 == "401");
    assert_eq!(with(Some(&renewed), None).ask("/mutual", &[]).0, "401");
    certify(&scene.setup, &client, &renewed);
    eventually("a refusal is not remembered for long", || with(Some(&renewed), None).ask("/mutual", &[]).0 == "200");
}
