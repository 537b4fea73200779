//! Seals and opens values by the steps of the format, without a database.

use super::entropy::Stream;
use kms_wrap::core::{
    aead::TAG_LEN,
    context::Context,
    entropy::Entropy,
    error::Error,
    secret::Dek,
    value::{self, Envelope, Head, ValueContext},
    value_key::{Run, ValueKey},
};
use zeroize::Zeroizing;

pub const WRAPPER: [u8; 16] = *b"wrapper.wrapper.";
pub const COLUMN: [u8; 16] = *b"column..column..";

/// One DEK and one run.
pub struct Sealer {
    pub dek: Vec<u8>,
    pub wrapper: [u8; 16],
    run: Run,
}

pub fn dek(bytes: &[u8]) -> Dek {
    Dek::from_bytes(Zeroizing::new(bytes.to_vec())).unwrap()
}

pub fn free(json: &serde_json::Value) -> ValueContext {
    ValueContext::free(&Context::from_json(json).unwrap().encode())
}

pub fn column(column: &[u8; 16], keys: &[&[u8]]) -> ValueContext {
    let mut context = ValueContext::default();
    context.begin_column(column, u8::try_from(keys.len()).unwrap());
    for key in keys {
        context.push(key);
    }
    context
}

pub fn aad(head: &Head, context: &ValueContext) -> Vec<u8> {
    let mut aad = Vec::new();
    value::aad(head, context, &mut aad);
    aad
}

pub fn armoured(raw: &[u8]) -> String {
    let mut out = vec![0; value::armoured_len(raw.len())];
    value::armour(raw, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

pub fn unarmoured(text: &[u8]) -> Result<Vec<u8>, Error> {
    let mut raw = Vec::new();
    value::unarmour(text, &mut raw).map(|()| raw)
}

impl Sealer {
    pub fn new(label: &str) -> Self {
        let mut entropy = Stream::new(label);
        let dek = entropy.bytes(32);
        Self::with(dek, WRAPPER, &mut entropy)
    }

    pub fn with(dek: Vec<u8>, wrapper: [u8; 16], entropy: &mut impl Entropy) -> Self {
        Self { dek, wrapper, run: Run::start(entropy).unwrap() }
    }

    pub fn seal(&mut self, plaintext: &[u8], context: &ValueContext) -> Vec<u8> {
        self.seal_as(plaintext, false, context)
    }

    pub fn seal_padded(&mut self, plaintext: &[u8], pad_to: usize, context: &ValueContext) -> Vec<u8> {
        self.seal_as(&value::pad(plaintext, pad_to).unwrap(), true, context)
    }

    /// `bytes` is a plaintext with what padding the test wants, and `is_padded` what the head claims.
    pub fn seal_as(&mut self, bytes: &[u8], is_padded: bool, context: &ValueContext) -> Vec<u8> {
        let counter = self.run.next_nonce().unwrap();
        let head = Head::new(&self.wrapper, is_padded, self.run.prefix(), &counter);
        let key = ValueKey::derive(&dek(&self.dek), &self.wrapper).unwrap().message_key(self.run.prefix());
        let mut ciphertext = vec![0; bytes.len()];
        let tag = key.seal(&counter, &aad(&head, context), bytes, &mut ciphertext).unwrap();
        [head.as_bytes(), ciphertext.as_slice(), &tag].concat()
    }

    /// With the value key of the wrapper that the envelope names.
    pub fn open(&self, raw: &[u8], context: &ValueContext) -> Result<Vec<u8>, Error> {
        let wrapper = Envelope::parse(raw)?.head.wrapper();
        open(&ValueKey::derive(&dek(&self.dek), &wrapper)?, raw, context)
    }

    /// Every way to open what was tampered with ends in this error: with the key of the wrapper that it names, and with the key of the true one.
    #[track_caller]
    pub fn refuse(&self, attack: &str, raw: &[u8], context: &ValueContext, error: Error) {
        assert_eq!(self.open(raw, context), Err(error), "{attack}");
        let key = ValueKey::derive(&dek(&self.dek), &self.wrapper).unwrap();
        assert_eq!(open(&key, raw, context), Err(error), "{attack}, key of the true wrapper");
    }
}

/// Opens with a value key. What does not open leaves nothing in the buffer.
pub fn open(key: &ValueKey, raw: &[u8], context: &ValueContext) -> Result<Vec<u8>, Error> {
    const UNTOUCHED: u8 = 0xa5;
    let Envelope { head, ciphertext, tag } = Envelope::parse(raw)?;
    let tag: &[u8; TAG_LEN] = tag;
    let mut out = vec![UNTOUCHED; ciphertext.len()];
    let opened = key.message_key(&head.prefix()).open(&head.gcm_nonce(), &aad(&head, context), ciphertext, tag, &mut out);
    if let Err(error) = opened {
        assert!(out.iter().all(|b| *b == UNTOUCHED), "nothing is written before the tag verifies");
        return Err(error);
    }
    if head.is_padded() {
        out.truncate(value::unpadded_len(&out)?);
    }
    Ok(out)
}
