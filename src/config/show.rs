//! The settings in force, for `octroi config show`: defaults, file and environment as one file,
//! without a secret.

use serde::Serialize;

use super::Config;
use super::raw::RawConfig;
use super::store::{MASK, mask_url};

/// The effective settings. Serialises as the file would be written; where a secret is in force
/// it says so, in keys that a file cannot have.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub struct Effective(RawConfig);

impl Effective {
    pub(super) fn of(mut raw: RawConfig, config: &Config) -> Self {
        raw.spell_out();
        raw.data_dir = config.data_dir.display().to_string();
        raw.store.url = mask_url(&raw.store.url);
        raw.routes.iter_mut().for_each(|route| route.request_headers.mask());
        let mask = |given: bool| given.then(|| MASK.to_owned());
        raw.auth.pepper = mask(config.auth.pepper.is_some());
        raw.auth.pepper_previous = mask(config.auth.pepper_previous.is_some());
        raw.issuer.secret = mask(config.issuer.secret.is_some());
        raw.admin.oidc.client_secret =
            mask(config.admin.oidc.as_ref().is_some_and(|oidc| oidc.client_secret.is_some()));
        raw.admin.first_operator.password = mask(config.admin.first_operator.is_some());
        raw.telemetry.traces.headers = mask(config.traces.as_ref().is_some_and(|traces| !traces.headers.is_empty()));
        Self(raw)
    }

    /// As TOML.
    ///
    /// # Errors
    /// None in practice: every setting is TOML.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(&self.0)
    }
}

impl std::fmt::Debug for Effective {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("[effective settings]")
    }
}
