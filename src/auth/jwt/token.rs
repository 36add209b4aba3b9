//! The structure of a token (RFC 7515 compact serialisation), read before any key is looked at.
//!
//! Everything here is stricter than the RFC allows: what is not needed is refused, so that nothing
//! can be read in two ways. Key material in the header (`jwk`, `jku`, `x5c`, `x5u`) is never read:
//! a stranger does not bring his own key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::fault::TokenFault;
use super::members::{Members, MembersFault, WrongType};
use crate::model::token::TokenAlgorithm;

/// A token in its parts. Nothing in it is believed yet.
#[derive(Debug)]
pub(super) struct Token<'t> {
    /// What was signed: header and claims as they came.
    pub(super) signed: &'t [u8],
    /// The signature, in base64url that was checked.
    pub(super) signature: &'t str,
    /// The header.
    pub(super) header: Header,
    /// What it carries.
    payload: Vec<u8>,
}

/// What is read of a header.
#[derive(Debug)]
pub(super) struct Header {
    /// What the token says it is signed with.
    pub(super) algorithm: TokenAlgorithm,
    /// The key's id.
    pub(super) key_id: Option<String>,
    /// The token's type.
    pub(super) typ: Option<String>,
}

impl<'t> Token<'t> {
    /// Takes a token apart.
    pub(super) fn parse(token: &'t [u8]) -> Result<Self, TokenFault> {
        if token.len() > TOKEN_MAX {
            return Err(TokenFault::Oversized);
        }
        // Counted first: no part is touched before there are three.
        if token.split(|byte| *byte == b'.').count() != PARTS {
            return Err(TokenFault::Structure);
        }
        let text = std::str::from_utf8(token).map_err(|_| TokenFault::Encoding)?;
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenFault::Structure)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenFault::Structure)?;
        // An unsecured token has an empty signature; refused whatever its header says.
        if signature.is_empty() {
            return Err(TokenFault::Structure);
        }
        decode(signature)?;
        let header = Header::read(&object(&decode(header)?)?)?;
        Ok(Self { signed: signed.as_bytes(), signature, header, payload: decode(payload)? })
    }

    /// What it says, in a form that can be read in one way only.
    pub(super) fn claims(&self) -> Result<Members, TokenFault> {
        object(&self.payload)
    }
}

impl Header {
    fn read(members: &Members) -> Result<Self, TokenFault> {
        if EXTENSIONS.iter().any(|name| members.find(name).is_some()) {
            return Err(TokenFault::Extension);
        }
        let text = |name| members.text(name).map_err(|WrongType| TokenFault::Header);
        let algorithm = text("alg")?.ok_or(TokenFault::Header)?;
        let algorithm = TokenAlgorithm::parse(algorithm).ok_or(TokenFault::Algorithm)?;
        let key_id = text("kid")?;
        if key_id.is_some_and(|key_id| !is_key_id(key_id)) {
            return Err(TokenFault::KeyId);
        }
        Ok(Self { algorithm, key_id: key_id.map(ToOwned::to_owned), typ: text("typ")?.map(ToOwned::to_owned) })
    }
}

/// Whether a text can be a key's id: short and printable, for it goes into logs.
pub(super) fn is_key_id(text: &str) -> bool {
    (1..=KEY_ID_MAX).contains(&text.len()) && text.bytes().all(|byte| (0x20..0x7F).contains(&byte))
}

fn object(text: &[u8]) -> Result<Members, TokenFault> {
    Members::parse(text).map_err(|fault| match fault {
        MembersFault::NotAnObject => TokenFault::Json,
        MembersFault::Duplicate => TokenFault::DuplicateMember,
    })
}

/// Strict: no padding, no other alphabet, no bits left over.
fn decode(part: &str) -> Result<Vec<u8>, TokenFault> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Encoding)
}

/// The longest token: as long as a credential may be.
const TOKEN_MAX: usize = 8 * 1024;

/// Header, claims, signature.
const PARTS: usize = 3;

/// The longest key id.
const KEY_ID_MAX: usize = 128;

/// Header parameters that change how a token is read. None is done here.
const EXTENSIONS: [&str; 4] = ["crit", "b64", "zip", "enc"];
