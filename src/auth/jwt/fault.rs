//! Why a token is refused: the private reason, a closed set.

use thiserror::Error;

/// The private reason. Metrics and the access log carry it; the caller is told none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum TokenFault {
    /// Longer than any sane token.
    #[error("the token is too large")]
    Oversized,
    /// Not three parts.
    #[error("the token has not three parts")]
    Structure,
    /// A part is not base64url without padding.
    #[error("a part of the token is not base64url")]
    Encoding,
    /// A part is no JSON object.
    #[error("a part of the token is no JSON object")]
    Json,
    /// An object names a member twice: two readers would see two tokens.
    #[error("a part of the token names a member twice")]
    DuplicateMember,
    /// A header parameter is not of its type.
    #[error("a header parameter is not of its type")]
    Header,
    /// The header asks for something that is not done: `crit`, `b64`, `zip`, `enc`.
    #[error("the header asks for an extension, compression or encryption")]
    Extension,
    /// The algorithm is unknown, `none`, or not one of the issuer's.
    #[error("the algorithm is not one of the issuer's")]
    Algorithm,
    /// `kid` is too long or not printable.
    #[error("the key's id is not one")]
    KeyId,
    /// `typ` is not an access token's.
    #[error("the token is of another type")]
    Type,
    /// A claim is not of its type.
    #[error("a claim is not of its type")]
    Claim,
    /// Nobody's whom we believe.
    #[error("the issuer is unknown")]
    Issuer,
    /// The issuer has no such key, or several and the token names none.
    #[error("the key is unknown")]
    UnknownKey,
    /// The key is for another algorithm.
    #[error("the key is for another algorithm")]
    KeyMismatch,
    /// Forged, or broken on the way.
    #[error("the signature is not the key's")]
    Signature,
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// It never ends.
    #[error("the token has no expiry")]
    NoExpiry,
    /// Its time is over.
    #[error("the token is expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Made in the future.
    #[error("the token was issued in the future")]
    IssuedInFuture,
    /// It lives longer than allowed.
    #[error("the token lives too long")]
    Lifetime,
    /// Signed by us, and no row of it: it is not known to have been issued, or it was pruned.
    #[error("the token was not issued here")]
    NotIssued,
    /// The claim that names the client is missing.
    #[error("the token names no client")]
    NoClient,
    /// It names nobody.
    #[error("the token names an unknown client")]
    UnknownClient,
    /// It names several.
    #[error("the token names several clients")]
    AmbiguousClient,
}

impl TokenFault {
    /// As metrics and the access log carry it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Oversized => "jwt_oversized",
            Self::Structure => "jwt_structure",
            Self::Encoding => "jwt_encoding",
            Self::Json => "jwt_json",
            Self::DuplicateMember => "jwt_duplicate_member",
            Self::Header => "jwt_header",
            Self::Extension => "jwt_extension",
            Self::Algorithm => "jwt_algorithm",
            Self::KeyId => "jwt_key_id",
            Self::Type => "jwt_type",
            Self::Claim => "jwt_claim",
            Self::Issuer => "jwt_issuer",
            Self::UnknownKey => "jwt_unknown_key",
            Self::KeyMismatch => "jwt_key_mismatch",
            Self::Signature => "jwt_signature",
            Self::Audience => "jwt_audience",
            Self::NoExpiry => "jwt_no_expiry",
            Self::Expired => "jwt_expired",
            Self::NotYetValid => "jwt_not_yet_valid",
            Self::IssuedInFuture => "jwt_issued_in_future",
            Self::Lifetime => "jwt_lifetime",
            Self::NotIssued => "jwt_not_issued",
            Self::NoClient => "jwt_no_client",
            Self::UnknownClient => "jwt_unknown_client",
            Self::AmbiguousClient => "jwt_ambiguous_client",
        }
    }
}
