//! Chunked soft matching: which neighbour each entry would best be merged into, and at what cost.
//!
//! Entries, in order, are cut into chunks. Inside a chunk they alternate between set B (even local
//! index) and set A (odd). Every a in A takes the b in B of its chunk that costs least; ties go to the
//! lowest b. A chunk of one entry gives no edge. The cost of all this is linear in the number of
//! entries: `chunk / 4 * dim` multiply-adds an entry.
//!
//! Inner products of a block of a's with all b's are taken at once from a packed panel, in the way of
//! a matrix product. For squared distances, `|a|^2 + |b|^2 - 2 a.b` only finds the few b's that
//! rounding allows to be the nearest; the distance to those is then taken term by term, so that equal
//! entries cost exactly zero and ties fall as they should.

mod kernel;
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
    costs: Vec<f32>,
}

impl Scratch {
    /// Bytes that matching rows of `dim` numbers in chunks of `chunk` takes.
    pub fn bytes(dim: usize, chunk: usize) -> usize {
        Panel::bytes(dim, chunk.div_ceil(2))
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
    let row = |i: usize| &rows[i * dim..][..dim];
    scratch.panel.pack(rows, dim);
    let width = scratch.panel.width();
    for block in (1..len).step_by(2 * kernel::ROWS) {
        let sources: [&[f32]; kernel::ROWS] = std::array::from_fn(|i| {
            let a = block + 2 * i;
            row(if a < len { a } else { block })
        });
        scratch.costs.resize(kernel::ROWS * width, 0.0);
        kernel::pack_sources(&sources, &mut scratch.sources);
        scratch.panel.inner_products(&scratch.sources, &mut scratch.costs);
        for (i, products) in scratch.costs.chunks_exact(width).enumerate() {
            let a = block + 2 * i;
            if a >= len {
                break;
            }
            let (b, cost) = match measure {
                Measure::Cosine => most_alike(&products[..len.div_ceil(2)]),
                Measure::SquaredDistance => kernel::nearest(&scratch.panel, rows, sources[i], products),
            };
            edges.push(Edge { a: first + a as u32, b: first + 2 * b as u32, cost });
        }
    }
}

/// Index of the largest inner product (the first of equal ones) and the cost that goes with it.
fn most_alike(products: &[f32]) -> (usize, f32) {
    let best = products.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let b = products.iter().position(|&p| p == best).unwrap_or(0);
    (b, 1.0 - products[b])
}
