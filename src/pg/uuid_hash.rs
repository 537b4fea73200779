//! A hash for maps whose keys are uuids that this extension made: half of their bits are random, and nobody else chooses them.

use std::hash::{BuildHasherDefault, Hasher};

/// A map by uuid, with or without a number beside it.
pub(crate) type UuidMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<UuidHasher>>;

/// Takes the last eight bytes as they are.
#[derive(Default)]
pub(crate) struct UuidHasher(u64);

impl Hasher for UuidHasher {
    fn finish(&self) -> u64 {
        // The map looks at the highest bits too.
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write(&mut self, bytes: &[u8]) {
        let tail = bytes.last_chunk::<8>().map_or(0, |tail| u64::from_ne_bytes(*tail));
        self.0 = self.0.rotate_left(5) ^ tail;
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = self.0.rotate_left(5) ^ u64::from(n);
    }

    fn write_usize(&mut self, _length: usize) {}
}
