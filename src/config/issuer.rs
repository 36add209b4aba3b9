//! `[issuer]`

use std::path::Path;

use toml::Table;

use super::env::{Environment, LEAST_SECRET_BYTES, read_secret_file, secret_bytes};
use super::reader::{Findings, Section};
use crate::model::secret::SecretBytes;

/// What tokens of our own are signed with.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// `JWT_SECRET`
    pub secret: Option<SecretBytes>,
}

impl IssuerConfig {
    /// Reads `[issuer]`; `JWT_SECRET` overrules its file.
    pub(super) fn read(
        root: &mut Table,
        environment: &Environment,
        data_dir: &Path,
        findings: &mut Findings,
    ) -> (Self, Table) {
        let mut section = Section::take(root, "issuer", findings);
        let file = section.text("secret_file", "");
        let secret = match environment.or_file("JWT_SECRET", section.findings) {
            Some(text) => secret_bytes(&text, "JWT_SECRET", LEAST_SECRET_BYTES, section.findings),
            None if file.is_empty() => None,
            None => read_secret_file(&data_dir.join(file), "issuer.secret_file", section.findings)
                .and_then(|text| secret_bytes(&text, "issuer.secret_file", LEAST_SECRET_BYTES, section.findings)),
        };
        (Self { secret }, section.close())
    }
}
