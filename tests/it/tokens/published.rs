//! What others may know of tokens: keys to verify them offline, whether one holds, where to ask.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::process::Command;

use super::{Bench, basic, part, text};
use crate::callers::fetch;
use crate::harness::Setup;

/// Makes a private key as an operator does.
fn private_key(setup: &Setup, file: &str, algorithm: &[&str]) {
    let made = Command::new("openssl").arg("genpkey").args(algorithm).arg("-out").arg(setup.path(file)).output();
    let made = made.expect("openssl is there");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

const ED: [&str; 2] = ["-algorithm", "ed25519"];
const EC: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// Verifies a token with a published key, as a service would that has nothing else.
fn verified_offline(token: &str, keys: &Value) -> bool {
    let header = part(token, 0);
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]);
    let Some(key) = key.filter(|key| key["alg"] == header["alg"]) else { return false };
    let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
    let (algorithm, point): (&dyn VerificationAlgorithm, Vec<u8>) = match key["kty"].as_str().unwrap() {
        "OKP" => (&ED25519, coordinate("x")),
        _ => (&ECDSA_P256_SHA256_FIXED, [vec![4], coordinate("x"), coordinate("y")].concat()),
    };
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    UnparsedPublicKey::new(algorithm, point).verify(signed.as_bytes(), &signature).is_ok()
}

impl Bench {
    fn key_set(&self) -> Value {
        let answer = fetch(self.setup.data, "/.octroi/jwks.json", &[]);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
        answer.json()
    }

    /// The same gateway with other keys.
    fn restarted(self, issuer: &str) -> Self {
        assert_eq!(self.gateway.stop(), 0);
        let config = self.setup.config();
        let (before, after) = config.split_once("[issuer]\n").unwrap();
        let (_, after) = after.split_once("[[upstreams]]").unwrap();
        self.setup.write_config(&format!("{before}[issuer]\n{issuer}\n[[upstreams]]{after}"));
        let gateway = self.setup.start();
        Self { gateway, ..self }
    }
}

#[test]
fn keys_change_without_a_token_that_nobody_can_verify() {
    let bench = Bench::sqlite("");
    assert_eq!(bench.key_set(), json!({ "keys": [] }), "a secret is never published");
    let by_secret = bench.family();
    private_key(&bench.setup, "old.pem", &ED);
    private_key(&bench.setup, "new.pem", &EC);

    // From the secret to a key, as from one key to the next.
    let bench = bench.restarted("next_signing_key_file = \"old.pem\"");
    let first = bench.key_set();
    assert_eq!(first["keys"].as_array().unwrap().len(), 1, "published before it is used");
    let by_secret_still = text(&bench.token("")["access_token"]);
    assert_eq!(part(&by_secret_still, 0)["alg"], "HS256");

    let bench = bench.restarted("signing_key_file = \"old.pem\"");
    assert_eq!(bench.key_set(), first);
    let old = text(&bench.token("")["access_token"]);
    assert_eq!(part(&old, 0)["alg"], "EdDSA");
    assert!(verified_offline(&old, &first));
    assert_eq!(bench.call(&old), 200);
    for token in [text(&by_secret["access_token"]), by_secret_still] {
        assert_eq!(bench.call(&token), 200, "what the secret signed holds to its end");
    }
    let bench = bench.restarted("retired_signing_key_files = [\"old.pem\"]");
    assert_eq!(bench.call(&old), 200, "and back");

    let bench = bench.restarted("signing_key_file = \"old.pem\"\nnext_signing_key_file = \"new.pem\"");
    let with_next = bench.key_set();
    assert_eq!(with_next["keys"].as_array().unwrap().len(), 2, "published before it is used");
    assert!(verified_offline(&text(&bench.token("")["access_token"]), &first), "the old one signs still");

    let bench = bench.restarted("signing_key_file = \"new.pem\"\nretired_signing_key_files = [\"old.pem\"]");
    let new = text(&bench.token("")["access_token"]);
    assert_eq!(part(&new, 0)["alg"], "ES256");
    assert!(verified_offline(&new, &with_next), "known before it was used");
    assert!(verified_offline(&old, &bench.key_set()), "known after it was used");
    assert_eq!((bench.call(&old), bench.call(&new)), (200, 200));

    let bench = bench.restarted("signing_key_file = \"new.pem\"");
    assert_eq!((bench.call(&old), bench.call(&new)), (401, 200));
    for key in bench.key_set()["keys"].as_array().unwrap() {
        assert!(key.get("d").is_none(), "{key}");
    }
    let refresh = format!("grant_type=refresh_token&refresh_token={}", text(&by_secret["refresh_token"]));
    assert_eq!(bench.post("/.octroi/token", &[], &refresh).status, 200, "refresh tokens do not notice");
}

#[test]
fn a_key_that_cannot_sign_is_refused_at_start() {
    let bench = Bench::sqlite("");
    private_key(&bench.setup, "rsa.pem", &["-algorithm", "RSA"]);
    std::fs::write(bench.setup.path("text.pem"), "no key").unwrap();
    assert_eq!(bench.gateway.stop(), 0);
    for (issuer, part) in [
        ("signing_key_file = \"rsa.pem\"", "neither an Ed25519 nor a P-256 key"),
        ("signing_key_file = \"text.pem\"", "no PEM text"),
        ("signing_key_file = \"absent.pem\"", "absent.pem cannot be read"),
        ("next_signing_key_file = \"rsa.pem\"", "neither an Ed25519 nor a P-256 key"),
        ("url = \"api.example.com\"", "not a URL"),
        ("url = \"https://me:secret@api.example.com\"", "not a URL"),
        ("allowed_audiences = [\"a b\"]", "no audience"),
        ("token_lifetime = \"2h\"", "at most \"1h\""),
    ] {
        let config = bench.setup.config();
        bench.setup.write_config(&config.replacen("[issuer]\n", &format!("[issuer]\n{issuer}\n"), 1));
        let output = bench.setup.octroi(&["serve"]);
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), log.contains(part)), (Some(78), true), "{issuer}: {log}");
        let checked = bench.setup.octroi(&["--output", "json", "config", "check"]);
        let said: Value = serde_json::from_slice(&checked.stdout).unwrap();
        assert!(said["ok"] == false && said.to_string().contains(&part.replace('"', "\\\"")), "{issuer}: {said}");
        bench.setup.write_config(&config);
    }
}

#[test]
fn whether_a_token_holds_is_told_to_whom_it_concerns() {
    let bench = Bench::sqlite("url = \"https://api.example.com/\"");
    let held = bench.family();
    let (token, refresh) = (text(&held["access_token"]), text(&held["refresh_token"]));
    let mine = format!("X-API-Key: {}", bench.key.raw);
    let other = bench.setup.client(&["other"]);
    let stranger = format!("X-API-Key: {}", bench.setup.key(&other, &["--scope", "*"]).raw);
    let service = basic("other", &bench.setup.key(&other, &["--scope", "octroi:introspect"]).raw);
    let ask = |header: &str, token: &str| {
        let answer = bench.post("/.octroi/introspect", &[header], &format!("token={token}"));
        assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{answer:?}");
        answer.json()
    };
    let said = ask(&mine, &token);
    let claims = super::claims(&token);
    for name in ["iss", "sub", "client_id", "scope", "jti", "iat", "exp"] {
        assert_eq!(said[name], claims[name], "{name}: {said}");
    }
    assert_eq!(
        (&said["active"], &said["token_type"], &said["aud"]),
        (&json!(true), &json!("Bearer"), &json!([claims["aud"]]))
    );
    assert_eq!(ask(&service, &token), said);
    assert_eq!(ask(&mine, &refresh)["token_type"], "refresh_token");
    let inactive = json!({ "active": false });
    for (what, header, token) in [
        ("another client's", &stranger, token.as_str()),
        ("another client's refresh token", &stranger, &refresh),
        ("nonsense", &mine, "nonsense"),
        ("a forged one", &mine, &format!("{token}A")),
        ("an API key", &mine, &bench.key.raw),
    ] {
        assert_eq!(ask(header, token), inactive, "{what}");
    }
    let nobody = bench.post("/.octroi/introspect", &[], &format!("token={token}"));
    assert_eq!((nobody.status, &nobody.json()["error"]), (401, &json!("invalid_client")));

    let revoke =
        |headers: &[&str], token: &str| bench.post("/.octroi/revoke", headers, &format!("token={token}")).status;
    assert_eq!(revoke(&[&stranger], &token), 200, "nothing is said");
    assert_eq!(ask(&mine, &token), said, "and nothing is done");
    assert_eq!(revoke(&[], "nonsense"), 200);
    assert_eq!(revoke(&[&mine], &token), 200);
    assert_eq!(ask(&mine, &token), inactive);
    assert_eq!(ask(&mine, &refresh)["active"], true, "one token, not its family");
    assert_eq!(revoke(&[&mine], &refresh), 200);
    assert_eq!(ask(&mine, &refresh), inactive);
}

#[test]
fn the_metadata_leads_to_the_endpoints() {
    let bench = Bench::sqlite("");
    let asked = |bench: &Bench| fetch(bench.setup.data, "/.well-known/oauth-authorization-server", &[]);
    let answer = asked(&bench);
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    let said = answer.json();
    let base = format!("http://{}", bench.setup.data);
    assert_eq!((&said["issuer"], &said["token_endpoint"]), (&json!("octroi"), &json!(format!("{base}/.octroi/token"))));
    assert_eq!(said["response_types_supported"], json!([]));
    assert_eq!(said["grant_types_supported"], json!(["client_credentials", "refresh_token"]));

    let bench = bench.restarted("url = \"https://api.example.com\"");
    let answer = asked(&bench);
    assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
    let said = answer.json();
    assert_eq!(said["issuer"], super::claims(&text(&bench.token("")["access_token"]))["iss"]);
    for (name, path) in [
        ("token_endpoint", "token"),
        ("revocation_endpoint", "revoke"),
        ("introspection_endpoint", "introspect"),
        ("jwks_uri", "jwks.json"),
    ] {
        assert_eq!(said[name], format!("https://api.example.com/.octroi/{path}"));
    }
}
