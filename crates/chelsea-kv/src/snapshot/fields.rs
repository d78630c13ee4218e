//! Little-endian fields, one after the other. Reading never goes past the end and never allocates more
//! than the bytes at hand can fill.

use super::SnapshotError;

/// Reads fields from the front of a slice.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], SnapshotError> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or_else(|| {
            SnapshotError::Inconsistent(format!("the header ends where {n} more bytes should follow"))
        })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, SnapshotError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, SnapshotError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn f32(&mut self) -> Result<f32, SnapshotError> {
        self.array().map(f32::from_le_bytes)
    }

    /// A size in four bytes.
    pub(super) fn size32(&mut self) -> Result<usize, SnapshotError> {
        self.u32().map(|n| n as usize)
    }

    /// A size in eight bytes.
    pub(super) fn size64(&mut self, field: &'static str) -> Result<usize, SnapshotError> {
        let value = self.u64()?;
        usize::try_from(value).map_err(|_| SnapshotError::TooLarge { field, value, most: usize::MAX as u64 })
    }

    /// Yes or no in four bytes.
    pub(super) fn flag(&mut self) -> Result<bool, SnapshotError> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(SnapshotError::Inconsistent(format!("{other} is neither yes (1) nor no (0)"))),
        }
    }

    /// A text with its length before it.
    pub(super) fn text(&mut self) -> Result<String, SnapshotError> {
        let len = self.size32()?;
        let text = std::str::from_utf8(self.take(len)?);
        text.map(str::to_owned).map_err(|_| SnapshotError::Inconsistent("a text in the header is not UTF-8".into()))
    }

    /// Items of `size` bytes each, with their number before them.
    pub(super) fn list<T>(
        &mut self,
        size: usize,
        item: impl FnMut(&mut Self) -> Result<T, SnapshotError>,
    ) -> Result<Vec<T>, SnapshotError> {
        let n = self.size32()?;
        self.many(n, size, item)
    }

    /// `n` items of `size` bytes each.
    pub(super) fn many<T>(
        &mut self,
        n: usize,
        size: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, SnapshotError>,
    ) -> Result<Vec<T>, SnapshotError> {
        let mut items = Reader::new(self.take(n.saturating_mul(size))?);
        let mut all = Vec::with_capacity(n);
        for _ in 0..n {
            all.push(item(&mut items)?);
        }
        Ok(all)
    }

    /// What was not read.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// Writes fields at the end of a buffer.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn u32(&mut self, x: u32) {
        self.bytes(&x.to_le_bytes());
    }

    pub(super) fn u64(&mut self, x: u64) {
        self.bytes(&x.to_le_bytes());
    }

    pub(super) fn f32(&mut self, x: f32) {
        self.bytes(&x.to_le_bytes());
    }

    /// A text with its length before it.
    pub(super) fn text(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.bytes(text.as_bytes());
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
