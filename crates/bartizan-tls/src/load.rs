//! Reading PEM files, and saying what is wrong with them.

use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The certificates and keys of a PEM file, each with the number of its section, from 1.
pub(crate) struct Pem {
    pub(crate) path: PathBuf,
    pub(crate) certs: Vec<(usize, CertificateDer<'static>)>,
    pub(crate) keys: Vec<(usize, PrivateKeyDer<'static>)>,
}

pub(crate) fn read(path: &Path) -> Result<Pem, LoadError> {
    let text = fs::read(path).map_err(|e| LoadError::new(path, None, LoadProblem::Unreadable(e)))?;
    parse(path, &text)
}

pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Pem, LoadError> {
    let mut found = Pem { path: path.to_owned(), certs: Vec::new(), keys: Vec::new() };
    for (section, item) in (1..).zip(<(SectionKind, Vec<u8>)>::pem_slice_iter(text)) {
        let (kind, der) = item
            .map_err(|e| LoadError::new(path, Some(section), LoadProblem::BadPem(describe(&e))))?;
        match kind {
            SectionKind::Certificate => found.certs.push((section, der.into())),
            SectionKind::PrivateKey => found.keys.push((section, PrivateKeyDer::Pkcs8(der.into()))),
            SectionKind::RsaPrivateKey => found.keys.push((section, PrivateKeyDer::Pkcs1(der.into()))),
            SectionKind::EcPrivateKey => found.keys.push((section, PrivateKeyDer::Sec1(der.into()))),
            _ => {} // DH and EC parameters, requests, CRLs: HAProxy files may hold them.
        }
    }
    if found.keys.is_empty() && ENCRYPTED.iter().any(|mark| contains(text, mark)) {
        return Err(LoadError::new(path, None, LoadProblem::EncryptedKey));
    }
    Ok(found)
}

/// A certificate or key cannot be used. The operator's fault, who is told what to do.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {problem}", path.display(), Section(*section))]
pub struct LoadError {
    path: PathBuf,
    section: Option<usize>,
    #[source]
    problem: LoadProblem,
}

impl LoadError {
    pub(crate) fn new(path: &Path, section: Option<usize>, problem: LoadProblem) -> Self {
        Self { path: path.to_owned(), section, problem }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The PEM section of the file, from 1, where one section is at fault.
    pub fn section(&self) -> Option<usize> {
        self.section
    }

    /// What is wrong.
    pub fn problem(&self) -> &LoadProblem {
        &self.problem
    }
}

/// What is wrong with a certificate or key file.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum LoadProblem {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),

    /// A section is not PEM.
    #[error("is not PEM: {0}")]
    BadPem(String),

    /// There is no CERTIFICATE section.
    #[error("holds no certificate (a section `BEGIN CERTIFICATE`)")]
    NoCertificate,

    /// There is no PRIVATE KEY section.
    #[error("holds no private key (a section `BEGIN PRIVATE KEY`)")]
    NoKey,

    /// There are several private keys.
    #[error("is a second private key; leave only the one that belongs to the certificate")]
    SeveralKeys,

    /// The key is encrypted.
    #[error(
        "holds an encrypted private key, which is not supported; decrypt it with \
         `openssl pkey -in FILE -out NEWFILE` and protect the new file"
    )]
    EncryptedKey,

    /// A certificate is not X.509.
    #[error("is not an X.509 certificate: {0}")]
    BadCertificate(String),

    /// The key's format or type is not supported.
    #[error("is not a usable private key: {0}")]
    BadKey(String),

    /// No certificate has the key's public half.
    #[error("the private key belongs to no certificate in {}", certs.display())]
    KeyMismatch {
        /// The file with the certificates.
        certs: PathBuf,
    },

    /// The leaf has expired.
    #[error("the certificate expired on {since}")]
    Expired {
        /// Its not-after date.
        since: String,
    },

    /// The leaf is not valid yet.
    #[error("the certificate is not valid before {until}")]
    NotYetValid {
        /// Its not-before date.
        until: String,
    },
}

struct Section(Option<usize>);

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |n| write!(f, ", PEM section {n}"))
    }
}

fn describe(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("the line `{}` is missing", String::from_utf8_lossy(end_marker))
        }
        pem::Error::IllegalSectionStart { line } => {
            format!("the line `{}` is cut or garbled", String::from_utf8_lossy(line).trim_end())
        }
        pem::Error::Base64Decode(what) => format!("it is not base64 ({what})"),
        other => other.to_string(),
    }
}

fn contains(text: &[u8], mark: &str) -> bool {
    text.windows(mark.len()).any(|window| window == mark.as_bytes())
}

/// PKCS#8 and the older OpenSSL form.
const ENCRYPTED: [&str; 2] = ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"];
