//! A path: the ordered slots whose shares together give the key that seals the DEK, and that seal.

use super::{
    aead,
    codec::{Reader, Writer},
    error::Error,
    kdf,
    secret::{DEK_LENGTHS, Dek, Secret, Share},
    slot::SlotNo,
    suite::SUITE_1,
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const LABEL_PATH: &[u8] = b"kms_wrap/v1/path\0";
const LABEL_KEK: &[u8] = b"kms_wrap/v1/kek\0";
const LABEL_DEK: &[u8] = b"kms_wrap/v1/dek\0";

/// Bytes of the random value that is sealed with a DEK and keys its commitment.
const OPENING_LEN: usize = 32;

/// How the two KMS keys compose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Two paths: kms1 and the layers, or kms2 and the layers.
    Redundant,
    /// One path through every slot.
    Split,
}

impl Mode {
    /// The number in the bytes.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Redundant => 2,
            Self::Split => 3,
        }
    }

    /// The name in policies and in `crypto_suite`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redundant => "redundant",
            Self::Split => "split",
        }
    }

    /// The mode of a name as [`Self::name`] gives it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Redundant, Self::Split].into_iter().find(|m| m.name() == name)
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Redundant, Self::Split].into_iter().find(|m| m.code() == code)
    }
}

/// One slot as a path's header lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotEntry {
    /// Which slot.
    pub slot: SlotNo,
    /// Number of its class ([`super::suite::Class`]).
    pub class: u8,
    /// Commitment to its share.
    pub share_commit: [u8; 32],
}

/// Everything that a path's seal authenticates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathHeader {
    /// Composition.
    pub mode: Mode,
    /// 1, or 2 for the second path of `redundant`.
    pub path: u8,
    /// Counts reseals.
    pub epoch: u32,
    /// Random, fresh for each path.
    pub salt: [u8; 32],
    /// Bytes of the DEK.
    pub dek_len: u16,
    /// The policy under which the wrapper was made.
    pub policy_uuid: [u8; 16],
    /// Hash of the caller's context.
    pub ctx_sha256: [u8; 32],
    /// Commitment to the DEK.
    pub dek_commit: [u8; 32],
    /// The path's slots, ascending.
    pub slots: Vec<SlotEntry>,
}

impl PathHeader {
    /// Fields 02 to 0b.
    fn fields(&self, start: Writer) -> Writer {
        let mut slots = Vec::new();
        for entry in &self.slots {
            slots.extend_from_slice(&[entry.slot.code(), entry.class]);
            slots.extend_from_slice(&entry.share_commit);
        }
        start
            .field(0x02, &[self.mode.code()])
            .field(0x03, &[self.path])
            .field(0x04, &SUITE_1.to_be_bytes())
            .field(0x05, &self.epoch.to_be_bytes())
            .field(0x06, &self.salt)
            .field(0x07, &self.dek_len.to_be_bytes())
            .field(0x08, &self.policy_uuid)
            .field(0x09, &self.ctx_sha256)
            .field(0x0a, &self.dek_commit)
            .field(0x0b, &slots)
    }

    /// `header(path)`, the seal's AAD.
    #[must_use]
    pub fn encode(&self, uuid: &[u8; 16]) -> Vec<u8> {
        self.fields(Writer::new(LABEL_PATH).field(0x01, uuid)).finish()
    }

    fn parse(r: &mut Reader<'_>) -> Result<Self, Error> {
        let [mode] = r.fixed(0x02)?;
        let [path] = r.fixed(0x03)?;
        let suite = u16::from_be_bytes(r.fixed(0x04)?);
        if suite != SUITE_1 {
            return Err(Error::UnsupportedSuite(suite));
        }
        Ok(Self {
            mode: Mode::from_code(mode).ok_or(Error::NotAContainer)?,
            path,
            epoch: u32::from_be_bytes(r.fixed(0x05)?),
            salt: r.fixed(0x06)?,
            dek_len: u16::from_be_bytes(r.fixed(0x07)?),
            policy_uuid: r.fixed(0x08)?,
            ctx_sha256: r.fixed(0x09)?,
            dek_commit: r.fixed(0x0a)?,
            slots: parse_entries(r.field(0x0b)?)?,
        })
    }
}

fn parse_entries(bytes: &[u8]) -> Result<Vec<SlotEntry>, Error> {
    let mut r = Reader::new(bytes);
    let mut entries: Vec<SlotEntry> = Vec::new();
    while !r.is_empty() {
        let [slot, class] = r.array()?;
        let slot = SlotNo::from_code(slot).ok_or(Error::NotAContainer)?;
        if entries.last().is_some_and(|last| last.slot >= slot) {
            return Err(Error::NotAContainer);
        }
        entries.push(SlotEntry { slot, class, share_commit: r.array()? });
    }
    Ok(entries)
}

/// What is stored of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathData {
    /// What the seal authenticates, but for the wrapper's uuid.
    pub header: PathHeader,
    /// `AES-256-GCM(DEK | opening)`.
    pub seal: Vec<u8>,
    /// Commitment to the key that made the seal.
    pub commit: [u8; 32],
}

impl PathData {
    /// Header fields 02 to 0b, 0c seal, 0d commit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.header.fields(Writer::new(b"")).field(0x0c, &self.seal).field(0x0d, &self.commit).finish()
    }

    /// Reads path data.
    ///
    /// # Errors
    /// [`Error::NotAContainer`], [`Error::UnsupportedSuite`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let header = PathHeader::parse(&mut r)?;
        let seal = r.field(0x0c)?.to_vec();
        let commit = r.fixed(0x0d)?;
        r.finish()?;
        Ok(Self { header, seal, commit })
    }

    /// Seals a DEK under the path's shares, which are in slot order.
    ///
    /// # Errors
    /// [`Error::Invariant`] only.
    pub fn seal(header: PathHeader, uuid: &[u8; 16], shares: &[&Share], dek: &Dek, opening: &Secret<OPENING_LEN>) -> Result<Self, Error> {
        let aad = header.encode(uuid);
        let keys = PathKeys::derive(&aad, shares)?;
        let plaintext = Zeroizing::new([dek.expose(), opening.expose()].concat());
        let seal = aead::gcm_seal(keys.key()?, keys.nonce()?, &aad, &plaintext)?;
        Ok(Self { header, seal, commit: *keys.commit()? })
    }

    /// Opens the seal with the path's shares, which are in slot order. The order of checks is fixed: key commitment in constant time, tag,
    /// DEK commitment.
    ///
    /// # Errors
    /// [`Error::DoesNotOpen`] for all that does not verify.
    pub fn open(&self, uuid: &[u8; 16], shares: &[&Share]) -> Result<Dek, Error> {
        let aad = self.header.encode(uuid);
        let keys = PathKeys::derive(&aad, shares)?;
        if !bool::from(keys.commit()?.ct_eq(&self.commit)) {
            return Err(Error::DoesNotOpen);
        }
        let opened = aead::gcm_open(keys.key()?, keys.nonce()?, &aad, &self.seal).ok_or(Error::DoesNotOpen)?;
        let dek_len = usize::from(self.header.dek_len);
        if !DEK_LENGTHS.contains(&dek_len) {
            return Err(Error::DoesNotOpen);
        }
        let (dek, opening) = opened.split_at_checked(dek_len).ok_or(Error::DoesNotOpen)?;
        let opening = Secret::copy_from(opening).ok_or(Error::DoesNotOpen)?;
        let dek = Dek::from_bytes(Zeroizing::new(dek.to_vec())).ok_or(Error::DoesNotOpen)?;
        if !bool::from(dek_commit(uuid, &dek, &opening)?.ct_eq(&self.header.dek_commit)) {
            return Err(Error::DoesNotOpen);
        }
        Ok(dek)
    }
}

/// `OKM = key32 | nonce12 | commit32`, from all shares of a path and its whole header.
struct PathKeys(Secret<76>);

impl PathKeys {
    fn derive(header: &[u8], shares: &[&Share]) -> Result<Self, Error> {
        let hash = kdf::sha384(&[header]);
        let ikm = Zeroizing::new(shares.iter().map(|s| s.expose().as_slice()).collect::<Vec<_>>().concat());
        let mut okm = Secret::zero();
        kdf::hkdf_sha384(Some(&hash), &ikm, &[LABEL_KEK, &hash], okm.expose_mut())?;
        Ok(Self(okm))
    }

    fn key(&self) -> Result<&[u8; 32], Error> {
        self.0.expose().first_chunk().ok_or(Error::Invariant("OKM"))
    }

    fn nonce(&self) -> Result<&[u8; 12], Error> {
        self.0.expose().get(32..44).and_then(|n| n.try_into().ok()).ok_or(Error::Invariant("OKM"))
    }

    fn commit(&self) -> Result<&[u8; 32], Error> {
        self.0.expose().last_chunk().ok_or(Error::Invariant("OKM"))
    }
}

/// `HMAC-SHA-384(opening, label | uuid | DEK)[..32]`: equal before and after a rewrap or reseal, and without the opening it says nothing.
///
/// # Errors
/// [`Error::Invariant`] only.
pub fn dek_commit(uuid: &[u8; 16], dek: &Dek, opening: &Secret<OPENING_LEN>) -> Result<[u8; 32], Error> {
    kdf::hmac_sha384_32(opening.expose(), &[LABEL_DEK, uuid, dek.expose()])
}
