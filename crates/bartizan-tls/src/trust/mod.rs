//! Whom to believe when a certificate is presented, by clients and by servers alike: authorities,
//! revocation lists, and the chain from a leaf to one of them.

mod chain;
pub(crate) mod crl;
mod notice;
pub(crate) mod roots;
mod rules;

use std::path::Path;
use std::time::SystemTime;

use rustls::ExtendedKeyPurpose;
use rustls::pki_types::UnixTime;
use webpki::KeyUsage;

pub(crate) use chain::{Chain, rustls_error};
pub use notice::{TrustConcern, TrustNotice};
pub(crate) use roots::{Root, is_self_issued};
pub use rules::{CrlDepth, CrlExpiry, UnknownRevocation};
pub(crate) use rules::{CrlRules, digest};

/// Who presents the certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Client,
    Server,
}

impl Peer {
    /// The use that its certificates have to be good for.
    fn usage(self) -> KeyUsage {
        match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server => KeyUsage::server_auth(),
        }
    }

    fn purpose(self) -> ExtendedKeyPurpose {
        match self {
            Self::Client => ExtendedKeyPurpose::ClientAuth,
            Self::Server => ExtendedKeyPurpose::ServerAuth,
        }
    }
}

/// Before 1970 is 1970: nothing was valid then.
pub(crate) fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// Tells of each authority without a list, where there are lists of others. `path` is where the
/// authorities come from.
pub(crate) fn tell_without_crl(
    path: &Path,
    roots: &[Root],
    crls: &[crl::Crl],
    notices: &mut Vec<TrustNotice>,
) {
    if crls.is_empty() {
        return;
    }
    for root in roots.iter().filter(|root| root.is_authority) {
        if !crls.iter().any(|crl| crl.list.issuer() == &*root.anchor.subject) {
            let concern = TrustConcern::AuthorityWithoutCrl { subject: root.subject.clone() };
            notices.push(TrustNotice::new(path, root.section, concern));
        }
    }
}
