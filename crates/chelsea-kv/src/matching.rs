//! Chunked soft matching: which neighbour each entry would best be merged into, and at what cost.
//!
//! Entries, in order, are cut into chunks. Inside a chunk they alternate between set B (even local
//! index) and set A (odd). Every a in A takes the b in B of its chunk that costs least; ties go to the
//! lowest b. A chunk of one entry gives no edge. The cost of all this is linear in the number of
//! entries: `chunk / 4 * dim` multiply-adds per entry.
//!
//! Inner products of a block of a's with all b's are taken at once from a packed panel, in the way of
//! a matrix product. For squared distances, `|a|^2 + |b|^2 - 2 a.b` only finds the few b's that rounding
//! allows to be the nearest; the distance to those is then taken term by term, so that equal entries cost
//! exactly zero and ties fall as they should. Rows of whole numbers ([`rounded`]) need none of that.

mod kernel;
pub mod rounded;
mod select;

pub use select::Cut;

use kernel::Panel;

/// How alike two entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// `1 - x . y`: the rows must have length 1, or 0 (see [`normalise`]).
    Cosine,
    /// `|x - y|^2`. Rows should be centred, so that no digits are lost to a common offset.
    SquaredDistance,
}

/// A proposal to merge entry `a` into entry `b`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edge {
    /// Index of the entry that would vanish.
    pub a: u32,
    /// Index of the entry that would take it in.
    pub b: u32,
    /// What the merge costs; lower is better.
    pub cost: f32,
}

/// Rows shorter than this count as zero: alike to nothing.
const SHORTEST: f32 = 1e-12;

/// Scales every row to length 1; rows of zeros stay zeros.
pub fn normalise(rows: &mut [f32], dim: usize) {
    for row in rows.chunks_exact_mut(dim) {
        let norm = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() as f32;
        let factor = 1.0 / norm.max(SHORTEST);
        row.iter_mut().for_each(|x| *x *= factor);
    }
}

/// Working memory of [`match_chunks`], to be used again.
#[derive(Debug, Default)]
pub struct Scratch {
    panel: Panel,
    sources: Vec<f32>,
    /// Inner products of a few a's with all b's of their chunk.
    products: Vec<f32>,
}

impl Scratch {
    /// Bytes that matching rows of `dim` numbers in chunks of `chunk` takes.
    pub fn bytes(dim: usize, chunk: usize) -> usize {
        let rows = chunk.div_ceil(2);
        let width = rows.next_multiple_of(kernel::LANES);
        Panel::bytes(dim, rows) + width * (1 + kernel::ROWS) * 4
    }
}

/// Matches `rows` (`[n][dim]`) in chunks of `chunk` and appends one edge for every a to `edges`, in
/// ascending order of a.
///
/// # Panics
/// If `chunk` or `dim` is zero, or `rows` is not a whole number of rows.
pub fn match_chunks(
    rows: &[f32],
    dim: usize,
    chunk: usize,
    measure: Measure,
    scratch: &mut Scratch,
    edges: &mut Vec<Edge>,
) {
    assert!(chunk > 0 && dim > 0 && rows.len().is_multiple_of(dim), "rows are [n][dim], chunks hold entries");
    for (i, chunk_rows) in rows.chunks(chunk * dim).enumerate() {
        match_chunk(chunk_rows, dim, (i * chunk) as u32, measure, scratch, edges);
    }
}

fn match_chunk(rows: &[f32], dim: usize, first: u32, measure: Measure, scratch: &mut Scratch, edges: &mut Vec<Edge>) {
    let len = rows.len() / dim;
    if len < 2 {
        return;
    }
    scratch.panel.measure(rows, dim);
    scratch.panel.pack(rows, dim);
    // The error of an inner product of d terms is below (d + 1) units in the last place of |a| |b|.
    let slack = (dim + 4) as f32 * f32::EPSILON;
    let width = scratch.panel.width();
    scratch.products.resize(kernel::ROWS * width, 0.0);
    for block in (0..len / 2).step_by(kernel::ROWS) {
        scratch.multiply(rows, dim, block);
        for (i, products) in scratch.products.chunks_exact(width).take(len / 2 - block).enumerate() {
            let a = 2 * (block + i) + 1;
            let (b, cost) = match measure {
                Measure::Cosine => most_alike(&products[..len.div_ceil(2)]),
                Measure::SquaredDistance => {
                    kernel::nearest(&scratch.panel, slack, rows, &rows[a * dim..][..dim], products)
                }
            };
            edges.push(Edge { a: first + a as u32, b: first + 2 * b as u32, cost });
        }
    }
}

impl Scratch {
    /// Multiplies a block of rows of A, from row `first` of them on, with all of B.
    fn multiply(&mut self, rows: &[f32], dim: usize, first: usize) {
        // Rows past the last repeat the first of the block.
        let source = |i: usize| if first + i < rows.len() / dim / 2 { first + i } else { first };
        let sources = std::array::from_fn(|i| &rows[(2 * source(i) + 1) * dim..][..dim]);
        kernel::pack_sources(&sources, &mut self.sources);
        self.panel.inner_products(&self.sources, &mut self.products);
    }
}

/// Index of the largest inner product (the first of equal ones) and the cost that goes with it.
fn most_alike(products: &[f32]) -> (usize, f32) {
    let best = products.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let b = products.iter().position(|&p| p == best).unwrap_or(0);
    (b, 1.0 - products[b])
}
