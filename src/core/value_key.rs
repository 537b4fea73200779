//! Keys of values: a DEK gives a value key, a nonce's first half gives a message key of it, and a run counts in the second half.
//!
//! XAES-256-GCM (C2SP XAES-256-GCM, section "XAES-256-GCM") derives an AES-256-GCM key from the first 12 of its 24 nonce bytes by a KDF in
//! counter mode with CMAC (NIST SP 800-108r1, section 4.1). Kept apart here, so that values with the same first half cost one plain GCM each.

use super::{
    aead::TAG_LEN,
    entropy::Entropy,
    error::Error,
    kdf::hkdf_sha384,
    secret::{Dek, Secret},
    value::CIPHER_XAES,
};
use aes_gcm::{
    AeadInOut, AesGcm,
    aead::{KeyInit, consts::U12, inout::InOutBuf},
    aes::{Aes256Enc, cipher::BlockCipherEncrypt},
};

/// AES-256-GCM without the round keys of AES decryption, which GCM and CMAC never use: a session may hold tens of thousands of keys.
type Aes256Gcm = AesGcm<Aes256Enc, U12>;

const LABEL: &[u8] = b"kms_wrap/v1/value-key\0";

/// What encrypts all values under one DEK. On the heap like every [`Secret`], since whoever keeps keys moves them about.
pub struct ValueKey {
    aes: Box<Aes256Enc>,
    /// The CMAC subkey K1.
    k1: Secret<16>,
}

impl ValueKey {
    /// `HKDF(DEK, salt = wrapper uuid, info = label | cipher u8, 32)`.
    ///
    /// # Errors
    /// [`Error::Invariant`] for a DEK that is not of 32 or 64 bytes.
    pub fn derive(dek: &Dek, wrapper: &[u8; 16]) -> Result<Self, Error> {
        if !matches!(dek.expose().len(), 32 | 64) {
            return Err(Error::Invariant("a DEK for values has 32 or 64 bytes"));
        }
        let mut key = Secret::<32>::zero();
        hkdf_sha384(Some(wrapper), dek.expose(), &[LABEL, &[CIPHER_XAES]], key.expose_mut())?;
        Ok(Self::new(key.expose()))
    }

    /// An XAES-256-GCM key as it is.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        let aes = Box::new(Aes256Enc::new(key.into()));
        let mut k1 = Secret::<16>::zero();
        aes.encrypt_block(k1.expose_mut().into());
        let [first, ..] = *k1.expose();
        // Without a branch on the secret bit: 0x87 or 0.
        let carry = (first >> 7).wrapping_neg() & 0x87;
        *k1.expose_mut() = (u128::from_be_bytes(*k1.expose()) << 1 ^ u128::from(carry)).to_be_bytes();
        Self { aes, k1 }
    }

    /// The AES-256-GCM key of all nonces that start with `prefix`.
    #[must_use]
    pub fn message_key(&self, prefix: &[u8; 12]) -> MessageKey {
        let mut key = Secret::<32>::zero();
        let (halves, _) = key.expose_mut().as_chunks_mut::<16>();
        for (half, counter) in halves.iter_mut().zip(1..) {
            let message = [0, counter, b'X', 0].into_iter().chain(*prefix);
            for ((b, m), k) in half.iter_mut().zip(message).zip(self.k1.expose()) {
                *b = m ^ k;
            }
            self.aes.encrypt_block(half.into());
        }
        MessageKey(Box::new(Aes256Gcm::new(key.expose().into())))
    }
}

/// An AES-256-GCM key of values with one nonce prefix.
pub struct MessageKey(Box<Aes256Gcm>);

impl MessageKey {
    /// Encrypts `plaintext` into `out` of the same length and returns the tag.
    ///
    /// # Errors
    /// [`Error::Invariant`] when the lengths differ or GCM's limit is passed.
    pub fn seal(&self, nonce: &[u8; 12], aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<[u8; TAG_LEN], Error> {
        let buffer = InOutBuf::new(plaintext, out).map_err(|_| Error::Invariant("buffer length"))?;
        let tag = self.0.encrypt_inout_detached(nonce.into(), aad, buffer).map_err(|_| Error::Invariant("AES-GCM limit"))?;
        Ok(tag.into())
    }

    /// Decrypts `ciphertext` into `out` of the same length; `out` is not written unless the tag verifies.
    ///
    /// # Errors
    /// [`Error::DoesNotDecrypt`].
    pub fn open(&self, nonce: &[u8; 12], aad: &[u8], ciphertext: &[u8], tag: &[u8; TAG_LEN], out: &mut [u8]) -> Result<(), Error> {
        let buffer = InOutBuf::new(ciphertext, out).map_err(|_| Error::Invariant("buffer length"))?;
        self.0.decrypt_inout_detached(nonce.into(), aad, buffer, tag.into()).map_err(|_| Error::DoesNotDecrypt)
    }
}

/// Most values of one run.
pub const RUN_LEN: u64 = 1 << 32;

/// Nonces of one writer: 12 random bytes, and a 96-bit counter from a random start. Their caller sees to it that a run has one DEK, one process
/// and one transaction, and that it never goes back.
pub struct Run {
    prefix: [u8; 12],
    counter: u128,
    left: u64,
}

impl Run {
    /// A run with 24 fresh bytes.
    ///
    /// # Errors
    /// [`Error::Entropy`] when the source fails.
    pub fn start(entropy: &mut impl Entropy) -> Result<Self, Error> {
        let (mut prefix, mut low) = ([0; 12], [0; 12]);
        entropy.fill(&mut prefix)?;
        entropy.fill(&mut low)?;
        let counter = low.into_iter().fold(0, |n: u128, b| n << 8 | u128::from(b));
        Ok(Self { prefix, counter, left: RUN_LEN })
    }

    /// What the message key is derived from.
    #[must_use]
    pub fn prefix(&self) -> &[u8; 12] {
        &self.prefix
    }

    /// The next GCM nonce; `None` when the run has given all that it may.
    pub fn next_nonce(&mut self) -> Option<[u8; 12]> {
        self.left = self.left.checked_sub(1)?;
        // Modulo 2^96: only these bytes are used.
        self.counter = self.counter.wrapping_add(1);
        let [_, _, _, _, low @ ..] = self.counter.to_be_bytes();
        Some(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u8);

    impl Entropy for Fixed {
        fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
            out.fill(self.0);
            Ok(())
        }
    }

    #[test]
    fn keys_are_wiped() {
        fn is_wiped<T: zeroize::ZeroizeOnDrop>() {}
        is_wiped::<Aes256Enc>();
        is_wiped::<Aes256Gcm>();
    }

    #[test]
    fn a_run_counts_modulo_2_96_and_ends() {
        let mut run = Run::start(&mut Fixed(0xff)).unwrap();
        assert_eq!(run.left, 1 << 32);
        assert_eq!(run.next_nonce(), Some([0; 12]));
        assert_eq!(run.left, (1 << 32) - 1);
        assert_eq!(run.next_nonce(), Some([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]));
        run.left = 1;
        assert!(run.next_nonce().is_some());
        assert_eq!(run.next_nonce(), None);
        assert_eq!(run.next_nonce(), None);
    }
}
