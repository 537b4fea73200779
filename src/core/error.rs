//! What can go wrong between bytes and a DEK. The variants are the classes a caller may tell apart, no finer.

/// Why bytes were not accepted, or a wrapper could not be made or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not a wrapper container (framing). Decided before any key is used.
    NotAContainer,
    /// The bytes name a container format that this version does not know.
    UnsupportedFormat(u8),
    /// The bytes name a cipher suite that this version does not know.
    UnsupportedSuite(u16),
    /// The bytes name a slot algorithm that this version does not know.
    UnsupportedAlgorithm(u16),
    /// Everything after parsing: wrong key, wrong context, tampering, another wrapper's part. Deliberately one value.
    DoesNotOpen,
    /// The bytes are not a value envelope (framing). Decided before any key is used.
    NotAnEnvelope,
    /// The bytes name a version of the value envelope that this version does not know.
    UnsupportedVersion(u8),
    /// The bytes name a value cipher that this version does not know.
    UnsupportedCipher(u8),
    /// Everything after parsing a value envelope: wrong key, wrong context, tampering, another row's value. Deliberately one value.
    DoesNotDecrypt,
    /// A public encapsulation key has the wrong length or is not a valid key of its algorithm.
    InvalidPublicKey,
    /// The source of randomness failed.
    Entropy,
    /// There is no memory for a value of this length.
    OutOfMemory,
    /// A rule of this module was broken by its caller (never by stored bytes).
    Invariant(&'static str),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAContainer => f.write_str("invalid wrapper container"),
            Self::UnsupportedFormat(n) => write!(f, "unsupported container format 0x{n:02x}"),
            Self::UnsupportedSuite(n) => write!(f, "unsupported suite 0x{n:04x}"),
            Self::UnsupportedAlgorithm(n) => write!(f, "unsupported slot algorithm 0x{n:04x}"),
            Self::DoesNotOpen => f.write_str("could not open wrapper"),
            Self::NotAnEnvelope => f.write_str("invalid value envelope"),
            Self::UnsupportedVersion(n) => write!(f, "unsupported envelope version 0x{n:02x}"),
            Self::UnsupportedCipher(n) => write!(f, "unsupported value cipher 0x{n:02x}"),
            Self::DoesNotDecrypt => f.write_str("could not decrypt value"),
            Self::InvalidPublicKey => f.write_str("invalid encapsulation key"),
            Self::Entropy => f.write_str("the operating system gave no randomness"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Invariant(what) => write!(f, "internal error: {what}"),
        }
    }
}

impl std::error::Error for Error {}
