//! One slot: how a share is bound to its place, protected by its key, and stored.

use super::{
    aead,
    codec::{Reader, Writer},
    entropy::Entropy,
    error::Error,
    kdf, kem,
    path::PathData,
    secret::{Secret, Share},
    suite::Algorithm,
};
use zeroize::Zeroizing;

const LABEL_AAD: &[u8] = b"kms_wrap/v1/slot\0";
const LABEL_COMMIT: &[u8] = b"kms_wrap/v1/share\0";
const LABEL_KEM: &[u8] = b"kms_wrap/v1/kem\0";
const MAGIC: &[u8; 4] = b"KWRP";

/// The container format that this version writes and reads.
pub const FORMAT: u8 = 1;

/// Most layers of one wrapper.
pub const MAX_LAYERS: u8 = 32;

/// Which protector of a wrapper: `kms1` = 1, `kms2` = 2, layer n = 0x10 + n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotNo(u8);

impl SlotNo {
    /// The first KMS key's slot.
    pub const KMS1: Self = Self(1);
    /// The second KMS key's slot.
    pub const KMS2: Self = Self(2);

    /// The slot of layer `n`, 1 to [`MAX_LAYERS`].
    #[must_use]
    pub fn layer(n: u8) -> Option<Self> {
        (1..=MAX_LAYERS).contains(&n).then(|| Self(n.saturating_add(0x10)))
    }

    /// A slot by its number in the bytes.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 | 2 => Some(Self(code)),
            _ => Self::layer(code.checked_sub(0x10)?),
        }
    }

    /// The number in the bytes.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The layer number, `None` for a KMS slot.
    #[must_use]
    pub fn layer_no(self) -> Option<u8> {
        self.0.checked_sub(0x10)
    }

    /// `kms1`, `kms2`, `layer3`.
    #[must_use]
    pub fn name(self) -> String {
        match (self, self.layer_no()) {
            (_, Some(n)) => format!("layer{n}"),
            (Self::KMS1, _) => "kms1".to_owned(),
            _ => "kms2".to_owned(),
        }
    }
}

/// Which key of which system, by the names under which that system knows it. NUL is refused inside, NULL is the empty string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRef {
    /// Provider kind, `local` for example.
    pub kind: String,
    /// Region, or for self-hosted kinds the name of the installation.
    pub location: String,
    /// Project, tenant or account.
    pub project_tenant: String,
    /// The provider's name for the key.
    pub external_key_ref: String,
    /// The version that a request pins; empty where the provider cannot pin one.
    pub key_version: String,
}

impl KeyRef {
    /// Five fields, each ended by NUL.
    ///
    /// # Errors
    /// [`Error::Invariant`] when a field holds a NUL (the catalog's CHECKs refuse such rows).
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let fields = [&self.kind, &self.location, &self.project_tenant, &self.external_key_ref, &self.key_version];
        let mut bytes = Vec::with_capacity(fields.iter().map(|field| field.len().saturating_add(1)).sum());
        for field in fields {
            if field.contains('\0') {
                return Err(Error::Invariant("NUL in a key reference"));
            }
            bytes.extend_from_slice(field.as_bytes());
            bytes.push(0);
        }
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(bytes).map_err(|_| Error::NotAContainer)?;
        let text = text.strip_suffix('\0').ok_or(Error::NotAContainer)?;
        let mut fields = text.split('\0').map(str::to_owned);
        let mut next = || fields.next().ok_or(Error::NotAContainer);
        let key_ref = Self { kind: next()?, location: next()?, project_tenant: next()?, external_key_ref: next()?, key_version: next()? };
        if fields.next().is_some() { Err(Error::NotAContainer) } else { Ok(key_ref) }
    }

    /// Whether both name the same key, versions aside: a rotated KMS key keeps opening what its older versions wrapped.
    #[must_use]
    pub fn same_key(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.location == other.location
            && self.project_tenant == other.project_tenant
            && self.external_key_ref == other.external_key_ref
    }
}

/// What a slot's bytes say about themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotHeader {
    /// Which slot.
    pub slot: SlotNo,
    /// Algorithm of the slot's key.
    pub algorithm: Algorithm,
    /// The slot's key.
    pub key_ref: KeyRef,
    /// SHA-256 of the public key; `None` for symmetric keys.
    pub ek_sha256: Option<[u8; 32]>,
    /// Number of the write that made these bytes.
    pub generation: u64,
}

impl SlotHeader {
    fn ek_field(&self) -> &[u8] {
        self.ek_sha256.as_ref().map_or(&[], |h| h.as_slice())
    }
}

/// The key that a slot gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotSpec {
    /// Which slot.
    pub slot: SlotNo,
    /// The key's algorithm.
    pub algorithm: Algorithm,
    /// The key.
    pub key_ref: KeyRef,
    /// The encapsulation key of a layer, or the RSA key of a public-key KMS slot as a DER SubjectPublicKeyInfo.
    pub public_key: Option<Vec<u8>>,
}

impl SlotSpec {
    pub(super) fn header(&self, generation: u64) -> Result<SlotHeader, Error> {
        if self.slot.layer_no().is_some() != self.algorithm.is_kem() || self.algorithm.has_public_key() != self.public_key.is_some() {
            return Err(Error::Invariant("slot and algorithm"));
        }
        Ok(SlotHeader {
            slot: self.slot,
            algorithm: self.algorithm,
            key_ref: self.key_ref.clone(),
            ek_sha256: self.public_key.as_ref().map(|ek| kdf::sha256(&[ek])),
            generation,
        })
    }
}

/// The wrapper that a slot belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// Wrapper uuid.
    pub uuid: [u8; 16],
    /// Counts reseals.
    pub epoch: u32,
    /// Hash of the caller's context.
    pub ctx_sha256: [u8; 32],
}

impl Binding {
    /// `slot_aad`: what the slot's key authenticates along with the share.
    ///
    /// # Errors
    /// [`Error::Invariant`] when the key reference holds a NUL.
    pub fn slot_aad(&self, header: &SlotHeader) -> Result<Vec<u8>, Error> {
        Ok(Writer::new(LABEL_AAD)
            .field(0x01, &self.uuid)
            .field(0x02, &self.epoch.to_be_bytes())
            .field(0x03, &[header.slot.code()])
            .field(0x04, &header.algorithm.code().to_be_bytes())
            .field(0x05, &header.key_ref.encode()?)
            .field(0x06, header.ek_field())
            .field(0x07, &self.ctx_sha256)
            .field(0x08, &header.generation.to_be_bytes())
            .finish())
    }

    /// `share_commit`: lets a slot be checked alone, before and after a rewrap, without opening the DEK.
    #[must_use]
    pub fn share_commit(&self, slot: SlotNo, share: &Share) -> [u8; 32] {
        kdf::sha256(&[LABEL_COMMIT, &self.uuid, &self.epoch.to_be_bytes(), &[slot.code()], share.expose()])
    }
}

/// Protects a layer's share: encapsulates afresh and seals under the derived layer key. Returns `kem_ct | sealed share`.
///
/// # Errors
/// [`Error::InvalidPublicKey`], [`Error::Entropy`].
pub fn seal_layer(
    algorithm: Algorithm,
    encapsulation_key: &[u8],
    aad: &[u8],
    share: &Share,
    entropy: &mut impl Entropy,
) -> Result<Vec<u8>, Error> {
    let (ciphertext, shared) = kem::encapsulate(algorithm, encapsulation_key, entropy)?;
    let key = layer_key(&shared, &ciphertext, encapsulation_key, aad)?;
    // A zero nonce is safe: the key comes from a fresh encapsulation and seals this one message.
    let sealed = aead::gcm_seal(key.expose(), &[0; 12], aad, share.expose())?;
    Ok([ciphertext, sealed].concat())
}

/// Splits a layer's blob into KEM ciphertext and sealed share; `None` when its length does not fit the algorithm.
#[must_use]
pub fn split_layer_blob(algorithm: Algorithm, blob: &[u8]) -> Option<(&[u8], &[u8])> {
    let (ciphertext, sealed) = blob.split_at_checked(kem::sizes(algorithm)?.ciphertext)?;
    (sealed.len() == 32_usize.saturating_add(aead::TAG_LEN)).then_some((ciphertext, sealed))
}

/// Opens a layer's share with the shared secret that the key's holder decapsulated. `None` when anything does not fit.
#[must_use]
pub fn open_layer(algorithm: Algorithm, encapsulation_key: &[u8], aad: &[u8], blob: &[u8], shared: &kem::SharedSecret) -> Option<Share> {
    let (ciphertext, sealed) = split_layer_blob(algorithm, blob)?;
    let key = layer_key(shared, ciphertext, encapsulation_key, aad).ok()?;
    let share: Zeroizing<Vec<u8>> = aead::gcm_open(key.expose(), &[0; 12], aad, sealed)?;
    Share::copy_from(&share)
}

/// `HKDF-SHA384(ikm = shared secret, salt = none, info = label | H(kem_ct | ek) | H(slot_aad), 32)`.
fn layer_key(shared: &kem::SharedSecret, ciphertext: &[u8], ek: &[u8], aad: &[u8]) -> Result<Secret<32>, Error> {
    let mut key = Secret::zero();
    let info: [&[u8]; 3] = [LABEL_KEM, &kdf::sha384(&[ciphertext, ek]), &kdf::sha384(&[aad])];
    kdf::hkdf_sha384(None, shared.expose(), &info, key.expose_mut())?;
    Ok(key)
}

/// What is stored of a slot: header, blob and, in the KMS slot that leads a path, the path's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// What the bytes say about themselves.
    pub header: SlotHeader,
    /// The protected share: a KMS answer, or `kem_ct | sealed share`.
    pub blob: Vec<u8>,
    /// The path that this slot leads.
    pub path: Option<PathData>,
}

impl Container {
    /// `"KWRP" | format | kind | 03..06, 08 of slot_aad | 09 blob | 0a path data (kind 2 only)`.
    ///
    /// # Errors
    /// [`Error::Invariant`] when the key reference holds a NUL.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let kind = match (self.header.slot.layer_no(), &self.path) {
            (Some(_), _) => Kind::Layer,
            (None, None) => Kind::Kms,
            (None, Some(_)) => Kind::KmsWithPath,
        };
        let bytes = Writer::new(MAGIC)
            .raw(&[FORMAT, kind.code()])
            .field(0x03, &[self.header.slot.code()])
            .field(0x04, &self.header.algorithm.code().to_be_bytes())
            .field(0x05, &self.header.key_ref.encode()?)
            .field(0x06, self.header.ek_field())
            .field(0x08, &self.header.generation.to_be_bytes())
            .field(0x09, &self.blob);
        Ok(match &self.path {
            Some(path) => bytes.field(0x0a, &path.encode()),
            None => bytes,
        }
        .finish())
    }

    /// Reads a container. What parses encodes to the same bytes.
    ///
    /// # Errors
    /// [`Error::NotAContainer`] for framing; [`Error::UnsupportedFormat`], [`Error::UnsupportedSuite`], [`Error::UnsupportedAlgorithm`] for
    /// numbers of a later version.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        if r.array::<4>()? != *MAGIC {
            return Err(Error::NotAContainer);
        }
        let [format, kind] = r.array()?;
        if format != FORMAT {
            return Err(Error::UnsupportedFormat(format));
        }
        let kind = Kind::from_code(kind).ok_or(Error::NotAContainer)?;
        let [slot] = r.fixed(0x03)?;
        let slot = SlotNo::from_code(slot).ok_or(Error::NotAContainer)?;
        if (kind == Kind::Layer) != slot.layer_no().is_some() {
            return Err(Error::NotAContainer);
        }
        let algorithm = Algorithm::from_code(u16::from_be_bytes(r.fixed(0x04)?))?;
        let key_ref = KeyRef::decode(r.field(0x05)?)?;
        let ek = r.field(0x06)?;
        let ek_sha256 = match ek {
            [] => None,
            hash => Some(hash.try_into().map_err(|_| Error::NotAContainer)?),
        };
        let generation = u64::from_be_bytes(r.fixed(0x08)?);
        let blob = r.field(0x09)?.to_vec();
        let path = match kind {
            Kind::KmsWithPath => Some(PathData::parse(r.field(0x0a)?)?),
            Kind::Kms | Kind::Layer => None,
        };
        r.finish()?;
        Ok(Self { header: SlotHeader { slot, algorithm, key_ref, ek_sha256, generation }, blob, path })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kms,
    KmsWithPath,
    Layer,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Kms => 1,
            Self::KmsWithPath => 2,
            Self::Layer => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Kms, Self::KmsWithPath, Self::Layer].into_iter().find(|k| k.code() == code)
    }
}
