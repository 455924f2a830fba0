//! Revocation lists: read, told apart, and put in order.

use std::collections::HashMap;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use super::notice::{TrustConcern, TrustNotice};
use super::roots::Root;
use crate::der::{self, BadDer, Elements, wall};
use crate::load::{self, LoadError, LoadProblem};
use crate::pem;
use crate::pem_source::PemSource;
use crate::signature::Signed;

/// A list that is in use.
#[derive(Debug)]
pub(crate) struct Crl {
    pub(crate) list: CertRevocationList<'static>,
    pub(crate) sha256: [u8; 32],
    /// The authority key identifier, which tells an issuer's keys apart.
    key: Vec<u8>,
    this_update: SystemTime,
    number: Vec<u8>,
    issuer: String,
    section: Option<usize>,
    source: PemSource,
}

/// The lists in `sources`, the latest first, without those that have a later one.
pub(crate) fn load(
    sources: &[PemSource],
    roots: &[Root],
    now: SystemTime,
    notices: &mut Vec<TrustNotice>,
) -> Result<Vec<Crl>, LoadError> {
    let mut crls = Vec::new();
    for source in sources {
        for (section, der) in ders(source)? {
            let wrong = |problem| LoadError::new(source.name(), section, problem);
            let head = Head::read(&der).map_err(|BadDer| {
                wrong(LoadProblem::BadCrl("it is not a list in DER, or is cut".to_owned()))
            })?;
            let mut note =
                |concern| notices.push(TrustNotice::new(source.name(), section, concern));
            head.tell(now, &mut note);
            if !head.is_signed_by_one_of(roots).map_err(wrong)? {
                note(TrustConcern::CrlOfAnother { issuer: head.issuer_name() });
            }
            let list = head.check().and_then(|()| {
                OwnedCertRevocationList::from_der(&der).map_err(|error| describe(&error))
            });
            let list = list.map_err(|what| wrong(LoadProblem::BadCrl(what)))?.into();
            let mut sha256 = [0; 32];
            sha256.copy_from_slice(digest(&SHA256, &der).as_ref());
            crls.push(Crl {
                list,
                sha256,
                key: head.key.to_vec(),
                this_update: wall(&head.this_update),
                number: head.number.to_vec(),
                issuer: head.issuer_name(),
                section,
                source: source.clone(),
            });
        }
    }
    Ok(latest(crls, notices))
}

/// The order in which to ask them, once for each key that an issuer has signed lists with.
///
/// webpki takes the first list with the issuer's name for the right one. After a change of keys an
/// authority has two of them, and the first may be the wrong one for a chain, which its signature
/// shows: then the others get their turn as the first. More than two orders are never needed for
/// issuers with one or two keys that changed together.
pub(crate) fn orders(crls: &[Crl]) -> Vec<Vec<usize>> {
    let mut keys: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
    let mut rank = Vec::with_capacity(crls.len());
    for crl in crls {
        let known = keys.entry(crl.list.issuer()).or_default();
        rank.push(known.iter().position(|key| *key == crl.key).unwrap_or_else(|| {
            known.push(&crl.key);
            known.len() - 1
        }));
    }
    let most = keys.values().map(Vec::len).max().unwrap_or(0);
    (0..most)
        .map(|turn| {
            let mut order: Vec<usize> = (0..crls.len()).collect();
            order.sort_by_key(|i| {
                let count = keys.get(crls[*i].list.issuer()).map_or(1, Vec::len);
                (rank[*i] + count - turn % count) % count
            });
            order
        })
        .collect()
}

/// Drops each list that has a later one of the same issuer, key and scope.
///
/// webpki would take whichever comes first, so a file to which new lists are appended would keep
/// its oldest in force.
fn latest(mut crls: Vec<Crl>, notices: &mut Vec<TrustNotice>) -> Vec<Crl> {
    crls.sort_by(|a, b| {
        let age = |crl: &Crl| (crl.this_update, crl.number.len());
        let later = age(b).cmp(&age(a)).then_with(|| b.number.cmp(&a.number));
        later.then_with(|| a.sha256.cmp(&b.sha256))
    });
    let mut kept: Vec<Crl> = Vec::with_capacity(crls.len());
    for crl in crls {
        let same = |other: &&Crl| {
            other.list.issuer() == crl.list.issuer()
                && other.key == crl.key
                && other.list.issuing_distribution_point() == crl.list.issuing_distribution_point()
        };
        match kept.iter().find(same) {
            None => kept.push(crl),
            Some(later) if later.sha256 == crl.sha256 => {}
            Some(_) => {
                let concern = TrustConcern::CrlSuperseded { issuer: crl.issuer };
                notices.push(TrustNotice::new(crl.source.name(), crl.section, concern));
            }
        }
    }
    kept
}

/// A list in DER, with its section where the file is PEM.
type Numbered = (Option<usize>, Vec<u8>);

/// The lists of a file.
fn ders(source: &PemSource) -> Result<Vec<Numbered>, LoadError> {
    let bytes = load::bytes(source)?;
    // A sequence with the length in bytes of its own. No PEM text starts with the second.
    if let [der::SEQUENCE, 0x80..=0xff, ..] = *bytes {
        return Ok(vec![(None, bytes.into_owned())]);
    }
    let pem = pem::parse(source.name(), &bytes)?;
    if pem.crls.is_empty() {
        return Err(LoadError::new(&pem.path, None, LoadProblem::NoCrl));
    }
    Ok(pem.crls.into_iter().map(|(section, der)| (Some(section), der.to_vec())).collect())
}

/// All of a list but its entries, which may be millions.
struct Head<'a> {
    signed: Signed<'a>,
    is_v2: bool,
    /// The issuer's name, DER.
    issuer: &'a [u8],
    this_update: ASN1Time,
    next_update: Option<ASN1Time>,
    key: &'a [u8],
    number: &'a [u8],
}

impl<'a> Head<'a> {
    fn read(crl: &'a [u8]) -> Result<Self, BadDer> {
        let mut crl = Elements::of_sequence(crl)?;
        let tbs = crl.expect(der::SEQUENCE)?;
        let algorithm = crl.expect(der::SEQUENCE)?.content;
        let signature = crl.bits()?;
        crl.end()?;

        let mut list = Elements::new(tbs.content);
        let version = list.optional(der::INTEGER)?;
        list.expect(der::SEQUENCE)?; // The algorithm again.
        let issuer = list.expect(der::SEQUENCE)?.raw;
        let this_update = list.time()?;
        let dated = list.is(der::UTC_TIME) || list.is(der::GENERALIZED_TIME);
        let next_update = if dated { Some(list.time()?) } else { None };
        list.optional(der::SEQUENCE)?; // The entries.
        let (mut key, mut number) = (&[][..], &[][..]);
        if let Some(explicit) = list.optional(der::CONTEXT_0)? {
            let mut extensions = Elements::of_sequence(explicit.content)?;
            while !extensions.is_empty() {
                let mut extension = extensions.sequence()?;
                let id = extension.expect(der::OID)?.content;
                extension.optional(BOOLEAN)?;
                let value = extension.expect(der::OCTET_STRING)?.content;
                match id {
                    AUTHORITY_KEY_IDENTIFIER => key = value,
                    CRL_NUMBER => number = Elements::new(value).expect(der::INTEGER)?.content,
                    _ => {}
                }
            }
        }
        list.end()?;
        let is_v2 = version.is_some_and(|version| version.content == [1]);
        let signed = Signed { message: tbs.raw, algorithm, signature };
        Ok(Self { signed, is_v2, issuer, this_update, next_update, key, number })
    }

    /// What webpki would refuse with less of a reason.
    fn check(&self) -> Result<(), String> {
        if !self.is_v2 {
            return Err("it is of version 1; have the authority write version 2".to_owned());
        }
        if self.next_update.is_none() {
            return Err("it has no date of its next update, so it cannot expire".to_owned());
        }
        Ok(())
    }

    fn tell(&self, now: SystemTime, note: &mut impl FnMut(TrustConcern)) {
        if let Some(next) = self.next_update.filter(|next| wall(next) <= now) {
            let since = next.to_string();
            note(TrustConcern::CrlExpired { issuer: self.issuer_name(), since });
        }
        if wall(&self.this_update) > now {
            let until = self.this_update.to_string();
            note(TrustConcern::CrlNotYetValid { issuer: self.issuer_name(), until });
        }
    }

    /// Whether one of the authorities has issued it. One that only has the name of one of them is
    /// refused: were it passed over, those that it revokes would be let in.
    fn is_signed_by_one_of(&self, roots: &[Root]) -> Result<bool, LoadProblem> {
        let name = Elements::new(self.issuer).next().map_or(&[][..], |name| name.content);
        let mut same = roots
            .iter()
            .filter(|root| root.is_authority && *root.anchor.subject == *name)
            .peekable();
        if same.peek().is_none() {
            return Ok(false);
        }
        if same.any(|root| self.signed.verify(&root.spki).is_ok()) {
            return Ok(true);
        }
        Err(LoadProblem::CrlSignature { issuer: self.issuer_name() })
    }

    fn issuer_name(&self) -> String {
        X509Name::from_der(self.issuer)
            .map_or_else(|_| "an unreadable name".to_owned(), |(_, name)| name.to_string())
    }
}

fn describe(error: &webpki::Error) -> String {
    match error {
        webpki::Error::UnsupportedDeltaCrl => "it is a delta; give the full list".to_owned(),
        webpki::Error::UnsupportedIndirectCrl => {
            "it is indirect (of several issuers), which is not supported".to_owned()
        }
        webpki::Error::UnsupportedRevocationReasonsPartitioning => {
            "it is for some reasons of revocation alone, which is not supported".to_owned()
        }
        other => other.to_string(),
    }
}

const BOOLEAN: u8 = 0x01;

/// 2.5.29.35 and 2.5.29.20.
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x23];
const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
