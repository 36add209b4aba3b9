//! `[issuer]`

use serde::{Deserialize, Serialize};

use super::secrets::{SecretSource, Secrets};
use crate::model::secret::SecretBytes;

/// What issued tokens are made with. This version issues none: the secret is read and checked,
/// so that a folder made by `quickstart` goes on working when a later one does.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// The signing secret (`JWT_SECRET`).
    pub secret: Option<SecretBytes>,
}

/// `[issuer]` as written.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawIssuer {
    pub(super) secret_file: String,
    /// Only shown, as a mask.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<String>,
}

impl RawIssuer {
    pub(super) fn resolve(&self, secrets: &Secrets<'_>) -> IssuerConfig {
        IssuerConfig {
            secret: secrets.find(&SecretSource {
                variable: "JWT_SECRET",
                setting: "issuer.secret_file",
                file: &self.secret_file,
                allow_short: false,
            }),
        }
    }
}
