//! Keys on a token: found by label or id, and checked for what the catalog says of them.

use super::{Description, ProviderError, ProviderKey, pkcs11_error::Fault, spki};
use crate::core::{kem, suite::Algorithm};
use cryptoki::{
    object::{Attribute, AttributeType, KeyType, MlKemParameterSetType, ObjectClass, ObjectHandle},
    session::Session,
};
use std::{collections::HashMap, rc::Rc};

/// A name with this prefix is a CKA_ID in hexadecimal digits; any other one is a CKA_LABEL.
const ID_PREFIX: &str = "id:";

/// Bytes of an AES-256 key.
const AES_256: u64 = 32;

/// Bytes of the smallest RSA modulus (NIST SP 800-131A revision 2, section 6).
const MIN_MODULUS: usize = 256;

/// What a key object is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A symmetric key.
    Secret,
    /// The public half of a pair.
    Public,
    /// The private half of a pair.
    Private,
}

impl Role {
    const ALL: [Self; 3] = [Self::Secret, Self::Public, Self::Private];

    const fn class(self) -> ObjectClass {
        match self {
            Self::Secret => ObjectClass::SECRET_KEY,
            Self::Public => ObjectClass::PUBLIC_KEY,
            Self::Private => ObjectClass::PRIVATE_KEY,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// A key object that was found and fits its algorithm.
pub struct Found {
    /// Its handle, good for as long as the session.
    pub handle: ObjectHandle,
    /// Of an RSA key the modulus without zeros in front.
    pub modulus: Vec<u8>,
    /// Of a public key what the catalog pins.
    pub public_key: Vec<u8>,
}

/// A session that is logged in, and the keys that were found in it.
pub struct Keys {
    /// The session.
    pub session: Session,
    /// The token, as the start of a sentence.
    pub place: String,
    found: HashMap<String, Vec<(Role, Algorithm, Rc<Found>)>>,
}

impl Keys {
    /// No key is looked for yet.
    #[must_use]
    pub fn new(session: Session, place: String) -> Self {
        Self { session, place, found: HashMap::new() }
    }

    /// The key object of a name, a role and an algorithm; looked for once a session.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::Denied`] when several have the name, [`ProviderError::Malformed`] when it is of another
    /// type or size.
    pub fn find(&mut self, name: &str, role: Role, algorithm: Algorithm) -> Result<Rc<Found>, Fault> {
        let known = self.found.get(name).and_then(|keys| keys.iter().find(|(r, a, _)| (*r, *a) == (role, algorithm)));
        if let Some((_, _, found)) = known {
            return Ok(Rc::clone(found));
        }
        let handle = self.handle(name, role, algorithm)?;
        let found = Rc::new(self.check(name, handle, role, algorithm)?);
        self.found.entry(name.to_owned()).or_default().push((role, algorithm, Rc::clone(&found)));
        Ok(found)
    }

    /// The public key, which must be the one that was registered.
    ///
    /// # Errors
    /// As [`Self::find`], and [`ProviderError::Malformed`] when it is another one.
    pub fn public(&mut self, key: ProviderKey<'_>) -> Result<Rc<Found>, Fault> {
        let public = self.find(key.name, Role::Public, key.algorithm)?;
        match key.public_key {
            Some(pinned) if pinned == public.public_key => Ok(public),
            Some(_) => Err(self.malformed(key.name, "is another one than was registered")),
            None => Err(self.malformed(key.name, "was registered without its public key")),
        }
    }

    /// Public and private key. What is opened is not pinned: another key than the one it was wrapped under does not open it.
    ///
    /// # Errors
    /// As [`Self::find`], and [`ProviderError::Malformed`] when the two do not belong together.
    pub fn pair(&mut self, name: &str, algorithm: Algorithm) -> Result<(Rc<Found>, Rc<Found>), Fault> {
        let public = self.find(name, Role::Public, algorithm)?;
        let private = self.find(name, Role::Private, algorithm)?;
        if private.modulus == public.modulus { Ok((public, private)) } else { Err(self.malformed(name, "is not one pair")) }
    }

    /// What there is to register about a key.
    ///
    /// # Errors
    /// As [`Self::pair`].
    pub fn describe(&mut self, name: &str, algorithm: Algorithm) -> Result<Description, Fault> {
        let public_key = if algorithm.has_public_key() {
            let (public, _) = self.pair(name, algorithm)?;
            Some(public.public_key.clone())
        } else {
            self.find(name, Role::Secret, algorithm)?;
            None
        };
        Ok(Description { name: name.to_owned(), version: String::new(), algorithm, public_key })
    }

    /// The error about a key that is not what it should be.
    #[must_use]
    pub fn malformed(&self, name: &str, why: &str) -> Fault {
        ProviderError::Malformed(format!("{}: key \"{name}\" {why}.", self.place)).into()
    }

    fn handle(&self, name: &str, role: Role, algorithm: Algorithm) -> Result<ObjectHandle, Fault> {
        let handles = self.objects(name, role)?;
        match handles.as_slice() {
            [one] => return Ok(*one),
            [] => {}
            _ => {
                let text = format!("{}: key \"{name}\" is ambiguous: {} {} keys have this name.", self.place, handles.len(), role.name());
                return Err(ProviderError::Denied(text).into());
            }
        }
        for other in Role::ALL {
            if other != role && !self.objects(name, other)?.is_empty() {
                return Err(self.malformed(
                    name,
                    &format!("has a {} key and no {} key, so it is not {}", other.name(), role.name(), algorithm.name()),
                ));
            }
        }
        Err(ProviderError::NotFound(format!("{} has no key \"{name}\".", self.place)).into())
    }

    fn objects(&self, name: &str, role: Role) -> Result<Vec<ObjectHandle>, Fault> {
        let selector = match name.strip_prefix(ID_PREFIX) {
            None => Attribute::Label(name.as_bytes().to_vec()),
            Some(digits) => match hex::decode(digits) {
                Ok(id) if !id.is_empty() => Attribute::Id(id),
                _ => {
                    return Err(
                        ProviderError::Denied(format!("Key \"{name}\" is not \"id:\" and an even number of hexadecimal digits.")).into()
                    );
                }
            },
        };
        Ok(self.session.find_objects(&[selector, Attribute::Class(role.class()), Attribute::Token(true)])?)
    }

    fn check(&self, name: &str, handle: ObjectHandle, role: Role, algorithm: Algorithm) -> Result<Found, Fault> {
        let other_type = || self.malformed(name, &format!("is of another type than {}", algorithm.name()));
        let wanted = match algorithm {
            Algorithm::Aes256Gcm => KeyType::AES,
            Algorithm::RsaOaepSha256 | Algorithm::RsaOaepSha1 => KeyType::RSA,
            Algorithm::MlKem768 | Algorithm::MlKem1024 => KeyType::ML_KEM,
            Algorithm::Xaes256Gcm | Algorithm::XWing => return Err(unknown(name, algorithm).into()),
        };
        // Asked alone first: an attribute that a type does not have is an error of its own.
        if !self.attributes(handle, &[AttributeType::KeyType])?.contains(&Attribute::KeyType(wanted)) {
            return Err(other_type());
        }
        let mut found = Found { handle, modulus: Vec::new(), public_key: Vec::new() };
        match (algorithm, role) {
            (Algorithm::Aes256Gcm, _) => {
                if !self.attributes(handle, &[AttributeType::ValueLen])?.contains(&Attribute::ValueLen(AES_256.into())) {
                    return Err(self.malformed(name, "is not of 256 bits"));
                }
            }
            (Algorithm::RsaOaepSha256 | Algorithm::RsaOaepSha1, _) => {
                let modulus = self.bytes(name, handle, AttributeType::Modulus)?;
                found.modulus = modulus.into_iter().skip_while(|byte| *byte == 0).collect();
                if found.modulus.len() < MIN_MODULUS {
                    return Err(self.malformed(name, "is of less than 2048 bits"));
                }
                if role == Role::Public {
                    let exponent = self.bytes(name, handle, AttributeType::PublicExponent)?;
                    found.public_key = spki::rsa(&found.modulus, &exponent).ok_or_else(other_type)?;
                }
            }
            _ => {
                let set =
                    if algorithm == Algorithm::MlKem768 { MlKemParameterSetType::ML_KEM_768 } else { MlKemParameterSetType::ML_KEM_1024 };
                let is_set = |a: &Attribute| matches!(a, Attribute::ParameterSet(is) if MlKemParameterSetType::from(*is) == set);
                if !self.attributes(handle, &[AttributeType::ParameterSet])?.iter().any(is_set) {
                    return Err(other_type());
                }
                if role == Role::Public {
                    found.public_key = self.bytes(name, handle, AttributeType::Value)?;
                    if kem::sizes(algorithm).map(|sizes| sizes.encapsulation_key) != Some(found.public_key.len()) {
                        return Err(other_type());
                    }
                }
            }
        }
        Ok(found)
    }

    fn attributes(&self, handle: ObjectHandle, types: &[AttributeType]) -> Result<Vec<Attribute>, Fault> {
        Ok(self.session.get_attributes(handle, types)?)
    }

    fn bytes(&self, name: &str, handle: ObjectHandle, attribute: AttributeType) -> Result<Vec<u8>, Fault> {
        match self.attributes(handle, &[attribute])?.pop() {
            Some(Attribute::Modulus(bytes) | Attribute::PublicExponent(bytes) | Attribute::Value(bytes)) => Ok(bytes),
            _ => Err(self.malformed(name, "does not show its public key")),
        }
    }
}

/// The error about an algorithm that tokens do not have.
#[must_use]
pub fn unknown(name: &str, algorithm: Algorithm) -> ProviderError {
    ProviderError::Denied(format!("Key \"{name}\" cannot be used with {}, which PKCS#11 does not have.", algorithm.name()))
}
