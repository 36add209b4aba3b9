//! An issuer's hand in tests: makes keys, key sets and tokens, also such as no issuer would.
//!
//! Stands alone, so that the integration tests can take it in as a file. It signs with the
//! primitives, not with the library that verifies.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// A key that signs with one algorithm, under one id.
pub(crate) struct Signer {
    pub(crate) id: String,
    algorithm: String,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    /// A new key for an algorithm.
    pub(crate) fn new(id: &str, algorithm: &str) -> Self {
        let key = match algorithm {
            "ES256" => Key::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()),
            "ES384" => Key::Ec(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()),
            "EdDSA" => Key::Ed(Ed25519KeyPair::generate().unwrap()),
            _ => Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        };
        Self { id: id.to_owned(), algorithm: algorithm.to_owned(), key }
    }

    /// Its public half, as a member of a key set.
    pub(crate) fn jwk(&self) -> Value {
        let (id, algorithm) = (&self.id, &self.algorithm);
        match &self.key {
            Key::Rsa(key) => {
                let (n, e) = (key.public_key().modulus(), key.public_key().exponent());
                let (n, e) = (encode(n.big_endian_without_leading_zero()), encode(e.big_endian_without_leading_zero()));
                json!({ "kty": "RSA", "use": "sig", "alg": algorithm, "kid": id, "n": n, "e": e })
            }
            Key::Ec(key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                let (x, y) = (encode(x), encode(y));
                json!({ "kty": "EC", "use": "sig", "alg": algorithm, "kid": id, "crv": curve, "x": x, "y": y })
            }
            Key::Ed(key) => {
                let x = encode(key.public_key().as_ref());
                json!({ "kty": "OKP", "use": "sig", "alg": algorithm, "kid": id, "crv": "Ed25519", "x": x })
            }
        }
    }

    /// A token as an issuer makes it.
    pub(crate) fn token(&self, claims: &Value) -> String {
        let header = json!({ "alg": self.algorithm, "kid": self.id, "typ": "at+jwt" });
        self.sign(&header.to_string(), &claims.to_string())
    }

    /// These texts as a token, well signed whatever they say.
    pub(crate) fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = encode(self.signature(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// A signature over anything.
    pub(crate) fn signature(&self, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Ec(key) => key.sign(&random, signed).unwrap().as_ref().to_vec(),
            Key::Ed(key) => key.sign(signed).as_ref().to_vec(),
            Key::Rsa(key) => {
                let encoding: &dyn aws_lc_rs::signature::RsaEncoding = match self.algorithm.as_str() {
                    "RS256" => &RSA_PKCS1_SHA256,
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    other => panic!("no RSA signature is called {other}"),
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(encoding, &random, signed, &mut signature).unwrap();
                signature
            }
        }
    }
}

/// A key set.
pub(crate) fn key_set(signers: &[&Signer]) -> String {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

/// Base64url without padding.
pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
