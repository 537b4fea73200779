//! The one encoding of every structure: fields `tag u8 | length u32 | value`, tags ascending, none twice, integers big endian.
//!
//! Each structure knows its tags, so the reader asks for exactly the next one: what is missing, unknown, repeated or out of order is an error
//! by construction, and there is one byte string for one value.

use super::error::Error;

/// Builds a structure.
pub struct Writer(Vec<u8>);

impl Writer {
    /// Starts with fixed bytes: a label ending in NUL, or a magic.
    #[must_use]
    pub fn new(prefix: &[u8]) -> Self {
        // Most structures fit, so that they are not moved while they grow.
        let mut bytes = Vec::with_capacity(768);
        bytes.extend_from_slice(prefix);
        Self(bytes)
    }

    /// Appends a field. Values come from this program's own fixed-size structures and from a KMS answer of bounded size; a value of 4 GiB
    /// cannot exist in memory that PostgreSQL would hand out, so the length saturates instead of failing.
    #[must_use]
    pub fn field(mut self, tag: u8, value: &[u8]) -> Self {
        let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.0.push(tag);
        self.0.extend_from_slice(&len.to_be_bytes());
        self.0.extend_from_slice(value);
        self
    }

    /// Appends what is already encoded.
    #[must_use]
    pub fn raw(mut self, encoded: &[u8]) -> Self {
        self.0.extend_from_slice(encoded);
        self
    }

    /// The encoded bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes a structure apart. Every failure is [`Error::NotAContainer`].
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`Error::NotAContainer`] when fewer are left.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Error> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Error::NotAContainer)?;
        self.0 = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Error::NotAContainer`] when fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        self.take(N)?.try_into().map_err(|_| Error::NotAContainer)
    }

    /// The value of the next field, which must have this tag.
    ///
    /// # Errors
    /// [`Error::NotAContainer`] when it has another tag or is cut.
    pub fn field(&mut self, tag: u8) -> Result<&'a [u8], Error> {
        let [found] = self.array()?;
        if found != tag {
            return Err(Error::NotAContainer);
        }
        let len = u32::from_be_bytes(self.array()?);
        self.take(usize::try_from(len).map_err(|_| Error::NotAContainer)?)
    }

    /// The value of the next field, which must have this tag and `N` bytes.
    ///
    /// # Errors
    /// [`Error::NotAContainer`] when it has another tag or length.
    pub fn fixed<const N: usize>(&mut self, tag: u8) -> Result<[u8; N], Error> {
        self.field(tag)?.try_into().map_err(|_| Error::NotAContainer)
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`Error::NotAContainer`] when bytes are left over.
    pub fn finish(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::NotAContainer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_in_order_only() {
        let bytes = Writer::new(b"M").field(1, b"a").field(2, b"").finish();
        let mut r = Reader::new(&bytes);
        assert_eq!(r.take(1), Ok(&b"M"[..]));
        assert_eq!(r.field(1), Ok(&b"a"[..]));
        assert_eq!(r.fixed::<0>(2), Ok([]));
        assert_eq!(r.finish(), Ok(()));
        let mut r = Reader::new(&bytes[1..]);
        assert_eq!(r.field(2), Err(Error::NotAContainer));
    }

    #[test]
    fn a_length_past_the_end_is_refused() {
        for len in [2u32, 0x7fff_ffff, u32::MAX] {
            let mut bytes = vec![1];
            bytes.extend_from_slice(&len.to_be_bytes());
            bytes.push(b'x');
            assert_eq!(Reader::new(&bytes).field(1), Err(Error::NotAContainer));
        }
    }

    #[test]
    fn left_over_bytes_are_refused() {
        assert_eq!(Reader::new(b"x").finish(), Err(Error::NotAContainer));
    }
}
