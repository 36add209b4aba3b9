//! What a token is signed with.

use std::fmt;

/// A signature algorithm of RFC 7518 and RFC 8037 that the gateway knows. There is no `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the name that the RFCs give it")]
pub enum TokenAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
    /// For tokens of our own only: whoever can check such a signature can make one.
    HS256,
}

impl TokenAlgorithm {
    /// Those a public key checks: all that a configured issuer may use.
    pub const PUBLIC: [Self; 9] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// The algorithm of this name; names are case-sensitive (RFC 7515 §4.1.1).
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::PUBLIC.into_iter().chain([Self::HS256]).find(|algorithm| algorithm.as_str() == name)
    }

    /// Its name in a token's header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
            Self::HS256 => "HS256",
        }
    }

    /// Whether an RSA key checks it.
    #[must_use]
    pub fn is_rsa(self) -> bool {
        matches!(self, Self::RS256 | Self::RS384 | Self::RS512 | Self::PS256 | Self::PS384 | Self::PS512)
    }
}

impl fmt::Display for TokenAlgorithm {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact_and_none_is_none() {
        for algorithm in TokenAlgorithm::PUBLIC {
            assert_eq!(TokenAlgorithm::parse(algorithm.as_str()), Some(algorithm));
        }
        for name in ["none", "None", "NONE", "rs256", "HS384", "ES256K", "ES512", "", " RS256"] {
            assert_eq!(TokenAlgorithm::parse(name), None, "{name}");
        }
        assert!(!TokenAlgorithm::PUBLIC.contains(&TokenAlgorithm::HS256));
    }
}
