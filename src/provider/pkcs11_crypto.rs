//! What a token's keys do: one share or one ciphertext at a time.

use super::{
    ProviderError, ProviderKey,
    entropy::SystemEntropy,
    pkcs11_error::{Fault, Verdict},
    pkcs11_keys::{Keys, Role, unknown},
};
use crate::core::{
    entropy::Entropy,
    kem::{self, SharedSecret},
    secret::Share,
    suite::Algorithm,
};
use cryptoki::{
    error::{Error, RvError},
    mechanism::{
        Mechanism, MechanismType,
        aead::GcmParams,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    types::Ulong,
};
use zeroize::Zeroizing;

/// Bytes of an IV (NIST SP 800-38D, section 8.2.2: random ones bear 2^32 shares a key).
const IV: usize = 12;

/// Bytes of a wrapped share: IV, share, tag.
const WRAPPED: usize = IV + 32 + 16;

const TAG_BITS: Ulong = Ulong::new(128);

/// What a probe wraps. Not a share and not secret.
const PROBE: [u8; 32] = [0; 32];

/// Wraps one share.
///
/// # Errors
/// [`Fault`] of the key or the token.
pub fn wrap(keys: &mut Keys, key: ProviderKey<'_>, share: &Share, aad: &[u8]) -> Result<Vec<u8>, Fault> {
    let wrapped = match key.algorithm {
        Algorithm::Aes256Gcm => {
            let secret = keys.find(key.name, Role::Secret, key.algorithm)?;
            let blob = seal(&keys.session, secret.handle, aad, share.expose())?;
            (blob.len() == WRAPPED).then_some(blob)
        }
        Algorithm::RsaOaepSha256 | Algorithm::RsaOaepSha1 => {
            let public = keys.public(key)?;
            let blob = keys.session.encrypt(&oaep(key.algorithm), public.handle, share.expose())?;
            (blob.len() == public.modulus.len()).then_some(blob)
        }
        _ => return Err(not_a_wrapping_key(key).into()),
    };
    wrapped.ok_or_else(|| keys.malformed(key.name, "gave a wrapped share of another length than its algorithm's"))
}

/// Unwraps one share; `None` when it does not verify or is none.
///
/// # Errors
/// [`Fault`] of the key or the token.
pub fn unwrap(keys: &mut Keys, key: ProviderKey<'_>, blob: &[u8], aad: &[u8]) -> Result<Option<Share>, Fault> {
    let opened = match key.algorithm {
        Algorithm::Aes256Gcm => {
            let secret = keys.find(key.name, Role::Secret, key.algorithm)?.handle;
            let session = &keys.session;
            let Some((iv, ciphertext)) = blob.split_first_chunk::<IV>().filter(|_| blob.len() == WRAPPED) else { return Ok(None) };
            let probe = || {
                open_probe(
                    || seal(session, secret, &[], &PROBE),
                    |sealed| {
                        let (iv, ciphertext) = sealed.split_first_chunk::<IV>().ok_or(Error::InvalidValue)?;
                        open(session, secret, *iv, &[], ciphertext)
                    },
                )
            };
            judge(session, secret, || open(session, secret, *iv, aad, ciphertext), probe)?
        }
        Algorithm::RsaOaepSha256 | Algorithm::RsaOaepSha1 => {
            let (public, private) = keys.pair(key.name, key.algorithm)?;
            let session = &keys.session;
            if blob.len() != public.modulus.len() {
                return Ok(None);
            }
            let mechanism = oaep(key.algorithm);
            let probe = || {
                open_probe(
                    || session.encrypt(&mechanism, public.handle, &PROBE),
                    |sealed| session.decrypt(&mechanism, private.handle, sealed),
                )
            };
            judge(session, public.handle, || session.decrypt(&mechanism, private.handle, blob), probe)?
        }
        _ => return Err(not_a_wrapping_key(key).into()),
    };
    Ok(opened.and_then(|bytes| Share::copy_from(&bytes)))
}

/// Decapsulates one ciphertext; `None` when its length is not the algorithm's.
///
/// # Errors
/// [`Fault`] of the key or the token.
pub fn decapsulate(keys: &mut Keys, key: ProviderKey<'_>, ciphertext: &[u8]) -> Result<Option<SharedSecret>, Fault> {
    let sizes = match key.algorithm {
        Algorithm::MlKem768 | Algorithm::MlKem1024 => kem::sizes(key.algorithm),
        _ => None,
    };
    let sizes = sizes.ok_or_else(|| ProviderError::Denied(format!("Key \"{}\" is not a KEM key of PKCS#11.", key.name)))?;
    let (public, private) = keys.pair(key.name, key.algorithm)?;
    if key.public_key.is_some_and(|pinned| pinned != public.public_key) {
        return Err(keys.malformed(key.name, "is another one than was registered"));
    }
    if ciphertext.len() != sizes.ciphertext {
        return Ok(None);
    }
    // An object of the session that gives its value away: the shared secret is needed here, and nowhere else.
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::ValueLen(32.into()),
        Attribute::Token(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ];
    let secret = keys.session.decapsulate_key(&Mechanism::MlKem, private.handle, &template, ciphertext)?;
    let value = keys.session.get_attributes(secret, &[AttributeType::Value]);
    let destroyed = keys.session.destroy_object(secret);
    let shared = match value?.pop() {
        Some(Attribute::Value(bytes)) => SharedSecret::copy_from(&Zeroizing::new(bytes)),
        _ => None,
    };
    destroyed?;
    shared.map(Some).ok_or_else(|| keys.malformed(key.name, "gave a shared secret of another length than 32 bytes"))
}

/// IV, ciphertext and tag. Tokens that insist on making the IV write it over the one they are given.
fn seal(session: &Session, key: ObjectHandle, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Error> {
    let mut iv = [0; IV];
    SystemEntropy.fill(&mut iv).map_err(|_| Error::Pkcs11(RvError::RandomNoRng, cryptoki::context::Function::GenerateRandom))?;
    let sealed = session.encrypt(&Mechanism::AesGcm(GcmParams::new(&mut iv, aad, TAG_BITS)?), key, plaintext)?;
    Ok([iv.as_slice(), &sealed].concat())
}

fn open(session: &Session, key: ObjectHandle, mut iv: [u8; IV], aad: &[u8], ciphertext: &[u8]) -> Result<Vec<u8>, Error> {
    session.decrypt(&Mechanism::AesGcm(GcmParams::new(&mut iv, aad, TAG_BITS)?), key, ciphertext)
}

fn oaep(algorithm: Algorithm) -> Mechanism<'static> {
    let (hash, mask) = if algorithm == Algorithm::RsaOaepSha1 {
        (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1)
    } else {
        (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256)
    };
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mask, PkcsOaepSource::empty()))
}

/// Decrypts, and tells bytes that do not verify from a token in trouble, which some modules report by the same code: the bytes are bad if the
/// token opens what it has just wrapped itself under `wrapping` and still not them.
fn judge(
    session: &Session,
    wrapping: ObjectHandle,
    decrypt: impl Fn() -> Result<Vec<u8>, Error>,
    probe: impl Fn() -> Result<(), Error>,
) -> Result<Option<Zeroizing<Vec<u8>>>, Fault> {
    for probed in [false, true] {
        let fault = match decrypt() {
            Ok(bytes) => return Ok(Some(Zeroizing::new(bytes))),
            Err(error) => Fault::from(error),
        };
        match fault.verdict() {
            Verdict::Rejected => return Ok(None),
            Verdict::Failure => return Err(fault),
            Verdict::Unclear if probed => return Ok(None),
            Verdict::Unclear => {}
        }
        // A retired key that only decrypts cannot be probed so; that the token still knows it has to do. How it would refuse to encrypt, tokens
        // do not agree on, so it is asked what the key may do.
        if session.get_attributes(wrapping, &[AttributeType::Encrypt])?.contains(&Attribute::Encrypt(false)) {
            continue;
        }
        match probe() {
            Ok(()) | Err(Error::Pkcs11(RvError::KeyFunctionNotPermitted, _)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

fn open_probe(seal: impl Fn() -> Result<Vec<u8>, Error>, open: impl Fn(&[u8]) -> Result<Vec<u8>, Error>) -> Result<(), Error> {
    let opened = Zeroizing::new(open(&seal()?)?);
    if opened.as_slice() == PROBE { Ok(()) } else { Err(Error::InvalidValue) }
}

fn not_a_wrapping_key(key: ProviderKey<'_>) -> ProviderError {
    match key.algorithm {
        Algorithm::MlKem768 | Algorithm::MlKem1024 => {
            ProviderError::Denied(format!("Key \"{}\" is a KEM key: it decapsulates, and wraps nothing.", key.name))
        }
        other => unknown(key.name, other),
    }
}
