//! The value envelope: the bytes of one encrypted value, raw for `bytea` and armoured for `text`.
//!
//! ```text
//! "KW" | version u8 = 1 | cipher u8 | wrapper uuid 16 | nonce 24 | ciphertext | tag 16      raw
//! "kw1." base64url of the same, without padding (RFC 4648, section 5)                       armoured
//! AAD = "kms_wrap/v1/value\0" | everything before the ciphertext | value context
//! ```
//! Parsing is strict: one byte string, one text, for one envelope. It uses no key and says nothing about who made the bytes.

use super::{aead::TAG_LEN, error::Error};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// The only version of the format.
const VERSION: u8 = 1;
/// XAES-256-GCM (C2SP).
pub const CIPHER_XAES: u8 = 1;
/// Set in the cipher byte when the plaintext ends in padding.
const PADDED: u8 = 0x80;
const MAGIC: &[u8; 2] = b"KW";
const ARMOUR: &[u8; 4] = b"kw1.";
const LABEL: &[u8] = b"kms_wrap/v1/value\0";

/// Bytes before the ciphertext.
pub const HEAD_LEN: usize = 44;

/// Bytes that an envelope adds to a value, padding aside.
pub const OVERHEAD: usize = HEAD_LEN + TAG_LEN;

/// Most bytes that a value may be padded to a multiple of.
pub const MAX_PAD_TO: usize = 65_536;

/// The fixed-length start of an envelope.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Head([u8; HEAD_LEN]);

impl Head {
    /// A new envelope's head.
    #[must_use]
    pub fn new(wrapper: &[u8; 16], padded: bool, prefix: &[u8; 12], counter: &[u8; 12]) -> Self {
        let mut bytes = [0; HEAD_LEN];
        let cipher = if padded { CIPHER_XAES | PADDED } else { CIPHER_XAES };
        let parts: [&[u8]; 5] = [MAGIC, &[VERSION, cipher], wrapper, prefix, counter];
        let mut rest = bytes.as_mut_slice();
        for part in parts {
            // They are as long together as there is room.
            let Some((to, after)) = rest.split_at_mut_checked(part.len()) else { break };
            to.copy_from_slice(part);
            rest = after;
        }
        Self(bytes)
    }

    /// The wrapper whose DEK encrypted the value.
    #[must_use]
    pub fn wrapper(&self) -> [u8; 16] {
        self.part::<4, 16>()
    }

    /// The half of the nonce that the message key is derived from.
    #[must_use]
    pub fn prefix(&self) -> [u8; 12] {
        self.part::<20, 12>()
    }

    /// The half of the nonce that AES-GCM gets.
    #[must_use]
    pub fn gcm_nonce(&self) -> [u8; 12] {
        self.part::<32, 12>()
    }

    /// Whether the plaintext ends in padding.
    #[must_use]
    pub fn is_padded(&self) -> bool {
        let [cipher] = self.part::<3, 1>();
        cipher & PADDED != 0
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; HEAD_LEN] {
        &self.0
    }

    fn part<const AT: usize, const N: usize>(&self) -> [u8; N] {
        self.0.get(AT..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
    }
}

/// An envelope's parts.
pub struct Envelope<'a> {
    /// Everything before the ciphertext.
    pub head: Head,
    /// As long as the plaintext with its padding.
    pub ciphertext: &'a [u8],
    /// The authentication tag.
    pub tag: &'a [u8; TAG_LEN],
}

impl<'a> Envelope<'a> {
    /// Reads raw bytes.
    ///
    /// # Errors
    /// [`Error::NotAnEnvelope`]; [`Error::UnsupportedVersion`] and [`Error::UnsupportedCipher`] for what a later version may have written.
    pub fn parse(raw: &'a [u8]) -> Result<Self, Error> {
        let (head, rest) = raw.split_first_chunk::<HEAD_LEN>().ok_or(Error::NotAnEnvelope)?;
        let [m0, m1, version, cipher, ..] = *head;
        check_start([m0, m1, version, cipher], raw.len())?;
        let (ciphertext, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(Error::NotAnEnvelope)?;
        Ok(Self { head: Head(*head), ciphertext, tag })
    }
}

/// Whether an envelope of `len` bytes can begin so. `len` is that of a head at least.
fn check_start([m0, m1, version, cipher]: [u8; 4], len: usize) -> Result<(), Error> {
    if [m0, m1] != *MAGIC {
        return Err(Error::NotAnEnvelope);
    }
    if version != VERSION {
        // Other bytes than these are no version yet: a value may begin with the letters "KW".
        let is_version = (2..16).contains(&version);
        return Err(if is_version { Error::UnsupportedVersion(version) } else { Error::NotAnEnvelope });
    }
    if cipher & !PADDED != CIPHER_XAES {
        return Err(Error::UnsupportedCipher(cipher));
    }
    // Padding has at least its marker.
    let least = if cipher & PADDED == 0 { OVERHEAD } else { OVERHEAD.saturating_add(1) };
    if len < least { Err(Error::NotAnEnvelope) } else { Ok(()) }
}

/// Whether a text claims to be an armoured envelope.
#[must_use]
pub fn has_armour(text: &[u8]) -> bool {
    text.starts_with(ARMOUR)
}

/// Characters of an armoured envelope of `raw` bytes.
#[must_use]
pub fn armoured_len(raw: usize) -> usize {
    base64::encoded_len(raw, false).unwrap_or(usize::MAX).saturating_add(ARMOUR.len())
}

/// Writes the armour of `raw` to `out`, which must have [`armoured_len`] bytes.
///
/// # Errors
/// [`Error::Invariant`] when it has not.
pub fn armour(raw: &[u8], out: &mut [u8]) -> Result<(), Error> {
    let (start, rest) = out.split_first_chunk_mut::<4>().ok_or(Error::Invariant("armour length"))?;
    *start = *ARMOUR;
    match URL_SAFE_NO_PAD.encode_slice(raw, rest) {
        Ok(written) if written == rest.len() => Ok(()),
        _ => Err(Error::Invariant("armour length")),
    }
}

/// Takes the armour off, into a buffer that is used again; it is left empty when that fails.
///
/// # Errors
/// [`Error::OutOfMemory`]; [`Error::NotAnEnvelope`] for all that [`armour`] does not write: another alphabet, padding, white space, left-over bits.
pub fn unarmour(text: &[u8], raw: &mut Vec<u8>) -> Result<(), Error> {
    raw.clear();
    let encoded = text.strip_prefix(ARMOUR).ok_or(Error::NotAnEnvelope)?;
    let len = base64::decoded_len_estimate(encoded.len());
    // A length that somebody else chose: no memory for it is an error, and not the end of the process.
    raw.try_reserve_exact(len).map_err(|_| Error::OutOfMemory)?;
    raw.resize(len, 0);
    // The engine writes what it could read before it found a fault.
    let decoded = URL_SAFE_NO_PAD.decode_slice(encoded, raw);
    raw.truncate(decoded.as_ref().map_or(0, |len| *len));
    decoded.map(|_| ()).map_err(|_| Error::NotAnEnvelope)
}

/// Whether a text is an armoured envelope: what [`unarmour`] and [`Envelope::parse`] take, without writing the bytes anywhere.
#[must_use]
#[allow(clippy::needless_bitwise_bool)] // a branch at each character is what takes long
pub fn is_armoured(text: &[u8]) -> bool {
    let Some(encoded) = text.strip_prefix(ARMOUR) else { return false };
    let is_digit = |c: &u8| c.is_ascii_alphanumeric() | (*c == b'-') | (*c == b'_');
    if !encoded.iter().fold(true, |all, c| all & is_digit(c)) {
        return false;
    }
    // Four digits are three bytes; of those left over, two are one and three are two, and no bit to spare is set.
    let (quads, rest) = encoded.as_chunks::<4>();
    let (left_over, to_spare) = match *rest {
        [] => (0, 0),
        [_, last] => (1, digit(last) & 0x0f),
        [_, _, last] => (2, digit(last) & 0x03),
        _ => return false,
    };
    let len = quads.len().saturating_mul(3).saturating_add(left_over);
    let [d0, d1, d2, d3, d4, d5] = encoded.first_chunk().copied().unwrap_or([0; 6]).map(digit);
    let start = [d0 << 2 | d1 >> 4, d1 << 4 | d2 >> 2, d2 << 6 | d3, d4 << 2 | d5 >> 4];
    to_spare == 0 && len >= HEAD_LEN && check_start(start, len).is_ok()
}

/// The six bits of a base64url digit.
fn digit(c: u8) -> u8 {
    match c {
        b'A'..=b'Z' => c.wrapping_sub(b'A'),
        b'a'..=b'z' => c.wrapping_sub(b'a' - 26),
        b'0'..=b'9' => c.wrapping_add(52 - b'0'),
        b'-' => 62,
        _ => 63,
    }
}

/// The wrapper that a raw envelope names, from its first 20 bytes.
#[must_use]
pub fn raw_wrapper(start: &[u8]) -> Option<[u8; 16]> {
    start.strip_prefix(MAGIC)?.get(2..18)?.try_into().ok()
}

/// The wrapper that an armoured envelope names, from its first 32 characters.
#[must_use]
pub fn armoured_wrapper(start: &[u8]) -> Option<[u8; 16]> {
    // 28 characters are 21 bytes: magic, version, cipher, uuid, and one of the nonce.
    let mut head = [0; 21];
    let len = URL_SAFE_NO_PAD.decode_slice(start.strip_prefix(ARMOUR)?.get(..28)?, &mut head).ok()?;
    if len == head.len() { head.get(4..20)?.try_into().ok() } else { None }
}

/// What a value's tag authenticates besides it, into a buffer that is used again.
pub fn aad(head: &Head, context: &ValueContext, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(LABEL);
    out.extend_from_slice(&head.0);
    out.extend_from_slice(&context.0);
}

/// Where a value belongs. Not stored: whoever opens the value has to know it.
#[derive(PartialEq, Eq, Default)]
pub struct ValueContext(Vec<u8>);

impl Clone for ValueContext {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }

    // What derive() makes would not use the memory again.
    fn clone_from(&mut self, source: &Self) {
        self.0.clone_from(&source.0);
    }
}

impl ValueContext {
    /// `0x01 | encoded caller context`: a free call.
    #[must_use]
    pub fn free(encoded: &[u8]) -> Self {
        Self([&[1], encoded].concat())
    }

    /// `0x02 | column_uuid16 | n u8 { len u32, key column }*`: a row of a protected column. Begins it; [`Self::push`] adds the key columns.
    pub fn begin_column(&mut self, column: &[u8; 16], keys: u8) {
        self.0.clear();
        // Most keys fit at once.
        self.0.reserve(64);
        self.0.push(2);
        self.0.extend_from_slice(column);
        self.0.push(keys);
    }

    /// Adds a key column in its binary send form.
    pub fn push(&mut self, key: &[u8]) {
        self.0.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.extend_from_slice(key);
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The encoded caller context; `None` for a row of a protected column.
    #[must_use]
    pub fn encoded(&self) -> Option<&[u8]> {
        self.0.strip_prefix(&[1])
    }
}

/// `value | 0x80 | zeros` up to a multiple of `pad_to` bytes (ISO/IEC 7816-4, padding method 2).
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn pad(value: &[u8], pad_to: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
    let len = value.len().checked_add(1).and_then(|len| len.checked_next_multiple_of(pad_to.max(1))).ok_or(Error::OutOfMemory)?;
    let mut padded = Zeroizing::new(Vec::new());
    padded.try_reserve_exact(len).map_err(|_| Error::OutOfMemory)?;
    padded.extend_from_slice(value);
    padded.push(0x80);
    padded.resize(len, 0);
    Ok(padded)
}

/// Length of a padded value without its padding.
///
/// # Errors
/// [`Error::DoesNotDecrypt`] when there is no padding.
pub fn unpadded_len(padded: &[u8]) -> Result<usize, Error> {
    let len = padded.iter().rposition(|b| *b != 0).ok_or(Error::DoesNotDecrypt)?;
    if padded.get(len) == Some(&0x80) { Ok(len) } else { Err(Error::DoesNotDecrypt) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_add_up() {
        assert_eq!(OVERHEAD, 60);
        assert_eq!(armoured_len(60), 4 + 80);
        assert_eq!(armoured_len(61), 4 + 82);
    }

    #[test]
    fn padding_fills_the_bucket_and_comes_off() {
        for n in 0..200 {
            let value = vec![7; n];
            let padded = pad(&value, 16).unwrap();
            assert_eq!(padded.len() % 16, 0);
            assert!(padded.len() > n && padded.len() <= n + 16);
            assert_eq!(unpadded_len(&padded), Ok(n));
        }
        assert_eq!(unpadded_len(&[]), Err(Error::DoesNotDecrypt));
        assert_eq!(unpadded_len(&[0, 0]), Err(Error::DoesNotDecrypt));
        assert_eq!(unpadded_len(&[1, 0]), Err(Error::DoesNotDecrypt));
    }
}
