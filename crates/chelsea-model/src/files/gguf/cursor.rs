//! A cursor over foreign bytes: every read is checked against what is left.

use super::GgufError;

/// Position in the header of a file.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    pub(super) fn offset(&self) -> usize {
        self.at
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `n` bytes; `what` names them in the error.
    pub(super) fn take(&mut self, n: u64, what: impl FnOnce() -> String) -> Result<&'a [u8], GgufError> {
        match usize::try_from(n) {
            Ok(n) if n <= self.left() => {
                let taken = &self.bytes[self.at..self.at + n];
                self.at += n;
                Ok(taken)
            }
            _ => Err(self.truncated(n, what())),
        }
    }

    /// The error for something of `needed` bytes that does not fit into the rest of the file.
    pub(super) fn truncated(&self, needed: u64, what: String) -> GgufError {
        GgufError::Truncated { what, offset: self.at as u64, needed, left: self.left() as u64 }
    }

    fn array<const N: usize>(&mut self, what: impl FnOnce() -> String) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: impl FnOnce() -> String) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: impl FnOnce() -> String) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string: 64-bit length, then UTF-8 bytes.
    pub(super) fn str(&mut self, what: impl Fn() -> String) -> Result<&'a str, GgufError> {
        let length = self.u64(&what)?;
        let bytes = self.take(length, &what)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::NotUtf8(what()))
    }

    /// As [`str`](Self::str), with U+FFFD for bytes that are no UTF-8, and a warning: a description in another encoding
    /// is no reason to refuse a model.
    pub(super) fn text(&mut self, what: impl Fn() -> String) -> Result<String, GgufError> {
        let length = self.u64(&what)?;
        let text = String::from_utf8_lossy(self.take(length, &what)?);
        if let std::borrow::Cow::Owned(_) = text {
            tracing::warn!("{} is not UTF-8 text: what is not is shown as U+FFFD", what());
        }
        Ok(text.into_owned())
    }

    /// A number of items that each take at least `least` bytes: more than the rest of the file can hold
    /// is an error here, before anything is allocated for them.
    pub(super) fn count(&mut self, least: u64, what: impl Fn() -> String) -> Result<usize, GgufError> {
        let count = self.u64(&what)?;
        let needed = count.saturating_mul(least);
        if needed > self.left() as u64 {
            return Err(self.truncated(needed, format!("{} ({count} items)", what())));
        }
        // `needed` fits into the file, so `count` fits into memory sizes.
        Ok(count as usize)
    }
}
