//! Key material. None of these types can be printed, cloned or compared with `==`; all are wiped when dropped.
//!
//! They live on the heap, so that moving one does not leave a copy of the bytes behind on the stack.

use super::{entropy::Entropy, error::Error};
use subtle::{Choice, ConstantTimeEq};
use zeroize::{Zeroize, Zeroizing};

/// `N` secret bytes.
pub struct Secret<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// All zero: the stand-in for a share that did not come, never a key.
    #[must_use]
    pub fn zero() -> Self {
        Self(Box::new([0; N]))
    }

    /// Fresh random bytes.
    ///
    /// # Errors
    /// [`Error::Entropy`] when the source fails.
    pub fn random(entropy: &mut impl Entropy) -> Result<Self, Error> {
        let mut secret = Self::zero();
        entropy.fill(secret.0.as_mut_slice())?;
        Ok(secret)
    }

    /// Copies exactly `N` bytes; `None` for any other length. The source is the caller's to wipe.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Option<Self> {
        let mut secret = Self::zero();
        if bytes.len() != N {
            return None;
        }
        secret.0.copy_from_slice(bytes);
        Some(secret)
    }

    /// The bytes, for a primitive that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// The bytes, to be written by a primitive.
    pub fn expose_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }

    /// Constant-time comparison.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> Choice {
        self.0.as_slice().ct_eq(other.0.as_slice())
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// One slot's 32-byte share. All shares of a path together give the key that seals the DEK.
pub type Share = Secret<32>;

/// Lengths in bytes that a DEK may have.
pub const DEK_LENGTHS: [usize; 4] = [16, 24, 32, 64];

/// Length in bytes of a DEK that is made here.
pub const GENERATED_DEK_LENGTH: usize = 32;

/// A data encryption key: 16, 24, 32 or 64 bytes.
pub struct Dek(Zeroizing<Vec<u8>>);

impl Dek {
    /// A new random DEK of [`GENERATED_DEK_LENGTH`] bytes.
    ///
    /// # Errors
    /// [`Error::Entropy`] when the source fails.
    pub fn generate(entropy: &mut impl Entropy) -> Result<Self, Error> {
        let mut bytes = Zeroizing::new(vec![0; GENERATED_DEK_LENGTH]);
        entropy.fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Takes over a buffer; `None` if its length is not one of [`DEK_LENGTHS`].
    #[must_use]
    pub fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        DEK_LENGTHS.contains(&bytes.len()).then_some(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dek_lengths_are_limited() {
        for n in 0..100 {
            assert_eq!(Dek::from_bytes(Zeroizing::new(vec![1; n])).is_some(), [16, 24, 32, 64].contains(&n));
        }
    }

    #[test]
    fn secrets_of_another_length_are_refused() {
        assert!(Share::copy_from(&[0; 31]).is_none());
        assert!(Share::copy_from(&[0; 33]).is_none());
        assert!(Share::copy_from(&[0; 32]).is_some());
    }
}
