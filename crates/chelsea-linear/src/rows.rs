//! Which rows of an input a product takes, and where their results go.

/// Where a row of activations is read and where its products are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Row of `x`, `[rows][cols]`.
    pub from: usize,
    /// Row of `y`.
    pub to: usize,
}

/// Some rows of an input, in any order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Picked<'a> {
    /// The whole input, `[rows][cols]`.
    pub x: &'a [f32],
    /// Columns of a row.
    pub cols: usize,
    /// The rows.
    pub places: &'a [Place],
}

impl<'a> Picked<'a> {
    /// Rows that are picked.
    #[inline(always)]
    pub fn len(self) -> usize {
        self.places.len()
    }

    /// The rows, in order.
    #[inline(always)]
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a [f32]> {
        self.places.iter().map(move |place| &self.x[place.from * self.cols..][..self.cols])
    }
}
