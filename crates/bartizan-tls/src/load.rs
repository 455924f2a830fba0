//! Reading PEM files, and saying what is wrong with them.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use zeroize::Zeroizing;

use crate::key::{Format, KeyDer};
use crate::pem_source::PemSource;

/// The certificates, keys and revocation lists of a PEM file, each with the number of its section, from 1.
pub(crate) struct Pem {
    pub(crate) path: PathBuf,
    pub(crate) certs: Vec<(usize, CertificateDer<'static>)>,
    pub(crate) keys: Vec<(usize, KeyDer)>,
    pub(crate) crls: Vec<(usize, CertificateRevocationListDer<'static>)>,
    /// The first encrypted key, which counts as none.
    pub(crate) encrypted: Option<usize>,
}

/// The bytes of a file that may hold a key: overwritten when they are dropped.
pub(crate) fn read_bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, LoadError> {
    let read = fs::read(path).map(Zeroizing::new);
    read.map_err(|e| LoadError::new(path, None, LoadProblem::Unreadable(e)))
}

/// What is in a source, as it stands.
pub(crate) fn bytes(source: &PemSource) -> Result<Cow<'_, [u8]>, LoadError> {
    if let Some(bytes) = source.bytes() {
        return Ok(Cow::Borrowed(bytes));
    }
    let unreadable = |e| LoadError::new(source.name(), None, LoadProblem::Unreadable(e));
    fs::read(source.name()).map(Cow::Owned).map_err(unreadable)
}

pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Pem, LoadError> {
    let mut found = Pem {
        path: path.to_owned(),
        certs: Vec::new(),
        keys: Vec::new(),
        crls: Vec::new(),
        encrypted: None,
    };
    for (number, section) in (1..).zip(Sections { rest: text }) {
        let wrong = |what| LoadError::new(path, Some(number), LoadProblem::BadPem(what));
        let section = section.map_err(wrong)?;
        if is_encrypted(section) {
            found.encrypted.get_or_insert(number);
            continue;
        }
        let Some(item) = <(SectionKind, Vec<u8>)>::pem_slice_iter(section).next() else {
            continue; // A kind that rustls does not know.
        };
        let (kind, der) = item.map_err(|error| wrong(describe(&error)))?;
        match kind {
            SectionKind::Certificate => found.certs.push((number, der.into())),
            SectionKind::PrivateKey => {
                found.keys.push((number, KeyDer::new(Format::Pkcs8, der)));
            }
            SectionKind::RsaPrivateKey => {
                found.keys.push((number, KeyDer::new(Format::Pkcs1, der)));
            }
            SectionKind::EcPrivateKey => {
                found.keys.push((number, KeyDer::new(Format::Sec1, der)));
            }
            SectionKind::Crl => found.crls.push((number, der.into())),
            _ => {} // DH and EC parameters, requests: HAProxy files may hold them.
        }
    }
    Ok(found)
}

/// The sections of a PEM text, from the BEGIN line to the END line, whatever they hold.
///
/// rustls' reader does not tell of sections that it passes over, so they could not be counted, and
/// when an END line is missing it takes two sections for one. No error cites more than a label: the
/// line may hold the key, where a key was pasted as one line.
struct Sections<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Sections<'a> {
    type Item = Result<&'a [u8], String>;

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.rest;
        let mut open: Option<(usize, &[u8])> = None;
        let mut at = 0;
        for line in text.split_inclusive(|b| matches!(b, b'\n' | b'\r')) {
            let start = at;
            at += line.len();
            self.rest = &text[at..];
            let line = line.trim_ascii_end();
            match (line.strip_prefix(b"-----BEGIN "), open) {
                (Some(_), Some((_, label))) => return Some(Err(missing_end(label))),
                (Some(label), None) => match label.strip_suffix(b"-----") {
                    Some(label) if is_label(label) => open = Some((start, label)),
                    _ => return Some(Err("its BEGIN line is cut or garbled".to_owned())),
                },
                (None, Some((begin, label))) if is_end(line, label) => {
                    return Some(Ok(&text[begin..at]));
                }
                (None, _) => {}
            }
        }
        open.map(|(_, label)| Err(missing_end(label)))
    }
}

/// RFC 7468 §2 labels, of which all in use are in capitals. Base64 would not pass for one.
fn is_label(label: &[u8]) -> bool {
    let fits = |b: &u8| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b' ';
    (1..=LONGEST_LABEL).contains(&label.len()) && label.iter().all(fits)
}

fn is_end(line: &[u8], label: &[u8]) -> bool {
    let rest = line.strip_prefix(b"-----END ").and_then(|rest| rest.strip_prefix(label));
    rest.is_some_and(|rest| rest.starts_with(b"-----"))
}

fn missing_end(label: &[u8]) -> String {
    format!("the line `-----END {}-----` is missing", String::from_utf8_lossy(label))
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

    /// What is wrong, to keep.
    pub fn into_problem(self) -> LoadProblem {
        self.problem
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

    /// None of the certificates is an authority's.
    #[error(
        "holds no certificate of an authority, only of others (which cannot vouch for clients); put \
         in the authority's that issued the clients' certificates"
    )]
    NoAuthority,

    /// There is no revocation list.
    #[error("holds no revocation list (a section `BEGIN X509 CRL`, or one list as DER)")]
    NoCrl,

    /// A revocation list cannot be used.
    #[error("is not a usable revocation list: {0}")]
    BadCrl(String),

    /// A revocation list has the name of an authority that did not sign it.
    #[error(
        "the revocation list names {issuer} as its issuer, but the certificate of that name in the \
         CA file did not sign it; if the authority has a new key, put in both of its certificates"
    )]
    CrlSignature {
        /// The name.
        issuer: String,
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
        pem::Error::Base64Decode(what) => format!("it is not base64 ({what})"),
        pem::Error::SectionTooLarge => "it is too large".to_owned(),
        _ => "it is cut or garbled".to_owned(),
    }
}

fn is_encrypted(section: &[u8]) -> bool {
    // The marks are in the first two lines. The rest may be a list of many megabytes.
    let head = &section[..section.len().min(HEAD)];
    ENCRYPTED.iter().any(|mark| contains(head, mark))
}

fn contains(text: &[u8], mark: &str) -> bool {
    text.windows(mark.len()).any(|window| window == mark.as_bytes())
}

/// PKCS#8 and the older OpenSSL form.
const ENCRYPTED: [&str; 2] = ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"];

/// Room for a BEGIN line with the longest label, and for the line after it.
const HEAD: usize = 256;

/// More than any in use, and less than a line of base64.
const LONGEST_LABEL: usize = 40;
