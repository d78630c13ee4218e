//! Memory that is kept from call to call.

/// Numbers that only ever grow in number.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Vec<f32>);

impl Buffer {
    /// The first `length` numbers, whatever they hold.
    pub(crate) fn take(&mut self, length: usize) -> &mut [f32] {
        if self.0.len() < length {
            self.0.resize(length, 0.0);
        }
        &mut self.0[..length]
    }

    /// The first `length` numbers of those it has.
    pub(crate) fn first(&self, length: usize) -> &[f32] {
        &self.0[..length]
    }

    /// Keeps the given rows of `width` only, in order; `rows` is ascending.
    pub(crate) fn keep_rows(&mut self, rows: &[usize], width: usize) {
        for (to, &from) in rows.iter().enumerate() {
            self.0.copy_within(from * width..(from + 1) * width, to * width);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.0.as_slice())
    }
}
