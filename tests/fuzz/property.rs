//! What must hold for any bytes: no panic, and nothing but the one encoding of a value is read as that value. Used by the fuzz targets and by
//! the replay of their corpus in tests/core.

use kms_wrap::core::{
    context::{Context, MAX_PAIRS},
    path::PathData,
    slot::Container,
    value::{self, Envelope, Head},
};
use serde_json::Value;

/// A container, or a path's data alone. Whether one of them parsed.
pub fn container(bytes: &[u8]) -> bool {
    let container = Container::parse(bytes);
    if let Ok(container) = &container {
        assert_eq!(container.encode().as_deref(), Ok(bytes), "a container has one encoding");
    }
    let path = PathData::parse(bytes);
    if let Ok(path) = &path {
        assert_eq!(path.encode(), bytes, "path data have one encoding");
    }
    container.is_ok() || path.is_ok()
}

/// A context in JSON. Whether it was accepted.
pub fn context(bytes: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else { return false };
    let Ok(context) = Context::from_json(&json) else { return false };
    let pairs = json.as_object().map_or(0, serde_json::Map::len);
    assert!(pairs <= MAX_PAIRS, "the limit of pairs");
    assert_eq!(context.is_empty(), pairs == 0);
    let again = serde_json::from_str(&json.to_string()).expect("what was printed parses");
    assert_eq!(Context::from_json(&again).map(|c| c.sha256()), Ok(context.sha256()), "spelling does not matter");
    true
}

/// A value as it is stored: raw, and as the text of an armoured one. Whether either parsed.
pub fn value(bytes: &[u8]) -> bool {
    assert_eq!(unarmour(&armour(bytes)).as_deref(), Some(bytes), "armour comes off again");
    let text = unarmour(bytes);
    if let Some(raw) = &text {
        assert_eq!(armour(raw), bytes, "an armoured value has one text");
    }
    envelope(bytes) || text.is_some_and(|raw| envelope(&raw))
}

fn envelope(raw: &[u8]) -> bool {
    let Ok(Envelope { head, ciphertext, tag }) = Envelope::parse(raw) else { return false };
    let again = Head::new(&head.wrapper(), head.is_padded(), &head.prefix(), &head.gcm_nonce());
    assert_eq!([again.as_bytes(), ciphertext, tag].concat(), raw, "an envelope has one encoding");
    if let Ok(len) = value::unpadded_len(ciphertext) {
        let (content, padding) = ciphertext.split_at(len);
        assert_eq!(value::pad(content, ciphertext.len()).unwrap().as_slice(), ciphertext, "padding comes on again");
        assert_eq!(padding.first(), Some(&0x80));
    }
    true
}

fn armour(raw: &[u8]) -> Vec<u8> {
    let mut text = vec![0; value::armoured_len(raw.len())];
    value::armour(raw, &mut text).expect("a buffer of the length that was asked for");
    text
}

fn unarmour(text: &[u8]) -> Option<Vec<u8>> {
    let mut raw = Vec::new();
    let read = value::unarmour(text, &mut raw).is_ok();
    assert!(read || raw.is_empty(), "nothing is left of what was not read");
    assert!(!read || value::has_armour(text));
    read.then_some(raw)
}
