//! Finds the ClientHello in the first bytes of a connection.

use super::error::HelloError;
use super::hello::ClientHello;

/// Puts the ClientHello together out of a connection's bytes, as they come.
///
/// It is given the bytes in pieces of any size ([`push`](Self::push)), and takes the first
/// handshake message out of as many TLS records as it is spread over. The answer depends on the
/// bytes alone, never on how they were cut, and the work is in proportion to them. All bytes are
/// kept, for whoever reads the connection next ([`into_bytes`](Self::into_bytes)).
///
/// ```
/// use bartizan_net::{HelloProgress, HelloReader};
///
/// let mut reader = HelloReader::new(16 * 1024);
/// assert!(matches!(reader.push(&[22, 3, 1]), Ok(HelloProgress::More)));
///
/// let mut reader = HelloReader::new(16 * 1024);
/// assert!(matches!(reader.push(b"GET / HTTP/1.1"), Ok(HelloProgress::NotTls)));
/// ```
#[derive(Debug)]
pub struct HelloReader {
    limit: usize,
    bytes: Vec<u8>,
    /// How many of the bytes have been looked at.
    at: usize,
    header: [u8; RECORD_HEADER],
    header_len: usize,
    /// What is still to come of the record at hand. Zero: a header is next.
    record_left: usize,
    records: usize,
    /// How many bytes of the message have been found, in all records.
    found: usize,
    /// How long the message is with its header; known once that has been found.
    message_len: usize,
}

/// What is known after some of the bytes.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloProgress {
    /// Not enough yet.
    More,
    /// The hello is complete. More bytes may have come after it.
    Hello(ClientHello),
    /// The connection does not begin with TLS. Neither does one with an SSL 2.0 hello.
    NotTls,
}

/// Where the reader stands, before the message is read.
enum Found {
    More,
    Message,
    NotTls,
}

impl HelloReader {
    /// A reader that gives up on a hello which does not end within the first `limit` bytes of the
    /// connection. A limit of 0 counts as 1.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            bytes: Vec::new(),
            at: 0,
            header: [0; RECORD_HEADER],
            header_len: 0,
            record_left: 0,
            records: 0,
            found: 0,
            message_len: 0,
        }
    }

    /// Takes the next bytes in.
    ///
    /// Once there is an answer or an error, whatever comes later has the same one.
    ///
    /// # Errors
    ///
    /// If what came is TLS but cannot be the beginning of a ClientHello within the limit.
    pub fn push(&mut self, bytes: &[u8]) -> Result<HelloProgress, HelloError> {
        self.keep(bytes);
        match self.advance()? {
            Found::More => Ok(HelloProgress::More),
            Found::NotTls => Ok(HelloProgress::NotTls),
            Found::Message => self.read().map(HelloProgress::Hello),
        }
    }

    /// How many bytes may still come before the limit.
    pub fn remaining(&self) -> usize {
        self.limit.saturating_sub(self.bytes.len())
    }

    /// All that came, whether it belongs to the hello or not.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All that came, whether it belongs to the hello or not.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn keep(&mut self, bytes: &[u8]) {
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() {
            // By doubling, or bytes that come one by one would be copied each time; but not past
            // the limit, for there may be as many buffers as connections.
            let capacity = (2 * self.bytes.capacity()).min(self.limit).max(needed);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Looks at the new bytes, once each. Where it fails it stands still, and so fails again.
    fn advance(&mut self) -> Result<Found, HelloError> {
        while !self.is_complete() {
            if self.at == self.limit {
                return Err(HelloError::TooLong { limit: self.limit });
            }
            let Some(&byte) = self.bytes.get(self.at) else { return Ok(Found::More) };
            let step = if self.record_left == 0 {
                if self.rules_out_tls(byte) {
                    return Ok(Found::NotTls);
                }
                self.record_header(byte)?;
                1
            } else if self.found < MESSAGE_HEADER {
                self.message_header(byte)?;
                self.record_left -= 1;
                1
            } else {
                let here = self.bytes.len().min(self.limit) - self.at;
                let step = here.min(self.record_left).min(self.message_len - self.found);
                self.record_left -= step;
                self.found += step;
                step
            };
            self.at += step;
        }
        Ok(Found::Message)
    }

    fn is_complete(&self) -> bool {
        self.found >= MESSAGE_HEADER && self.found == self.message_len
    }

    /// Whether `byte` of the very first header is one that no TLS begins with (RFC 8446 §5.1).
    fn rules_out_tls(&self, byte: u8) -> bool {
        let expected = [HANDSHAKE, MAJOR_VERSION];
        self.records == 0 && expected.get(self.header_len).is_some_and(|e| *e != byte)
    }

    /// Takes in the next byte of a record's header: type, version, length.
    fn record_header(&mut self, byte: u8) -> Result<(), HelloError> {
        match self.header_len {
            0 if byte != HANDSHAKE => {
                return Err(HelloError::UnexpectedRecord { content_type: byte });
            }
            1 if byte != MAJOR_VERSION => return Err(HelloError::RecordVersion { major: byte }),
            4 => {
                let length = u16::from_be_bytes([self.header[3], byte]);
                match length {
                    0 => return Err(HelloError::EmptyRecord),
                    _ if length > MAX_RECORD => return Err(HelloError::RecordTooLong { length }),
                    _ => self.record_left = length.into(),
                }
                self.records += 1;
                self.header_len = 0;
                return Ok(());
            }
            _ => {}
        }
        self.header[self.header_len] = byte;
        self.header_len += 1;
        Ok(())
    }

    /// Takes in the next byte of the message's header: type, and length in 24 bits.
    fn message_header(&mut self, byte: u8) -> Result<(), HelloError> {
        if self.found == 0 {
            if byte != CLIENT_HELLO {
                return Err(HelloError::NotClientHello { message_type: byte });
            }
        } else {
            let length = self.message_len << 8 | usize::from(byte);
            if self.found == MESSAGE_HEADER - 1 {
                // Said now, because the client may take its time with the rest.
                if RECORD_HEADER + MESSAGE_HEADER + length > self.limit {
                    return Err(HelloError::TooLong { limit: self.limit });
                }
                self.message_len = MESSAGE_HEADER + length;
            } else {
                self.message_len = length;
            }
        }
        self.found += 1;
        Ok(())
    }

    /// Reads the message, which is complete. Only one out of several records has to be copied.
    fn read(&self) -> Result<ClientHello, HelloError> {
        let message = RECORD_HEADER..RECORD_HEADER + self.message_len;
        if self.records == 1 {
            return ClientHello::parse(&self.bytes[message][MESSAGE_HEADER..]);
        }
        let mut joined = Vec::with_capacity(self.message_len);
        let mut rest = self.bytes.as_slice();
        while let [_, _, _, high, low, after @ ..] = rest
            && joined.len() < self.message_len
        {
            let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
            let (fragment, next) = after.split_at(length);
            joined.extend_from_slice(&fragment[..length.min(self.message_len - joined.len())]);
            rest = next;
        }
        ClientHello::parse(&joined[MESSAGE_HEADER..])
    }
}

const RECORD_HEADER: usize = 5;

const MESSAGE_HEADER: usize = 4;

/// The content type of records with handshake messages (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// Of SSL 3.0 and all versions of TLS. What follows it has no meaning in a first record.
const MAJOR_VERSION: u8 = 3;

/// The type of the message (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;

/// 2^14 bytes, before there is encryption (RFC 8446 §5.1).
const MAX_RECORD: u16 = 1 << 14;
