//! What revocation lists mean.

use aws_lc_rs::digest::Context;

use super::crl::Crl;
use super::roots::Root;

/// How revocation lists are applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct CrlRules {
    pub(crate) expiry: CrlExpiry,
    pub(crate) depth: CrlDepth,
    pub(crate) unknown: UnknownRevocation,
}

impl CrlRules {
    /// A byte for each rule, for a digest of what decides.
    pub(crate) fn bytes(self) -> [u8; 3] {
        [
            match self.expiry {
                CrlExpiry::Enforce => 0,
                CrlExpiry::Ignore => 1,
            },
            match self.depth {
                CrlDepth::Chain => 0,
                CrlDepth::Leaf => 1,
            },
            match self.unknown {
                UnknownRevocation::Deny => 0,
                UnknownRevocation::Allow => 1,
            },
        ]
    }
}

/// Adds the authorities and the lists to a digest, in an order of their own.
pub(crate) fn digest(context: &mut Context, roots: &[Root], crls: &[Crl]) {
    // Each list is preceded by its length, or a list could pass for an authority.
    for mut digests in [
        roots.iter().map(|root| root.sha256).collect::<Vec<_>>(),
        crls.iter().map(|crl| crl.sha256).collect(),
    ] {
        digests.sort_unstable();
        context.update(&(digests.len() as u64).to_be_bytes());
        for digest in digests {
            context.update(&digest);
        }
    }
}

/// What a revocation list means after its next update was due.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CrlExpiry {
    /// It no longer tells who is revoked: whoever presents a certificate of its issuer is refused,
    /// whatever [`UnknownRevocation`] says, until there is a newer one. The default, and what
    /// HAProxy and nginx do.
    #[default]
    Enforce,
    /// It goes on to count: whom it lists is refused, all others are not.
    ///
    /// What was revoked since is let in, for as long as nobody notices that the list is old.
    Ignore,
}

/// Which certificates of a chain are looked up in revocation lists.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CrlDepth {
    /// The peer's own and the intermediate ones up to, but without, the trusted one. The default.
    #[default]
    Chain,
    /// The peer's own alone. An intermediate authority that was revoked goes on to count.
    Leaf,
}

/// What happens to a peer when there are revocation lists, but none of an issuer in its chain.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UnknownRevocation {
    /// It is refused. The default.
    #[default]
    Deny,
    /// What no list covers counts as not revoked.
    Allow,
}
