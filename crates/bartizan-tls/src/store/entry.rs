//! One certificate of a store: its metadata at once, its crypto key at first use.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use bartizan_net::HostPattern;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;
use x509_parser::time::ASN1Time;

use super::index::KeyKind;
use super::notice::Notice;
use crate::der::wall;
use crate::key::{KeyDer, kind_of};
use crate::load::{LoadError, LoadProblem};
use crate::ocsp::{self, Staple};
use crate::pem::{self, Pem};
use crate::signer::{RemoteKey, RemoteSigner};

/// A certificate chain with its key, and what is known of it without any crypto.
pub(crate) struct Entry {
    pub(crate) source: Arc<str>,
    pub(crate) kind: KeyKind,
    pub(crate) patterns: Box<[HostPattern]>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// How the files looked that it was made of, if they were settled.
    pub(crate) seal: Option<u64>,
    pub(crate) notices: Box<[Notice]>,
    /// The PEM sections of leaf and key in their files, for errors.
    pub(crate) sections: (u32, u32),
    leaf: CertificateDer<'static>,
    issuers: Arc<[CertificateDer<'static>]>,
    key: Key,
    staple: Option<Box<Staple>>,
    certified: OnceLock<Result<Arc<CertifiedKey>, Arc<rustls::Error>>>,
    stapled: OnceLock<Arc<CertifiedKey>>,
}

/// The private half.
enum Key {
    /// As the file had it.
    Local(KeyDer),
    /// Elsewhere.
    Remote(RemoteKey),
}

/// What an entry is made of, apart from its certificates.
pub(crate) struct Parts<'a> {
    pub(crate) source: Arc<str>,
    pub(crate) certs: Pem,
    /// Where the key is, if not with the certificates.
    pub(crate) key: Option<Pem>,
    /// Who signs, if the key is elsewhere: then there must be none here.
    pub(crate) signer: Option<RemoteSigner>,
    /// Certificates that may complete the chain.
    pub(crate) issuers: Option<Pem>,
    pub(crate) ocsp: Option<(&'a Path, &'a [u8])>,
    /// Instead of the certificate's own names.
    pub(crate) names: Option<&'a [HostPattern]>,
    pub(crate) seal: Option<u64>,
}

impl Entry {
    /// Compares, parses and orders; builds no key unless only that can tell whose it is.
    pub(crate) fn new(
        mut parts: Parts<'_>,
        chains: &Chains,
        now: SystemTime,
    ) -> Result<Self, LoadError> {
        let key_pem = parts.key.as_mut().unwrap_or(&mut parts.certs);
        let key_file = key_pem.path.clone();
        let local = match &parts.signer {
            Some(_) => refuse_key(key_pem).map(|()| None)?,
            None => Some(take_key(key_pem)?),
        };
        let Pem { path: file, certs, .. } = parts.certs;
        if certs.is_empty() {
            return Err(LoadError::new(&file, None, LoadProblem::NoCertificate));
        }
        let own = certs.len();
        let issuers = parts.issuers.into_iter().flat_map(|pem| pem.certs);
        let ders: Vec<_> = certs.into_iter().chain(issuers).collect();
        let found = examine(&ders, own, local.as_ref(), &file, &key_file)?;
        let mut notices = found.notices(&parts.source);
        let patterns = parts.names.map_or(found.patterns, Into::into);
        if patterns.is_empty() {
            notices.push(Notice::NoName { source: Arc::clone(&parts.source) });
        }
        let issuer = found.order.get(1).filter(|_| found.linked > 0).map(|i| &ders[*i].1);
        let staple = parts.ocsp.and_then(|(path, response)| {
            let checked = ocsp::check(response, &ders[found.order[0]].1, issuer, now);
            let left_out = |problem| {
                notices.push(Notice::StapleLeftOut { path: path.to_owned(), problem });
            };
            checked.map(Box::new).map_err(left_out).ok()
        });
        let section = ders[found.order[0]].0;
        let (key_section, key) = match (local, parts.signer) {
            (Some((section, key)), _) => (section, Key::Local(key)),
            (None, signer) => {
                let signer = signer.expect("without a key there is a signer");
                let key = RemoteKey::new(&found.spki, signer).map_err(|error| {
                    let problem = LoadProblem::BadKey(error.to_string());
                    LoadError::new(&file, Some(section), problem)
                })?;
                (section, Key::Remote(key))
            }
        };
        let mut ders: Vec<_> = ders.into_iter().map(|(_, der)| Some(der)).collect();
        let mut in_order = found.order.iter().filter_map(|i| ders[*i].take());
        Ok(Self {
            source: parts.source,
            kind: found.kind,
            patterns,
            not_before: found.not_before,
            not_after: found.not_after,
            seal: parts.seal,
            notices: notices.into_boxed_slice(),
            sections: (section as u32, key_section as u32),
            leaf: in_order.next().expect("an order begins with the leaf"),
            issuers: chains.intern(in_order.collect()),
            key,
            staple,
            certified: OnceLock::new(),
            stapled: OnceLock::new(),
        })
    }

    /// The chain with the key that signs, built at the first call.
    ///
    /// # Errors
    ///
    /// The key is broken in a way that its public half does not show; the same at each call.
    pub(crate) fn certified(&self) -> Result<&Arc<CertifiedKey>, &Arc<rustls::Error>> {
        let build = || {
            let signer: Arc<dyn SigningKey> = match &self.key {
                Key::Local(key) => key.signer().map_err(Arc::new)?,
                Key::Remote(key) => Arc::new(key.clone()),
            };
            Ok(Arc::new(CertifiedKey::new(self.chain().cloned().collect(), signer)))
        };
        self.certified.get_or_init(build).as_ref()
    }

    /// [`certified`](Self::certified) with the OCSP response, if there is one. Whether that is in
    /// date, [`has_staple`](Self::has_staple) tells.
    pub(crate) fn stapled(&self) -> Result<&Arc<CertifiedKey>, &Arc<rustls::Error>> {
        let plain = self.certified()?;
        let Some(staple) = &self.staple else { return Ok(plain) };
        Ok(self.stapled.get_or_init(|| {
            let mut with = CertifiedKey::clone(plain);
            with.ocsp = Some(staple.der.to_vec());
            Arc::new(with)
        }))
    }

    /// Whether the key that signs exists already.
    #[cfg(test)]
    pub(crate) fn is_built(&self) -> bool {
        self.certified.get().is_some()
    }

    /// Whether to sign means to ask somebody, and to block meanwhile.
    pub(crate) fn has_remote_key(&self) -> bool {
        matches!(self.key, Key::Remote(_))
    }

    /// Whether there is an OCSP response that is in date.
    pub(crate) fn has_staple(&self, now: SystemTime) -> bool {
        self.staple.as_ref().is_some_and(|staple| now < staple.next_update)
    }

    /// Whether the certificate is for the folded `name`.
    pub(crate) fn covers(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.covers(name))
    }

    /// The chain, leaf first.
    pub(crate) fn chain(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.leaf).chain(self.issuers.iter())
    }

    /// Whether it is the same certificate.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.leaf == other.leaf
    }

    /// What is wrong with its dates now, as an error.
    pub(crate) fn date_problem(&self, now: SystemTime) -> Option<LoadProblem> {
        if now > self.not_after {
            Some(LoadProblem::Expired { since: date(self.not_after) })
        } else if now < self.not_before {
            Some(LoadProblem::NotYetValid { until: date(self.not_before) })
        } else {
            None
        }
    }

    /// What is wrong with its dates now, as a notice.
    pub(crate) fn date_notice(&self, now: SystemTime) -> Option<Notice> {
        let source = Arc::clone(&self.source);
        match self.date_problem(now)? {
            LoadProblem::NotYetValid { until } => Some(Notice::NotYetValid { source, until }),
            _ => Some(Notice::Expired { source, since: date(self.not_after) }),
        }
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("source", &self.source)
            .field("kind", &self.kind)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Issuer chains, each kept once: thousands of certificates share a few.
#[derive(Debug, Default)]
pub(crate) struct Chains(Mutex<HashSet<Arc<[CertificateDer<'static>]>>>);

impl Chains {
    fn intern(&self, chain: Vec<CertificateDer<'static>>) -> Arc<[CertificateDer<'static>]> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.get(chain.as_slice()) {
            return Arc::clone(same);
        }
        let chain: Arc<[_]> = chain.into();
        known.insert(Arc::clone(&chain));
        chain
    }
}

pub(crate) fn take_key(pem: &mut Pem) -> Result<(usize, KeyDer), LoadError> {
    if let [_, (second, _), ..] = pem.keys.as_slice() {
        return Err(LoadError::new(&pem.path, Some(*second), LoadProblem::SeveralKeys));
    }
    pem.keys.pop().ok_or_else(|| {
        let problem = pem.encrypted.map_or(LoadProblem::NoKey, |_| LoadProblem::EncryptedKey);
        LoadError::new(&pem.path, pem.encrypted, problem)
    })
}

/// A key that lies beside the chain could be read by whoever reads that, signer or not.
fn refuse_key(pem: &Pem) -> Result<(), LoadError> {
    let section = pem.keys.first().map(|(section, _)| *section).or(pem.encrypted);
    match section {
        None => Ok(()),
        section => Err(LoadError::new(&pem.path, section, LoadProblem::KeyBesideSigner)),
    }
}

fn parse_all<'a>(
    file: &Path,
    ders: &'a [(usize, CertificateDer<'static>)],
) -> Result<Vec<X509Certificate<'a>>, LoadError> {
    ders.iter().map(|(section, der)| pem::certificate(file, *section, der)).collect()
}

/// The certificate that the key belongs to.
fn find_leaf(
    certs: &[X509Certificate<'_>],
    key: &KeyDer,
    file: &Path,
    (key_file, section): (&Path, usize),
) -> Result<usize, LoadError> {
    let told: Vec<_> =
        certs.iter().map(|cert| key.belongs_to(&cert.tbs_certificate.subject_pki)).collect();
    if let Some(leaf) = told.iter().position(|told| *told == Some(true)) {
        return Ok(leaf);
    }
    let mismatch = || {
        let problem = LoadProblem::KeyMismatch { certs: file.to_owned() };
        LoadError::new(key_file, None, problem)
    };
    if !told.contains(&None) {
        return Err(mismatch());
    }
    let bad = |e: rustls::Error| {
        LoadError::new(key_file, Some(section), LoadProblem::BadKey(e.to_string()))
    };
    let signer = key.signer().map_err(bad)?;
    let spki = signer.public_key().ok_or_else(mismatch)?;
    let is_leaf = |cert: &X509Certificate<'_>| cert.tbs_certificate.subject_pki.raw == &*spki;
    certs.iter().position(is_leaf).ok_or_else(mismatch)
}

/// The certificate that is shown where no key tells which: the first that is no authority's, or the
/// first of all, which may be self-signed.
fn first_leaf(certs: &[X509Certificate<'_>]) -> usize {
    certs.iter().position(|cert| !cert.is_ca()).unwrap_or(0)
}

/// The leaf, then whoever issued the one before, then what nothing leads to, as it came. Of those
/// beyond the first `own`, which were found elsewhere, only what belongs to the chain.
fn chain_order(certs: &[X509Certificate<'_>], leaf: usize, own: usize) -> Vec<usize> {
    let mut order = vec![leaf];
    let mut left: Vec<usize> = (0..certs.len()).filter(|i| *i != leaf).collect();
    let mut last = leaf;
    while let Some(at) = left.iter().position(|i| certs[*i].subject() == certs[last].issuer()) {
        last = left.remove(at);
        order.push(last);
    }
    order.extend(left.into_iter().filter(|i| *i < own));
    order
}

/// What certificates and key tell when they are read side by side.
struct Found {
    kind: KeyKind,
    /// The leaf's public key.
    spki: Box<[u8]>,
    patterns: Box<[HostPattern]>,
    not_before: SystemTime,
    not_after: SystemTime,
    /// The leaf, then its issuers, then the rest.
    order: Vec<usize>,
    /// How many issuers there are one above the other.
    linked: usize,
    /// Who issued the leaf, if that is not there.
    missing: Option<String>,
}

fn examine(
    ders: &[(usize, CertificateDer<'static>)],
    own: usize,
    key: Option<&(usize, KeyDer)>,
    file: &Path,
    key_file: &Path,
) -> Result<Found, LoadError> {
    let certs = parse_all(file, ders)?;
    let leaf = match key {
        Some((section, key)) => find_leaf(&certs[..own], key, file, (key_file, *section))?,
        None => first_leaf(&certs[..own]),
    };
    let cert = &certs[leaf];
    let Some(kind) = kind_of(&cert.tbs_certificate.subject_pki) else {
        let what = "keys are ECDSA on P-256, P-384 or P-521, RSA, or Ed25519".to_owned();
        let section = key.map_or(ders[leaf].0, |(section, _)| *section);
        return Err(LoadError::new(key_file, Some(section), LoadProblem::BadKey(what)));
    };
    let order = chain_order(&certs, leaf, own);
    let is_link = |pair: &&[usize]| certs[pair[1]].subject() == certs[pair[0]].issuer();
    let linked = order.windows(2).take_while(is_link).count();
    // With an intermediate at hand, what is missing is as a rule the root, which clients have.
    let missing = linked == 0 && cert.subject() != cert.issuer();
    let validity = &cert.tbs_certificate.validity;
    Ok(Found {
        kind,
        spki: cert.tbs_certificate.subject_pki.raw.into(),
        patterns: names_of(cert),
        not_before: wall(&validity.not_before),
        not_after: wall(&validity.not_after),
        linked,
        missing: missing.then(|| cert.issuer().to_string()),
        order,
    })
}

impl Found {
    fn notices(&self, source: &Arc<str>) -> Vec<Notice> {
        let source = || Arc::clone(source);
        let mut notices = Vec::new();
        if !self.order.iter().copied().eq(0..self.order.len()) {
            notices.push(Notice::ChainReordered { source: source() });
        }
        if self.linked + 1 < self.order.len() {
            notices.push(Notice::StrayCertificate { source: source() });
        }
        if let Some(issuer) = &self.missing {
            notices.push(Notice::IssuerMissing { source: source(), issuer: issuer.clone() });
        }
        notices
    }
}

/// The DNS names. Without any, the common name does not stand in (RFC 9525 §2).
pub(crate) fn names_of(cert: &X509Certificate<'_>) -> Box<[HostPattern]> {
    let Ok(Some(names)) = cert.subject_alternative_name() else { return Box::default() };
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => HostPattern::parse(name).ok(),
        _ => None,
    };
    names.value.general_names.iter().filter_map(dns).collect()
}

/// A date as certificates have it, in words.
pub(crate) fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    ASN1Time::from_timestamp(seconds)
        .map_or_else(|_| "an unknown date".to_owned(), |t| t.to_string())
}
