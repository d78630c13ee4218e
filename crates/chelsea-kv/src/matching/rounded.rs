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
    nearest: Nearest,
}

impl Scratch {
    /// Bytes that matching rows of `dim` numbers in chunks of `chunk` takes.
    pub fn bytes(dim: usize, chunk: usize) -> usize {
        let width = chunk.div_ceil(2).next_multiple_of(LANES);
        words(dim) * 4 * (width + ROWS) + width * 4 + chunk * 4 + size_of::<Nearest>()
    }
}

/// The nearest row of B to each of some rows of A: in every lane by itself, of the strips that were looked at.
#[derive(Debug)]
struct Nearest {
    /// The least `|b|^2 - 2 a . b`.
    least: [[i32; LANES]; ROWS],
    /// The first strip that has it.
    strip: [[i32; LANES]; ROWS],
}

impl Default for Nearest {
    fn default() -> Self {
        Nearest { least: [[FAR; LANES]; ROWS], strip: [[0; LANES]; ROWS] }
    }
}

impl Nearest {
    /// The row of B that is nearest to each row of A, the first of equal ones, and its `|b|^2 - 2 a . b`.
    #[inline(always)]
    fn found(&self) -> Found {
        let mut found = [(0, 0); ROWS];
        // Plain loops: what is called from here would not be compiled for the vectors of the caller.
        for (i, found) in found.iter_mut().enumerate() {
            let (mut least, mut first) = (FAR, i32::MAX);
            for lane in 0..LANES {
                least = least.min(self.least[i][lane]);
            }
            for lane in 0..LANES {
                let b = self.strip[i][lane] * LANES as i32 + lane as i32;
                first = first.min(if self.least[i][lane] == least { b } else { i32::MAX });
            }
            *found = (first as usize, least);
        }
        found
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
    let level = Level::best();
    for block in (0..len / 2).step_by(ROWS) {
        scratch.pack_sources(rows, block);
        let Scratch { packed, lengths, terms, sources, nearest } = scratch;
        let found = look(level, packed, terms, sources, nearest);
        for (i, (b, beyond)) in found.into_iter().take(len / 2 - block).enumerate() {
            let a = 2 * (block + i) + 1;
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

/// What was found for each row of A: the row of B that is nearest, the first of equal ones, and its `|b|^2 - 2 a . b`.
type Found = [(usize, i32); ROWS];

/// Finds the nearest rows of B (`packed`, `[strip][word][LANES]`, with a term for each) to rows of A (`[word][ROWS]`).
/// Products stay in registers until they were compared with the least so far, which `nearest` is room for.
fn look(level: Level, packed: &[Word], terms: &[i32], a: &[Word], nearest: &mut Nearest) -> Found {
    assert!(a.len().is_multiple_of(ROWS) && packed.len() == terms.len() * (a.len() / ROWS));
    assert!(terms.len().is_multiple_of(LANES) && !a.is_empty());
    *nearest = Nearest::default();
    match level {
        // SAFETY: this processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni | Level::Amx => unsafe { look_vnni(packed, terms, a, nearest) },
        // SAFETY: this processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 => unsafe { look_avx2(packed, terms, a, nearest) },
        _ => look_plain(packed, terms, a, nearest),
    }
}

/// The strips of B with their terms.
fn strips<'a>(
    packed: &'a [Word],
    terms: &'a [i32],
    words: usize,
) -> impl Iterator<Item = (i32, &'a [Word], &'a [i32])> {
    let strips = packed.chunks_exact(LANES * words).zip(terms.chunks_exact(LANES));
    strips.enumerate().map(|(s, (strip, terms))| (s as i32, strip, terms))
}

/// All of a strip against all rows of A: 16 sums of 16 lanes stay in registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn look_vnni(packed: &[Word], terms: &[i32], a: &[Word], nearest: &mut Nearest) -> Found {
    for (s, strip, terms) in strips(packed, terms, a.len() / ROWS) {
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
        let here = _mm512_set1_epi32(s);
        // SAFETY: the terms of a strip are `LANES` = 32 numbers.
        let terms =
            unsafe { [_mm512_loadu_si512(terms.as_ptr().cast()), _mm512_loadu_si512(terms[16..].as_ptr().cast())] };
        for (i, [low, high]) in sums.into_iter().enumerate() {
            let (least, strip) = (nearest.least[i].as_chunks_mut().0, nearest.strip[i].as_chunks_mut().0);
            let [least_low, least_high] = least else { unreachable!("32 lanes are twice 16") };
            let [strip_low, strip_high] = strip else { unreachable!("32 lanes are twice 16") };
            nearer_vnni(terms[0], low, here, least_low, strip_low);
            nearer_vnni(terms[1], high, here, least_high, strip_high);
        }
    }
    let mut found = [(0, 0); ROWS];
    for (found, (least, strip)) in found.iter_mut().zip(nearest.least.iter().zip(&nearest.strip)) {
        *found = first_vnni(least, strip);
    }
    found
}

/// Takes note where `term - 2 product` is less than the least so far.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn nearer_vnni(term: __m512i, product: __m512i, here: __m512i, least: &mut [i32; 16], strip: &mut [i32; 16]) {
    // SAFETY: each holds 16 numbers.
    unsafe {
        let before = _mm512_loadu_si512(least.as_ptr().cast());
        let distance = _mm512_sub_epi32(term, _mm512_slli_epi32::<1>(product));
        let nearer = _mm512_cmplt_epi32_mask(distance, before);
        _mm512_storeu_si512(least.as_mut_ptr().cast(), _mm512_min_epi32(distance, before));
        // A masked store would keep what is loaded next from being forwarded.
        let first = _mm512_mask_mov_epi32(_mm512_loadu_si512(strip.as_ptr().cast()), nearer, here);
        _mm512_storeu_si512(strip.as_mut_ptr().cast(), first);
    }
}

/// What [`Nearest::found`] says of a row.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn first_vnni(least: &[i32; LANES], strip: &[i32; LANES]) -> (usize, i32) {
    // SAFETY: each holds `LANES` = 32 numbers.
    let (leasts, strips) = unsafe {
        (
            [_mm512_loadu_si512(least.as_ptr().cast()), _mm512_loadu_si512(least[16..].as_ptr().cast())],
            [_mm512_loadu_si512(strip.as_ptr().cast()), _mm512_loadu_si512(strip[16..].as_ptr().cast())],
        )
    };
    let least = _mm512_reduce_min_epi32(_mm512_min_epi32(leasts[0], leasts[1]));
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let mut first = _mm512_set1_epi32(i32::MAX);
    for (half, lanes) in [lanes, _mm512_add_epi32(lanes, _mm512_set1_epi32(16))].into_iter().enumerate() {
        let b = _mm512_add_epi32(_mm512_slli_epi32::<{ LANES.ilog2() }>(strips[half]), lanes);
        let equal = _mm512_cmpeq_epi32_mask(leasts[half], _mm512_set1_epi32(least));
        first = _mm512_mask_min_epi32(first, equal, first, b);
    }
    (_mm512_reduce_min_epi32(first) as usize, least)
}

/// Half a strip against half of the rows of A: 8 sums of 8 lanes stay in registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn look_avx2(packed: &[Word], terms: &[i32], a: &[Word], nearest: &mut Nearest) -> Found {
    const HALF: usize = ROWS / 2;
    for (s, strip, terms) in strips(packed, terms, a.len() / ROWS) {
        let s = _mm256_set1_epi32(s);
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
            for (i, sums) in sums.into_iter().enumerate() {
                for (half, sum) in sums.into_iter().enumerate() {
                    let lanes = lane + 8 * half..lane + 8 * (half + 1);
                    let least = &mut nearest.least[group + i][lanes.clone()];
                    let strip = &mut nearest.strip[group + i][lanes.clone()];
                    // SAFETY: each holds 8 numbers here.
                    unsafe {
                        let term = _mm256_loadu_si256(terms[lanes].as_ptr().cast());
                        let before = _mm256_loadu_si256(least.as_ptr().cast());
                        let here = _mm256_sub_epi32(term, _mm256_slli_epi32::<1>(sum));
                        let nearer = _mm256_cmpgt_epi32(before, here);
                        let first = _mm256_loadu_si256(strip.as_ptr().cast());
                        _mm256_storeu_si256(least.as_mut_ptr().cast(), _mm256_min_epi32(here, before));
                        _mm256_storeu_si256(strip.as_mut_ptr().cast(), _mm256_blendv_epi8(first, s, nearer));
                    }
                }
            }
        }
    }
    nearest.found()
}

/// The scalar twin: one row of A at a time.
fn look_plain(packed: &[Word], terms: &[i32], a: &[Word], nearest: &mut Nearest) -> Found {
    for (s, strip, terms) in strips(packed, terms, a.len() / ROWS) {
        for i in 0..ROWS {
            let mut sums = [0; LANES];
            for (column, xs) in strip.chunks_exact(LANES).zip(a.chunks_exact(ROWS)) {
                let x = xs[i].map(i32::from);
                for (sum, y) in sums.iter_mut().zip(column) {
                    *sum += x[0] * i32::from(y[0]) + x[1] * i32::from(y[1]);
                }
            }
            for lane in 0..LANES {
                let here = terms[lane] - 2 * sums[lane];
                if here < nearest.least[i][lane] {
                    (nearest.least[i][lane], nearest.strip[i][lane]) = (here, s);
                }
            }
        }
    }
    nearest.found()
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
        fn all_levels_find_the_same_rows(
            (words, packed, a, terms) in (1usize..40, 1usize..4).prop_flat_map(|(words, strips)| (
                Just(words),
                rows(strips * LANES, words),
                rows(ROWS, words),
                // Few terms bring ties between lanes and strips; some rows only fill up a strip.
                prop::collection::vec(prop_oneof![0..3i32, Just(FAR / 4)], strips * LANES),
            )),
        ) {
            let number = |strip: usize, lane: usize, word: usize| packed[(strip * words + word) * LANES + lane];
            let distance = |i: usize, b: usize| -> i64 {
                let product = |word| {
                    let (x, y) = (a[word * ROWS + i], number(b / LANES, b % LANES, word));
                    i64::from(x[0]) * i64::from(y[0]) + i64::from(x[1]) * i64::from(y[1])
                };
                i64::from(terms[b]) - 2 * (0..words).map(product).sum::<i64>()
            };
            for level in Level::available() {
                let mut nearest = Nearest::default();
                let found = look(level, &packed, &terms, &a, &mut nearest);
                for (i, &found) in found.iter().enumerate() {
                    let first = (0..terms.len()).min_by_key(|&b| (distance(i, b), b)).unwrap();
                    prop_assert_eq!(found, (first, distance(i, first) as i32), "{:?}", level);
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
