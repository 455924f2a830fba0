//! What loading found that is no error, but that somebody should know of.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bartizan_net::HostPattern;

use crate::ocsp::StapleProblem;
use crate::trust::TrustNotice;

/// Something about a generation of certificates that an operator should know of.
///
/// `Display` says it in one line. Each is a tracing event (target `bartizan_tls`, level warn; info
/// where nothing is wrong) whenever a generation with it is loaded for the first time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The chain was out of order, and was put right.
    ChainReordered {
        /// The file.
        source: Arc<str>,
    },
    /// The file holds nothing but the leaf. Clients must know its issuer, or they will not trust
    /// the certificate.
    IssuerMissing {
        /// The file.
        source: Arc<str>,
        /// The issuer's name.
        issuer: String,
    },
    /// A certificate in the file belongs to no chain from the leaf. It is sent all the same.
    StrayCertificate {
        /// The file.
        source: Arc<str>,
    },
    /// An earlier certificate is for the same name and kind of key, and is served.
    DuplicateName {
        /// The name.
        name: String,
        /// The file whose certificate is served.
        served: Arc<str>,
        /// The file whose certificate is not, under this name.
        shadowed: Arc<str>,
    },
    /// The certificate has expired. It is served all the same: what is right about it, its name,
    /// would be wrong with any other.
    Expired {
        /// The file.
        source: Arc<str>,
        /// Its not-after date.
        since: String,
    },
    /// The certificate is not valid yet. It is served all the same.
    NotYetValid {
        /// The file.
        source: Arc<str>,
        /// Its not-before date.
        until: String,
    },
    /// The certificate has no name that a client could ask for. Only as the default is it served.
    NoName {
        /// The file.
        source: Arc<str>,
    },
    /// An OCSP response is not stapled.
    StapleLeftOut {
        /// The file with the response.
        path: PathBuf,
        /// Why.
        problem: StapleProblem,
    },
    /// Something about trust in clients.
    Trust(TrustNotice),
}

impl Notice {
    /// Whether nothing is wrong: it works, but not quite as the files look.
    pub fn is_harmless(&self) -> bool {
        matches!(
            self,
            Self::ChainReordered { .. } | Self::IssuerMissing { .. } | Self::NoName { .. }
        )
    }

    /// Whether the same files may be without it at another time.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::StapleLeftOut { .. })
    }

    pub(crate) fn shadowed(name: &HostPattern, served: &Arc<str>, shadowed: &Arc<str>) -> Self {
        Self::DuplicateName {
            name: name.to_string(),
            served: Arc::clone(served),
            shadowed: Arc::clone(shadowed),
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChainReordered { source } => {
                write!(f, "{source}: the chain was out of order and was put right")
            }
            Self::IssuerMissing { source, issuer } => write!(
                f,
                "{source}: the certificate of its issuer, `{issuer}`, is not in the file; unless \
                 clients have it themselves, append it"
            ),
            Self::StrayCertificate { source } => {
                write!(f, "{source}: holds a certificate that belongs to no chain from its leaf")
            }
            Self::DuplicateName { name, served, shadowed } => write!(
                f,
                "{name}: {served} is served, not {shadowed}, which is for the same name and kind \
                 of key but loaded later"
            ),
            Self::Expired { source, since } => {
                write!(f, "{source}: the certificate expired on {since}; it is served all the same")
            }
            Self::NotYetValid { source, until } => write!(
                f,
                "{source}: the certificate is not valid before {until}; it is served all the same"
            ),
            Self::NoName { source } => write!(
                f,
                "{source}: the certificate has no DNS name (subject alternative name), so it is \
                 served only as the default"
            ),
            Self::StapleLeftOut { path, problem } => {
                write!(f, "{}: the OCSP response is not stapled: {problem}", path.display())
            }
            Self::Trust(notice) => notice.fmt(f),
        }
    }
}
