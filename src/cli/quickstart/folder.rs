//! The folder of a quickstart: a configuration and two secrets, made once and then kept.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::model::key::KeyHash;

/// What the first run writes down.
pub(super) struct Choices<'a> {
    pub(super) listen: SocketAddr,
    pub(super) admin: SocketAddr,
    /// The upstream's address as a URL.
    pub(super) upstream: &'a str,
    /// Whether that is the built-in demo.
    pub(super) demo: bool,
}

/// Makes whatever is missing in `folder`; returns the configuration's path.
pub(super) fn make(folder: &Path, choices: &Choices<'_>) -> Result<PathBuf> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    secret(&folder.join("pepper"))?;
    secret(&folder.join("jwt-secret"))?;
    let path = folder.join("octroi.toml");
    if !path.exists() {
        write_new(&path, 0o644, configuration(choices).as_bytes())?;
    }
    Ok(path)
}

/// A secret of 32 random bytes as hex, readable by its owner only; one that is there is kept.
pub(in crate::cli) fn secret(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("the kernel gives no randomness")?;
    // The type whose text form is 64 hex digits; what it holds here is a secret, not a hash.
    write_new(path, 0o600, format!("{}\n", KeyHash(bytes).to_hex()).as_bytes())
}

/// Writes a file that must not exist yet, whole or not at all.
fn write_new(path: &Path, mode: u32, text: &[u8]) -> Result<()> {
    // A name of its own that must be new: what lies in the folder already, a link above all, is
    // never written through.
    let mut tag = [0; 8];
    getrandom::fill(&mut tag).context("the kernel gives no randomness")?;
    let partial = path.with_extension(format!("{:016x}.partial", u64::from_le_bytes(tag)));
    let context = || format!("cannot write {}", path.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial).with_context(context)?;
    file.write_all(text).with_context(context)?;
    file.sync_all().with_context(context)?;
    fs::rename(&partial, path).with_context(context)
}

fn configuration(choices: &Choices<'_>) -> String {
    let Choices { listen, admin, upstream, demo } = choices;
    let note = if *demo {
        "# The built-in demo service: only `octroi quickstart` runs it. Put your own service's address here.\n"
    } else {
        ""
    };
    format!(
        r#"# Made by `octroi quickstart`, and yours from now on: a second run does not touch it.
# Every setting, its default and its reason: config/reference.toml in the source.
# Relative paths start at this file's folder.

[server]
listen = ["{listen}"]

[admin]
listen = "{admin}"

[store]
url = "sqlite:octroi.db"
migrate = true

[auth]
# Without this file no key of octroi.db can be checked any more: back both up together.
pepper_file = "pepper"

[issuer]
secret_file = "jwt-secret"

{note}[[upstreams]]
name = "{name}"
endpoints = ["{upstream}"]

[[routes]]
name = "all"
path = "/"
upstream = "{name}"
"#,
        name = if *demo { super::DEMO } else { "upstream" },
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_second_run_keeps_what_the_first_one_made() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        let listen = "127.0.0.1:1".parse().unwrap();
        let mut choices = Choices { listen, admin: listen, upstream: "http://127.0.0.1:2", demo: false };
        let path = make(&folder, &choices).unwrap();
        let first = (fs::read(&path).unwrap(), fs::read(folder.join("pepper")).unwrap());
        choices.upstream = "http://127.0.0.1:3";
        make(&folder, &choices).unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read(folder.join("pepper")).unwrap()), first);
        assert_eq!(first.1.len(), 65);
        for name in ["pepper", "jwt-secret"] {
            assert_eq!(fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
