//! Two sources of "random" bytes: one that a vector dictates, one that a label seeds.

use kms_wrap::core::{entropy::Entropy, error::Error};
use shake::{
    Shake128, Shake128Reader,
    digest::{ExtendableOutput, Update, XofReader},
};

/// Gives exactly these bytes, then fails.
pub struct Scripted<'a>(pub &'a [u8]);

impl Entropy for Scripted<'_> {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
        let (head, rest) = self.0.split_at_checked(out.len()).ok_or(Error::Entropy)?;
        out.copy_from_slice(head);
        self.0 = rest;
        Ok(())
    }
}

/// SHAKE128 of a label: never ends, the same in every run.
pub struct Stream(Shake128Reader);

impl Stream {
    pub fn new(label: &str) -> Self {
        let mut hasher = Shake128::default();
        hasher.update(label.as_bytes());
        Self(hasher.finalize_xof())
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.0.read(&mut out);
        out
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut out = vec![0; n];
        self.0.read(&mut out);
        out
    }
}

impl Entropy for Stream {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
        self.0.read(out);
        Ok(())
    }
}
