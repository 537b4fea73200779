//! The operating system's randomness.

use crate::core::{entropy::Entropy, error::Error};

/// `getrandom(2)`. No state of its own, so a fork cannot repeat anything.
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
        getrandom::fill(out).map_err(|_| Error::Entropy)
    }
}
