//! Armour and padding: one text for one envelope, and the same content again.

use super::{
    entropy::Stream,
    sealer::{Sealer, armoured, free, unarmoured},
};
use kms_wrap::core::{
    error::Error::{DoesNotDecrypt, Invariant, NotAnEnvelope, OutOfMemory},
    value::{self, Envelope, Head, MAX_PAD_TO, ValueContext},
};
use proptest::{collection::vec, prelude::*};
use serde_json::json;

fn context() -> ValueContext {
    free(&json!({"tenant": "acme"}))
}

#[test]
fn armour_is_base64url_without_padding() {
    // RFC 4648, section 10, and the two characters in which the alphabets differ.
    for (raw, text) in [
        (&b""[..], "kw1."),
        (b"f", "kw1.Zg"),
        (b"fo", "kw1.Zm8"),
        (b"foo", "kw1.Zm9v"),
        (b"foob", "kw1.Zm9vYg"),
        (b"fooba", "kw1.Zm9vYmE"),
        (b"foobar", "kw1.Zm9vYmFy"),
        (b"\xfb\xff\xbf", "kw1.-_-_"),
    ] {
        assert_eq!(armoured(raw), text);
        assert_eq!(unarmoured(text.as_bytes()), Ok(raw.to_vec()), "{text}");
        assert!(value::has_armour(text.as_bytes()));
    }
}

#[test]
fn the_start_of_an_envelope_names_its_wrapper() {
    let raw = Sealer::new("start").seal(b"value", &context());
    let text = armoured(&raw);
    let wrapper = Envelope::parse(&raw).unwrap().head.wrapper();
    assert_eq!(value::raw_wrapper(&raw[..20]), Some(wrapper));
    assert_eq!(value::armoured_wrapper(&text.as_bytes()[..32]), Some(wrapper));
    for len in 0..20 {
        assert_eq!(value::raw_wrapper(&raw[..len]), None, "{len}");
        assert_eq!(value::armoured_wrapper(&text.as_bytes()[..len]), None, "{len}");
    }
    // Neither takes the other's, nor a value that only is as long.
    assert_eq!(value::raw_wrapper(text.as_bytes()), None);
    assert_eq!(value::armoured_wrapper(&raw), None);
    assert_eq!(value::raw_wrapper(&[0; 64]), None);
    assert_eq!(value::armoured_wrapper(&[b'w'; 64]), None);
}

#[test]
fn other_spellings_of_an_armoured_value_are_refused() {
    for text in [
        "kw1.+_-_",
        "kw1.-/-_",
        "kw1.Zg==",
        "kw1.Zg=",
        "kw1.Zm8=",
        "kw1.Zm9v====",
        "kw1.=",
        // Bits left over in the last character.
        "kw1.Zh",
        "kw1.Zv",
        "kw1.Zm9",
        "kw1.Zm9vYh",
        // No number of bytes has so many characters.
        "kw1.Z",
        "kw1.Zm9vY",
        "kw1.Zm9v\n",
        "kw1.Zm9v\r\nYmFy",
        "kw1.Zm9v YmFy",
        "kw1.\tZm9v",
        " kw1.Zm9v",
        "kw1.Zm9v ",
        "kw1.Zm9v\0",
        "KW1.Zm9v",
        "Kw1.Zm9v",
        "kW1.Zm9v",
        "kw2.Zm9v",
        "kw1:Zm9v",
        "kw1Zm9v",
        "kw1",
        "kw",
        "",
        "Zm9v",
        "kw1.kw1.Zm9v",
        "kw1.Zm9v.Zm9v",
        "kw1.Zm9\u{ff56}",
        "\u{feff}kw1.Zm9v",
    ] {
        assert_eq!(unarmoured(text.as_bytes()), Err(NotAnEnvelope), "{text:?}");
    }
    assert_eq!(unarmoured(b"kw1.Zm9\xff"), Err(NotAnEnvelope));
    for text in ["KW1.Zm9v", "kw2.Zm9v", " kw1.Zm9v", "kw1", ""] {
        assert!(!value::has_armour(text.as_bytes()), "{text:?}");
    }
}

/// What the parser says.
fn is_envelope(text: &[u8]) -> bool {
    unarmoured(text).is_ok_and(|raw| Envelope::parse(&raw).is_ok())
}

/// The shorter way to the same answer, of every length and padded or not.
#[test]
fn a_text_is_an_armoured_envelope_if_it_parses() {
    for n in 0..70 {
        for cipher in [1, 0x81, 2, 0x82] {
            let raw = [b"KW\x01".as_slice(), &[cipher], &vec![7; n]].concat();
            let text = armoured(&raw);
            assert_eq!(value::is_armoured(text.as_bytes()), is_envelope(text.as_bytes()), "{n} {cipher}");
            assert!(!value::is_armoured(format!("{text}=").as_bytes()));
        }
    }
    assert!(value::is_armoured(armoured(&[b"KW\x01\x01".as_slice(), &[7; 56]].concat()).as_bytes()));
    assert!(!value::is_armoured(armoured(&[b"KW\x01\x81".as_slice(), &[7; 56]].concat()).as_bytes()));
}

/// Whatever byte stands wherever: the text is refused or is the one text of other bytes, which then do not open.
#[test]
fn every_character_replaced_by_every_byte() {
    let mut sealer = Sealer::new("armour");
    for n in 0..3 {
        let raw = sealer.seal(&vec![b'v'; n], &context());
        let text = armoured(&raw);
        assert_eq!(sealer.open(&unarmoured(text.as_bytes()).unwrap(), &context()), Ok(vec![b'v'; n]));
        let mut read = 0;
        for (at, byte) in (0..text.len()).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte))) {
            let mut altered = text.clone().into_bytes();
            if altered[at] == byte {
                continue;
            }
            altered[at] = byte;
            assert_eq!(value::is_armoured(&altered), is_envelope(&altered), "{at} {byte}");
            if let Ok(other) = unarmoured(&altered) {
                assert_eq!(armoured(&other).into_bytes(), altered);
                assert!(sealer.open(&other, &context()).is_err());
                read += 1;
            }
        }
        // 63 others for each character, fewer for a last one that carries 4 or 2 bits.
        let last = [63, 3, 15][raw.len() % 3];
        assert_eq!(read, (text.len() - 5) * 63 + last, "{n}");
    }
}

#[test]
fn an_armoured_value_cut_at_every_length_does_not_open() {
    let mut sealer = Sealer::new("cut armour");
    let text = armoured(&sealer.seal(b"value", &context()));
    for n in 0..text.len() {
        assert_eq!(value::is_armoured(&text.as_bytes()[..n]), is_envelope(&text.as_bytes()[..n]), "{n}");
        let opened = unarmoured(&text.as_bytes()[..n]).and_then(|raw| sealer.open(&raw, &context()));
        assert!(matches!(opened, Err(NotAnEnvelope | DoesNotDecrypt)), "{n}");
    }
}

#[test]
fn a_buffer_that_is_used_again_keeps_nothing() {
    let mut raw = vec![7; 1000];
    assert_eq!(value::unarmour(b"kw1.Zm9v", &mut raw), Ok(()));
    assert_eq!(raw, b"foo");
    assert_eq!(value::unarmour(b"kw1.Zm9vYmFy", &mut raw), Ok(()));
    assert_eq!(raw, b"foobar");
    for refused in ["plain", "kw1.Zm9v=", "kw1.Zm9vYh"] {
        assert_eq!(value::unarmour(refused.as_bytes(), &mut raw), Err(NotAnEnvelope));
        assert_eq!(raw, b"", "{refused}");
    }
}

#[test]
fn armour_fills_its_buffer_exactly() {
    for raw in 0..100 {
        let bytes = vec![7; raw];
        let len = value::armoured_len(raw);
        assert_eq!(len, 4 + (raw * 4).div_ceil(3));
        for wrong in [0, 3, len - 1, len + 1, len + 4] {
            assert_eq!(value::armour(&bytes, &mut vec![0; wrong]), Err(Invariant("armour length")), "{raw} in {wrong}");
        }
    }
    assert_eq!(value::armoured_len(usize::MAX), usize::MAX);
}

#[test]
fn padding_hides_the_length_within_a_bucket() {
    let mut sealer = Sealer::new("buckets");
    for (pad_to, longest) in [(1, 40), (16, 40), (64, 200), (1000, 2100)] {
        for n in 0..longest {
            let plaintext = vec![0x80; n];
            let raw = sealer.seal_padded(&plaintext, pad_to, &context());
            let content = raw.len() - value::OVERHEAD;
            assert_eq!(content, (n / pad_to + 1) * pad_to, "{n} to {pad_to}");
            assert_eq!(sealer.open(&raw, &context()), Ok(plaintext), "{n} to {pad_to}");
        }
    }
    let empty = sealer.seal_padded(b"", MAX_PAD_TO, &context());
    assert_eq!(empty.len(), value::OVERHEAD + MAX_PAD_TO);
    assert_eq!(sealer.open(&empty, &context()), Ok(Vec::new()));
    // No memory for it is an error, and not the end of the process.
    assert_eq!(value::pad(b"v", usize::MAX).err(), Some(OutOfMemory));
    // A bucket of 0 bytes is one of 1.
    assert_eq!(value::pad(b"v", 0).unwrap().as_slice(), b"v\x80");
}

/// What a holder of the key may seal and no writer of this format does. Only the last marker counts, so content may look like padding.
#[test]
fn padding_that_is_not_there_does_not_open() {
    let mut sealer = Sealer::new("padding");
    let mut open = |content: &[u8]| {
        let raw = sealer.seal_as(content, true, &context());
        sealer.open(&raw, &context())
    };
    for content in [&b"\0"[..], &[0; 16], b"value", b"value\0\0\0", b"value\x81", b"value\x80\x01", b"\x80\0\0\x40\0", b"\x01"] {
        assert_eq!(open(content), Err(DoesNotDecrypt), "{content:?}");
    }
    for (content, value) in [
        (&b"\x80"[..], &b""[..]),
        (b"\x80\0\0\0", b""),
        (b"value\x80", b"value"),
        // More than a bucket: the size of buckets is not part of an envelope.
        (b"value\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"value"),
        (b"value\x80\0\x80\0", b"value\x80\0"),
        (b"\0\0\x80", b"\0\0"),
    ] {
        assert_eq!(open(content).as_deref(), Ok(value), "{content:?}");
    }
}

#[test]
fn a_flag_without_room_for_padding_is_no_envelope() {
    let head = Head::new(&[1; 16], true, &[2; 12], &[3; 12]);
    assert!(matches!(Envelope::parse(&[&head.as_bytes()[..], &[0; 16]].concat()), Err(NotAnEnvelope)));
    assert!(Envelope::parse(&[&head.as_bytes()[..], &[0; 17]].concat()).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn armour_comes_off_again(raw in vec(any::<u8>(), 0..400)) {
        let text = armoured(&raw);
        prop_assert!(text[4..].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        prop_assert_eq!(unarmoured(text.as_bytes()), Ok(raw));
    }

    #[test]
    fn a_text_is_read_only_if_it_is_what_armour_writes(text in "kw1\\.[A-Za-z0-9_+/=. \\n-]{0,12}") {
        if let Ok(raw) = unarmoured(text.as_bytes()) {
            prop_assert_eq!(armoured(&raw), text);
        }
    }

    #[test]
    fn what_was_built_parses(
        wrapper in any::<[u8; 16]>(), padded in any::<bool>(), prefix in any::<[u8; 12]>(), counter in any::<[u8; 12]>(),
        ciphertext in vec(any::<u8>(), 1..200), tag in any::<[u8; 16]>(),
    ) {
        let head = Head::new(&wrapper, padded, &prefix, &counter);
        let raw = [head.as_bytes(), ciphertext.as_slice(), &tag].concat();
        let parsed = Envelope::parse(&raw).unwrap();
        prop_assert_eq!((parsed.head.wrapper(), parsed.head.is_padded()), (wrapper, padded));
        prop_assert_eq!((parsed.head.prefix(), parsed.head.gcm_nonce()), (prefix, counter));
        prop_assert_eq!((parsed.ciphertext, parsed.tag), (ciphertext.as_slice(), &tag));
        prop_assert!(parsed.head == head);
    }

    #[test]
    fn random_bytes_parse_only_if_built_alike(head in 0..5_usize, tail in vec(any::<u8>(), 0..120)) {
        let raw = [&b"KW\x01\x81"[..head.min(4)], &tail].concat();
        if let Ok(Envelope { head, ciphertext, tag }) = Envelope::parse(&raw) {
            let again = Head::new(&head.wrapper(), head.is_padded(), &head.prefix(), &head.gcm_nonce());
            prop_assert_eq!([again.as_bytes(), ciphertext, tag].concat(), raw);
        }
    }

    #[test]
    fn sealed_values_open(seed in any::<u64>(), plaintext in vec(any::<u8>(), 0..600), pad_to in prop::option::of(1..100_usize)) {
        let mut sealer = Sealer::new(&seed.to_string());
        let raw = match pad_to {
            None => sealer.seal(&plaintext, &context()),
            Some(n) => sealer.seal_padded(&plaintext, n, &context()),
        };
        prop_assert_eq!(sealer.open(&raw, &context()), Ok(plaintext));
        let text = armoured(&raw);
        prop_assert_eq!(unarmoured(text.as_bytes()), Ok(raw));
    }

    #[test]
    fn padding_comes_off_again(value in vec(prop_oneof![Just(0_u8), Just(0x80), any::<u8>()], 0..80), pad_to in 1..70_usize) {
        let padded = value::pad(&value, pad_to).unwrap();
        prop_assert_eq!(padded.len() % pad_to, 0);
        prop_assert!(padded.len() > value.len() && padded.len() <= value.len() + pad_to);
        prop_assert_eq!(value::unpadded_len(&padded), Ok(value.len()));
        prop_assert_eq!(&padded[..value.len()], value.as_slice());
    }
}

#[test]
fn heads_differ_by_their_parts_only() {
    let mut entropy = Stream::new("heads");
    let (wrapper, prefix, counter) = (entropy.array(), entropy.array(), entropy.array());
    let head = Head::new(&wrapper, false, &prefix, &counter);
    assert_eq!(head.as_bytes()[..], [&b"KW\x01\x01"[..], &wrapper, &prefix, &counter].concat());
    let padded = Head::new(&wrapper, true, &prefix, &counter);
    assert_eq!(padded.as_bytes()[..], [&b"KW\x01\x81"[..], &wrapper, &prefix, &counter].concat());
}
