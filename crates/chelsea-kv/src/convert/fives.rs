//! Keys in 5 bits.
//!
//! Thirty-two dimensions of the 16 keys of a tile take five lines of 64 bytes. Each line is a word of four bytes for every
//! key. The first four hold the low four bits of a number in halves of bytes: dimension `4 w + b` is in byte `b` of line
//! `w / 2`, in the low half for even `w` and in the high one for odd. The fifth line has the bits that are left: bit `w` of
//! byte `b`.

use super::Columns;
use super::rows::best_scale;
use crate::TILE;
use chelsea_simd::vectorized;

/// Dimensions that lie together.
pub(crate) const GROUP: usize = 32;
/// Lines of a group: four with halves of bytes, and one with the bits that those lack.
pub(crate) const LINES: usize = 5;
/// Bytes of a key's word in a line.
const WORD: usize = 4;

/// A byte of a group's lines. Numbers are -16 to 15, and stored with 16 added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Fives(u8);

impl Fives {
    /// What is added to a number.
    pub(crate) const OFFSET: i32 = 16;
}

/// The nearest number that 5 bits hold.
#[inline(always)]
fn whole(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number.
    const SHIFT: f32 = 12_582_912.0;
    (x.clamp(-16.0, 15.0) + SHIFT) - SHIFT
}

/// Dimension `i` of a group, of the words of a key or of many.
#[inline(always)]
fn number(halves: u32, rest: u32, i: usize) -> f32 {
    let (word, byte) = (i / WORD, 8 * (i % WORD));
    let low = halves >> (byte + 4 * (word % 2)) & 0xf;
    let high = rest >> (byte + word) & 1;
    (low | high << 4) as f32 - Fives::OFFSET as f32
}

impl Columns for Fives {
    const TOGETHER: usize = WORD;
    const SCALED: bool = true;

    fn stored(dim: usize) -> usize {
        dim.div_ceil(GROUP) * LINES * WORD
    }

    /// Of several steps, with which the number of largest magnitude becomes -15 or is cut to -16, the one with the least
    /// squared error: as with values in 4 bits.
    fn column_scale(row: &[f32]) -> f32 {
        const LARGEST: [f32; 8] = [16.0, 15.0, 15.5, 16.5, 17.0, 18.0, 19.5, 21.5];
        best_scale(row, LARGEST, whole)
    }

    fn read_column(src: &[Fives], scale: f32, out: &mut [f32]) {
        for (out, lines) in out.chunks_mut(GROUP).zip(src.chunks(LINES * TILE * WORD)) {
            let word = |line: usize| {
                let bytes = &lines[line * TILE * WORD..][..WORD];
                u32::from_le_bytes([bytes[0].0, bytes[1].0, bytes[2].0, bytes[3].0])
            };
            let rest = word(LINES - 1);
            for (at, out) in out.chunks_mut(2 * WORD).enumerate() {
                let halves = word(at);
                out.iter_mut().enumerate().for_each(|(i, x)| *x = number(halves, rest, at * 2 * WORD + i) * scale);
            }
        }
    }

    fn write_column(row: &[f32], scale: f32, out: &mut [Fives]) {
        let inverse = if scale == 0.0 { 0.0 } else { scale.recip() };
        for (row, lines) in row.chunks(GROUP).zip(out.chunks_mut(LINES * TILE * WORD)) {
            let mut bytes = [[0u8; WORD]; LINES];
            for (i, &x) in row.iter().enumerate() {
                let stored = (whole(x * inverse) as i32 + Self::OFFSET) as u8;
                let (word, byte) = (i / WORD, i % WORD);
                bytes[word / 2][byte] |= (stored & 0xf) << (4 * (word % 2));
                bytes[LINES - 1][byte] |= (stored >> 4) << word;
            }
            for (line, bytes) in lines.chunks_mut(TILE * WORD).zip(bytes) {
                line[..WORD].copy_from_slice(&bytes.map(Fives));
            }
        }
    }

    fn read_tile(src: &[Fives], out: &mut [f32]) {
        let lines: &[[[u8; WORD]; TILE]] = bytemuck::cast_slice(src);
        vectorized(
            #[inline(always)]
            || {
                for (out, lines) in out.chunks_mut(GROUP * TILE).zip(lines.chunks_exact(LINES)) {
                    let rest = lines[LINES - 1].map(u32::from_le_bytes);
                    for (i, row) in out.chunks_exact_mut(TILE).enumerate() {
                        let halves = lines[i / (2 * WORD)].map(u32::from_le_bytes);
                        for lane in 0..TILE {
                            row[lane] = number(halves[lane], rest[lane], i);
                        }
                    }
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> impl Iterator<Item = Vec<f32>> {
        let number = |i: usize| (i as f32 * 0.7).sin() * (i as f32 * 0.37).cos();
        [1e-30f32, 1.0, 800.0, 1e30].into_iter().flat_map(move |size| {
            [1, 2, 31, 32, 64, 80, 128].into_iter().map(move |len| (0..len).map(|i| number(i + 3) * size).collect())
        })
    }

    #[test]
    fn fives_stay_within_half_a_step_or_at_an_end() {
        for row in rows() {
            let scale = Fives::column_scale(&row);
            let len = Fives::stored(row.len()) * TILE;
            for lane in [0, 7, TILE - 1] {
                let mut tile = vec![Fives(0xa5); len];
                Fives::write_column(&row, scale, &mut tile[lane * WORD..]);
                let mut back = vec![f32::NAN; row.len()];
                Fives::read_column(&tile[lane * WORD..], scale, &mut back);
                for (x, y) in row.iter().zip(&back) {
                    let end = [-16.0, 15.0].iter().any(|end| (y - end * scale).abs() <= 1e-3 * scale.abs());
                    let cut = end && x.abs() > y.abs();
                    assert!(cut || (x - y).abs() <= scale.abs() * 0.5001, "{x}: {y}, step {scale}");
                }
                // Nobody else's word was touched, and the whole tile is read as its keys are.
                let others = tile.chunks(WORD).enumerate().filter(|(i, _)| i % TILE != lane);
                assert!(others.flat_map(|(_, word)| word).all(|&x| x == Fives(0xa5)));
                let mut all = vec![0.0; row.len() * TILE];
                Fives::read_tile(&tile, &mut all);
                assert!(all.iter().skip(lane).step_by(TILE).zip(&back).all(|(x, y)| x * scale == *y));
            }
        }
    }

    #[test]
    fn fives_of_any_row_are_finite() {
        for row in [[0.0; 4], [1e-45; 4], [f32::INFINITY, -1.0, 0.0, 3e38], [f32::NAN, 1.0, 2.0, -3.0]] {
            let scale = Fives::column_scale(&row);
            let (mut tile, mut back) = (vec![Fives(0); Fives::stored(4) * TILE], [f32::NAN; 4]);
            Fives::write_column(&row, scale, &mut tile);
            Fives::read_column(&tile, scale, &mut back);
            assert!(scale.is_finite() && back.iter().all(|x| x.is_finite()), "{row:?}: {back:?}");
        }
    }
}
