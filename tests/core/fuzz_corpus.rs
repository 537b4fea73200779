//! Replays the corpus of tests/fuzz on a stable compiler, with some thousand mutations of it. A file's name says the one thing that is wrong
//! with it, and the table below is how it was made and what it must come to.

use super::{entropy::Stream, tlv};
use kms_wrap::core::{
    context::{
        Context,
        ContextError::{self, NotAString, NotAnObject, PairTooLong, TooManyPairs},
    },
    error::Error::{
        self, NotAContainer, NotAnEnvelope, UnsupportedAlgorithm, UnsupportedCipher, UnsupportedFormat, UnsupportedSuite,
        UnsupportedVersion,
    },
    slot::Container,
    value::{self, Envelope},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

#[path = "../fuzz/property.rs"]
mod property;

type Fields = Vec<(u8, Vec<u8>)>;

struct Entry<R> {
    name: &'static str,
    bytes: Vec<u8>,
    expected: R,
}

fn corpus_dir(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

/// Everything that lies there, also what a fuzzer added.
fn corpus(target: &str) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(corpus_dir(target)).unwrap().map(|file| file.unwrap());
    files.map(|file| (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())).collect()
}

fn encode(head: &[u8], fields: &Fields) -> Vec<u8> {
    let mut bytes = head.to_vec();
    for (tag, value) in fields {
        bytes.push(*tag);
        bytes.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(value);
    }
    bytes
}

fn decode(bytes: &[u8], start: usize) -> Fields {
    tlv::fields(bytes, start, bytes.len()).into_iter().map(|(tag, place)| (tag, bytes[place].to_vec())).collect()
}

/// A container with its fields changed.
fn fields(container: &[u8], change: impl FnOnce(&mut Fields)) -> Vec<u8> {
    let mut fields = decode(container, tlv::CONTAINER_HEAD);
    change(&mut fields);
    encode(&container[..tlv::CONTAINER_HEAD], &fields)
}

fn set(container: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
    fields(container, |f| f.iter_mut().find(|(t, _)| *t == tag).unwrap().1 = value.to_vec())
}

/// A container with its path data changed.
fn path_fields(container: &[u8], change: impl FnOnce(&mut Fields)) -> Vec<u8> {
    let mut path = decode(&container[tlv::slot_field(container, tlv::PATH_DATA)], 0);
    change(&mut path);
    set(container, tlv::PATH_DATA, &encode(b"", &path))
}

fn set_path(container: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
    path_fields(container, |f| f.iter_mut().find(|(t, _)| *t == tag).unwrap().1 = value.to_vec())
}

fn patch(bytes: &[u8], at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

/// A container of a frozen wrapper, so that no change of the code moves the corpus.
fn frozen(wrapper: usize, part: &str) -> Vec<u8> {
    let file: Value = serde_json::from_str(include_str!("../vectors/wrappers_v1.json")).unwrap();
    let wrapper = &file["wrappers"][wrapper];
    let text = if part == "layer1" { &wrapper["layers"][0]["kem_ciphertext"] } else { &wrapper[part] };
    hex::decode(text.as_str().unwrap()).unwrap()
}

fn containers() -> Vec<Entry<Result<(), Error>>> {
    let parts = [frozen(3, "dek_wrap1"), frozen(0, "dek_wrap2"), frozen(3, "layer1")];
    let [kms1, kms2, layer] = parts.each_ref().map(Vec::as_slice);
    let ok = |name, bytes: &[u8]| Entry { name, bytes: bytes.to_vec(), expected: Ok(()) };
    let bad = |name, bytes| Entry { name, bytes, expected: Err(NotAContainer) };
    let other = |name, bytes, error| Entry { name, bytes, expected: Err(error) };
    let entries = &kms1[tlv::path_field(kms1, 0x0b)];
    let (first, second) = entries.split_at(34);
    let path = &kms1[tlv::slot_field(kms1, tlv::PATH_DATA)];
    vec![
        ok("valid_kms_with_path", kms1),
        ok("valid_kms_without_path", kms2),
        ok("valid_layer", layer),
        ok("valid_empty_values", &set(&set(kms2, 0x05, &[0; 5]), 0x09, b"")),
        ok("valid_empty_slot_list", &set_path(&set_path(kms1, 0x0b, b""), 0x0c, b"")),
        bad("container_empty", vec![]),
        bad("container_magic_lower_case", patch(kms1, 0, b"kwrp")),
        bad("container_magic_only", b"KWRP".to_vec()),
        bad("container_head_only", kms1[..6].to_vec()),
        other("container_format_0", patch(kms1, 4, &[0]), UnsupportedFormat(0)),
        other("container_format_2", patch(kms1, 4, &[2]), UnsupportedFormat(2)),
        bad("container_kind_0", patch(kms1, 5, &[0])),
        bad("container_kind_4", patch(kms1, 5, &[4])),
        bad("container_kind_layer_for_kms_slot", patch(kms2, 5, &[3])),
        bad("container_kind_kms_for_layer_slot", patch(layer, 5, &[1])),
        bad("container_trailing_byte", [kms1, &[0]].concat()),
        bad("container_trailing_container", [kms2, kms2].concat()),
        bad("container_cut_in_tag", kms2[..tlv::slot_field(kms2, 0x09).start - 5].to_vec()),
        bad("container_cut_in_length", kms2[..tlv::slot_field(kms2, 0x09).start - 1].to_vec()),
        bad("container_cut_in_value", kms2[..kms2.len() - 1].to_vec()),
        bad("container_length_past_the_end", patch(kms2, tlv::slot_field(kms2, 0x09).start - 1, &[0xff])),
        bad("container_length_of_4_gib", patch(kms2, tlv::slot_field(kms2, 0x09).start - 4, &[0xff; 4])),
        bad("container_tags_swapped", fields(kms2, |f| f.swap(0, 1))),
        bad("container_tag_twice", fields(kms2, |f| f.insert(1, f[0].clone()))),
        bad("container_tag_missing", fields(kms2, |f| drop(f.remove(3)))),
        bad("container_tag_unknown", fields(kms2, |f| f.push((0x0b, vec![])))),
        bad("container_tag_of_slot_aad", fields(kms2, |f| f.insert(4, (0x07, vec![0; 32])))),
        bad("slot_0", set(kms2, 0x03, &[0])),
        bad("slot_3", set(kms2, 0x03, &[3])),
        bad("slot_layer_0", set(layer, 0x03, &[0x10])),
        bad("slot_layer_33", set(layer, 0x03, &[0x31])),
        bad("slot_255", set(layer, 0x03, &[0xff])),
        bad("slot_two_bytes", set(kms2, 0x03, &[0, 2])),
        other("algorithm_unknown", set(kms2, 0x04, &[0x01, 0xff]), UnsupportedAlgorithm(0x01ff)),
        bad("algorithm_one_byte", set(kms2, 0x04, &[1])),
        bad("algorithm_three_bytes", set(kms2, 0x04, &[0, 1, 1])),
        bad("key_ref_empty", set(kms2, 0x05, b"")),
        bad("key_ref_four_fields", set(kms2, 0x05, b"a\0b\0c\0d\0")),
        bad("key_ref_six_fields", set(kms2, 0x05, b"a\0b\0c\0d\0e\0f\0")),
        bad("key_ref_unterminated", set(kms2, 0x05, b"a\0b\0c\0d\0e")),
        bad("key_ref_not_utf8", set(kms2, 0x05, b"a\0b\0c\0d\0\xff\0")),
        bad("ek_sha256_31_bytes", set(layer, 0x06, &[1; 31])),
        bad("ek_sha256_33_bytes", set(layer, 0x06, &[1; 33])),
        bad("generation_7_bytes", set(kms2, 0x08, &[0; 7])),
        bad("generation_9_bytes", set(kms2, 0x08, &[0; 9])),
        bad("path_missing", fields(kms1, |f| drop(f.pop()))),
        bad("path_empty", set(kms1, tlv::PATH_DATA, b"")),
        bad("path_in_kms_without_path", fields(kms2, |f| f.push((tlv::PATH_DATA, path.to_vec())))),
        bad("path_in_layer", fields(layer, |f| f.push((tlv::PATH_DATA, path.to_vec())))),
        bad("path_trailing_byte", set(kms1, tlv::PATH_DATA, &[path, &[0]].concat())),
        bad("path_cut", set(kms1, tlv::PATH_DATA, &path[..path.len() - 1])),
        bad("path_with_uuid", path_fields(kms1, |f| f.insert(0, (0x01, vec![0; 16])))),
        bad("path_tags_swapped", path_fields(kms1, |f| f.swap(3, 4))),
        bad("path_tag_twice", path_fields(kms1, |f| f.insert(4, f[3].clone()))),
        bad("path_tag_missing", path_fields(kms1, |f| drop(f.remove(5)))),
        bad("path_tag_unknown", path_fields(kms1, |f| f.push((0x0e, vec![])))),
        bad("path_mode_1", set_path(kms1, 0x02, &[1])),
        bad("path_mode_4", set_path(kms1, 0x02, &[4])),
        bad("path_number_two_bytes", set_path(kms1, 0x03, &[0, 1])),
        other("path_unknown_suite", set_path(kms1, 0x04, &[0, 2]), UnsupportedSuite(2)),
        other("path_suite_little_endian", set_path(kms1, 0x04, &[1, 0]), UnsupportedSuite(0x0100)),
        bad("path_suite_one_byte", set_path(kms1, 0x04, &[1])),
        bad("path_epoch_8_bytes", set_path(kms1, 0x05, &[0; 8])),
        bad("path_salt_31_bytes", set_path(kms1, 0x06, &[0; 31])),
        bad("path_dek_len_4_bytes", set_path(kms1, 0x07, &[0, 0, 0, 32])),
        bad("path_policy_uuid_as_text", set_path(kms1, 0x08, b"00000000-0000-0000-0000-000000000000")),
        bad("path_ctx_sha384", set_path(kms1, 0x09, &[0; 48])),
        bad("path_dek_commit_16_bytes", set_path(kms1, 0x0a, &[0; 16])),
        bad("path_commit_48_bytes", set_path(kms1, 0x0d, &[0; 48])),
        bad("slot_list_descending", set_path(kms1, 0x0b, &[second, first].concat())),
        bad("slot_list_twice", set_path(kms1, 0x0b, &[first, first].concat())),
        bad("slot_list_cut", set_path(kms1, 0x0b, &entries[..entries.len() - 1])),
        bad("slot_list_unknown_slot", set_path(kms1, 0x0b, &patch(entries, 34, &[0x31]))),
        bad("slot_list_trailing_byte", set_path(kms1, 0x0b, &[entries, &[0x12]].concat())),
    ]
}

fn contexts() -> Vec<Entry<Option<Result<(), ContextError>>>> {
    let entry = |name, json: String, expected| Entry { name, bytes: json.into_bytes(), expected };
    let ok = |name, json: &str| entry(name, json.to_owned(), Some(Ok(())));
    let bad = |name, json: &str, error| entry(name, json.to_owned(), Some(Err(error)));
    let pairs = |n: usize| format!("{{{}}}", (0..n).map(|i| format!("\"{i}\":\"\"")).collect::<Vec<_>>().join(","));
    let long = |n: usize| format!("{{\"k\":\"{}\"}}", "x".repeat(n));
    vec![
        ok("valid_empty", "{}"),
        ok("valid_pairs", r#"{"tenant": "acme", "": "", "\u00df": "\ud83d\udd11", "nul": "\u0000"}"#),
        ok("valid_64_pairs", &pairs(64)),
        ok("valid_pair_of_1024_bytes", &long(1023)),
        bad("pairs_65", &pairs(65), TooManyPairs),
        bad("pair_of_1025_bytes", &long(1024), PairTooLong),
        bad("array", "[]", NotAnObject),
        bad("null", "null", NotAnObject),
        bad("value_number", r#"{"a": 1}"#, NotAString),
        bad("value_null", r#"{"a": null}"#, NotAString),
        bad("value_object", r#"{"a": {"b": "c"}}"#, NotAString),
        bad("value_deep", &format!(r#"{{"a": {}{}}}"#, "[".repeat(100), "]".repeat(100)), NotAString),
        entry("json_cut", r#"{"a": "b"#.to_owned(), None),
        entry("json_too_deep", "[".repeat(1000), None),
        entry("json_lone_surrogate", r#"{"a": "\ud83d"}"#.to_owned(), None),
    ]
}

/// An envelope and its text, of a frozen value.
fn frozen_value(n: usize) -> (Vec<u8>, String) {
    let file: Value = serde_json::from_str(include_str!("../vectors/values_v1.json")).unwrap();
    let part = |name: &str| file["values"][n][name].as_str().unwrap().to_owned();
    (hex::decode(part("envelope")).unwrap(), part("armoured"))
}

/// Reads a value as it is stored, raw or armoured.
fn read_value(bytes: &[u8]) -> Result<(), Error> {
    let mut raw = bytes.to_vec();
    if value::has_armour(bytes) {
        value::unarmour(bytes, &mut raw)?;
    }
    Envelope::parse(&raw).map(|_| ())
}

fn values() -> Vec<Entry<Result<(), Error>>> {
    let ((empty, empty_text), (one, one_text), (padded, padded_text)) = (frozen_value(0), frozen_value(1), frozen_value(3));
    let ok = |name, bytes: &[u8]| Entry { name, bytes: bytes.to_vec(), expected: Ok(()) };
    let bad = |name, bytes: &[u8]| Entry { name, bytes: bytes.to_vec(), expected: Err(NotAnEnvelope) };
    let other = |name, bytes, error| Entry { name, bytes, expected: Err(error) };
    let text = |name, text: String| Entry { name, bytes: text.into_bytes(), expected: Err(NotAnEnvelope) };
    vec![
        ok("valid_empty", &empty),
        ok("valid_one_byte", &one),
        ok("valid_padded", &padded),
        ok("valid_trailing_byte", &[empty.as_slice(), &[0]].concat()),
        ok("valid_content_of_a_marker", &patch(&padded, value::HEAD_LEN, &[0x80])),
        bad("envelope_empty", b""),
        bad("envelope_magic_only", b"KW"),
        bad("envelope_magic_lower_case", &patch(&one, 0, b"kw")),
        // The magic is a part of theirs, so no version of the envelope may ever be 'R'.
        bad("envelope_magic_of_wrappers", &patch(&one, 0, b"KWRP")),
        bad("envelope_head_only", &empty[..value::HEAD_LEN]),
        bad("envelope_cut_in_head", &empty[..30]),
        bad("envelope_cut_in_tag", &empty[..59]),
        bad("envelope_without_room_for_padding", &patch(&empty, 3, &[0x81])),
        bad("envelope_version_0", &patch(&one, 2, &[0])),
        bad("envelope_version_16", &patch(&one, 2, &[16])),
        other("envelope_version_2", patch(&one, 2, &[2]), UnsupportedVersion(2)),
        other("envelope_cipher_0", patch(&one, 3, &[0]), UnsupportedCipher(0)),
        other("envelope_cipher_2", patch(&one, 3, &[2]), UnsupportedCipher(2)),
        other("envelope_cipher_2_padded", patch(&one, 3, &[0x82]), UnsupportedCipher(0x82)),
        other("envelope_cipher_65", patch(&one, 3, &[0x41]), UnsupportedCipher(0x41)),
        ok("valid_armoured_empty", empty_text.as_bytes()),
        ok("valid_armoured_one_byte", one_text.as_bytes()),
        ok("valid_armoured_padded", padded_text.as_bytes()),
        text("armour_only", "kw1.".to_owned()),
        text("armour_cut", one_text[..one_text.len() - 1].to_owned()),
        text("armour_impossible_length", format!("{empty_text}A")),
        text("armour_padding", format!("{one_text}=")),
        text("armour_newline", format!("{one_text}\n")),
        text("armour_newline_inside", format!("{}\n{}", &one_text[..64], &one_text[64..])),
        text("armour_space_before", format!(" {one_text}")),
        text("armour_standard_alphabet", one_text.replace('-', "+").replace('_', "/")),
        text("armour_bits_left_over", format!("{}{}", &one_text[..one_text.len() - 1], next_character(&one_text))),
        // Without armour it is read as raw bytes, like any other.
        bad("armour_prefix_upper_case", one_text.replace("kw1.", "KW1.").as_bytes()),
        text("armour_prefix_2", one_text.replace("kw1.", "kw2.")),
        text("armour_twice", format!("kw1.{one_text}")),
        text("armour_nul", format!("{one_text}\0")),
        text("armour_of_text", "kw1.bm90IGFuIGVudmVsb3Bl".to_owned()),
    ]
}

/// The last character with its lowest bit set, which stands for no bit of the bytes.
fn next_character(text: &str) -> char {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = ALPHABET.find(text.chars().next_back().unwrap()).unwrap();
    assert_eq!(last % 4, 0);
    ALPHABET.chars().nth(last + 1).unwrap()
}

/// Compares with the files; with `KMS_WRAP_WRITE_CORPUS` set in the environment, writes them first.
fn check_files<R>(target: &str, entries: &[Entry<R>]) {
    if std::env::var_os("KMS_WRAP_WRITE_CORPUS").is_some() {
        std::fs::create_dir_all(corpus_dir(target)).unwrap();
        for entry in entries {
            std::fs::write(corpus_dir(target).join(entry.name), &entry.bytes).unwrap();
        }
    }
    let files = corpus(target);
    for entry in entries {
        assert_eq!(files.get(entry.name), Some(&entry.bytes), "{target}/{}", entry.name);
    }
}

#[test]
fn container_files_come_to_what_their_names_say() {
    let entries = containers();
    check_files("container", &entries);
    for entry in entries {
        assert_eq!(Container::parse(&entry.bytes).map(|_| ()), entry.expected, "{}", entry.name);
    }
}

#[test]
fn context_files_come_to_what_their_names_say() {
    let entries = contexts();
    check_files("context", &entries);
    for entry in entries {
        let json = serde_json::from_slice::<Value>(&entry.bytes).ok();
        assert_eq!(json.map(|j| Context::from_json(&j).map(|_| ())), entry.expected, "{}", entry.name);
    }
}

#[test]
fn value_files_come_to_what_their_names_say() {
    let entries = values();
    check_files("value", &entries);
    for entry in entries {
        assert_eq!(read_value(&entry.bytes), entry.expected, "{}", entry.name);
    }
}

/// Replays the corpus, then `rounds` inputs made of it; gives how many of those parsed.
fn replay(target: &str, property: fn(&[u8]) -> bool, rounds: usize) -> usize {
    let files: Vec<_> = corpus(target).into_values().collect();
    // Half of the inputs start from what parses, else hardly any gets past the first fault.
    let sound: Vec<_> = files.iter().filter(|bytes| property(bytes)).cloned().collect();
    let mut random = Stream::new(target);
    let inputs = (0..rounds).map(|n| mutated(if n % 2 == 0 { &sound } else { &files }, &files, &mut random));
    inputs.filter(|bytes| property(bytes)).count()
}

fn below(random: &mut Stream, n: usize) -> usize {
    u32::from_be_bytes(random.array()) as usize % n.max(1)
}

fn mutated(from: &[Vec<u8>], files: &[Vec<u8>], random: &mut Stream) -> Vec<u8> {
    let mut bytes = from[below(random, from.len())].clone();
    for _ in 0..=below(random, 3) {
        let at = below(random, bytes.len());
        let [how, byte] = random.array();
        match how % 6 {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << (byte % 8),
            1 if !bytes.is_empty() => bytes[at] = byte,
            2 => bytes.insert(at, byte),
            3 => bytes.truncate(at),
            // A run of one file's bytes in the place of another's.
            4 => {
                let donor = &files[below(random, files.len())];
                let from = below(random, donor.len());
                let run = donor[from..].iter().take(usize::from(byte)).copied();
                let end = (at + usize::from(byte)).min(bytes.len());
                bytes.splice(at..end, run);
            }
            _ => drop(bytes.drain(at..(at + 1 + usize::from(byte % 8)).min(bytes.len()))),
        }
    }
    bytes
}

#[test]
fn container_corpus_and_20_000_mutations() {
    let parsed = replay("container", property::container, 20_000);
    assert!(parsed > 1000, "mutations reach behind the framing: {parsed}");
}

#[test]
fn context_corpus_and_20_000_mutations() {
    let accepted = replay("context", property::context, 20_000);
    assert!(accepted > 1000, "mutations reach behind the JSON: {accepted}");
}

#[test]
fn value_corpus_and_20_000_mutations() {
    let parsed = replay("value", property::value, 20_000);
    assert!(parsed > 1000, "mutations reach behind the framing: {parsed}");
}
