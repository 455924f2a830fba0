//! Finding the certificate for a name, and the rules for it. Pure.

use bartizan_net::{HostMap, HostPattern, fold_host};

/// The kind of a certificate's key, in the order in which one is preferred to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum KeyKind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// ECDSA on P-521.
    P521,
    /// RSA.
    Rsa,
}

impl KeyKind {
    fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The kind as text, e.g. `P-256`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
            Self::Ed25519 => "Ed25519",
            Self::Rsa => "RSA",
        }
    }
}

/// What a client offers, as far as the choice of a certificate depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer<'a> {
    sni: Option<&'a str>,
    /// A bit for each kind of key whose signatures the client can check, whichever version of TLS
    /// is agreed on.
    always: u8,
    /// The same, should it be TLS 1.3.
    in_tls13: u8,
}

impl<'a> Offer<'a> {
    /// An offer with these signature schemes and cipher suites, by IANA's numbers.
    pub(crate) fn new(
        sni: Option<&'a str>,
        signature_schemes: impl IntoIterator<Item = u16>,
        cipher_suites: impl IntoIterator<Item = u16>,
    ) -> Self {
        let by_scheme = signature_schemes.into_iter().map(|scheme| match scheme {
            0x0403 => KeyKind::P256.bit(),
            0x0503 => KeyKind::P384.bit(),
            0x0603 => KeyKind::P521.bit(),
            0x0807 => KeyKind::Ed25519.bit(),
            // PSS with the hashes of TLS 1.3, and PKCS #1, which only TLS 1.2 takes.
            0x0804..=0x0806 | 0x0401 | 0x0501 | 0x0601 => KeyKind::Rsa.bit(),
            _ => 0,
        });
        let schemes = by_scheme.fold(0, |all, bit| all | bit);
        let (mut tls13, mut tls12) = (false, 0);
        for suite in cipher_suites {
            match suite {
                // In TLS 1.3, suites say nothing about keys. Clients that do not speak it list them
                // all the same, some of them.
                0x1301..=0x1305 => tls13 = true,
                0xc02b | 0xc02c | 0xcca9 => tls12 |= !KeyKind::Rsa.bit(),
                0xc02f | 0xc030 | 0xcca8 => tls12 |= KeyKind::Rsa.bit(),
                _ => {}
            }
        }
        let in_tls13 = if tls13 { schemes } else { 0 };
        let always = if tls12 == 0 { in_tls13 } else { schemes & tls12 };
        Self { sni, always, in_tls13 }
    }

    /// An offer that takes every kind of key.
    pub(crate) fn of_all_kinds(sni: Option<&'a str>) -> Self {
        Self { sni, always: u8::MAX, in_tls13: u8::MAX }
    }

    /// The first of `candidates` that the client can check.
    fn fitting(&self, candidates: &Candidates) -> Option<u32> {
        let first = |kinds: u8| {
            let mut fitting = candidates.as_slice().iter().filter(|(k, _)| kinds & k.bit() != 0);
            fitting.next().map(|(_, entry)| *entry)
        };
        first(self.always).or_else(|| first(self.in_tls13))
    }
}

/// The certificates for one name, at most one of each kind of key, the preferred one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Candidates {
    One((KeyKind, u32)),
    Several(Box<[(KeyKind, u32)]>),
}

impl Candidates {
    /// Adds a certificate. One of the same kind that is there already stays, and is given back.
    fn add(&mut self, kind: KeyKind, entry: u32) -> Option<u32> {
        if let Some((_, first)) = self.as_slice().iter().find(|(k, _)| *k == kind) {
            return Some(*first);
        }
        let mut all = self.as_slice().to_vec();
        all.push((kind, entry));
        all.sort();
        *self = Self::Several(all.into_boxed_slice());
        None
    }

    fn as_slice(&self) -> &[(KeyKind, u32)] {
        match self {
            Self::One(only) => std::slice::from_ref(only),
            Self::Several(all) => all,
        }
    }
}

/// Certificates by name and kind of key.
///
/// A look-up tries the exact name, then the wildcard of one label, then the default; among the
/// certificates of a name it takes the first that the client can check. Where the exact name has
/// none such but the wildcard has, the wildcard's serves.
#[derive(Debug)]
pub(crate) struct CertIndex {
    names: HostMap<Candidates>,
    /// `None` under strict SNI.
    default: Option<Candidates>,
}

/// Why no certificate is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoCertificate {
    /// The client named no server, and names are insisted on.
    NoName,
    /// No certificate is for the name, and there is no default.
    UnknownName,
    /// The client can check no signature made with the keys of those that there are.
    Incompatible,
}

/// A certificate for the name, and whether it is the default's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) entry: u32,
    pub(crate) is_default: bool,
}

/// A later certificate that is never chosen for a name, because an earlier one is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shadowed {
    pub(crate) name: HostPattern,
    pub(crate) first: u32,
    pub(crate) later: u32,
}

impl CertIndex {
    /// Indexes certificates in the order in which they were loaded: the first for a name and kind
    /// of key is the one. The very first is the default, and so is the first of each other kind
    /// that has a name with it in common.
    pub(crate) fn build<'a>(
        certs: impl ExactSizeIterator<Item = (KeyKind, &'a [HostPattern])>,
        strict: bool,
    ) -> (Self, Vec<Shadowed>) {
        let mut names = HostMap::with_capacity(certs.len());
        let mut shadowed = Vec::new();
        let mut default: Option<(Candidates, &[HostPattern])> = None;
        for (entry, (kind, patterns)) in (0..).zip(certs) {
            for pattern in patterns {
                let first = match names.get_mut(pattern) {
                    None => {
                        names.insert(pattern, Candidates::One((kind, entry)));
                        None
                    }
                    Some(taken) => taken.add(kind, entry),
                };
                // A certificate may have a name twice.
                if let Some(first) = first.filter(|first| *first != entry) {
                    shadowed.push(Shadowed { name: pattern.clone(), first, later: entry });
                }
            }
            match &mut default {
                None => default = Some((Candidates::One((kind, entry)), patterns)),
                Some((candidates, of)) if patterns.iter().any(|p| of.contains(p)) => {
                    candidates.add(kind, entry);
                }
                Some(_) => {}
            }
        }
        let default = default.filter(|_| !strict).map(|(candidates, _)| candidates);
        (Self { names, default }, shadowed)
    }

    /// Chooses by what the client offers.
    pub(crate) fn choose(&self, offer: &Offer<'_>) -> Result<Choice, NoCertificate> {
        let folded = offer.sni.map(fold_host);
        let exact = folded.as_deref().and_then(|name| self.names.exact(name));
        let wildcard = || folded.as_deref().and_then(|name| self.names.wildcard(name));
        let fitting = |candidates: &Candidates| offer.fitting(candidates);
        let named = |entry| Choice { entry, is_default: self.is_default(entry) };
        if let Some(entry) = exact.and_then(fitting) {
            return Ok(named(entry));
        }
        let wildcard = wildcard();
        if let Some(entry) = wildcard.and_then(fitting) {
            return Ok(named(entry));
        }
        // For a name that is known, no other name's certificate will do.
        if exact.or(wildcard).is_some() {
            return Err(NoCertificate::Incompatible);
        }
        match &self.default {
            Some(default) => fitting(default)
                .map(|entry| Choice { entry, is_default: true })
                .ok_or(NoCertificate::Incompatible),
            None if folded.is_some() => Err(NoCertificate::UnknownName),
            None => Err(NoCertificate::NoName),
        }
    }

    /// Whether some certificate is for `name` itself, not as the default.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.names.get(name).is_some()
    }

    fn is_default(&self, entry: u32) -> bool {
        self.default.iter().any(|d| d.as_slice().iter().any(|(_, e)| *e == entry))
    }

    /// How many names there are, wildcards counted as one.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }
}

#[cfg(test)]
mod tests;
