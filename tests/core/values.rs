//! Attacks on a value envelope: each must end in the one error, or in an error of framing where no key is needed to see it.

use super::{
    entropy::Stream,
    sealer::{COLUMN, Sealer, WRAPPER, column, dek, free, open},
};
use kms_wrap::core::{
    error::Error::{DoesNotDecrypt, Invariant, NotAnEnvelope, UnsupportedCipher, UnsupportedVersion},
    value::{Envelope, HEAD_LEN, Head, OVERHEAD, ValueContext},
    value_key::ValueKey,
};
use serde_json::json;

/// Values of every length that matters to framing and to the cipher's blocks, padded ones too.
fn subjects(sealer: &mut Sealer, context: &ValueContext) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let mut subjects = Vec::new();
    for n in [0, 1, 15, 16, 17, 40] {
        let plaintext = vec![b'v'; n];
        subjects.push((format!("{n} bytes"), plaintext.clone(), sealer.seal(&plaintext, context)));
        subjects.push((format!("{n} bytes padded"), plaintext.clone(), sealer.seal_padded(&plaintext, 32, context)));
    }
    subjects
}

fn row() -> ValueContext {
    column(&COLUMN, &[b"\0\0\0\x07"])
}

fn padded(raw: &[u8]) -> bool {
    raw[3] & 0x80 != 0
}

#[test]
fn honest_values_open() {
    let mut sealer = Sealer::new("honest");
    for context in [row(), free(&json!({})), free(&json!({"tenant": "acme"}))] {
        for (what, plaintext, raw) in subjects(&mut sealer, &context) {
            let content = if padded(&raw) { (plaintext.len() + 1).next_multiple_of(32) } else { plaintext.len() };
            assert_eq!(raw.len(), OVERHEAD + content, "{what}");
            assert_eq!(sealer.open(&raw, &context), Ok(plaintext), "{what}");
            let head = Envelope::parse(&raw).unwrap().head;
            assert_eq!((head.wrapper(), head.is_padded()), (WRAPPER, padded(&raw)), "{what}");
            assert_eq!([&head.prefix()[..], &head.gcm_nonce()].concat(), raw[20..HEAD_LEN], "{what}");
        }
    }
}

#[test]
fn cut_at_every_length() {
    let mut sealer = Sealer::new("cut");
    for (what, _, raw) in subjects(&mut sealer, &row()) {
        for n in 0..raw.len() {
            // One byte of padding is the least.
            let framed = n >= OVERHEAD + usize::from(padded(&raw));
            sealer.refuse(&format!("{what}, first {n}"), &raw[..n], &row(), if framed { DoesNotDecrypt } else { NotAnEnvelope });
            assert!(sealer.open(&raw[raw.len() - n..], &row()).is_err(), "{what}, last {n}");
        }
    }
}

#[test]
fn every_byte_flipped_in_every_way() {
    let mut sealer = Sealer::new("flip");
    for (what, _, raw) in subjects(&mut sealer, &row()) {
        for (at, mask) in (0..raw.len()).flat_map(|at| (1..=u8::MAX).map(move |mask| (at, mask))) {
            let mut bytes = raw.clone();
            bytes[at] ^= mask;
            let expected = match at {
                2 if (2..16).contains(&bytes[2]) => UnsupportedVersion(bytes[2]),
                0..=2 => NotAnEnvelope,
                // The flag alone is a cipher that is known.
                3 if mask != 0x80 => UnsupportedCipher(bytes[3]),
                3 if raw.len() == OVERHEAD => NotAnEnvelope,
                _ => DoesNotDecrypt,
            };
            sealer.refuse(&format!("{what}, byte {at} ^ {mask:#x}"), &bytes, &row(), expected);
        }
    }
}

#[test]
fn a_byte_more_or_less_anywhere() {
    let mut sealer = Sealer::new("insert");
    for (what, _, raw) in subjects(&mut sealer, &row()) {
        for at in 0..=raw.len() {
            for byte in [0, 0x80, 0xff, b'K'] {
                let mut longer = raw.clone();
                longer.insert(at, byte);
                assert!(sealer.open(&longer, &row()).is_err(), "{what}, {byte:#x} at {at}");
            }
            if at < raw.len() {
                let mut shorter = raw.clone();
                shorter.remove(at);
                assert!(sealer.open(&shorter, &row()).is_err(), "{what}, without {at}");
            }
        }
        for byte in 0..=u8::MAX {
            sealer.refuse(&format!("{what} and {byte:#x}"), &[raw.as_slice(), &[byte]].concat(), &row(), DoesNotDecrypt);
        }
        sealer.refuse(&format!("{what}, twice"), &raw.repeat(2), &row(), DoesNotDecrypt);
    }
}

#[test]
fn versions_and_ciphers_that_are_not_known() {
    let mut sealer = Sealer::new("versions");
    let raw = sealer.seal(b"value", &row());
    for n in 0..=u8::MAX {
        let with = |at: usize| Envelope::parse(&[&raw[..at], &[n], &raw[at + 1..]].concat()).map(|_| ());
        // Plain bytes may begin with the magic, so only the next few versions are taken for one.
        let version = if (2..16).contains(&n) { UnsupportedVersion(n) } else { NotAnEnvelope };
        assert_eq!(with(2), if n == 1 { Ok(()) } else { Err(version) });
        assert_eq!(with(3), if n & 0x7f == 1 { Ok(()) } else { Err(UnsupportedCipher(n)) });
    }
}

/// Whether padding follows is not the attacker's to say: the flag alone would show padding as content, or cut content as padding.
#[test]
fn padded_flag_toggled() {
    let mut sealer = Sealer::new("flag");
    let toggled = |raw: &[u8]| [&raw[..3], &[raw[3] ^ 0x80], &raw[4..]].concat();
    let looks_padded = sealer.seal(b"value\x80\0\0", &row());
    sealer.refuse("flag set", &toggled(&looks_padded), &row(), DoesNotDecrypt);
    let padded = sealer.seal_padded(b"value", 16, &row());
    sealer.refuse("flag cleared", &toggled(&padded), &row(), DoesNotDecrypt);
    let empty = sealer.seal(b"", &row());
    sealer.refuse("flag set without room for padding", &toggled(&empty), &row(), NotAnEnvelope);
}

#[test]
fn parts_of_another_value() {
    let mut sealer = Sealer::new("parts");
    let values = [sealer.seal(b"one value....", &row()), sealer.seal(b"another value", &row())];
    let places = [0..20, 20..32, 32..HEAD_LEN, HEAD_LEN..HEAD_LEN + 13, HEAD_LEN + 13..OVERHEAD + 13];
    for pick in 0..1_usize << places.len() {
        let mixed: Vec<_> = places.iter().enumerate().flat_map(|(i, place)| values[pick >> i & 1][place.clone()].to_vec()).collect();
        match values.iter().position(|v| *v == mixed) {
            Some(i) => assert_eq!(sealer.open(&mixed, &row()).unwrap().len(), values[i].len() - OVERHEAD),
            None => sealer.refuse(&format!("mix {pick:05b}"), &mixed, &row(), DoesNotDecrypt),
        }
    }
}

#[test]
fn another_wrapper_or_key() {
    let mut sealer = Sealer::new("wrapper");
    let raw = sealer.seal(b"value", &row());
    // The DEK wrapped a second time: the same key under another uuid is another value key.
    let other = *b"another.wrapper.";
    sealer.refuse("uuid of another wrapper", &[&raw[..4], &other, &raw[20..]].concat(), &row(), DoesNotDecrypt);
    let rewrapped = ValueKey::derive(&dek(&sealer.dek), &other).unwrap();
    assert_eq!(open(&rewrapped, &raw, &row()), Err(DoesNotDecrypt));
    for other_dek in [Stream::new("another").bytes(32), sealer.dek.repeat(2), [sealer.dek.as_slice(), &[0; 32]].concat()] {
        let other = Sealer::with(other_dek, WRAPPER, &mut Stream::new("run"));
        assert_eq!(other.open(&raw, &row()), Err(DoesNotDecrypt));
    }
    // The DEK as it is, without derivation.
    let bare = ValueKey::new(&sealer.dek.clone().try_into().unwrap());
    assert_eq!(open(&bare, &raw, &row()), Err(DoesNotDecrypt));
}

#[test]
fn a_dek_of_64_bytes_counts_whole() {
    let bytes = Stream::new("64").bytes(64);
    let mut sealer = Sealer::with(bytes.clone(), WRAPPER, &mut Stream::new("run"));
    let raw = sealer.seal(b"value", &row());
    assert_eq!(sealer.open(&raw, &row()).as_deref(), Ok(&b"value"[..]));
    for half in bytes.chunks(32) {
        let key = ValueKey::derive(&dek(half), &WRAPPER).unwrap();
        assert_eq!(open(&key, &raw, &row()), Err(DoesNotDecrypt));
    }
}

#[test]
fn deks_too_short_for_values_are_refused() {
    for n in [16, 24] {
        assert!(matches!(ValueKey::derive(&dek(&vec![1; n]), &WRAPPER), Err(Invariant(_))), "{n}");
    }
}

/// Rows and calls for which one value must not be another's.
fn contexts() -> Vec<(&'static str, ValueContext)> {
    let other_column = *b"another.column..";
    vec![
        ("free, empty", free(&json!({}))),
        ("free, empty pair", free(&json!({"": ""}))),
        ("free, pair", free(&json!({"tenant": "acme"}))),
        ("free, other value", free(&json!({"tenant": "globex"}))),
        ("free, other name", free(&json!({"Tenant": "acme"}))),
        ("free, border moved", free(&json!({"tenan": "tacme"}))),
        ("free, more", free(&json!({"tenant": "acme", "row": "1"}))),
        ("no key", column(&COLUMN, &[])),
        ("empty key", column(&COLUMN, &[b""])),
        ("two empty keys", column(&COLUMN, &[b"", b""])),
        ("key", column(&COLUMN, &[b"abc"])),
        ("key of another column", column(&other_column, &[b"abc"])),
        ("another key", column(&COLUMN, &[b"abd"])),
        ("shorter key", column(&COLUMN, &[b"ab"])),
        ("ab, c", column(&COLUMN, &[b"ab", b"c"])),
        ("a, bc", column(&COLUMN, &[b"a", b"bc"])),
        ("c, ab", column(&COLUMN, &[b"c", b"ab"])),
        ("abc, empty", column(&COLUMN, &[b"abc", b""])),
        ("empty, abc", column(&COLUMN, &[b"", b"abc"])),
        ("length in the key", column(&COLUMN, &[b"ab\0\0\0\x01c"])),
        ("int4 1", column(&COLUMN, &[&1_i32.to_be_bytes()])),
        ("int8 1", column(&COLUMN, &[&1_i64.to_be_bytes()])),
        // What a free caller could try: the bytes of a row's context as his own.
        ("free, bytes of a row", ValueContext::free(&column(&COLUMN, &[b"abc"]).as_bytes()[1..])),
        ("free, whole context of a row", ValueContext::free(column(&COLUMN, &[b"abc"]).as_bytes())),
    ]
}

#[test]
fn a_value_opens_in_its_own_context_only() {
    let mut sealer = Sealer::new("contexts");
    for (own_name, own) in contexts() {
        let raw = sealer.seal(b"value", &own);
        for (name, context) in contexts() {
            let expected = if name == own_name { Ok(b"value".to_vec()) } else { Err(DoesNotDecrypt) };
            assert_eq!(sealer.open(&raw, &context), expected, "{own_name} as {name}");
        }
        // A context that was begun and not filled.
        assert_eq!(sealer.open(&raw, &ValueContext::default()), Err(DoesNotDecrypt), "{own_name}");
    }
}

#[test]
fn a_context_that_is_used_again_keeps_nothing() {
    let mut again = column(b"another.column..", &[b"a long key", b"another"]);
    again.begin_column(&COLUMN, 1);
    again.push(b"abc");
    assert!(again == column(&COLUMN, &[b"abc"]));
    let head = Head::new(&WRAPPER, false, &[1; 12], &[2; 12]);
    let mut aad = vec![7; 1000];
    kms_wrap::core::value::aad(&head, &again, &mut aad);
    let expected = [&b"kms_wrap/v1/value\0KW\x01\x01"[..], &WRAPPER, &[1; 12], &[2; 12], b"\x02", &COLUMN, b"\x01\0\0\0\x03abc"].concat();
    assert_eq!(aad, expected);
}

#[test]
fn buffers_of_another_length_are_a_fault_of_the_caller() {
    let key = ValueKey::new(&[1; 32]).message_key(&[2; 12]);
    for n in [0, 4, 6] {
        let mut out = vec![0xa5; n];
        assert!(matches!(key.seal(&[3; 12], b"", b"value", &mut out), Err(Invariant(_))));
        assert_eq!(key.open(&[3; 12], b"", b"value", &[0; 16], &mut out), Err(Invariant("buffer length")));
        assert_eq!(out, vec![0xa5; n]);
    }
}
