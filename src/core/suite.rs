//! The one table of suites and algorithms. Nothing is chosen field by field: a suite number names everything, a slot algorithm names its class.

use super::error::Error;

/// `KW1-A256GCM-HS384`: AES-256-GCM, HKDF-SHA384, SHA-256 and SHA-384 as written in this crate.
pub const SUITE_1: u16 = 0x0001;

/// Name of [`SUITE_1`] in `crypto_suite`.
pub const SUITE_1_NAME: &str = "KW1-A256GCM-HS384";

/// What protects a slot's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// A symmetric KMS key; proves origin when the provider binds the slot's AAD.
    KmsSym = 1,
    /// A KMS public key (RSA-OAEP); anyone can wrap.
    KmsPk = 2,
    /// A post-quantum KEM.
    KemPq = 3,
    /// A hybrid of a classical and a post-quantum KEM.
    KemHybrid = 4,
}

impl Class {
    /// The number in the path header.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::KmsSym => 1,
            Self::KmsPk => 2,
            Self::KemPq => 3,
            Self::KemHybrid => 4,
        }
    }

    /// Name in descriptions.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::KmsSym => "kms-sym",
            Self::KmsPk => "kms-pk",
            Self::KemPq => "kem-pq",
            Self::KemHybrid => "kem-hybrid",
        }
    }
}

/// An algorithm that a slot may use. The high byte of its code is the number of its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// XAES-256-GCM by a KMS key that binds the slot's AAD.
    Xaes256Gcm,
    /// AES-256-GCM by a KMS key that makes its own nonces.
    Aes256Gcm,
    /// RSA-OAEP with SHA-256 for hash and mask (RFC 8017, section 7.1).
    RsaOaepSha256,
    /// RSA-OAEP with SHA-1 for hash and mask: for tokens that offer nothing else.
    RsaOaepSha1,
    /// ML-KEM-768 (FIPS 203), security category 3.
    MlKem768,
    /// ML-KEM-1024 (FIPS 203), security category 5.
    MlKem1024,
    /// X-Wing: X25519 and ML-KEM-768 (draft-connolly-cfrg-xwing-kem).
    XWing,
}

impl Algorithm {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 7] =
        [Self::Xaes256Gcm, Self::Aes256Gcm, Self::RsaOaepSha256, Self::RsaOaepSha1, Self::MlKem768, Self::MlKem1024, Self::XWing];

    /// The number in the bytes.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Xaes256Gcm => 0x0101,
            Self::Aes256Gcm => 0x0102,
            Self::RsaOaepSha256 => 0x0201,
            Self::RsaOaepSha1 => 0x0202,
            Self::MlKem768 => 0x0301,
            Self::MlKem1024 => 0x0302,
            Self::XWing => 0x0401,
        }
    }

    /// The algorithm of a number.
    ///
    /// # Errors
    /// [`Error::UnsupportedAlgorithm`] for numbers that are not in the table.
    pub fn from_code(code: u16) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|a| a.code() == code).ok_or(Error::UnsupportedAlgorithm(code))
    }

    /// The name in `crypto_algorithms` and `kms_keys`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xaes256Gcm => "XAES-256-GCM",
            Self::Aes256Gcm => "AES-256-GCM",
            Self::RsaOaepSha256 => "RSA-OAEP-SHA256",
            Self::RsaOaepSha1 => "RSA-OAEP-SHA1",
            Self::MlKem768 => "ML-KEM-768",
            Self::MlKem1024 => "ML-KEM-1024",
            Self::XWing => "X-Wing",
        }
    }

    /// The algorithm of a name as [`Self::name`] gives it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    /// Its class.
    #[must_use]
    pub const fn class(self) -> Class {
        match self {
            Self::Xaes256Gcm | Self::Aes256Gcm => Class::KmsSym,
            Self::RsaOaepSha256 | Self::RsaOaepSha1 => Class::KmsPk,
            Self::MlKem768 | Self::MlKem1024 => Class::KemPq,
            Self::XWing => Class::KemHybrid,
        }
    }

    /// Whether it makes a layer (a KEM) and not a KMS slot.
    #[must_use]
    pub const fn is_kem(self) -> bool {
        matches!(self.class(), Class::KemPq | Class::KemHybrid)
    }

    /// Whether it has a public key, whose fingerprint the slot's header holds.
    #[must_use]
    pub const fn has_public_key(self) -> bool {
        !matches!(self.class(), Class::KmsSym)
    }

    /// NIST security category of its post-quantum part, `None` when it has none.
    #[must_use]
    pub const fn nist_level(self) -> Option<i16> {
        match self {
            Self::Xaes256Gcm | Self::Aes256Gcm | Self::RsaOaepSha256 | Self::RsaOaepSha1 => None,
            Self::MlKem768 | Self::XWing => Some(3),
            Self::MlKem1024 => Some(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_carry_the_class() {
        for a in Algorithm::ALL {
            assert_eq!(Algorithm::from_code(a.code()), Ok(a));
            assert_eq!(Algorithm::from_name(a.name()), Some(a));
            assert_eq!(a.code() >> 8, u16::from(a.class().code()));
            assert_eq!(a.is_kem(), a.nist_level().is_some());
        }
        assert_eq!(Algorithm::from_code(0), Err(Error::UnsupportedAlgorithm(0)));
    }
}
