//! Certificates and keys from PEM files, and which of them a caller gets.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SignatureScheme};
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{ASN1Time, AttributeTypeAndValue, FromDer as _, X509Certificate, X509Name};

use super::acme::{ACME_TLS, Challenges};
use crate::config::tls::CertificateFiles;
use crate::crypto::key_text;

/// A file cannot be used.
#[derive(Debug, Error)]
#[error("{}: {reason}", path.display())]
pub struct CertificateFault {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

fn unusable(path: &Path, reason: &impl ToString) -> CertificateFault {
    CertificateFault { path: path.to_owned(), reason: reason.to_string() }
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateFault> {
    let pem = fs::read(path).map_err(|error| unusable(path, &error))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| unusable(path, &error))?;
    if chain.is_empty() { Err(unusable(path, &"there is no certificate in it")) } else { Ok(chain) }
}

/// The first private key of a PEM file.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateFault> {
    let pem = fs::read(path).map_err(|error| unusable(path, &error))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| unusable(path, &"there is no private key in it"))
}

/// The authorities of a PEM file.
///
/// # Errors
/// It cannot be read, or holds none that can be one.
pub fn read_authorities(path: &Path) -> Result<RootCertStore, CertificateFault> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(path)? {
        roots.add(certificate).map_err(|error| unusable(path, &error))?;
    }
    Ok(roots)
}

/// A certificate with its key, and what it says.
#[derive(Clone, Debug)]
pub struct Loaded {
    certified: Arc<CertifiedKey>,
    /// Names it is for, in lower case; a wildcard as it stands.
    names: Vec<String>,
    /// From when on it is good.
    pub begins: Timestamp,
    /// From when on it is no longer good.
    pub expires: Timestamp,
}

impl Loaded {
    /// Reads both files, and sees that they belong together.
    ///
    /// # Errors
    /// Which of them is wrong.
    pub fn read(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Self, CertificateFault> {
        let chain = read_chain(&files.certificate)?;
        let (names, begins, expires) = facts(&chain[0]).map_err(|reason| unusable(&files.certificate, &reason))?;
        let key = read_key(&files.key)?;
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
            unusable(&files.key, &format!("it does not fit {}: {error}", files.certificate.display()))
        })?;
        Ok(Self { certified: Arc::new(certified), names, begins, expires })
    }
}

impl Loaded {
    /// Whether it is for this name, in lower case.
    pub(super) fn is_for(&self, name: &str) -> bool {
        self.names.iter().any(|of| of == name)
    }
}

/// Names, beginning and end of a certificate.
fn facts(certificate: &CertificateDer<'_>) -> Result<(Vec<String>, Timestamp, Timestamp), String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let alternatives = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    let time = |time: ASN1Time| Timestamp::from_second(time.timestamp()).map_err(|error| error.to_string());
    let validity = certificate.validity();
    Ok((names.collect(), time(validity.not_before)?, time(validity.not_after)?))
}

/// Who a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// As RFC 4514 writes it.
    pub text: String,
    /// What stands for it in place of a raw key; made of its DER (RFC 5280 §4.1.2.6), since every
    /// form of text leaves something out.
    pub credential: Arc<[u8]>,
}

/// Who a caller's certificate is for; none: it is no certificate.
#[must_use]
pub fn subject(certificate: &CertificateDer<'_>) -> Option<Subject> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    Some(Subject { text: in_text(subject), credential: key_text::of_certificate(subject.as_raw()).into() })
}

/// RFC 4514 §2: the most specific part first. What could be read as a part of its own is escaped:
/// who may choose a name must not choose another's.
fn in_text(name: &X509Name<'_>) -> String {
    let part = |attribute: &AttributeTypeAndValue<'_>| {
        let kind = attribute.attr_type();
        let kind = oid2abbrev(kind, oid_registry()).map_or_else(|_| kind.to_id_string(), ToOwned::to_owned);
        match attribute.as_str() {
            Ok(value) => format!("{kind}={}", escaped(value)),
            Err(_) => format!("{kind}=#{}", hex(attribute.attr_value().data)),
        }
    };
    let parts: Vec<String> = name.iter().map(|set| set.iter().map(part).collect::<Vec<_>>().join("+")).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

/// RFC 4514 §2.4.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (index, letter) in value.chars().enumerate() {
        match letter {
            '\0' => text.push_str("\\00"),
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => text.extend(['\\', letter]),
            '#' if index == 0 => text.push_str("\\#"),
            ' ' if index == 0 || index == last => text.push_str("\\ "),
            _ => text.push(letter),
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

/// All certificates of a gateway, by the names they are for.
#[derive(Debug)]
pub struct ByName {
    /// Of each name, in the order of configuration: callers may not know the first one's algorithm.
    names: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// For callers that ask for another name, or none.
    others: Vec<Arc<CertifiedKey>>,
    /// For an authority that looks whether a name is ours.
    challenges: Option<Arc<Challenges>>,
}

impl ByName {
    /// The first is for callers that ask for no name of any.
    #[must_use]
    pub fn new(loaded: &[Loaded], challenges: Option<Arc<Challenges>>) -> Self {
        let mut names: HashMap<String, Vec<Arc<CertifiedKey>>> = HashMap::new();
        for one in loaded {
            for name in &one.names {
                names.entry(name.clone()).or_default().push(Arc::clone(&one.certified));
            }
        }
        Self { names, others: loaded.iter().map(|one| Arc::clone(&one.certified)).collect(), challenges }
    }

    fn find(&self, asked: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let of_name = asked.and_then(|name| {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            let wildcard = || Some(format!("*.{}", name.split_once('.')?.1));
            self.names.get(&name).or_else(|| self.names.get(&wildcard()?))
        });
        let fits = |certified: &&Arc<CertifiedKey>| certified.key.choose_scheme(schemes).is_some();
        let found = of_name.and_then(|certified| certified.iter().find(fits));
        found.or_else(|| self.others.iter().find(fits)).cloned()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Whoever says that word is an authority, and gets what proves the name or nothing.
        if hello.alpn().is_some_and(|mut words| words.any(|word| word == ACME_TLS)) {
            return self.challenges.as_ref()?.certificate(hello.server_name());
        }
        self.find(hello.server_name(), hello.signature_schemes())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm,
    };
    use rustls::crypto::aws_lc_rs;

    use super::*;

    fn write(folder: &Path, stem: &str, names: &[&str], algorithm: &'static SignatureAlgorithm) -> CertificateFiles {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let files = CertificateFiles {
            certificate: folder.join(format!("{stem}.pem")),
            key: folder.join(format!("{stem}.key")),
        };
        fs::write(&files.certificate, made.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn a_caller_gets_the_certificate_for_the_name_it_asks_for() {
        let folder = tempfile::tempdir().unwrap();
        let provider = aws_lc_rs::default_provider();
        let files = [
            write(folder.path(), "first", &["a.example"], &PKCS_ECDSA_P256_SHA256),
            write(folder.path(), "wild", &["*.b.example", "b.example"], &PKCS_ECDSA_P256_SHA256),
            write(folder.path(), "modern", &["c.example"], &PKCS_ED25519),
            write(folder.path(), "older", &["c.example"], &PKCS_ECDSA_P256_SHA256),
        ];
        let loaded: Vec<_> = files.iter().map(|files| Loaded::read(files, &provider).unwrap()).collect();
        let all = ByName::new(&loaded, None);
        let (modern, older) = (SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256);
        for (asked, schemes, found) in [
            (Some("a.example"), &[older][..], Some(0)),
            (Some("A.Example."), &[older], Some(0)),
            (Some("x.b.example"), &[older], Some(1)),
            (Some("b.example"), &[older], Some(1)),
            (Some("x.y.b.example"), &[older], Some(0)),
            (Some("c.example"), &[older, modern], Some(2)),
            (Some("c.example"), &[older], Some(3)),
            (None, &[older], Some(0)),
            (Some("other"), &[modern], Some(2)),
            (Some("a.example"), &[], None),
        ] {
            let got = all.find(asked, schemes);
            let expected = found.map(|index: usize| &loaded[index].certified);
            assert!(
                got.as_ref()
                    .zip(expected)
                    .map_or(got.is_none() && expected.is_none(), |(got, expected)| Arc::ptr_eq(got, expected)),
                "{asked:?} {schemes:?}"
            );
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let provider = aws_lc_rs::default_provider();
        let good = write(folder.path(), "good", &["a"], &PKCS_ECDSA_P256_SHA256);
        let other = write(folder.path(), "other", &["a"], &PKCS_ECDSA_P256_SHA256);
        let empty = folder.path().join("empty.pem");
        fs::write(&empty, "").unwrap();
        let missing = folder.path().join("missing.pem");
        for (certificate, key, named, reason) in [
            (&good.certificate, &other.key, &other.key, "does not fit"),
            (&good.certificate, &empty, &empty, "no private key"),
            (&empty, &good.key, &empty, "no certificate"),
            (&missing, &good.key, &missing, "No such file"),
            (&good.key, &good.key, &good.key, "no certificate"),
        ] {
            let files = CertificateFiles { certificate: certificate.clone(), key: key.clone() };
            let fault = Loaded::read(&files, &provider).unwrap_err();
            assert_eq!(&fault.path, named);
            assert!(fault.reason.contains(reason), "{}", fault.reason);
        }
    }

    #[test]
    fn a_subject_is_written_so_that_no_name_reads_as_another() {
        let named = |parts: &[(DnType, &str)]| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name = DistinguishedName::new();
            for (kind, value) in parts {
                params.distinguished_name.push(kind.clone(), *value);
            }
            let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
            subject(params.self_signed(&key).unwrap().der()).unwrap()
        };
        let honest = named(&[(DnType::OrganizationName, "Good"), (DnType::CommonName, "acme")]);
        let sly = named(&[(DnType::CommonName, "acme,O=Good")]);
        for (subject, text) in [
            (&honest, "CN=acme,O=Good"),
            (&sly, r"CN=acme\,O\=Good"),
            (&named(&[(DnType::CommonName, "#a <b> \"c\"; d+e\\f ")]), r#"CN=\#a \<b\> \"c\"\; d\+e\\f\ "#),
            (&named(&[(DnType::CommonName, " ")]), r"CN=\ "),
            (&named(&[(DnType::CommonName, "Größe")]), "CN=Größe"),
            (&named(&[(DnType::CustomDnType(vec![1, 2, 3]), "x")]), "1.2.3=x"),
            (&named(&[]), ""),
        ] {
            assert_eq!(subject.text, text);
        }
        assert_ne!(honest.credential, sly.credential);
        assert_eq!(
            honest.credential,
            named(&[(DnType::OrganizationName, "Good"), (DnType::CommonName, "acme")]).credential
        );
    }
}
