//! Nonces: a run never gives one twice, and no two runs share the half that the message key comes from.

use super::{
    entropy::{Scripted, Stream},
    sealer::{Sealer, WRAPPER, free},
};
use kms_wrap::{
    core::{
        error::Error,
        value_key::{RUN_LEN, Run},
    },
    provider::entropy::SystemEntropy,
};
use serde_json::json;
use std::collections::HashSet;

fn number(nonce: [u8; 12]) -> u128 {
    nonce.into_iter().fold(0, |n, byte| n << 8 | u128::from(byte))
}

fn starting_at(counter: u128) -> Run {
    let [_, _, _, _, low @ ..] = counter.to_be_bytes();
    Run::start(&mut Scripted(&[[0xee; 12], low].concat())).unwrap()
}

/// Before use, so that an error between taking a nonce and using it can't give it out again.
#[test]
fn the_counter_advances_before_use() {
    let bytes = Stream::new("run").bytes(24);
    let mut run = Run::start(&mut Scripted(&bytes)).unwrap();
    let start = number(bytes[12..].try_into().unwrap());
    assert_eq!(run.prefix()[..], bytes[..12]);
    for n in 1..1000 {
        assert_eq!(number(run.next_nonce().unwrap()), start + n);
        assert_eq!(run.prefix()[..], bytes[..12], "the prefix stays");
    }
}

#[test]
fn the_counter_carries_through_all_96_bits() {
    for bits in 1..=96_u32 {
        let before = (1_u128 << bits) - 1;
        let mut run = starting_at(before);
        assert_eq!(number(run.next_nonce().unwrap()), if bits == 96 { 0 } else { before + 1 }, "{bits}");
        assert_eq!(number(run.next_nonce().unwrap()), if bits == 96 { 1 } else { before + 2 }, "{bits}");
    }
}

#[test]
fn a_run_repeats_nothing_across_the_wrap() {
    let mut run = starting_at((1 << 96) - 50_000);
    let mut previous = number(run.next_nonce().unwrap());
    let mut seen = HashSet::from([previous]);
    for _ in 1..100_000 {
        let next = number(run.next_nonce().unwrap());
        assert_eq!(next, (previous + 1) % (1 << 96));
        assert!(seen.insert(next));
        previous = next;
    }
    assert_eq!(previous, 50_000);
}

/// Far below 2^96, so that a run that wraps never meets its own start.
#[test]
fn a_run_ends_after_2_32_values() {
    assert_eq!(RUN_LEN, 1 << 32);
}

#[test]
fn a_run_needs_all_of_its_24_bytes() {
    for n in 0..24 {
        assert!(matches!(Run::start(&mut Scripted(&[1; 24][..n])), Err(Error::Entropy)), "{n}");
    }
    let mut script = Scripted(&[1; 25]);
    assert!(Run::start(&mut script).is_ok());
    assert_eq!(script.0.len(), 1);
}

#[test]
fn runs_of_the_system_s_randomness_share_neither_half() {
    let (mut prefixes, mut starts) = (HashSet::new(), HashSet::new());
    for _ in 0..10_000 {
        let mut run = Run::start(&mut SystemEntropy).unwrap();
        assert!(prefixes.insert(*run.prefix()));
        assert!(starts.insert(run.next_nonce().unwrap()));
    }
    // Every byte of both halves varies.
    for halves in [prefixes, starts] {
        for at in 0..12 {
            assert_eq!(halves.iter().map(|half| half[at]).collect::<HashSet<_>>().len(), 256, "byte {at}");
        }
    }
}

#[test]
fn equal_values_of_one_run_have_unlike_envelopes() {
    let mut sealer = Sealer::new("equal");
    let context = free(&json!({}));
    let values: Vec<_> = (0..1000).map(|_| sealer.seal(b"the same sixteen", &context)).collect();
    let place = |from: usize, to: usize| values.iter().map(|v| v[from..to].to_vec()).collect::<HashSet<_>>().len();
    assert_eq!(values[0][4..20], WRAPPER);
    assert_eq!(place(20, 32), 1, "one prefix, one message key");
    assert_eq!(place(32, 44), 1000);
    assert_eq!(place(44, 60), 1000);
}
