//! Reading files, and saying what is wrong with them.

use std::borrow::Cow;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use zeroize::{Zeroize, Zeroizing};

use crate::pem_source::PemSource;

/// The bytes of a file that may hold a key: overwritten when they are dropped.
pub(crate) fn read_bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, LoadError> {
    let mut bytes = Zeroizing::new(Vec::new());
    read_into(path, &mut bytes)?;
    Ok(bytes)
}

/// Reads a file that may hold a key into a buffer that is used again and again, and tells what it
/// looked like before.
pub(crate) fn read_into(path: &Path, bytes: &mut Vec<u8>) -> Result<Metadata, LoadError> {
    let unreadable = |e| LoadError::new(path, None, LoadProblem::Unreadable(e));
    let mut file = File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    bytes.clear();
    // A vector that grows while it is read into would leave parts of keys behind.
    let room = usize::try_from(meta.len()).unwrap_or(usize::MAX).saturating_add(1);
    if bytes.capacity() < room {
        bytes.zeroize();
        bytes.try_reserve_exact(room).map_err(|e| unreadable(e.into()))?;
    }
    file.read_to_end(bytes).map_err(unreadable)?;
    Ok(meta)
}

/// What is in a source, as it stands.
pub(crate) fn bytes(source: &PemSource) -> Result<Cow<'_, [u8]>, LoadError> {
    if let Some(bytes) = source.bytes() {
        return Ok(Cow::Borrowed(bytes));
    }
    let unreadable = |e| LoadError::new(source.name(), None, LoadProblem::Unreadable(e));
    fs::read(source.name()).map(Cow::Owned).map_err(unreadable)
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

    /// There is a private key, where the key is to live elsewhere.
    #[error(
        "is a private key, although a signer has the key; take it out of the file, and keep it where \
         only the signer can read it"
    )]
    KeyBesideSigner,

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
        "holds no certificate of an authority, only of others (which cannot vouch for anybody); put \
         in the authority's that issued the certificates to be verified"
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
