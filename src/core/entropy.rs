//! Where randomness comes from: an argument, so that the core stays pure and frozen vectors can be made again.

use super::error::Error;

/// A cryptographically secure source of random bytes.
pub trait Entropy {
    /// Fills `out` completely.
    ///
    /// # Errors
    /// [`Error::Entropy`] when the source fails; `out` must not be used then.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), Error>;
}
