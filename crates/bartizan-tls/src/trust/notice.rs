//! What an operator may want to know of files that are usable.

use std::fmt;
use std::path::{Path, PathBuf};

/// A remark on a file that says whom to trust: it is in use, but perhaps not as it was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustNotice {
    path: PathBuf,
    section: Option<usize>,
    concern: TrustConcern,
}

impl TrustNotice {
    pub(crate) fn new(path: &Path, section: Option<usize>, concern: TrustConcern) -> Self {
        Self { path: path.to_owned(), section, concern }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The PEM section of the file, from 1, where it is about one.
    pub fn section(&self) -> Option<usize> {
        self.section
    }

    /// What it is about.
    pub fn concern(&self) -> &TrustConcern {
        &self.concern
    }
}

impl fmt::Display for TrustNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(section) = self.section {
            write!(f, ", PEM section {section}")?;
        }
        write!(f, ": {}", self.concern)
    }
}

/// What a [`TrustNotice`] is about. Names are of authorities.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustConcern {
    /// A certificate is no authority's, and passed over.
    NotAnAuthority {
        /// Its subject.
        subject: String,
    },
    /// An authority has expired and vouches for nobody.
    AuthorityExpired {
        /// Its name.
        subject: String,
        /// Its not-after date.
        since: String,
    },
    /// An authority is not valid yet and vouches for nobody until then.
    AuthorityNotYetValid {
        /// Its name.
        subject: String,
        /// Its not-before date.
        until: String,
    },
    /// There is a private key, which has no use here and should not lie around.
    PrivateKey,
    /// There is a revocation list in the CA file, which does not count.
    CrlAmongAuthorities,
    /// The authorities are too many to be named to clients, which then choose among all of their
    /// certificates.
    TooManyToName,
    /// The next update of a revocation list was due.
    CrlExpired {
        /// Whose list it is.
        issuer: String,
        /// Its next-update date.
        since: String,
    },
    /// A revocation list is dated in the future. It counts already.
    CrlNotYetValid {
        /// Whose list it is.
        issuer: String,
        /// Its this-update date.
        until: String,
    },
    /// A revocation list is of none of the authorities in the CA file. Its signature could not be
    /// checked yet, and it counts only below an intermediate authority of that name.
    CrlOfAnother {
        /// Whose list it is.
        issuer: String,
    },
    /// There is a later revocation list of the same issuer, and this one does not count.
    CrlSuperseded {
        /// Whose list it is.
        issuer: String,
    },
    /// There are revocation lists, but none of this authority. Who shows a certificate of it is
    /// refused or let in, as `UnknownRevocation` says.
    AuthorityWithoutCrl {
        /// Its name.
        subject: String,
    },
}

impl fmt::Display for TrustConcern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnAuthority { subject } => {
                write!(f, "the certificate of {subject} is no authority's and is passed over")
            }
            Self::AuthorityExpired { subject, since } => {
                write!(f, "the authority {subject} expired on {since} and vouches for nobody")
            }
            Self::AuthorityNotYetValid { subject, until } => {
                write!(f, "the authority {subject} vouches for nobody before {until}")
            }
            Self::PrivateKey => f.write_str("is a private key, which has no use here; remove it"),
            Self::CrlAmongAuthorities => f.write_str(
                "is a revocation list, which does not count in a CA file; name the file as one of \
                 revocation lists as well",
            ),
            Self::TooManyToName => f.write_str(
                "holds too many authorities to name them to clients; each client chooses among all \
                 of its certificates",
            ),
            Self::CrlExpired { issuer, since } => {
                write!(f, "the revocation list of {issuer} expired on {since}; fetch a new one")
            }
            Self::CrlNotYetValid { issuer, until } => {
                write!(f, "the revocation list of {issuer} is dated {until}; check the clock")
            }
            Self::CrlOfAnother { issuer } => write!(
                f,
                "the revocation list of {issuer} is of no authority in the CA file, and counts \
                 only below an intermediate of that name"
            ),
            Self::CrlSuperseded { issuer } => {
                write!(f, "there is a later revocation list of {issuer}; remove this one")
            }
            Self::AuthorityWithoutCrl { subject } => write!(
                f,
                "there is no revocation list of the authority {subject}, though there are others; \
                 its certificates count as of unknown revocation"
            ),
        }
    }
}
