//! What can be wrong with a ClientHello, and with the connection that it comes by.

use std::io;
use std::time::Duration;

use crate::{BoxError, TlsAlert};

/// Why what a client sent is no ClientHello, although it began like TLS. Always the client's fault.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The hello does not end within the limit. Raise the limit if clients have a reason for it.
    #[error("the ClientHello does not end within {limit} bytes; raise the limit if it has to")]
    TooLong {
        /// The limit, in bytes of the connection.
        limit: usize,
    },

    /// A record is longer than TLS allows.
    #[error("a TLS record of {length} bytes is longer than the 16384 that are allowed")]
    RecordTooLong {
        /// What the record's header says.
        length: u16,
    },

    /// A handshake record holds nothing, which TLS forbids.
    #[error("a TLS record of the ClientHello is empty")]
    EmptyRecord,

    /// A record in the middle of the hello says that it is of another protocol.
    #[error("a TLS record of the ClientHello has the major version {major} instead of 3")]
    RecordVersion {
        /// The first byte of its version.
        major: u8,
    },

    /// A record of another type came between the pieces of the hello.
    #[error("a TLS record of type {content_type} comes between the pieces of the ClientHello")]
    UnexpectedRecord {
        /// The type of the record: 20 is change_cipher_spec, 21 an alert, 23 application data.
        content_type: u8,
    },

    /// The first handshake message is another one.
    #[error("the first handshake message is of type {message_type} instead of a ClientHello")]
    NotClientHello {
        /// The type of the message.
        message_type: u8,
    },

    /// A length is odd, zero where that is forbidden, too large, or leaves bytes over.
    #[error("the lengths in the ClientHello do not add up in its {part}")]
    Malformed {
        /// Where.
        part: &'static str,
    },

    /// An extension is there twice.
    #[error("the ClientHello has the extension {extension:#06x} twice")]
    DuplicateExtension {
        /// The type of the extension.
        extension: u16,
    },

    /// Something follows the extension pre_shared_key, which has to be the last one.
    #[error("the extension pre_shared_key is not the last one of the ClientHello")]
    PskNotLast,

    /// The client asks for more than one host at once.
    #[error("the ClientHello names several hosts, where one is allowed")]
    SeveralNames,

    /// The client asks for what is no DNS name.
    #[error("the server name in the ClientHello is no DNS name")]
    BadName,
}

impl HelloError {
    /// The description of the TLS alert that tells the client (RFC 8446 §6).
    pub fn alert(&self) -> u8 {
        let alert = match self {
            Self::RecordTooLong { .. } => TlsAlert::RECORD_OVERFLOW,
            Self::RecordVersion { .. } => TlsAlert::PROTOCOL_VERSION,
            Self::UnexpectedRecord { .. } | Self::NotClientHello { .. } => {
                TlsAlert::UNEXPECTED_MESSAGE
            }
            Self::EmptyRecord | Self::Malformed { .. } => TlsAlert::DECODE_ERROR,
            Self::TooLong { .. }
            | Self::DuplicateExtension { .. }
            | Self::PskNotLast
            | Self::SeveralNames
            | Self::BadName => TlsAlert::ILLEGAL_PARAMETER,
        };
        alert.description()
    }
}

/// Why a connection given to [`ReadClientHello`](crate::ReadClientHello) failed.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ClientHelloError {
    /// The client broke the protocol. It was sent the alert that fits.
    #[error("the client's first message is not understood")]
    Malformed(#[source] HelloError),

    /// The client closed the connection before it had said enough.
    #[error("the client hung up after {read} bytes, before the end of its ClientHello")]
    HungUp {
        /// How many bytes had come.
        read: usize,
    },

    /// The transport failed before the hello was complete.
    #[error("the transport failed before the end of the ClientHello")]
    Transport(#[source] io::Error),

    /// The hello took longer than it may.
    #[error("the ClientHello was not complete within {limit:?}")]
    Timeout {
        /// The limit.
        limit: Duration,
    },

    /// The inner service failed, either in `poll_ready` or with the connection.
    #[error("connection handler failed")]
    Handler(#[source] BoxError),
}

impl ClientHelloError {
    /// Whether it is a client that went away, as port scans and closed laptops do.
    pub(super) fn is_noise(&self) -> bool {
        matches!(self, Self::HungUp { .. } | Self::Transport(_))
    }
}
