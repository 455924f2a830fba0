//! Reading DER element by element, where the bytes as they stand matter: for a signature over them,
//! or because the list inside is too long to be parsed into a tree.

use std::time::SystemTime;

use x509_parser::asn1_rs::Any;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

/// The elements of a constructed value, one after another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elements<'a> {
    rest: &'a [u8],
}

/// One element: identifier, length and content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    /// All of it.
    pub(crate) raw: &'a [u8],
    /// Without identifier and length.
    pub(crate) content: &'a [u8],
}

/// What stands there is not what should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadDer;

impl<'a> Elements<'a> {
    /// The elements in the content of another.
    pub(crate) fn new(content: &'a [u8]) -> Self {
        Self { rest: content }
    }

    /// The elements of a sequence that is all there is.
    pub(crate) fn of_sequence(der: &'a [u8]) -> Result<Self, BadDer> {
        let mut outer = Self::new(der);
        let inner = outer.sequence()?;
        outer.end()?;
        Ok(inner)
    }

    /// The next one, of whatever kind.
    pub(crate) fn next(&mut self) -> Result<Element<'a>, BadDer> {
        let (rest, any) = Any::from_der(self.rest).map_err(|_| BadDer)?;
        let raw = &self.rest[..self.rest.len() - rest.len()];
        self.rest = rest;
        Ok(Element { raw, content: any.data })
    }

    /// The next one, which has to have this identifier octet.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<Element<'a>, BadDer> {
        if self.is(tag) { self.next() } else { Err(BadDer) }
    }

    /// The next one, if it has this identifier octet.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, BadDer> {
        if self.is(tag) { self.next().map(Some) } else { Ok(None) }
    }

    /// The elements of the sequence that comes next.
    pub(crate) fn sequence(&mut self) -> Result<Self, BadDer> {
        self.expect(SEQUENCE).map(|element| Self::new(element.content))
    }

    /// The bytes of the BIT STRING that comes next, which has to end with a whole byte.
    pub(crate) fn bits(&mut self) -> Result<&'a [u8], BadDer> {
        self.expect(BIT_STRING)?.content.strip_prefix(&[0]).ok_or(BadDer)
    }

    /// The moment that comes next.
    pub(crate) fn time(&mut self) -> Result<ASN1Time, BadDer> {
        if !self.is(UTC_TIME) && !self.is(GENERALIZED_TIME) {
            return Err(BadDer);
        }
        let element = self.next()?;
        ASN1Time::from_der(element.raw).map(|(_, time)| time).map_err(|_| BadDer)
    }

    /// Whether the next one has this identifier octet.
    pub(crate) fn is(&self, tag: u8) -> bool {
        self.rest.first() == Some(&tag)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing may follow.
    pub(crate) fn end(self) -> Result<(), BadDer> {
        if self.is_empty() { Ok(()) } else { Err(BadDer) }
    }
}

/// The same moment on the wall clock.
pub(crate) fn wall(time: &ASN1Time) -> SystemTime {
    time.to_datetime().into()
}

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const ENUMERATED: u8 = 0x0a;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
/// Context-specific and constructed, for `[0]`; the others follow.
pub(crate) const CONTEXT_0: u8 = 0xa0;
pub(crate) const CONTEXT_1: u8 = 0xa1;
pub(crate) const CONTEXT_2: u8 = 0xa2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_one_by_one_and_whole() {
        let mut elements = Elements::of_sequence(&[0x30, 5, 0x02, 1, 7, 0x05, 0]).unwrap();
        assert_eq!(elements.optional(OID).unwrap().map(|e| e.raw), None);
        let number = elements.expect(INTEGER).unwrap();
        assert_eq!((number.raw, number.content), (&[2, 1, 7][..], &[7][..]));
        assert!(elements.end().is_err(), "a NULL follows");
        assert_eq!(elements.next().unwrap().raw, [5, 0]);
        assert!(elements.end().is_ok());
        assert!(elements.next().is_err(), "nothing is left");
    }

    #[test]
    fn what_is_cut_too_long_or_another_kind_is_refused() {
        assert!(Elements::of_sequence(&[0x30, 1]).is_err(), "cut");
        assert!(Elements::of_sequence(&[0x30, 0, 0]).is_err(), "a byte too many");
        assert!(Elements::of_sequence(&[0x31, 0]).is_err(), "a set");
        assert!(Elements::of_sequence(&[0x30, 0x80, 0, 0]).is_err(), "BER of indefinite length");
        assert!(Elements::new(&[3, 2, 1, 2]).bits().is_err(), "a bit of the last byte is unused");
        assert_eq!(Elements::new(&[3, 2, 0, 2]).bits(), Ok(&[2][..]));
        assert!(Elements::new(&[0x18, 1, b'2']).time().is_err(), "no time");
    }
}
