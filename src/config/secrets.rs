//! Secrets: from a variable, the file a variable names, or the file a setting names; never from
//! the configuration itself.
//!
//! The bytes are the text exactly as given, so that other tools agree on them; one newline at
//! the end of a file is trimmed, since editors and `echo` add it. `hex:` or `base64:` in front
//! asks for decoding.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::check::Findings;
use super::env::Environment;
use super::problem::Problem;
use crate::model::secret::SecretBytes;

/// Makes a good secret on any machine.
pub(super) const GENERATE: &str = "openssl rand -hex 32";

/// The shortest secret: what HMAC-SHA-256 puts out (RFC 2104, section 3).
const SHORTEST: usize = 32;

/// The most that is read: a file by mistake, or `/dev/zero`, does not fill memory.
const LONGEST_FILE: u64 = 64 * 1024;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Where a secret may come from.
#[derive(Clone, Copy)]
pub(super) struct SecretSource<'s> {
    /// The variable; `<variable>_FILE` names a file. Either beats the setting.
    pub(super) variable: &'s str,
    /// The path of the setting that names a file.
    pub(super) setting: &'s str,
    /// That setting's value; empty: none.
    pub(super) file: &'s str,
    /// Whether fewer than 32 bytes will do.
    pub(super) allow_short: bool,
}

/// Reads secrets, notes what is wrong with them.
pub(super) struct Secrets<'e> {
    environment: &'e Environment,
    findings: &'e Findings,
    data_dir: &'e Path,
    warnings: RefCell<Vec<String>>,
}

/// A text from outside and which variable or setting it came from.
pub(super) struct Found {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) origin: String,
}

impl<'e> Secrets<'e> {
    pub(super) fn new(environment: &'e Environment, findings: &'e Findings, data_dir: &'e Path) -> Self {
        Self { environment, findings, data_dir, warnings: RefCell::default() }
    }

    /// What is worth telling though nothing is wrong.
    pub(super) fn into_warnings(self) -> Vec<String> {
        self.warnings.into_inner()
    }

    /// The secret, decoded and long enough; none when no source names one, or a bad one.
    pub(super) fn find(&self, source: &SecretSource<'_>) -> Option<SecretBytes> {
        let found = self.find_bytes(source)?;
        let refuse = |message: String, remedy: String| {
            self.findings.add(Problem::new(found.origin.as_str(), message, remedy));
            None
        };
        let Some(secret) = decode(&found.bytes) else {
            return refuse(
                "the secret is not what its prefix says".to_owned(),
                "write pairs of hex digits after `hex:`, standard base64 after `base64:`, or leave the prefix out"
                    .to_owned(),
            );
        };
        let shortest = if source.allow_short { 1 } else { SHORTEST };
        if secret.len() < shortest {
            let message = format!("the secret is {} bytes long and must have at least {shortest}", secret.len());
            return refuse(message, format!("make one with `{GENERATE}`{}", hint_for_short(source)));
        }
        Some(SecretBytes::new(secret))
    }

    /// The bytes as they stand in the first source that there is.
    pub(super) fn find_bytes(&self, source: &SecretSource<'_>) -> Option<Found> {
        self.find_text(source.variable).or_else(|| {
            let named = !source.file.is_empty() && !self.findings.has(source.variable);
            named.then(|| self.read_file(source.setting, source.file)).flatten()
        })
    }

    /// The text of a variable or of the file that `<variable>_FILE` names.
    pub(super) fn find_text(&self, variable: &str) -> Option<Found> {
        let file_variable = format!("{variable}_FILE");
        match (self.environment.find(variable), self.environment.find(&file_variable)) {
            (Some(_), Some(_)) => {
                let message = format!("both {variable} and {file_variable} are set");
                self.findings.add(Problem::new(variable, message, format!("unset one of {variable}, {file_variable}")));
                None
            }
            (Some(text), None) => {
                Some(Found { bytes: Zeroizing::new(text.as_bytes().to_vec()), origin: variable.to_owned() })
            }
            (None, Some(file)) => self.read_file(&file_variable, file),
            (None, None) => None,
        }
    }

    /// The bytes of a file that a setting names: a private key, of whatever length.
    pub(super) fn read_named(&self, setting: &str, file: &str) -> Option<SecretBytes> {
        self.read_file(setting, file).map(|found| SecretBytes::new(found.bytes.to_vec()))
    }

    fn read_file(&self, origin: &str, file: &str) -> Option<Found> {
        let path = self.data_dir.join(file);
        match read(&path) {
            Ok((bytes, readable_by_others)) => {
                if readable_by_others {
                    self.warnings.borrow_mut().push(format!(
                        "{origin}: {} can be read by other users; run `chmod 600 {}`",
                        path.display(),
                        path.display()
                    ));
                }
                Some(Found { bytes, origin: origin.to_owned() })
            }
            Err(error) => {
                let message = format!("{} cannot be read: {error}", path.display());
                self.findings.add(Problem::new(origin, message, remedy_for(&path, &error)));
                None
            }
        }
    }
}

fn hint_for_short(source: &SecretSource<'_>) -> &'static str {
    match source.variable {
        "API_KEY_PEPPER" | "API_KEY_PEPPER_PREVIOUS" => {
            "; only to adopt hashes made under a shorter pepper, set `auth.allow_short_pepper = true`"
        }
        _ => "",
    }
}

fn remedy_for(path: &Path, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("make it with `(umask 077; {GENERATE} > {})`", path.display()),
        std::io::ErrorKind::PermissionDenied => "let the user that runs octroi read it".to_owned(),
        _ => "name a file that holds only the secret".to_owned(),
    }
}

/// The bytes of a file without one trailing newline, and whether others may read it.
fn read(path: &PathBuf) -> std::io::Result<(Zeroizing<Vec<u8>>, bool)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let readable_by_others = metadata.is_file() && metadata.permissions().mode() & 0o077 != 0;
    let mut bytes = Zeroizing::new(Vec::with_capacity(256));
    file.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is larger than 64 KiB"));
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok((bytes, readable_by_others))
}

fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if let Some(hex) = text.strip_prefix(b"hex:") {
        return decode_hex(hex);
    }
    if let Some(encoded) = text.strip_prefix(b"base64:") {
        return BASE64.decode(encoded).ok();
    }
    Some(text.to_vec())
}

fn decode_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;

    use super::*;

    const SOURCE: SecretSource<'_> =
        SecretSource { variable: "JWT_SECRET", setting: "issuer.secret_file", file: "", allow_short: false };

    struct Answer {
        secret: Option<Vec<u8>>,
        problems: Vec<String>,
        warnings: Vec<String>,
    }

    fn ask(variables: &[(&str, &str)], folder: &Path, source: &SecretSource<'_>) -> Answer {
        let environment = Environment::of(variables, folder);
        let findings = Findings::default();
        let secrets = Secrets::new(&environment, &findings, folder);
        let secret = secrets.find(source).map(|secret| secret.expose().to_vec());
        let warnings = secrets.into_warnings();
        Answer { secret, problems: findings.into_problems().iter().map(ToString::to_string).collect(), warnings }
    }

    fn write(path: &Path, mode: u32, bytes: &[u8]) {
        use std::io::Write as _;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).unwrap();
        file.write_all(bytes).unwrap();
    }

    #[test]
    fn the_bytes_are_the_text_unless_a_prefix_asks_for_decoding() {
        let plain = "0123456789abcdef0123456789abcdef";
        let hex = format!("hex:{}", "00fF".repeat(16));
        let encoded = format!("base64:{}", "AP8A".repeat(11));
        for (text, bytes) in [
            (plain, Some(plain.as_bytes().to_vec())),
            (" leading and trailing blanks stay here ", Some(b" leading and trailing blanks stay here ".to_vec())),
            (&hex, Some([0x00, 0xff].repeat(16))),
            (&encoded, Some([0x00, 0xff, 0x00].repeat(11))),
            ("hex:00f", None),
            ("hex:zz", None),
            ("base64:!", None),
            // 31 bytes, and 16 bytes that look like 32 before decoding.
            ("0123456789abcdef0123456789abcde", None),
            ("hex:0123456789abcdef0123456789abcdef", None),
        ] {
            let answer = ask(&[("JWT_SECRET", text)], Path::new("/"), &SOURCE);
            assert_eq!(answer.secret, bytes, "{text}");
            assert_eq!(answer.problems.len(), usize::from(bytes.is_none()), "{text}");
        }
    }

    #[test]
    fn a_short_secret_is_refused_with_a_way_to_make_one_and_never_shown() {
        let answer = ask(&[("JWT_SECRET", "hunter2")], Path::new("/"), &SOURCE);
        assert_eq!(answer.secret, None);
        assert!(answer.problems[0].contains("7 bytes"), "{:?}", answer.problems);
        assert!(answer.problems[0].contains(GENERATE));
        assert!(!answer.problems[0].contains("hunter2"));
        let answer = ask(&[("JWT_SECRET", "hunter2")], Path::new("/"), &SecretSource { allow_short: true, ..SOURCE });
        assert_eq!(answer.secret, Some(b"hunter2".to_vec()));
    }

    #[test]
    fn a_file_loses_one_newline_and_others_that_may_read_it_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let secret = [b'x'; 40];
        write(&folder.path().join("kept"), 0o600, &[&secret[..], b"\n\n"].concat());
        write(&folder.path().join("open"), 0o644, &[&secret[..], b"\xff"].concat());

        let answer = ask(&[("JWT_SECRET_FILE", "kept")], folder.path(), &SOURCE);
        assert_eq!(answer.secret, Some([&secret[..], b"\n"].concat()));
        assert!(answer.problems.is_empty() && answer.warnings.is_empty());

        let answer = ask(&[], folder.path(), &SecretSource { file: "open", ..SOURCE });
        assert_eq!(answer.secret, Some([&secret[..], b"\xff"].concat()));
        assert!(answer.warnings[0].starts_with("issuer.secret_file: "), "{:?}", answer.warnings);
        assert!(answer.warnings[0].contains("chmod 600"));
    }

    #[test]
    fn the_environment_beats_the_file_and_both_variables_at_once_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("file"), 0o600, &[b'f'; 32]);
        let text = "v".repeat(32);
        let source = SecretSource { file: "file", ..SOURCE };
        assert_eq!(ask(&[], folder.path(), &source).secret, Some(vec![b'f'; 32]));
        assert_eq!(ask(&[("JWT_SECRET", "")], folder.path(), &source).secret, Some(vec![b'f'; 32]));
        assert_eq!(ask(&[("JWT_SECRET", &text)], folder.path(), &source).secret, Some(vec![b'v'; 32]));

        let both = ask(&[("JWT_SECRET", &text), ("JWT_SECRET_FILE", "file")], folder.path(), &source);
        assert_eq!(both.secret, None);
        assert_eq!(both.problems.len(), 1);
        assert!(both.problems[0].starts_with("JWT_SECRET: both"), "{:?}", both.problems);
    }

    #[test]
    fn a_file_that_is_not_there_or_is_no_secret_says_so() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("huge"), 0o600, &vec![b'x'; 70_000]);
        for (file, part) in [("absent", "umask 077"), ("huge", "larger than 64 KiB"), (".", "cannot be read")] {
            let answer = ask(&[("JWT_SECRET_FILE", file)], folder.path(), &SOURCE);
            assert_eq!(answer.secret, None, "{file}");
            assert!(answer.problems[0].starts_with("JWT_SECRET_FILE: "), "{:?}", answer.problems);
            assert!(answer.problems[0].contains(part), "{:?}", answer.problems);
        }
    }
}
