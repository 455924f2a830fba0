//! PEM files (RFC 7468), with the sections that they are counted by.

use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::key::{Format, KeyDer};
use crate::load::{LoadError, LoadProblem};

/// The certificates, keys and revocation lists of a PEM file, each with the number of its section,
/// from 1.
pub(crate) struct Pem {
    pub(crate) path: PathBuf,
    pub(crate) certs: Vec<(usize, CertificateDer<'static>)>,
    pub(crate) keys: Vec<(usize, KeyDer)>,
    pub(crate) crls: Vec<(usize, CertificateRevocationListDer<'static>)>,
    /// The first encrypted key, which counts as none.
    pub(crate) encrypted: Option<usize>,
}

pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Pem, LoadError> {
    parse_with(path, text, &mut Zeroizing::new(Vec::new()))
}

/// Uses a buffer again that has been used for another file.
pub(crate) fn parse_with(
    path: &Path,
    text: &[u8],
    scratch: &mut Zeroizing<Vec<u8>>,
) -> Result<Pem, LoadError> {
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
        if section.is_encrypted() {
            found.encrypted.get_or_insert(number);
            continue;
        }
        let mut der = || section.decode(scratch).map_err(wrong);
        match section.label {
            b"CERTIFICATE" => found.certs.push((number, der()?.into())),
            b"PRIVATE KEY" => found.keys.push((number, KeyDer::new(Format::Pkcs8, der()?))),
            b"RSA PRIVATE KEY" => found.keys.push((number, KeyDer::new(Format::Pkcs1, der()?))),
            b"EC PRIVATE KEY" => found.keys.push((number, KeyDer::new(Format::Sec1, der()?))),
            b"X509 CRL" => found.crls.push((number, der()?.into())),
            _ => {} // DH and EC parameters, requests: HAProxy files may hold them.
        }
    }
    Ok(found)
}

/// One section: what stands between its BEGIN line and its END line.
struct Section<'a> {
    label: &'a [u8],
    body: &'a [u8],
}

impl Section<'_> {
    fn is_encrypted(&self) -> bool {
        // The mark of the older form is in the first line.
        let head = &self.body[..self.body.len().min(HEAD)];
        self.label == b"ENCRYPTED PRIVATE KEY" || contains(head, b"Proc-Type: 4,ENCRYPTED")
    }

    /// What is in it, in a vector without spare room. Takes the same time for each byte, whatever
    /// it is: it may be a key's.
    fn decode(&self, scratch: &mut Vec<u8>) -> Result<Vec<u8>, String> {
        scratch.clear();
        // A scratch that grows would leave parts of keys behind.
        if scratch.capacity() < self.body.len() {
            zeroize::Zeroize::zeroize(scratch);
            scratch.reserve_exact(self.body.len());
        }
        for line in lines(self.body).map(<[u8]>::trim_ascii) {
            // Fields of RFC 1421 come before the text, which has no colon.
            if scratch.is_empty() && line.contains(&b':') {
                continue;
            }
            scratch.extend_from_slice(line);
        }
        if scratch.iter().any(u8::is_ascii_whitespace) {
            scratch.retain(|b| !b.is_ascii_whitespace());
        }
        let padding = scratch.iter().rev().take_while(|b| **b == b'=').count();
        let len = (scratch.len() / 4 * 3).saturating_sub(padding);
        let mut der = vec![0; len];
        let whole = Base64::decode(scratch, &mut der).is_ok_and(|decoded| decoded.len() == len);
        if whole {
            return Ok(der);
        }
        zeroize::Zeroize::zeroize(&mut der);
        Err("it is not base64".to_owned())
    }
}

/// Reads a certificate out of the DER of a section: all of it, and nothing behind.
pub(crate) fn certificate<'a>(
    path: &Path,
    section: usize,
    der: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, LoadError> {
    let wrong = |what| LoadError::new(path, Some(section), LoadProblem::BadCertificate(what));
    match X509Certificate::from_der(der) {
        Ok((&[], cert)) => Ok(cert),
        Ok(_) => Err(wrong("there is more behind the certificate".to_owned())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// The sections of a PEM text, from the BEGIN line to the END line, whatever they hold.
///
/// rustls' reader does not tell of sections that it passes over, so they could not be counted, when
/// an END line is missing it takes two sections for one, and it decodes keys ten times slower than
/// base64ct, which takes the same care. No error cites more than a label: the
/// line may hold the key, where a key was pasted as one line.
struct Sections<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Sections<'a> {
    type Item = Result<Section<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.rest;
        let mut open: Option<(usize, &[u8])> = None;
        let mut at = 0;
        for line in lines(text) {
            let start = at;
            at += line.len();
            self.rest = &text[at..];
            let line = line.trim_ascii_end();
            match (line.strip_prefix(b"-----BEGIN "), open) {
                (Some(_), Some((_, label))) => return Some(Err(missing_end(label))),
                (Some(label), None) => match label.strip_suffix(b"-----") {
                    Some(label) if is_label(label) => open = Some((at, label)),
                    _ => return Some(Err("its BEGIN line is cut or garbled".to_owned())),
                },
                (None, Some((begin, label))) if is_end(line, label) => {
                    return Some(Ok(Section { label, body: &text[begin..start] }));
                }
                (None, _) => {}
            }
        }
        open.map(|(_, label)| Err(missing_end(label)))
    }
}

/// Lines with their ends, whichever these are.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 0;
    let mut ends = memchr::memchr2_iter(b'\n', b'\r', text).map(|end| end + 1);
    std::iter::from_fn(move || {
        let begin = at;
        at = ends.next().unwrap_or(text.len());
        (begin < at).then(|| &text[begin..at])
    })
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

fn contains(text: &[u8], mark: &[u8]) -> bool {
    text.windows(mark.len()).any(|window| window == mark)
}

/// Room for the first line.
const HEAD: usize = 64;

/// More than any in use, and less than a line of base64.
const LONGEST_LABEL: usize = 40;
