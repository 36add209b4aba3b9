//! Tokens that hold, and tokens that do not: each of the latter with its private reason.

use aws_lc_rs::hmac;
use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::testing::{Signer, encode, key_set};
use super::*;
use crate::config::token_issuer::{KeyLocation, TokenTypes};
use crate::model::clock::ManualClock;

const NOW: i64 = 1_800_000_000;

const ISSUER: &str = "https://id.example.com/";

/// Issuers that know these keys.
async fn issuers(file: &NamedTempFile, signers: &[&Signer]) -> Issuers {
    std::fs::write(file.path(), key_set(signers)).unwrap();
    let rules = TokenIssuerConfig {
        issuer: ISSUER.to_owned(),
        audiences: vec!["api".to_owned(), "other-api".to_owned()],
        algorithms: ["RS256", "PS384", "ES256", "ES384", "EdDSA"]
            .map(|name| TokenAlgorithm::parse(name).unwrap())
            .to_vec(),
        keys: KeyLocation::File(file.path().to_owned()),
        client_claim: "azp".to_owned(),
        scopes_claim: "scope".to_owned(),
        leeway: Duration::from_secs(30),
        max_lifetime: Duration::from_hours(1),
        types: TokenTypes { named: vec!["jwt".to_owned(), "at+jwt".to_owned()], absent: true },
    };
    let clock: SharedClock = ManualClock::at(Timestamp::from_second(NOW).unwrap());
    let issuers = Issuers::new(&[rules], &clock).unwrap();
    for issuer in &issuers.issuers {
        let Keys::Kept(source) = &issuer.keys else { panic!("none is our own") };
        Tasks::spawn_here(Arc::clone(source).run(Metrics::new(&[], &[]), tokio_util::sync::CancellationToken::new()));
        assert!(source.keys().await.is_ok(), "the file is a key set");
    }
    issuers
}

/// Claims that hold, with some changed; `null` takes one away.
fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "aud": "api", "sub": "user-1", "azp": "acme", "scope": "orders:read orders:write",
        "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 300, "jti": "t-1",
    });
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

async fn refused(issuers: &Issuers, token: &str) -> TokenFault {
    match issuers.verify(token.as_bytes()).await {
        Err(Refused::Fault(fault)) => fault,
        other => panic!("{other:?} for {token}"),
    }
}

struct Bench {
    rsa: Signer,
    pss: Signer,
    ec: Signer,
    ed: Signer,
    _file: NamedTempFile,
    issuers: Issuers,
}

impl Bench {
    async fn new() -> Self {
        let file = NamedTempFile::new().unwrap();
        let [rsa, pss, ec, ed] = [("rsa", "RS256"), ("pss", "PS384"), ("ec", "ES256"), ("ed", "EdDSA")]
            .map(|(id, name)| Signer::new(id, name));
        let issuers = issuers(&file, &[&rsa, &pss, &ec, &ed]).await;
        Self { rsa, pss, ec, ed, _file: file, issuers }
    }

    fn good(&self) -> String {
        self.ed.token(&claims(&json!({})))
    }

    /// A well-signed token with this header and good claims.
    fn headed(&self, header: &str) -> String {
        self.ed.sign(header, &claims(&json!({})).to_string())
    }

    /// A well-signed token that says this.
    fn saying(&self, changes: &Value) -> String {
        self.ed.token(&claims(changes))
    }

    /// A well-signed token with these very claims.
    fn raw(&self, claims: &str) -> String {
        self.ed.sign(r#"{"alg":"EdDSA","kid":"ed"}"#, claims)
    }
}

#[tokio::test]
async fn tokens_that_hold_are_what_they_say() {
    let bench = Bench::new().await;
    for signer in [&bench.rsa, &bench.pss, &bench.ec, &bench.ed] {
        let verified = bench.issuers.verify(signer.token(&claims(&json!({}))).as_bytes()).await.unwrap();
        let facts = verified.facts;
        assert_eq!((facts.client.as_str(), facts.subject.as_deref()), ("acme", Some("user-1")));
        assert_eq!(facts.scopes.to_string(), "orders:read orders:write");
        assert_eq!(facts.expires_at.as_second(), NOW + 330, "the leeway is in it");
        assert!(!verified.own);
    }
    for (what, changes) in [
        ("one audience of several", json!({ "aud": ["x", "other-api"] })),
        ("scopes as a list", json!({ "scope": ["orders:read", "orders:write"] })),
        ("no scopes", json!({ "scope": null })),
        ("no subject", json!({ "sub": null })),
        ("no iat and no nbf", json!({ "iat": null, "nbf": null })),
        ("broken seconds", json!({ "exp": 1_800_000_100.5 })),
        ("expired within the leeway", json!({ "exp": NOW - 29 })),
        ("not valid yet, within the leeway", json!({ "nbf": NOW + 29 })),
        ("issued ahead, within the leeway", json!({ "iat": NOW + 29 })),
        ("the longest life", json!({ "iat": NOW, "exp": NOW + 3600 })),
        ("claims of others", json!({ "nested": { "a": [1, { "b": null }] }, "cnf": { "jkt": "x" } })),
    ] {
        assert!(bench.issuers.verify(bench.saying(&changes).as_bytes()).await.is_ok(), "{what}");
    }
    for header in [
        r#"{"alg":"EdDSA","kid":"ed"}"#,
        r#"{"alg":"EdDSA","kid":"ed","typ":"JWT"}"#,
        r#"{"alg":"EdDSA","kid":"ed","typ":"application/AT+JWT"}"#,
        // One key has the algorithm, so that no id is needed.
        r#"{"alg":"EdDSA"}"#,
        // Ignored: the header's own key material.
        r#"{"alg":"EdDSA","kid":"ed","jku":"https://evil.example/","x5u":"https://evil.example/","x5c":["AA"],"jwk":{}}"#,
    ] {
        assert!(bench.issuers.verify(bench.headed(header).as_bytes()).await.is_ok(), "{header}");
    }
}

/// What is no token.
fn malformed(bench: &Bench) -> Vec<(&'static str, String, TokenFault)> {
    use TokenFault::*;
    let good = bench.good();
    let [head, body, signature] = <[&str; 3]>::try_from(good.split('.').collect::<Vec<_>>()).unwrap();
    vec![
        ("oversized", format!("{good}{}", "A".repeat(8_192)), Oversized),
        ("empty", String::new(), Structure),
        ("one part", head.to_owned(), Structure),
        ("two parts", format!("{head}.{body}"), Structure),
        ("four parts", format!("{good}.AAAA"), Structure),
        ("a thousand dots", ".".repeat(1_000), Structure),
        ("an encrypted token's five parts", format!("{head}.{body}.{body}.{body}.{signature}"), Structure),
        ("an empty signature", format!("{head}.{body}."), Structure),
        ("an empty header", format!(".{body}.{signature}"), Json),
        ("an empty body", format!("{head}..{signature}"), Json),
        ("padding in the signature", format!("{good}=="), Encoding),
        ("padding in the header", format!("{head}=.{body}.{signature}"), Encoding),
        ("the other alphabet", format!("{head}.{body}.+/{}", &signature[2..]), Encoding),
        ("white space in the signature", format!("{head}.{body}. {signature}"), Encoding),
        ("bits left over", format!("{head}.{body}.{}B", &signature[..signature.len() - 1]), Encoding),
        ("not text", format!("{head}.{body}.ä"), Encoding),
        ("a list as header", format!("{}.{body}.{signature}", encode("[]")), Json),
        ("two objects as header", bench.headed(r#"{"alg":"EdDSA"}{}"#), Json),
        ("a deep header", bench.headed(&format!(r#"{{"alg":"EdDSA","a":{}}}"#, "[".repeat(2_000))), Json),
    ]
}

/// What is a token, and nobody's whom it names.
fn forged(bench: &Bench) -> Vec<(&'static str, String, TokenFault)> {
    use TokenFault::*;
    let good = bench.good();
    let [head, body, signature] = <[&str; 3]>::try_from(good.split('.').collect::<Vec<_>>()).unwrap();
    let unsigned = |header: &str| format!("{}.{body}.", encode(header));
    let public_rsa = bench.rsa.jwk()["n"].as_str().unwrap().to_owned();
    let hs256 = |kid: &str| {
        let signed = format!("{}.{body}", encode(format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#)));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public_rsa.as_bytes()), signed.as_bytes());
        format!("{signed}.{}", encode(tag))
    };
    let stranger = Signer::new("ed", "EdDSA");
    let intruder = Signer::new("intruder", "ES256");
    let own_key = format!(r#"{{"alg":"ES256","kid":"ec","jwk":{}}}"#, intruder.jwk());
    let flipped = |text: &str| {
        let mut bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap();
        bytes[10] ^= 1;
        encode(bytes)
    };
    vec![
        ("alg none", unsigned(r#"{"alg":"none"}"#), Structure),
        ("alg none with a signature", bench.headed(r#"{"alg":"none"}"#), Algorithm),
        ("alg nOnE", bench.headed(r#"{"alg":"nOnE"}"#), Algorithm),
        ("alg empty", bench.headed(r#"{"alg":""}"#), Algorithm),
        ("no alg", bench.headed(r#"{"kid":"ed"}"#), Header),
        ("alg as a list", bench.headed(r#"{"alg":["EdDSA"]}"#), Header),
        ("alg in another case", bench.headed(r#"{"alg":"eddsa","kid":"ed"}"#), Algorithm),
        ("alg twice", bench.headed(r#"{"alg":"none","alg":"EdDSA","kid":"ed"}"#), DuplicateMember),
        ("alg twice, once escaped", bench.headed(r#"{"\u0061lg":"none","alg":"EdDSA"}"#), DuplicateMember),
        ("kid twice", bench.headed(r#"{"alg":"EdDSA","kid":"x","kid":"ed"}"#), DuplicateMember),
        ("HS256 with the public key as secret", hs256("rsa"), Algorithm),
        ("an algorithm that is not the issuer's", bench.rsa.sign(r#"{"alg":"RS512","kid":"rsa"}"#, "{}"), Issuer),
        (
            "RS512 though RS256 is configured",
            bench.rsa.sign(r#"{"alg":"RS512","kid":"rsa"}"#, &claims(&json!({})).to_string()),
            Algorithm,
        ),
        (
            "PS384 with a key for RS256",
            bench.rsa.sign(r#"{"alg":"PS384","kid":"rsa"}"#, &claims(&json!({})).to_string()),
            KeyMismatch,
        ),
        ("ES256 with a key for EdDSA", bench.headed(r#"{"alg":"ES256","kid":"ed"}"#), KeyMismatch),
        ("another key's id", bench.headed(r#"{"alg":"ES256","kid":"ec"}"#), Signature),
        ("another key's id and algorithm kept", bench.headed(r#"{"alg":"EdDSA","kid":"ec"}"#), KeyMismatch),
        ("an unknown key", bench.headed(r#"{"alg":"EdDSA","kid":"gone"}"#), UnknownKey),
        ("a path as kid", bench.headed(r#"{"alg":"EdDSA","kid":"../../dev/null"}"#), UnknownKey),
        ("SQL as kid", bench.headed(r#"{"alg":"EdDSA","kid":"' OR 1=1 --"}"#), UnknownKey),
        ("a long kid", bench.headed(&format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, "k".repeat(129))), KeyId),
        ("an empty kid", bench.headed(r#"{"alg":"EdDSA","kid":""}"#), KeyId),
        ("an unprintable kid", bench.headed(r#"{"alg":"EdDSA","kid":"ed\n"}"#), KeyId),
        ("a number as kid", bench.headed(r#"{"alg":"EdDSA","kid":7}"#), Header),
        ("crit", bench.headed(r#"{"alg":"EdDSA","kid":"ed","crit":["exp"]}"#), Extension),
        ("an empty crit", bench.headed(r#"{"alg":"EdDSA","kid":"ed","crit":[]}"#), Extension),
        ("b64", bench.headed(r#"{"alg":"EdDSA","kid":"ed","b64":true}"#), Extension),
        ("zip", bench.headed(r#"{"alg":"EdDSA","kid":"ed","zip":"DEF"}"#), Extension),
        ("enc", bench.headed(r#"{"alg":"EdDSA","kid":"ed","enc":"A128GCM"}"#), Extension),
        ("an id token's typ", bench.headed(r#"{"alg":"EdDSA","kid":"ed","typ":"logout+jwt"}"#), Type),
        ("an empty typ", bench.headed(r#"{"alg":"EdDSA","kid":"ed","typ":""}"#), Type),
        ("a number as typ", bench.headed(r#"{"alg":"EdDSA","kid":"ed","typ":1}"#), Header),
        ("a stranger's key of the same id", stranger.token(&claims(&json!({}))), Signature),
        ("a key of its own in the header", intruder.sign(&own_key, &claims(&json!({})).to_string()), Signature),
        (
            "another body",
            format!("{head}.{}.{signature}", encode(claims(&json!({ "azp": "rival" })).to_string())),
            Signature,
        ),
        ("a bit in the signature", format!("{head}.{body}.{}", flipped(signature)), Signature),
        ("a signature cut short", format!("{head}.{body}.{}", encode([7; 32])), Signature),
        (
            "a signature of zeros",
            format!("{}.{body}.{}", encode(r#"{"alg":"ES256","kid":"ec"}"#), encode([0; 64])),
            Signature,
        ),
        (
            "a DER signature for ES256",
            format!("{}.{body}.{}", encode(r#"{"alg":"ES256","kid":"ec"}"#), encode([0x30, 6, 2, 1, 1, 2, 1, 1])),
            Signature,
        ),
        ("no kid, and no key of the algorithm", bench.headed(r#"{"alg":"ES384"}"#), UnknownKey),
    ]
}

/// What is wrong though the issuer signed it.
fn untrue(bench: &Bench) -> Vec<(&'static str, String, TokenFault)> {
    use TokenFault::*;
    let says = |changes: Value| bench.saying(&changes);
    let all = claims(&json!({})).to_string();
    let with = |extra: &str| bench.raw(&all.replacen('{', &format!("{{{extra},"), 1));
    vec![
        ("not an object", bench.raw("\"claims\""), Json),
        ("not UTF-8", bench.raw("{}").replace(&encode("{}"), &encode(b"{\"a\":\"\xff\"}")), Json),
        ("exp twice", with(r#""exp":99999999999"#), DuplicateMember),
        ("azp twice", with(r#""azp":"rival""#), DuplicateMember),
        ("a claim of no meaning twice", with(r#""x":1,"x":2"#), DuplicateMember),
        ("no iss", says(json!({ "iss": null })), Issuer),
        ("another iss", says(json!({ "iss": "https://evil.example/" })), Issuer),
        ("iss without its slash", says(json!({ "iss": "https://id.example.com" })), Issuer),
        ("iss in another case", says(json!({ "iss": "https://ID.example.com/" })), Issuer),
        ("iss as a list", says(json!({ "iss": [ISSUER] })), Claim),
        ("no aud", says(json!({ "aud": null })), Audience),
        ("another aud", says(json!({ "aud": "billing" })), Audience),
        ("an empty list of audiences", says(json!({ "aud": [] })), Audience),
        ("aud as part of another", says(json!({ "aud": "api-admin" })), Audience),
        ("aud as a number", says(json!({ "aud": 7 })), Claim),
        ("a number among the audiences", says(json!({ "aud": ["api", 7] })), Claim),
        ("no exp", says(json!({ "exp": null })), NoExpiry),
        ("exp as text", says(json!({ "exp": (NOW + 300).to_string() })), Claim),
        ("exp null", bench.raw(&all.replace(&format!("\"exp\":{}", NOW + 300), "\"exp\":null")), Claim),
        ("exp beyond all time", says(json!({ "exp": 1e300 })), Claim),
        ("exp before all time", says(json!({ "exp": -1 })), Claim),
        ("expired", says(json!({ "exp": NOW - 30 })), Expired),
        ("expired long ago", says(json!({ "exp": 1 })), Expired),
        ("not valid yet", says(json!({ "nbf": NOW + 31 })), NotYetValid),
        ("nbf as text", says(json!({ "nbf": "0" })), Claim),
        ("issued in the future", says(json!({ "iat": NOW + 31 })), IssuedInFuture),
        ("iat true", says(json!({ "iat": true })), Claim),
        ("too long a life", says(json!({ "iat": NOW, "exp": NOW + 3601 })), Lifetime),
        ("too long a life without iat", says(json!({ "iat": null, "exp": NOW + 3700 })), Lifetime),
        ("no client", says(json!({ "azp": null })), NoClient),
        ("an empty client", says(json!({ "azp": "" })), Claim),
        ("a list of clients", says(json!({ "azp": ["acme"] })), Claim),
        ("a client's name without end", says(json!({ "azp": "x".repeat(513) })), Claim),
        ("a number as subject", says(json!({ "sub": 5 })), Claim),
        ("a subject without end", says(json!({ "sub": "x".repeat(256) })), Claim),
        ("a scope that is none", says(json!({ "scope": "a\"b" })), Claim),
        ("scopes as an object", says(json!({ "scope": {} })), Claim),
        ("too many scopes", says(json!({ "scope": (0..65).map(|n| format!("s{n}")).collect::<Vec<_>>() })), Claim),
    ]
}

#[tokio::test]
async fn each_forged_or_malformed_token_is_refused_for_its_reason() {
    let bench = Bench::new().await;
    let rows = [malformed(&bench), forged(&bench), untrue(&bench)].concat();
    assert!(rows.len() >= 90, "{}", rows.len());
    for (what, token, expected) in rows {
        assert_eq!(refused(&bench.issuers, &token).await, expected, "{what}");
    }
}

#[tokio::test]
async fn tokens_of_our_own_are_ours_alone() {
    let file = NamedTempFile::new().unwrap();
    let signer = Signer::new("ed", "EdDSA");
    let secret = SecretBytes::new(vec![7; 32]);
    let outside = issuers(&file, &[&signer]).await;
    let rules = TokenIssuerConfig { issuer: "octroi".to_owned(), ..outside.issuers[0].rules.clone() };
    let issuers = outside.with_own(rules, OwnKeys { secret: Some(&secret), public: None });
    let made = |header: &str, issuer: &str| {
        let signed = format!("{}.{}", encode(header), encode(claims(&json!({ "iss": issuer })).to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()), signed.as_bytes());
        format!("{signed}.{}", encode(tag))
    };
    assert!(issuers.verify(made(r#"{"alg":"HS256"}"#, "octroi").as_bytes()).await.unwrap().own);
    assert!(!issuers.verify(signer.token(&claims(&json!({}))).as_bytes()).await.unwrap().own);
    for (what, token, fault) in [
        ("our secret for a stranger", made(r#"{"alg":"HS256"}"#, ISSUER), TokenFault::Algorithm),
        ("a stranger's key for us", signer.token(&claims(&json!({ "iss": "octroi" }))), TokenFault::Algorithm),
        ("another of our algorithms", made(r#"{"alg":"HS512"}"#, "octroi"), TokenFault::Algorithm),
        ("an id that is not ours", made(r#"{"alg":"HS256","kid":"x"}"#, "octroi"), TokenFault::UnknownKey),
    ] {
        assert_eq!(refused(&issuers, &token).await, fault, "{what}");
    }
    let (ours, rules) = (Signer::new("ours", "EdDSA"), issuers.issuers[1].rules.clone());
    let (set, public) = (key_set(&[&ours]), encode(ours.jwk()["x"].as_str().unwrap()));
    let issuers = issuers.with_own(rules, OwnKeys { secret: Some(&secret), public: Some(set.as_bytes()) });
    let by_key = |key: &[u8], header: &str| {
        let signed = format!("{}.{}", encode(header), encode(claims(&json!({ "iss": "octroi" })).to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), signed.as_bytes());
        format!("{signed}.{}", encode(tag))
    };
    let said = claims(&json!({ "iss": "octroi" })).to_string();
    for (what, token, fault) in [
        ("the secret", made(r#"{"alg":"HS256"}"#, "octroi"), None),
        ("a signing key", ours.sign(r#"{"alg":"EdDSA","kid":"ours"}"#, &said), None),
        (
            "the secret by the key's name",
            made(r#"{"alg":"HS256","kid":"ours"}"#, "octroi"),
            Some(TokenFault::KeyMismatch),
        ),
        ("the public key as a secret", by_key(public.as_bytes(), r#"{"alg":"HS256"}"#), Some(TokenFault::Signature)),
        ("another's key", signer.sign(r#"{"alg":"EdDSA","kid":"ours"}"#, &said), Some(TokenFault::Signature)),
    ] {
        match fault {
            None => assert!(issuers.verify(token.as_bytes()).await.unwrap().own, "{what}"),
            Some(fault) => assert_eq!(refused(&issuers, &token).await, fault, "{what}"),
        }
    }
    let rules = TokenIssuerConfig { issuer: ISSUER.to_owned(), ..issuers.issuers[0].rules.clone() };
    let taken = issuers.with_own(rules, OwnKeys { secret: Some(&secret), public: None });
    assert_eq!(
        refused(&taken, &signer.token(&claims(&json!({})))).await,
        TokenFault::Algorithm,
        "the name is ours now"
    );
}
