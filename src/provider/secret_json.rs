//! JSON that carries secret bytes, written and read without a copy that is not wiped.

use base64::Engine;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// An object of `fields` and one more field of bytes, which are written into their final place only.
pub(super) fn with_bytes(fields: &Value, name: &str, bytes: &[u8], encoding: &impl Engine) -> Zeroizing<Vec<u8>> {
    let fields = fields.to_string();
    let open = fields.strip_suffix('}').unwrap_or(&fields);
    let start = format!("{open}{}\"{name}\":\"", if open.ends_with('{') { "" } else { "," });
    let encoded = base64::encoded_len(bytes.len(), true).unwrap_or(0);
    let mut body = Zeroizing::new(vec![0; start.len().saturating_add(encoded).saturating_add(2)]);
    let mut end = start.len();
    if let Some((head, tail)) = body.split_at_mut_checked(start.len()) {
        head.copy_from_slice(start.as_bytes());
        // The length was computed for it.
        end = end.saturating_add(encoding.encode_slice(bytes, tail).unwrap_or(0));
    }
    // Shorter where the encoding has no padding; never longer, so nothing moves.
    body.truncate(end);
    body.extend_from_slice(b"\"}");
    body
}

/// Takes the text of a field out of an object, so that it is wiped.
pub(super) fn take(object: &mut Map<String, Value>, field: &str) -> Option<Zeroizing<String>> {
    match object.remove(field) {
        Some(Value::String(text)) => Some(Zeroizing::new(text)),
        _ => None,
    }
}

/// The bytes of a text.
pub(super) fn decode(text: &str, encoding: &impl Engine) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; text.len()]);
    let len = encoding.decode_slice(text.as_bytes(), &mut bytes).ok()?;
    bytes.truncate(len);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use serde_json::json;

    #[test]
    fn bytes_become_the_last_field() {
        assert_eq!(with_bytes(&json!({}), "b", &[0xff], &STANDARD).as_slice(), b"{\"b\":\"/w==\"}");
        assert_eq!(with_bytes(&json!({"a": 1}), "b", &[0xff], &URL_SAFE_NO_PAD).as_slice(), b"{\"a\":1,\"b\":\"_w\"}");
        for len in 0..70 {
            let bytes = vec![0xa5; len];
            let mut object: Map<String, Value> = serde_json::from_slice(&with_bytes(&json!({"a": 1}), "b", &bytes, &STANDARD)).unwrap();
            let text = take(&mut object, "b").unwrap();
            assert_eq!(decode(&text, &STANDARD).unwrap().as_slice(), bytes);
            assert!(take(&mut object, "a").is_none());
        }
        assert!(decode("*", &STANDARD).is_none());
    }
}
