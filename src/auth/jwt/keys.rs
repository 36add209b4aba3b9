//! An issuer's keys, each pinned to one algorithm, and the only place where a signature is
//! checked.
//!
//! A set is taken as a whole or not at all where it is ambiguous (two keys of one id) or absurd
//! (no JSON, too many keys). Single keys that are not for us (encryption keys, other curves) or
//! not good enough are set aside: sets in the field carry such. A symmetric key in a public set
//! is no key but a leak.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use thiserror::Error;

use super::fault::TokenFault;
use super::members::Members;
use super::token::is_key_id;
use crate::model::secret::SecretBytes;
use crate::model::token::TokenAlgorithm;

/// A key that checks signatures of one algorithm.
pub(super) struct VerificationKey {
    id: Option<String>,
    algorithm: TokenAlgorithm,
    key: DecodingKey,
}

/// The keys of an issuer.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<VerificationKey>,
    /// Keys that were left out, and why.
    pub(super) set_aside: Vec<(Option<String>, KeyFault)>,
}

/// Why a set is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum KeySetFault {
    /// No JSON object with a list `keys`, or a member twice.
    #[error("it is no JSON Web Key Set")]
    NotASet,
    /// More than anyone rotates.
    #[error("it has more than {KEYS_MAX} keys")]
    TooMany,
    /// Two keys of one id.
    #[error("two of its keys have the same id")]
    DuplicateId,
    /// No key that can be used.
    #[error("it has no usable key")]
    Empty,
}

/// Why a key was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum KeyFault {
    /// A member is missing or not of its form.
    #[error("a member is missing or malformed")]
    Malformed,
    /// For encryption, or for other operations.
    #[error("it is not for checking signatures")]
    OtherUse,
    /// A shared secret: whoever reads the set can sign.
    #[error("it is a symmetric key")]
    Symmetric,
    /// A private key, given away.
    #[error("it is a private key")]
    Private,
    /// A type or curve that is not known here.
    #[error("its type or curve is not supported")]
    Unsupported,
    /// RSA of fewer than 2048 or more than 8192 bits, or with a small exponent.
    #[error("its size is not acceptable")]
    Size,
    /// For an algorithm that the configuration does not allow.
    #[error("its algorithm is not among those configured")]
    Algorithm,
    /// It names no algorithm, and the configuration allows several for it.
    #[error("it names no algorithm, and several are configured for its type")]
    Ambiguous,
}

impl VerificationKey {
    /// A key of our own, which signs and checks. Never made from a key set.
    pub(super) fn shared_secret(id: Option<String>, secret: &SecretBytes) -> Self {
        Self { id, algorithm: TokenAlgorithm::HS256, key: DecodingKey::from_secret(secret.expose()) }
    }

    /// The algorithm it is pinned to.
    pub(super) fn algorithm(&self) -> TokenAlgorithm {
        self.algorithm
    }

    /// Whether `signature`, in base64url, is this key's over `signed`.
    pub(super) fn verifies(&self, signed: &[u8], signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, signed, &self.key, library_name(self.algorithm)).unwrap_or(false)
    }

    fn read(members: &Members, allowed: &[TokenAlgorithm]) -> Result<Self, (Option<String>, KeyFault)> {
        let id = members.text("kid").ok().flatten().filter(|id| is_key_id(id)).map(ToOwned::to_owned);
        if members.find("kid").is_some() && id.is_none() {
            return Err((None, KeyFault::Malformed));
        }
        match pinned(members, allowed) {
            Ok((algorithm, key)) => Ok(Self { id, algorithm, key }),
            Err(fault) => Err((id, fault)),
        }
    }
}

impl std::fmt::Debug for VerificationKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("VerificationKey")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl KeySet {
    /// Reads a JSON Web Key Set (RFC 7517).
    pub(super) fn parse(text: &[u8], allowed: &[TokenAlgorithm]) -> Result<Self, KeySetFault> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Members>,
        }
        let set: Set = serde_json::from_slice(text).map_err(|_| KeySetFault::NotASet)?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeySetFault::TooMany);
        }
        let (mut keys, mut set_aside) = (Vec::new(), Vec::new());
        for members in &set.keys {
            match VerificationKey::read(members, allowed) {
                Ok(key) => keys.push(key),
                Err(fault) => set_aside.push(fault),
            }
        }
        Self::of(keys).map(|set| Self { set_aside, ..set })
    }

    /// A set of keys that are here already.
    pub(super) fn of(keys: Vec<VerificationKey>) -> Result<Self, KeySetFault> {
        for (index, key) in keys.iter().enumerate() {
            if key.id.is_some() && keys[..index].iter().any(|other| other.id == key.id) {
                return Err(KeySetFault::DuplicateId);
            }
        }
        if keys.is_empty() { Err(KeySetFault::Empty) } else { Ok(Self { keys, set_aside: Vec::new() }) }
    }

    /// The key a token names. One that names none is only unambiguous where one key has its
    /// algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: TokenAlgorithm) -> Result<&VerificationKey, TokenFault> {
        let Some(id) = id else {
            let mut fitting = self.keys.iter().filter(|key| key.algorithm == algorithm);
            return match (fitting.next(), fitting.next()) {
                (Some(key), None) => Ok(key),
                _ => Err(TokenFault::UnknownKey),
            };
        };
        self.keys.iter().find(|key| key.id.as_deref() == Some(id)).ok_or(TokenFault::UnknownKey)
    }

    /// The keys.
    pub(super) fn into_keys(self) -> Vec<VerificationKey> {
        self.keys
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}

/// The one algorithm of a key, and the key.
fn pinned(members: &Members, allowed: &[TokenAlgorithm]) -> Result<(TokenAlgorithm, DecodingKey), KeyFault> {
    let text = |name| members.text(name).map_err(|_| KeyFault::Malformed);
    let kind = text("kty")?.ok_or(KeyFault::Malformed)?;
    if kind == "oct" || members.find("k").is_some() {
        return Err(KeyFault::Symmetric);
    }
    if PRIVATE.iter().any(|name| members.find(name).is_some()) {
        return Err(KeyFault::Private);
    }
    let operations = members.texts("key_ops").map_err(|_| KeyFault::Malformed)?;
    if text("use")?.is_some_and(|purpose| purpose != "sig")
        || operations.is_some_and(|operations| !operations.contains(&"verify"))
    {
        return Err(KeyFault::OtherUse);
    }
    let (possible, key): (&[TokenAlgorithm], DecodingKey) = match (kind, text("crv")?) {
        ("RSA", None) => (&RSA, rsa_key(members)?),
        ("EC", Some("P-256")) => (&[TokenAlgorithm::ES256], ec_key(members, 32)?),
        ("EC", Some("P-384")) => (&[TokenAlgorithm::ES384], ec_key(members, 48)?),
        ("OKP", Some("Ed25519")) => (&[TokenAlgorithm::EdDSA], ed_key(members)?),
        _ => return Err(KeyFault::Unsupported),
    };
    Ok((choose(text("alg")?, possible, allowed)?, key))
}

/// What a key says it is for, if the configuration allows it; else what the configuration says.
fn choose(
    named: Option<&str>,
    possible: &[TokenAlgorithm],
    allowed: &[TokenAlgorithm],
) -> Result<TokenAlgorithm, KeyFault> {
    let mut fitting = possible.iter().copied().filter(|algorithm| allowed.contains(algorithm));
    if let Some(named) = named {
        return fitting.find(|algorithm| algorithm.as_str() == named).ok_or(KeyFault::Algorithm);
    }
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(KeyFault::Algorithm),
        (Some(_), Some(_)) => Err(KeyFault::Ambiguous),
    }
}

fn rsa_key(members: &Members) -> Result<DecodingKey, KeyFault> {
    let (modulus, exponent) = (bytes(members, "n")?, bytes(members, "e")?);
    // Some issuers write the sign byte of the DER form; it is no part of the number.
    let modulus = trimmed(&modulus);
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(KeyFault::Size);
    }
    let exponent = trimmed(&exponent);
    let odd = exponent.last().is_some_and(|last| last & 1 == 1);
    let value = exponent.iter().take(5).fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    if exponent.len() > 4 || !odd || value < RSA_EXPONENT_MIN {
        return Err(KeyFault::Size);
    }
    Ok(DecodingKey::from_rsa_raw_components(modulus, exponent))
}

fn ec_key(members: &Members, length: usize) -> Result<DecodingKey, KeyFault> {
    for coordinate in ["x", "y"] {
        if bytes(members, coordinate)?.len() != length {
            return Err(KeyFault::Malformed);
        }
    }
    let text = |name| members.text(name).ok().flatten().ok_or(KeyFault::Malformed);
    DecodingKey::from_ec_components(text("x")?, text("y")?).map_err(|_| KeyFault::Malformed)
}

fn ed_key(members: &Members) -> Result<DecodingKey, KeyFault> {
    let point = members.text("x").ok().flatten().ok_or(KeyFault::Malformed)?;
    if bytes(members, "x")?.len() != 32 {
        return Err(KeyFault::Malformed);
    }
    DecodingKey::from_ed_components(point).map_err(|_| KeyFault::Malformed)
}

fn bytes(members: &Members, name: &str) -> Result<Vec<u8>, KeyFault> {
    let text = members.text(name).ok().flatten().ok_or(KeyFault::Malformed)?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyFault::Malformed)
}

fn trimmed(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}

fn library_name(algorithm: TokenAlgorithm) -> Algorithm {
    match algorithm {
        TokenAlgorithm::RS256 => Algorithm::RS256,
        TokenAlgorithm::RS384 => Algorithm::RS384,
        TokenAlgorithm::RS512 => Algorithm::RS512,
        TokenAlgorithm::PS256 => Algorithm::PS256,
        TokenAlgorithm::PS384 => Algorithm::PS384,
        TokenAlgorithm::PS512 => Algorithm::PS512,
        TokenAlgorithm::ES256 => Algorithm::ES256,
        TokenAlgorithm::ES384 => Algorithm::ES384,
        TokenAlgorithm::EdDSA => Algorithm::EdDSA,
        TokenAlgorithm::HS256 => Algorithm::HS256,
    }
}

/// What an RSA key can be pinned to.
const RSA: [TokenAlgorithm; 6] = [
    TokenAlgorithm::RS256,
    TokenAlgorithm::RS384,
    TokenAlgorithm::RS512,
    TokenAlgorithm::PS256,
    TokenAlgorithm::PS384,
    TokenAlgorithm::PS512,
];

/// Members that only private keys have (RFC 7518 §6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "priv"];

/// Fewer are refused everywhere (NIST SP 800-131A); more cost us, not the forger.
const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;

/// FIPS 186-5: larger than 2^16.
const RSA_EXPONENT_MIN: u64 = 65_537;

/// Nobody rotates through more.
const KEYS_MAX: usize = 100;
