//! Which clients have to prove who they are, and to whom it has to be proven.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bartizan_net::ClientAuthMode;

use crate::load::LoadError;
use crate::pem_source::PemSource;
use crate::trust::{CrlDepth, CrlExpiry, CrlRules, TrustNotice, UnknownRevocation};

mod policy;
mod verifier;

pub(crate) use policy::ClientPolicy;

/// What is asked of clients: a certificate or not, issued by whom, and revoked by whom.
///
/// This is configuration: it names files, reads none before it is put to use, compares by what it
/// says, and is cheap to clone.
///
/// # Authorities
///
/// The CA file holds certificates of authorities in PEM. Each of them is trusted for itself, an
/// intermediate one as well as a root, and a client's chain has to lead to one of them; clients
/// send the intermediates below it. Certificates that are no authority's are passed over with a
/// notice, for a leaf must not vouch for another, and so are private keys. An authority that is out
/// of date vouches for nobody until it is in date again, as with OpenSSL.
///
/// # Revocation
///
/// Without a list nothing is looked up. With lists ([`crl`](Self::crl)) the meaning is that of
/// HAProxy's `crl-file` and nginx's `ssl_crl`, unless it is changed: every certificate of the chain
/// below the trusted one needs a list of its issuer that is in date, or the client is refused. Of
/// several lists of one issuer the latest counts. Delta and indirect lists, lists without a next
/// update and lists of version 1 are refused when they are loaded.
///
/// A list takes several times its size in DER, because every entry is indexed for a look-up at each
/// handshake, and some more while it is loaded. Reckon with that where lists have millions of
/// entries.
///
/// ```
/// use bartizan_tls::{ClientAuth, UnknownRevocation};
///
/// let partners = ClientAuth::required("/etc/bartizan/partners.pem")
///     .crl("/etc/bartizan/partners.crl")
///     .unknown_revocation(UnknownRevocation::Allow);
/// # let _ = partners;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[must_use = "give it to `CertStoreBuilder::client_auth` or to `HostRules`"]
pub struct ClientAuth {
    mode: ClientAuthMode,
    /// `None` exactly if the mode is off.
    trust: Option<Arc<Trust>>,
}

/// Whom to trust, as configured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Trust {
    ca: PemSource,
    crls: Vec<PemSource>,
    rules: CrlRules,
}

impl ClientAuth {
    /// Clients are not asked for a certificate. The default.
    pub fn off() -> Self {
        Self::default()
    }

    /// Clients are asked for a certificate of one of the authorities in `ca`. They are served
    /// without one as well, but not with a bad one.
    pub fn optional(ca: impl Into<PemSource>) -> Self {
        Self::asking(ClientAuthMode::Optional, ca.into())
    }

    /// Clients are served only with a certificate of one of the authorities in `ca`.
    pub fn required(ca: impl Into<PemSource>) -> Self {
        Self::asking(ClientAuthMode::Required, ca.into())
    }

    /// Adds revocation lists: a PEM file with any number of them (`X509 CRL`), or one list as DER.
    ///
    /// Without effect when clients are not asked, as are the following.
    pub fn crl(self, crl: impl Into<PemSource>) -> Self {
        let crl = crl.into();
        self.with(|trust| trust.crls.push(crl))
    }

    /// Sets what a revocation list means after its next update was due. Default:
    /// [`CrlExpiry::Enforce`].
    pub fn crl_expiry(self, expiry: CrlExpiry) -> Self {
        self.with(|trust| trust.rules.expiry = expiry)
    }

    /// Sets which certificates of a chain are looked up in the lists. Default: [`CrlDepth::Chain`].
    pub fn crl_depth(self, depth: CrlDepth) -> Self {
        self.with(|trust| trust.rules.depth = depth)
    }

    /// Sets what happens to a client when there are lists, but none of an issuer in its chain.
    /// Default: [`UnknownRevocation::Deny`].
    pub fn unknown_revocation(self, unknown: UnknownRevocation) -> Self {
        self.with(|trust| trust.rules.unknown = unknown)
    }

    /// Whether clients are asked for a certificate.
    pub fn mode(&self) -> ClientAuthMode {
        self.mode
    }

    /// The files that it is read from, those to watch for changes.
    pub fn paths(&self) -> Vec<&Path> {
        let Some(trust) = &self.trust else { return Vec::new() };
        std::iter::once(&trust.ca).chain(&trust.crls).filter_map(PemSource::path).collect()
    }

    /// Reads the files and puts the policy together. `now` is for the notices alone: what is out of
    /// date is told, and judged again at each handshake.
    ///
    /// # Errors
    ///
    /// [`LoadError`], when a file cannot be read, or when something in it would not be trusted in
    /// the way that it is meant.
    pub(crate) fn load(
        &self,
        now: SystemTime,
    ) -> Result<(ClientPolicy, Vec<TrustNotice>), LoadError> {
        let mut notices = Vec::new();
        let policy = match &self.trust {
            None => ClientPolicy::off(),
            Some(trust) => ClientPolicy::load(self.mode, trust, now, &mut notices)?,
        };
        Ok((policy, notices))
    }

    fn asking(mode: ClientAuthMode, ca: PemSource) -> Self {
        let trust = Trust { ca, crls: Vec::new(), rules: CrlRules::default() };
        Self { mode, trust: Some(Arc::new(trust)) }
    }

    fn with(mut self, change: impl FnOnce(&mut Trust)) -> Self {
        if let Some(trust) = &mut self.trust {
            change(Arc::make_mut(trust));
        }
        self
    }
}

#[cfg(test)]
mod tests;
