//! Where the fields of an encoded structure lie. Written from the format alone, not from the crate's reader.

use std::ops::Range;

/// Bytes of `"KWRP" format kind`, before the first field of a container.
pub const CONTAINER_HEAD: usize = 6;

/// Tag of the path data in a container.
pub const PATH_DATA: u8 = 0x0a;

/// Tags and places of the values of `tag u8 | length u32 | value`.
pub fn fields(bytes: &[u8], start: usize, end: usize) -> Vec<(u8, Range<usize>)> {
    let mut found = Vec::new();
    let mut at = start;
    while at < end {
        let len = u32::from_be_bytes(bytes[at + 1..at + 5].try_into().unwrap());
        let value = at + 5..at + 5 + usize::try_from(len).unwrap();
        found.push((bytes[at], value.clone()));
        at = value.end;
    }
    assert_eq!(at, end, "fields end where the structure ends");
    found
}

/// The value of a container's field.
pub fn slot_field(container: &[u8], tag: u8) -> Range<usize> {
    find(&fields(container, CONTAINER_HEAD, container.len()), tag)
}

/// The value of a field of the path data in a container.
pub fn path_field(container: &[u8], tag: u8) -> Range<usize> {
    let path = slot_field(container, PATH_DATA);
    find(&fields(container, path.start, path.end), tag)
}

fn find(fields: &[(u8, Range<usize>)], tag: u8) -> Range<usize> {
    fields.iter().find(|(t, _)| *t == tag).map(|(_, value)| value.clone()).expect("a field of that tag")
}
