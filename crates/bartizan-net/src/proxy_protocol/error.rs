//! What is wrong with a PROXY header.

/// Why bytes that begin as a PROXY header does are none, or why one cannot be made.
///
/// In a header that was received, all of these are its sender's fault.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// The line of version 1 is not as it has to be.
    #[error("the line of a version 1 PROXY header is malformed: {0}")]
    Line(&'static str),

    /// The line of version 1 does not end in time.
    #[error("the line of a version 1 PROXY header does not end within 107 bytes")]
    LineTooLong,

    /// The signature is that of version 2, the version is another.
    #[error("a binary PROXY header has version {0}, only 2 is known")]
    Version(u8),

    /// The command of version 2 is neither `LOCAL` nor `PROXY`.
    #[error("a PROXY header has command {0}, only 0 (LOCAL) and 1 (PROXY) are known")]
    Command(u8),

    /// The byte with family and transport is none of those that are defined.
    #[error("a PROXY header has address family and transport {0:#04x}, which is not defined")]
    Family(u8),

    /// The header is longer than the limit.
    #[error(
        "a PROXY header has {length} bytes, with a limit of {limit}; raise it if the sender is right"
    )]
    TooLong {
        /// The length of the header in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// The block is shorter than the addresses of its family.
    #[error("the block of a PROXY header has {length} bytes, and its addresses take {needed}")]
    ShortBlock {
        /// The length of the block in bytes.
        length: usize,
        /// The length of the addresses in bytes.
        needed: usize,
    },

    /// A TLV reaches beyond the end of the header, or of the TLV around it.
    #[error("a TLV of a PROXY header is cut off at its end")]
    CutTlv,

    /// The value of a TLV is longer or shorter than its kind allows.
    #[error("a TLV of kind {kind:#04x} in a PROXY header has {length} bytes, which it cannot have")]
    TlvLength {
        /// The kind.
        kind: u8,
        /// The length of the value in bytes.
        length: usize,
    },

    /// The checksum is wrong, or cannot be one.
    #[error("the CRC32C of a PROXY header is no good: {0}")]
    Crc32c(&'static str),

    /// TLVs are for version 2 headers that speak for a client.
    #[error("a PROXY header of version 1 or of a LOCAL connection has no TLVs; leave them out")]
    NoTlvs,
}
