//! Key encapsulation: ML-KEM (FIPS 203, sections 7.2 and 7.3) and X-Wing (draft-connolly-cfrg-xwing-kem, sections 5.4 and 5.5).
//!
//! Private keys are seeds: 64 bytes `d | z` for ML-KEM (FIPS 203, section 3.3), 32 bytes for X-Wing.

use super::{entropy::Entropy, error::Error, secret::Secret, suite::Algorithm};
use ml_kem::{
    B32, Decapsulate, Kem, KeyExport, MlKem768, MlKem1024, TryKeyInit, kem::Decapsulator, kem::SharedKey, ml_kem_768, ml_kem_1024,
};
use x_wing::XWingKem;
use zeroize::{Zeroize, Zeroizing};

/// A KEM's 32-byte shared secret.
pub type SharedSecret = Secret<32>;

/// Sizes in bytes of one KEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Encapsulation (public) key.
    pub encapsulation_key: usize,
    /// Ciphertext.
    pub ciphertext: usize,
    /// Private key, as a seed.
    pub seed: usize,
}

/// The sizes of a KEM; `None` for an algorithm that is not one.
#[must_use]
pub const fn sizes(algorithm: Algorithm) -> Option<Sizes> {
    match algorithm {
        Algorithm::MlKem768 => Some(Sizes { encapsulation_key: 1184, ciphertext: 1088, seed: 64 }),
        Algorithm::MlKem1024 => Some(Sizes { encapsulation_key: 1568, ciphertext: 1568, seed: 64 }),
        Algorithm::XWing => Some(Sizes { encapsulation_key: 1216, ciphertext: 1120, seed: 32 }),
        Algorithm::Xaes256Gcm | Algorithm::Aes256Gcm | Algorithm::RsaOaepSha256 | Algorithm::RsaOaepSha1 => None,
    }
}

/// A private KEM key, expanded from its seed.
pub struct PrivateKey(Expanded);

enum Expanded {
    MlKem768(Box<ml_kem_768::DecapsulationKey>),
    MlKem1024(Box<ml_kem_1024::DecapsulationKey>),
    XWing(Box<x_wing::DecapsulationKey>),
}

impl PrivateKey {
    /// Expands a seed; `None` when the algorithm is not a KEM or the seed has another length.
    #[must_use]
    pub fn from_seed(algorithm: Algorithm, seed: &[u8]) -> Option<Self> {
        Some(Self(match algorithm {
            Algorithm::MlKem768 => {
                let mut seed = ml_kem::Seed::try_from(seed).ok()?;
                let key = Box::new(ml_kem_768::DecapsulationKey::from_seed(seed));
                seed.zeroize();
                Expanded::MlKem768(key)
            }
            Algorithm::MlKem1024 => {
                let mut seed = ml_kem::Seed::try_from(seed).ok()?;
                let key = Box::new(ml_kem_1024::DecapsulationKey::from_seed(seed));
                seed.zeroize();
                Expanded::MlKem1024(key)
            }
            Algorithm::XWing => {
                let seed = Zeroizing::new(<[u8; 32]>::try_from(seed).ok()?);
                Expanded::XWing(Box::new(x_wing::DecapsulationKey::from(*seed)))
            }
            Algorithm::Xaes256Gcm | Algorithm::Aes256Gcm | Algorithm::RsaOaepSha256 | Algorithm::RsaOaepSha1 => return None,
        }))
    }

    /// The encapsulation key that belongs to it.
    #[must_use]
    pub fn encapsulation_key(&self) -> Vec<u8> {
        match &self.0 {
            Expanded::MlKem768(key) => key.encapsulation_key().to_bytes().to_vec(),
            Expanded::MlKem1024(key) => key.encapsulation_key().to_bytes().to_vec(),
            Expanded::XWing(key) => key.encapsulation_key().to_bytes().to_vec(),
        }
    }

    /// Decapsulates; `None` when the ciphertext has another length. Altered bytes of the right length give another secret, not an error
    /// (implicit rejection), so what is sealed under the secret must be checked.
    #[must_use]
    pub fn decapsulate(&self, ciphertext: &[u8]) -> Option<SharedSecret> {
        match &self.0 {
            Expanded::MlKem768(key) => Some(keep::<MlKem768>(key.decapsulate(&ciphertext.try_into().ok()?))),
            Expanded::MlKem1024(key) => Some(keep::<MlKem1024>(key.decapsulate(&ciphertext.try_into().ok()?))),
            Expanded::XWing(key) => Some(keep::<XWingKem>(key.decapsulate(&ciphertext.try_into().ok()?))),
        }
    }
}

/// Encapsulates to a public key: ciphertext and shared secret.
///
/// # Errors
/// [`Error::InvalidPublicKey`] when the key does not pass the checks of FIPS 203, section 7.2; [`Error::Entropy`] when the source fails.
pub fn encapsulate(algorithm: Algorithm, encapsulation_key: &[u8], entropy: &mut impl Entropy) -> Result<(Vec<u8>, SharedSecret), Error> {
    // ML-KEM takes 32 random bytes, X-Wing 32 for ML-KEM and 32 for X25519.
    let mut random = Zeroizing::new([0; 64]);
    entropy.fill(random.as_mut_slice())?;
    let (m, _) = random.split_first_chunk::<32>().ok_or(Error::Invariant("KEM randomness"))?;
    let mut m = B32::from(*m);
    let encapsulated = match algorithm {
        Algorithm::MlKem768 => {
            let (ct, ss) = parse::<ml_kem_768::EncapsulationKey>(encapsulation_key)?.encapsulate_deterministic(&m);
            (ct.to_vec(), keep::<MlKem768>(ss))
        }
        Algorithm::MlKem1024 => {
            let (ct, ss) = parse::<ml_kem_1024::EncapsulationKey>(encapsulation_key)?.encapsulate_deterministic(&m);
            (ct.to_vec(), keep::<MlKem1024>(ss))
        }
        Algorithm::XWing => {
            let (ct, ss) = parse::<x_wing::EncapsulationKey>(encapsulation_key)?.encapsulate_deterministic((&*random).into());
            (ct.to_vec(), keep::<XWingKem>(ss))
        }
        Algorithm::Xaes256Gcm | Algorithm::Aes256Gcm | Algorithm::RsaOaepSha256 | Algorithm::RsaOaepSha1 => {
            return Err(Error::InvalidPublicKey);
        }
    };
    m.zeroize();
    Ok(encapsulated)
}

/// Whether the bytes are a valid encapsulation key of the algorithm (FIPS 203, section 7.2: length and modulus check).
#[must_use]
pub fn is_valid_encapsulation_key(algorithm: Algorithm, key: &[u8]) -> bool {
    match algorithm {
        Algorithm::MlKem768 => parse::<ml_kem_768::EncapsulationKey>(key).is_ok(),
        Algorithm::MlKem1024 => parse::<ml_kem_1024::EncapsulationKey>(key).is_ok(),
        Algorithm::XWing => parse::<x_wing::EncapsulationKey>(key).is_ok(),
        Algorithm::Xaes256Gcm | Algorithm::Aes256Gcm | Algorithm::RsaOaepSha256 | Algorithm::RsaOaepSha1 => false,
    }
}

fn parse<K: TryKeyInit>(bytes: &[u8]) -> Result<K, Error> {
    K::new_from_slice(bytes).map_err(|_| Error::InvalidPublicKey)
}

/// Moves a shared secret into a type that is wiped, and wipes the crate's copy.
fn keep<K: Kem<SharedKeySize = ml_kem::array::sizes::U32>>(mut shared: SharedKey<K>) -> SharedSecret {
    let mut secret = SharedSecret::zero();
    secret.expose_mut().copy_from_slice(&shared);
    shared.zeroize();
    secret
}
