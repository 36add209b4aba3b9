//! What is kept of ACME: an account for each authority, and the certificate with its key in one file, so
//! that one can never stand beside the other's.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::config::acme::AcmeConfig;
use crate::config::tls::CertificateFiles;

/// Chain and key.
const CERTIFICATE: &str = "certificate.pem";

/// Where the certificate is, once there is one.
pub(in crate::server) fn certificate(config: &AcmeConfig) -> CertificateFiles {
    let path = config.folder.join(CERTIFICATE);
    CertificateFiles { certificate: path.clone(), key: path }
}

/// The account at this authority: another one is another account.
pub(super) fn account(config: &AcmeConfig) -> PathBuf {
    let digest = Sha256::digest(config.directory.as_bytes());
    let name: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    config.folder.join(format!("account-{name}.json"))
}

/// Keeps chain and key.
pub(super) fn write_certificate(config: &AcmeConfig, chain: &str, key: &str) -> io::Result<()> {
    let both = Zeroizing::new(format!("{}\n{key}", chain.trim_end()));
    write_private(&config.folder.join(CERTIFICATE), both.as_bytes())
}

/// Writes all of it or nothing, for this user alone.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let preparing = path.with_extension("new");
    // One that was left behind by a process that ended in the middle may have other rights.
    match fs::remove_file(&preparing) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&preparing)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&preparing, path)?;
    File::open(folder)?.sync_all()
}
