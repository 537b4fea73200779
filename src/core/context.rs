//! The caller's context: string pairs that are authenticated with a wrapper and must be given again to open it. Not hidden, only bound.

use super::{
    codec::{Reader, Writer},
    kdf::sha256,
};
use std::collections::BTreeMap;

const LABEL: &[u8] = b"kms_wrap/v1/ctx\0";

/// Most pairs in one context.
pub const MAX_PAIRS: usize = 64;

/// Most bytes of one pair, key and value together.
pub const MAX_PAIR_BYTES: usize = 1024;

/// A checked context. Sorted by the bytes of its keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Context(BTreeMap<String, String>);

/// Why a context was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextError {
    /// Not a JSON object.
    NotAnObject,
    /// A value is not a string.
    NotAString,
    /// More than [`MAX_PAIRS`] pairs.
    TooManyPairs,
    /// A pair of more than [`MAX_PAIR_BYTES`] bytes.
    PairTooLong,
}

impl Context {
    /// Reads a JSON object of strings.
    ///
    /// # Errors
    /// [`ContextError`] names the rule that was broken.
    pub fn from_json(json: &serde_json::Value) -> Result<Self, ContextError> {
        let object = json.as_object().ok_or(ContextError::NotAnObject)?;
        if object.len() > MAX_PAIRS {
            return Err(ContextError::TooManyPairs);
        }
        let mut pairs = BTreeMap::new();
        for (key, value) in object {
            let value = value.as_str().ok_or(ContextError::NotAString)?;
            if key.len().saturating_add(value.len()) > MAX_PAIR_BYTES {
                return Err(ContextError::PairTooLong);
            }
            pairs.insert(key.clone(), value.to_owned());
        }
        Ok(Self(pairs))
    }

    /// Whether there are no pairs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it has a pair of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The pairs of these names, of those that there are.
    #[must_use]
    pub fn only(&self, names: &[String]) -> Self {
        Self(self.0.iter().filter(|(key, _)| names.contains(key)).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// `n u16 | { len u16 | key | len u16 | value }*`, sorted by key bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut encoded = Writer::new(&be16(self.0.len()));
        for (key, value) in &self.0 {
            encoded = encoded.raw(&be16(key.len())).raw(key.as_bytes()).raw(&be16(value.len())).raw(value.as_bytes());
        }
        encoded.finish()
    }

    /// Takes apart what [`Self::encode`] wrote; `None` for anything else.
    #[must_use]
    pub fn decode(encoded: &[u8]) -> Option<Self> {
        let mut r = Reader::new(encoded);
        let mut pairs = BTreeMap::new();
        for _ in 0..u16::from_be_bytes(r.array().ok()?) {
            let mut text = || {
                let len = u16::from_be_bytes(r.array().ok()?);
                String::from_utf8(r.take(usize::from(len)).ok()?.to_vec()).ok()
            };
            pairs.insert(text()?, text()?);
        }
        let context = Self(pairs);
        (context.encode() == encoded).then_some(context)
    }

    /// `ctx_sha256 = SHA-256(label | encoded context)`.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        sha256(&[LABEL, &self.encode()])
    }
}

/// The limits above keep every length below 2^16.
fn be16(n: usize) -> [u8; 2] {
    u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn order_of_pairs_does_not_matter_and_borders_do() {
        let hash = |j| Context::from_json(&j).unwrap().sha256();
        assert_eq!(hash(json!({"a": "1", "b": "2"})), hash(json!({"b": "2", "a": "1"})));
        assert_ne!(hash(json!({"ab": "c"})), hash(json!({"a": "bc"})));
        assert_ne!(hash(json!({})), hash(json!({"": ""})));
    }

    #[test]
    fn what_is_encoded_decodes_and_nothing_else_does() {
        for json in [json!({}), json!({"": ""}), json!({"a": "1", "b": "é"})] {
            let context = Context::from_json(&json).unwrap();
            let encoded = context.encode();
            assert_eq!(Context::decode(&encoded), Some(context));
            assert_eq!(Context::decode(encoded.get(1..).unwrap()), None);
            assert_eq!(Context::decode(&[encoded.as_slice(), &[0]].concat()), None);
        }
        let unsorted = [&[0, 2], &[0, 1][..], b"b", &[0, 0], &[0, 1], b"a", &[0, 0]].concat();
        assert_eq!(Context::decode(&unsorted), None);
        assert_eq!(Context::decode(&[0, 1, 0, 1, 0xff, 0, 0]), None);
    }

    #[test]
    fn bad_contexts_are_refused() {
        let refused = |j| Context::from_json(&j).unwrap_err();
        assert_eq!(refused(json!([])), ContextError::NotAnObject);
        assert_eq!(refused(json!("x")), ContextError::NotAnObject);
        assert_eq!(refused(json!({"a": 1})), ContextError::NotAString);
        assert_eq!(refused(json!({"a": {"b": "c"}})), ContextError::NotAString);
        assert_eq!(refused(json!({"a": null})), ContextError::NotAString);
        assert_eq!(refused(json!({"a": "x".repeat(1024)})), ContextError::PairTooLong);
        assert!(Context::from_json(&json!({"a": "x".repeat(1023)})).is_ok());
        let pairs = |n: usize| serde_json::Value::Object((0..n).map(|i| (i.to_string(), json!(""))).collect());
        assert_eq!(refused(pairs(65)), ContextError::TooManyPairs);
        assert!(Context::from_json(&pairs(64)).is_ok());
    }

    #[test]
    fn empty_context_is_frozen() {
        assert_eq!(Context::default().sha256(), sha256(&[b"kms_wrap/v1/ctx\0\0\0"]));
    }
}
