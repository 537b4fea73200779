//! Blind index: a keyed hash by which equal values are found without opening any.
//!
//! ```text
//! index key = HKDF-SHA384(DEK of the index, info = "kms_wrap/v1/bidx\0" | column_uuid16 | generation u8, 32)
//! entry     = generation u8 | HMAC-SHA-256(index key, type u8 | normalised value), cut to as many bytes as the column says
//! ```

use super::{
    error::Error,
    kdf::hkdf_sha384,
    secret::{Dek, Secret},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const LABEL: &[u8] = b"kms_wrap/v1/bidx\0";

/// What kind of value was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ValueType {
    /// Characters, in the database's encoding.
    Text = 1,
    /// Bytes.
    Bytea = 2,
}

/// What is done to a text before it is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalisation {
    /// Nothing.
    None,
    /// White space at both ends goes, letters become lower case (Unicode, no locale).
    Lower,
}

impl Normalisation {
    /// By the name in `protected_columns`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "lower" => Some(Self::Lower),
            _ => None,
        }
    }
}

/// A normalised value.
pub enum Normalised<'a> {
    /// The value itself.
    Same(&'a [u8]),
    /// Another.
    Changed(zeroize::Zeroizing<Vec<u8>>),
}

impl std::ops::Deref for Normalised<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Same(value) => value,
            Self::Changed(value) => value,
        }
    }
}

/// The key of one generation of a column's index.
pub struct IndexKey {
    key: Secret<32>,
    generation: u8,
}

impl IndexKey {
    /// Derives it from the DEK of the index's own wrapper.
    ///
    /// # Errors
    /// [`Error::Invariant`] for a DEK that is not of 32 or 64 bytes.
    pub fn derive(dek: &Dek, column: &[u8; 16], generation: u8) -> Result<Self, Error> {
        if !matches!(dek.expose().len(), 32 | 64) {
            return Err(Error::Invariant("a DEK for values has 32 or 64 bytes"));
        }
        let mut key = Secret::<32>::zero();
        hkdf_sha384(None, dek.expose(), &[LABEL, column, &[generation]], key.expose_mut())?;
        Ok(Self { key, generation })
    }

    /// The index entry of a value: `1 + len` bytes, `len` at most 32.
    ///
    /// # Errors
    /// [`Error::Invariant`] never in practice: HMAC takes keys of any length.
    pub fn entry(&self, value_type: ValueType, normalised: &[u8], len: usize) -> Result<Vec<u8>, Error> {
        let type_code = match value_type {
            ValueType::Text => 1,
            ValueType::Bytea => 2,
        };
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.expose()).map_err(|_| Error::Invariant("HMAC key"))?;
        mac.update(&[type_code]);
        mac.update(normalised);
        let tag: [u8; 32] = mac.finalize().into_bytes().into();
        Ok([self.generation].into_iter().chain(tag.into_iter().take(len)).collect())
    }
}

/// A text as it is hashed: as it is, or changed, in memory that is wiped. In a database of another encoding than UTF-8 only ASCII letters
/// change.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn normalise(normalisation: Normalisation, text: &[u8], is_utf8: bool) -> Result<Normalised<'_>, Error> {
    if normalisation == Normalisation::None {
        return Ok(Normalised::Same(text));
    }
    // What lower case needs is not asked for but taken, or the process ends: a letter can become half as long again, and what was taken first
    // is still there while more is. Nobody else takes any in between.
    let mut lower = Vec::new();
    lower.try_reserve_exact(text.len().saturating_mul(3)).map_err(|_| Error::OutOfMemory)?;
    let characters = if is_utf8 { std::str::from_utf8(text).ok() } else { None };
    let changed = if let Some(text) = characters {
        drop(lower);
        text.trim().to_lowercase().into_bytes()
    } else {
        lower.extend_from_slice(text.trim_ascii());
        lower.make_ascii_lowercase();
        lower
    };
    Ok(Normalised::Changed(zeroize::Zeroizing::new(changed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    #[test]
    fn entries_depend_on_everything() {
        let dek = |b| Dek::from_bytes(Zeroizing::new(vec![b; 32])).unwrap();
        let key = |b, column, generation| IndexKey::derive(&dek(b), &[column; 16], generation).unwrap();
        let one = key(1, 1, 1).entry(ValueType::Text, b"a", 16).unwrap();
        assert_eq!(one.len(), 17);
        assert_eq!(one[0], 1);
        assert_eq!(one, key(1, 1, 1).entry(ValueType::Text, b"a", 16).unwrap());
        for other in [key(2, 1, 1), key(1, 2, 1), key(1, 1, 2)] {
            assert_ne!(one, other.entry(ValueType::Text, b"a", 16).unwrap());
        }
        assert_ne!(one, key(1, 1, 1).entry(ValueType::Bytea, b"a", 16).unwrap());
        assert_ne!(one, key(1, 1, 1).entry(ValueType::Text, b"b", 16).unwrap());
    }

    #[test]
    fn lower_trims_and_folds_case() {
        assert_eq!(&*normalise(Normalisation::Lower, " ÄbC\t".as_bytes(), true).unwrap(), "äbc".as_bytes());
        assert_eq!(&*normalise(Normalisation::None, b" A ", true).unwrap(), b" A ");
        assert_eq!(&*normalise(Normalisation::Lower, b" A\xff", true).unwrap(), b"a\xff");
        assert_eq!(&*normalise(Normalisation::Lower, " ÄB ".as_bytes(), false).unwrap(), "Äb".as_bytes());
    }
}
