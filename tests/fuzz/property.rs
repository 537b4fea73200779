//! What must hold for any bytes: no panic, and nothing but the one encoding of a value is read as that value. Used by the fuzz targets and by
//! the replay of their corpus in tests/core.

use kms_wrap::core::{
    context::{Context, MAX_PAIRS},
    path::PathData,
    slot::Container,
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
