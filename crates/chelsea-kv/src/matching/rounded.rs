//! Matching of rows that are rounded to whole numbers of about 12 bits.
//!
//! Distances of such rows are whole numbers too, which fit 32 bits, and are computed exactly, on every processor alike:
//! equal rows cost nothing, ties are ties, and there is no rounding to allow for. Two numbers are a word, as instructions
//! for products of 16-bit numbers take them. `|a - b|^2 = |a|^2 + |b|^2 - 2 a . b`.
#![allow(unsafe_code)]

use super::Edge;
use crate::simd::interleave;
use chelsea_simd::{Level, vectorized};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Two numbers of a row. Rows are filled up with zeros.
pub type Word = [i16; 2];

/// Words of a row of `dim` numbers.
pub const fn words(dim: usize) -> usize {
    dim.div_ceil(2)
}

/// The largest number of rows of `dim` numbers: with it, no distance exceeds 32 bits.
pub fn largest(dim: usize) -> f32 {
    ((1u64 << 29) as f64 / dim.max(1) as f64).sqrt().floor().min(f64::from(i16::MAX)) as f32
}

/// Rounds `row`, each number times `factor`, which is to bring all of them within [`largest`]; `out` holds `words(dim)`.
pub fn round(row: &[f32], factor: f32, out: &mut [Word]) {
    let out: &mut [i16] = out.as_flattened_mut();
    assert!(row.len() <= out.len(), "a row fits its words");
    // Where numbers are infinite, no factor helps; what is no number becomes 0.
    let most = largest(row.len());
    vectorized(
        #[inline(always)]
        || out.iter_mut().zip(row).for_each(|(out, &x)| *out = nearest_whole((x * factor).clamp(-most, most))),
    );
}

/// Takes `row` into `mean`, whose weight it is `share` of from then on.
pub fn take_in(mean: &mut [Word], row: &[Word], share: f32) {
    let numbers = mean.as_flattened_mut().iter_mut().zip(row.as_flattened());
    vectorized(
        #[inline(always)]
        || {
            for (mean, &x) in numbers {
                let before = f32::from(*mean);
                *mean = nearest_whole(before + share * (f32::from(x) - before));
            }
        },
    );
}

/// The nearest whole number to one that fits 16 bits, of two the even one: it lies in the low bits once the number is as
/// large as where floats are whole numbers. A cast would take several instructions.
#[inline(always)]
fn nearest_whole(x: f32) -> i16 {
    const WHOLE: f32 = 12_582_912.0; // 1.5 * 2^23
    (x + WHOLE).to_bits() as i16
}

/// Rows of A that are taken at once.
const ROWS: usize = 8;
/// Rows of B that lie side by side in a strip.
const LANES: usize = 32;
/// Further from everything than any row is.
const FAR: i32 = i32::MAX;

/// Working memory of [`match_rounded`], to be used again.
#[derive(Debug, Default)]
pub struct Scratch {
    /// B: `[strip][word][LANES]`.
    packed: Vec<Word>,
    /// `|x|^2` of each row of the chunk.
    lengths: Vec<i32>,
    /// `|b|^2` of each row of B; [`FAR`] where rows only fill up a strip.
    terms: Vec<i32>,
    /// Some rows of A: `[word][ROWS]`.
    sources: Vec<Word>,
    /// Their products with all of B: `[ROWS][width]`.
    products: Vec<i32>,
}

impl Scratch {
    /// Bytes that matching rows of `dim` numbers in chunks of `chunk` takes.
    pub fn bytes(dim: usize, chunk: usize) -> usize {
        let width = chunk.div_ceil(2).next_multiple_of(LANES);
        words(dim) * 4 * (width + ROWS) + width * 4 * (1 + ROWS) + chunk * 4
    }
}

/// Matches `rows` (`[n][words]`) in chunks of `chunk`, as [`super::match_chunks`] does. A cost is the squared distance of
/// the rounded rows.
///
/// # Panics
/// If `chunk` or `words` is zero, or `rows` is not a whole number of rows.
pub fn match_rounded(rows: &[Word], words: usize, chunk: usize, scratch: &mut Scratch, edges: &mut Vec<Edge>) {
    assert!(words > 0 && rows.len().is_multiple_of(words), "rows are [n][words]");
    let all: Vec<u32> = (0..(rows.len() / words) as u32).collect();
    match_some(rows, &all, words, chunk, scratch, edges);
}

/// Matches those of `rows` that `which` names, as if they stood alone in that order: edges are by place in `which`.
///
/// # Panics
/// If `chunk` or `words` is zero, or there is no such row.
pub fn match_some(
    rows: &[Word],
    which: &[u32],
    words: usize,
    chunk: usize,
    scratch: &mut Scratch,
    edges: &mut Vec<Edge>,
) {
    assert!(chunk > 0 && words > 0, "chunks hold entries, rows hold words");
    for (i, which) in which.chunks(chunk).enumerate() {
        match_chunk(Rows { rows, which, words }, (i * chunk) as u32, scratch, edges);
    }
}

/// Some rows, in order.
#[derive(Clone, Copy)]
struct Rows<'a> {
    rows: &'a [Word],
    which: &'a [u32],
    words: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn row(self, i: usize) -> &'a [Word] {
        &self.rows[self.which[i] as usize * self.words..][..self.words]
    }
}

fn match_chunk(rows: Rows<'_>, first: u32, scratch: &mut Scratch, edges: &mut Vec<Edge>) {
    let len = rows.which.len();
    if len < 2 {
        return;
    }
    scratch.pack(rows);
    let width = scratch.terms.len();
    scratch.products.resize(ROWS * width, 0);
    let level = Level::best();
    for block in (0..len / 2).step_by(ROWS) {
        scratch.pack_sources(rows, block);
        let Scratch { packed, lengths, terms, sources, products } = scratch;
        multiply(level, packed, sources, width, products);
        for (i, products) in products.chunks_exact(width).take(len / 2 - block).enumerate() {
            let a = 2 * (block + i) + 1;
            let (b, beyond) = nearest(level, terms, products);
            let cost = (lengths[a] + beyond) as f32;
            edges.push(Edge { a: first + a as u32, b: first + 2 * b as u32, cost });
        }
    }
}

impl Scratch {
    /// Takes in B, the even rows of a chunk.
    fn pack(&mut self, rows: Rows<'_>) {
        let words = rows.words;
        let len = rows.which.len().div_ceil(2);
        let row = |b: usize| if b < len { rows.row(2 * b) } else { &[] };
        self.lengths.clear();
        self.lengths.resize(rows.which.len(), 0);
        self.terms.clear();
        self.terms.resize(len.next_multiple_of(LANES), FAR);
        vectorized(
            #[inline(always)]
            || measure(rows, &mut self.lengths, &mut self.terms),
        );
        self.packed.clear();
        self.packed.resize(self.terms.len() * words, [0; 2]);
        for first in (0..len).step_by(4) {
            let strip = &mut self.packed[first / LANES * LANES * words..][..LANES * words];
            interleave(&std::array::from_fn(|i| row(first + i)), strip, LANES, first % LANES);
        }
    }

    /// Takes in rows of A, from row `first` of them on. Rows past the last repeat that one.
    fn pack_sources(&mut self, rows: Rows<'_>, first: usize) {
        let len = rows.which.len() / 2;
        let source = |i: usize| if first + i < len { first + i } else { first };
        let sources: [&[Word]; ROWS] = std::array::from_fn(|i| rows.row(2 * source(i) + 1));
        self.sources.resize(rows.words * ROWS, [0; 2]);
        for first in [0, ROWS / 2] {
            let rows = std::array::from_fn(|i| sources[first + i]);
            interleave(&rows, &mut self.sources, ROWS, first);
        }
    }
}

/// Squared lengths of all rows of a chunk, and those of B once more.
#[inline(always)]
fn measure(rows: Rows<'_>, lengths: &mut [i32], terms: &mut [i32]) {
    for (i, length) in lengths.iter_mut().enumerate() {
        *length = rows.row(i).as_flattened().iter().map(|&x| i32::from(x) * i32::from(x)).sum();
        if i % 2 == 0 {
            terms[i / 2] = *length;
        }
    }
}

/// `out[i][b]` = inner product of row i of `a` (`[word][ROWS]`) and row b of `packed` (`[strip][word][LANES]`).
fn multiply(level: Level, packed: &[Word], a: &[Word], width: usize, out: &mut [i32]) {
    assert!(a.len().is_multiple_of(ROWS) && packed.len() == width * (a.len() / ROWS) && out.len() == ROWS * width);
    assert!(width.is_multiple_of(LANES));
    match level {
        // SAFETY: this processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni | Level::Amx => unsafe { multiply_vnni(packed, a, width, out) },
        // SAFETY: this processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 => unsafe { multiply_avx2(packed, a, width, out) },
        _ => multiply_plain(packed, a, width, out),
    }
}

/// All of a strip against all rows of A: 16 sums of 16 lanes stay in registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn multiply_vnni(packed: &[Word], a: &[Word], width: usize, out: &mut [i32]) {
    let words = a.len() / ROWS;
    for (s, strip) in packed.chunks_exact(LANES * words).enumerate() {
        let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
        for (column, xs) in strip.chunks_exact(LANES).zip(a.chunks_exact(ROWS)) {
            // SAFETY: a column holds `LANES` = 32 words.
            let (low, high) = unsafe {
                (_mm512_loadu_si512(column.as_ptr().cast()), _mm512_loadu_si512(column[16..].as_ptr().cast()))
            };
            for i in 0..ROWS {
                let x = _mm512_set1_epi32(bytemuck::cast(xs[i]));
                sums[i] = [_mm512_dpwssd_epi32(sums[i][0], x, low), _mm512_dpwssd_epi32(sums[i][1], x, high)];
            }
        }
        for (i, [low, high]) in sums.into_iter().enumerate() {
            let out = &mut out[i * width + s * LANES..][..LANES];
            // SAFETY: `out` holds `LANES` = 32 numbers here.
            unsafe {
                _mm512_storeu_si512(out.as_mut_ptr().cast(), low);
                _mm512_storeu_si512(out[16..].as_mut_ptr().cast(), high);
            }
        }
    }
}

/// Half a strip against half of the rows of A: 8 sums of 8 lanes stay in registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn multiply_avx2(packed: &[Word], a: &[Word], width: usize, out: &mut [i32]) {
    const HALF: usize = ROWS / 2;
    let words = a.len() / ROWS;
    for (s, strip) in packed.chunks_exact(LANES * words).enumerate() {
        for (lane, group) in [(0, 0), (0, HALF), (16, 0), (16, HALF)] {
            let mut sums = [[_mm256_setzero_si256(); 2]; HALF];
            for (column, xs) in strip.chunks_exact(LANES).zip(a.chunks_exact(ROWS)) {
                let (column, xs) = (&column[lane..lane + 16], &xs[group..group + HALF]);
                // SAFETY: `column` holds 16 words here.
                let (low, high) = unsafe {
                    (_mm256_loadu_si256(column.as_ptr().cast()), _mm256_loadu_si256(column[8..].as_ptr().cast()))
                };
                for i in 0..HALF {
                    let x = _mm256_set1_epi32(bytemuck::cast(xs[i]));
                    sums[i] = [
                        _mm256_add_epi32(sums[i][0], _mm256_madd_epi16(x, low)),
                        _mm256_add_epi32(sums[i][1], _mm256_madd_epi16(x, high)),
                    ];
                }
            }
            for (i, [low, high]) in sums.into_iter().enumerate() {
                let out = &mut out[(group + i) * width + s * LANES + lane..][..16];
                // SAFETY: `out` holds 16 numbers here.
                unsafe {
                    _mm256_storeu_si256(out.as_mut_ptr().cast(), low);
                    _mm256_storeu_si256(out[8..].as_mut_ptr().cast(), high);
                }
            }
        }
    }
}

/// The scalar twin: one row of A at a time.
fn multiply_plain(packed: &[Word], a: &[Word], width: usize, out: &mut [i32]) {
    let words = a.len() / ROWS;
    for (s, strip) in packed.chunks_exact(LANES * words).enumerate() {
        for i in 0..ROWS {
            let mut sums = [0; LANES];
            for (column, xs) in strip.chunks_exact(LANES).zip(a.chunks_exact(ROWS)) {
                let x = xs[i].map(i32::from);
                for (sum, y) in sums.iter_mut().zip(column) {
                    *sum += x[0] * i32::from(y[0]) + x[1] * i32::from(y[1]);
                }
            }
            out[i * width + s * LANES..][..LANES].copy_from_slice(&sums);
        }
    }
}

/// The b whose `terms[b] - 2 products[b]` is least, the first of equal ones, and that number.
fn nearest(level: Level, terms: &[i32], products: &[i32]) -> (usize, i32) {
    match level {
        // SAFETY: this processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni | Level::Amx => unsafe { nearest_avx512(terms, products) },
        // SAFETY: this processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { nearest_avx2(terms, products) },
        _ => nearest_any(terms, products),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn nearest_avx512(terms: &[i32], products: &[i32]) -> (usize, i32) {
    nearest_any(terms, products)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn nearest_avx2(terms: &[i32], products: &[i32]) -> (usize, i32) {
    nearest_any(terms, products)
}

#[inline(always)]
fn nearest_any(terms: &[i32], products: &[i32]) -> (usize, i32) {
    let (terms, products) = (terms.as_chunks::<LANES>().0, products.as_chunks::<LANES>().0);
    let mut least = [i32::MAX; LANES];
    for (terms, products) in terms.iter().zip(products) {
        for i in 0..LANES {
            least[i] = least[i].min(terms[i] - 2 * products[i]);
        }
    }
    let least = least.into_iter().fold(i32::MAX, i32::min);
    for (strip, (terms, products)) in terms.iter().zip(products).enumerate() {
        let mut here = false;
        for i in 0..LANES {
            here |= terms[i] - 2 * products[i] == least;
        }
        if here {
            let lane = (0..LANES).find(|&i| terms[i] - 2 * products[i] == least);
            return (strip * LANES + lane.expect("it was seen"), least);
        }
    }
    unreachable!("the least of some numbers is one of them")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_definition(rows: &[Word], words: usize, chunk: usize) -> Vec<Edge> {
        let row = |i: usize| rows[i * words..][..words].as_flattened();
        let distance = |i: usize, j: usize| -> i64 {
            row(i).iter().zip(row(j)).map(|(&x, &y)| i64::from(i32::from(x) - i32::from(y)).pow(2)).sum()
        };
        let n = rows.len() / words;
        let mut edges = Vec::new();
        for start in (0..n).step_by(chunk) {
            let end = (start + chunk).min(n);
            for a in (start + 1..end).step_by(2) {
                let b = (start..end).step_by(2).min_by_key(|&b| (distance(a, b), b)).unwrap();
                edges.push(Edge { a: a as u32, b: b as u32, cost: distance(a, b) as f32 });
            }
        }
        edges
    }

    fn rows(n: usize, words: usize) -> impl Strategy<Value = Vec<Word>> {
        // Few values bring ties, the largest ones what overflows if anything does.
        let most = largest(2 * words) as i16;
        let number = prop_oneof![-2i16..=2, Just(most), Just(-most), -most..=most];
        prop::collection::vec(prop::array::uniform2(number), n * words)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_processor_matches_by_definition(
            (words, chunk, rows) in (1usize..70, 2usize..300, 1usize..320)
                .prop_flat_map(|(words, chunk, n)| (Just(words), Just(chunk), rows(n, words))),
        ) {
            let mut edges = Vec::new();
            match_rounded(&rows, words, chunk, &mut Scratch::default(), &mut edges);
            prop_assert_eq!(edges, by_definition(&rows, words, chunk));
        }

        #[test]
        fn some_rows_match_as_if_they_stood_alone(
            (words, chunk, rows, seed) in (1usize..40, 2usize..100, 1usize..200)
                .prop_flat_map(|(words, chunk, n)| (Just(words), Just(chunk), rows(n, words), 1u32..7)),
        ) {
            let which: Vec<u32> = (0..(rows.len() / words) as u32).filter(|i| (i * seed) % 5 < 3).collect();
            let alone: Vec<Word> = which.iter().flat_map(|&i| rows[i as usize * words..][..words].to_vec()).collect();
            let mut edges = Vec::new();
            match_some(&rows, &which, words, chunk, &mut Scratch::default(), &mut edges);
            prop_assert_eq!(edges, by_definition(&alone, words, chunk));
        }

        #[test]
        fn all_levels_give_the_same_products(
            (words, packed, a) in (1usize..40).prop_flat_map(|words| (Just(words), rows(2 * LANES, words), rows(ROWS, words))),
        ) {
            let mut plain = vec![0; 2 * LANES * ROWS];
            multiply_plain(&packed, &a, 2 * LANES, &mut plain);
            prop_assert_eq!(plain.len(), 2 * LANES * a.len() / words);
            let terms: Vec<i32> = (0..2 * LANES as i32).map(|i| 7 * (i % 5) * words as i32).collect();
            for level in Level::available() {
                let mut out = vec![-1; plain.len()];
                multiply(level, &packed, &a, 2 * LANES, &mut out);
                prop_assert_eq!(&out, &plain);
                for products in out.chunks_exact(2 * LANES) {
                    prop_assert_eq!(nearest(level, &terms, products), nearest_any(&terms, products));
                }
            }
        }

        #[test]
        fn rounding_is_to_the_nearest(x in -32767.0f32..32767.0) {
            prop_assert_eq!(f32::from(nearest_whole(x)), x.round_ties_even());
        }
    }

    #[test]
    fn what_is_no_number_or_out_of_reach_is_brought_within() {
        let mut out = [[1; 2]; 2];
        round(&[f32::NAN, f32::INFINITY, -1e9], 1.0, &mut out);
        let most = largest(3) as i16;
        assert_eq!(out, [[0, most], [-most, 1]]);
    }

    #[test]
    fn a_mean_lies_between_those_it_is_of() {
        let mut mean = [[10, -10], [0, 1000]];
        take_in(&mut mean, &[[20, -20], [1, -1000]], 0.25);
        assert_eq!(mean, [[12, -12], [0, 500]]);
        let mut same = [[3, -4], [5, -2047]];
        take_in(&mut same, &[[3, -4], [5, -2047]], 0.3);
        assert_eq!(same, [[3, -4], [5, -2047]]);
    }
}
