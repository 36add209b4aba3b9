//! JWTs of issuers that the configuration names: from a token to what it says.
//!
//! | file | owns |
//! |---|---|
//! | `token` | the structure, and what a header may say |
//! | `members` | JSON objects without doubles, by name and type |
//! | `claims` | what a token says, and whether it holds now |
//! | `keys` | key sets, the algorithm each key is pinned to, signatures |
//! | `jwks` | an issuer's keys, kept fresh |
//! | `clients` | the client that a token names |
//! | `known` | tokens that were verified already |
//! | `fault` | why a token is refused |
//!
//! The order of [`Issuers::verify`] is that of cost and of trust: structure, whose it is (a
//! promise that nobody keeps yet), the issuer's algorithms, the key, the signature, and only then
//! what it says. Nothing is believed because the token says so: the algorithm is the key's, the key
//! is the issuer's, the issuer is the configuration's.
//!
//! Our own issuer is one more ([`Issuers::with_own`]): its keys are at hand, and everything else is
//! as for a configured one. No configured issuer can bear its name or have its secret's algorithm.

mod claims;
mod clients;
mod fault;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod jwks;
mod keys;
mod known;
mod members;
mod token;

#[cfg(test)]
mod forged;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod vectors;

use std::sync::Arc;
use std::time::Duration;

use self::claims::{Claims, Facts};
pub(super) use self::clients::{ClientCache, ClientLoader, KnownClient, LoadedClient};
pub use self::fault::TokenFault;
use self::jwks::{KeySource, NoKeys};
use self::keys::{KeySet, VerificationKey};
pub(super) use self::known::{KnownToken, KnownTokens};
use self::token::Token;
use crate::config::token_issuer::TokenIssuerConfig;
use crate::model::clock::{Monotonic, SharedClock};
use crate::model::secret::SecretBytes;
use crate::model::token::TokenAlgorithm;
use crate::server::outbound::AuthorityFault;
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;

/// All whose tokens are believed.
pub struct Issuers {
    issuers: Vec<Issuer>,
    clock: SharedClock,
}

impl std::fmt::Debug for Issuers {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Issuers").field("issuers", &self.issuers).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Issuer {
    rules: TokenIssuerConfig,
    keys: Keys,
}

#[derive(Debug)]
enum Keys {
    /// A stranger's, that come and go.
    Kept(Arc<KeySource>),
    /// Our own.
    Own(KeySet),
}

/// What our own tokens are checked with. Both where both are: while replicas go from the secret to a
/// signing key, each believes what the others sign. No service is ever told the secret, and what it
/// signs has a row like all else.
#[derive(Clone, Copy, Debug)]
pub struct OwnKeys<'k> {
    /// For HS256.
    pub secret: Option<&'k SecretBytes>,
    /// The published key set; none: nothing is published.
    pub public: Option<&'k [u8]>,
}

/// For whom a token must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// For us.
    Us,
    /// For anybody, if we made it.
    AnyOfOurs,
}

/// A token that holds.
#[derive(Debug)]
pub(super) struct Verified {
    /// What it says.
    pub(super) facts: Facts,
    /// Whether we issued it ourselves.
    pub(super) own: bool,
    issuer: usize,
    generation: u64,
}

/// What only identity tokens say (OpenID Connect Core 1.0 §2, §5.1).
pub(super) struct IdClaims {
    pub(super) nonce: Option<String>,
    /// `azp`
    pub(super) authorized_party: Option<String>,
    /// How many it is for.
    pub(super) audiences: usize,
    /// Whether the provider says that its address is not verified.
    pub(super) is_unverified: bool,
}

/// What an identity token says besides. Nothing of it is believed before [`Issuers::verify`].
pub(super) fn id_claims(token: &[u8]) -> Result<IdClaims, TokenFault> {
    let claims = Token::parse(token)?.claims()?;
    let text = |name| claims.text(name).map(|text| text.map(ToOwned::to_owned)).map_err(|_| TokenFault::Claim);
    Ok(IdClaims {
        nonce: text("nonce")?,
        authorized_party: text("azp")?,
        audiences: claims.texts("aud").map_err(|_| TokenFault::Claim)?.map_or(0, |audiences| audiences.len()),
        // Some providers say it as a text.
        is_unverified: claims.find("email_verified").is_some_and(|said| *said == false || *said == "false"),
    })
}

/// Why a token was not found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It does not.
    Fault(TokenFault),
    /// Nobody can say: the issuer's keys are not there.
    NoKeys,
}

impl From<TokenFault> for Refused {
    fn from(fault: TokenFault) -> Self {
        Self::Fault(fault)
    }
}

impl Issuers {
    /// Issuers of the configuration; none of their keys is known yet.
    ///
    /// # Errors
    /// A file of authorities that cannot be used.
    pub fn new(configs: &[TokenIssuerConfig], clock: &SharedClock) -> Result<Self, AuthorityFault> {
        let issuer = |config: &TokenIssuerConfig| {
            let keys = Keys::Kept(KeySource::new(config, Arc::clone(clock))?);
            Ok(Issuer { rules: config.clone(), keys })
        };
        let issuers = configs.iter().map(issuer).collect::<Result<_, _>>()?;
        Ok(Self { issuers, clock: Arc::clone(clock) })
    }

    /// Believes tokens of our own, too. Takes the place of a configured issuer of the same name,
    /// which could otherwise speak for us.
    ///
    /// # Panics
    /// Without any key, or with public keys that are none: they were made from private ones of ours.
    #[must_use]
    pub fn with_own(mut self, rules: TokenIssuerConfig, keys: OwnKeys<'_>) -> Self {
        self.issuers.retain(|issuer| issuer.rules.issuer != rules.issuer);
        let (mut algorithms, mut own) = (Vec::new(), Vec::new());
        if let Some(set) = keys.public {
            algorithms.extend([TokenAlgorithm::EdDSA, TokenAlgorithm::ES256]);
            own = KeySet::parse(set, &algorithms).expect("keys of ours are a set").into_keys();
        }
        if let Some(secret) = keys.secret {
            algorithms.push(TokenAlgorithm::HS256);
            own.push(VerificationKey::shared_secret(None, secret));
        }
        let keys = KeySet::of(own).expect("whoever issues tokens has a key, and each an id of its own");
        self.issuers.push(Issuer { rules: TokenIssuerConfig { algorithms, ..rules }, keys: Keys::Own(keys) });
        self
    }

    /// Whether no token can be believed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// Whether the keys of an issuer are missing, or could not be refreshed when last tried.
    #[must_use]
    pub fn any_is_away(&self) -> bool {
        self.issuers.iter().any(|issuer| matches!(&issuer.keys, Keys::Kept(source) if source.is_away()))
    }

    /// Starts to fetch keys, and keeps them fresh.
    pub(super) fn start(&self, tasks: &Tasks, metrics: &Arc<Metrics>) {
        for issuer in &self.issuers {
            if let Keys::Kept(source) = &issuer.keys {
                tasks.spawn_vital("issuer keys", Arc::clone(source).run(Arc::clone(metrics), tasks.soft().clone()));
            }
        }
    }

    /// For how long an issuer's keys could not be confirmed: the longest of all of them.
    pub(super) fn oldest_keys(&self, now: Monotonic) -> Duration {
        let ages = self.issuers.iter().filter_map(|issuer| match &issuer.keys {
            Keys::Kept(source) => Some(source.age(now)),
            Keys::Own(_) => None,
        });
        ages.max().unwrap_or_default()
    }

    /// Whether a token would be verified with the same keys again.
    pub(super) fn still_hold(&self, verified: &Verified) -> bool {
        match &self.issuers[verified.issuer].keys {
            Keys::Kept(source) => source.generation() == verified.generation,
            Keys::Own(_) => true,
        }
    }

    /// Verifies a token. Waits, a bounded while, for an issuer whose key is not known.
    pub(super) async fn verify(&self, token: &[u8]) -> Result<Verified, Refused> {
        self.verify_for(token, Audience::Us).await
    }

    /// Verifies a token of our own, whomever it is for: it is asked about, not used.
    pub(super) async fn verify_own(&self, token: &[u8]) -> Result<Verified, Refused> {
        self.verify_for(token, Audience::AnyOfOurs).await
    }

    async fn verify_for(&self, token: &[u8], audience: Audience) -> Result<Verified, Refused> {
        let token = Token::parse(token)?;
        let claims = token.claims()?;
        let named = claims.text("iss").map_err(|_| TokenFault::Claim)?.ok_or(TokenFault::Issuer)?;
        let index = self.issuers.iter().position(|issuer| issuer.rules.issuer == named).ok_or(TokenFault::Issuer)?;
        let issuer = &self.issuers[index];
        if audience == Audience::AnyOfOurs && !issuer.is_own() {
            return Err(TokenFault::Issuer.into());
        }
        if !issuer.rules.algorithms.contains(&token.header.algorithm) {
            return Err(TokenFault::Algorithm.into());
        }
        if !issuer.rules.types.contain(token.header.typ.as_deref()) {
            return Err(TokenFault::Type.into());
        }
        let generation = issuer.check_signature(&token).await?;
        let facts = Claims::read(&claims, &issuer.rules)?.judge(&issuer.rules, audience, self.clock.wall())?;
        Ok(Verified { facts, own: issuer.is_own(), issuer: index, generation })
    }
}

impl Issuer {
    fn is_own(&self) -> bool {
        matches!(self.keys, Keys::Own(_))
    }

    /// The generation of the keys under which the signature is good.
    async fn check_signature(&self, token: &Token<'_>) -> Result<u64, Refused> {
        let source = match &self.keys {
            Keys::Own(set) => return check_with(set, token).map(|()| 0).map_err(Into::into),
            Keys::Kept(source) => source,
        };
        let mut looked_again = false;
        loop {
            let held = source.keys().await.map_err(|NoKeys| Refused::NoKeys)?;
            match check_with(&held.set, token) {
                Ok(()) => return Ok(held.generation),
                Err(TokenFault::UnknownKey) if !looked_again => {
                    // A key that is new at the issuer is unknown here until somebody asks.
                    looked_again = true;
                    if !source.look_again().await {
                        return Err(TokenFault::UnknownKey.into());
                    }
                }
                Err(fault) => return Err(fault.into()),
            }
        }
    }
}

fn check_with(set: &KeySet, token: &Token<'_>) -> Result<(), TokenFault> {
    let key = set.find(token.header.key_id.as_deref(), token.header.algorithm)?;
    if key.algorithm() != token.header.algorithm {
        return Err(TokenFault::KeyMismatch);
    }
    if key.verifies(token.signed, token.signature) { Ok(()) } else { Err(TokenFault::Signature) }
}
