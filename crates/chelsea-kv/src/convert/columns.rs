//! Numbers that lie in columns: the keys of a tile.

use super::Number;
use crate::TILE;
use bytemuck::Pod;

/// What columns of numbers are made of, which are the keys of a tile: an element's neighbours in a column are
/// [`Columns::TOGETHER`] side by side, and so on every `TILE` times as many elements further on.
pub trait Columns: Pod {
    /// Elements of a column that lie side by side.
    const TOGETHER: usize;
    /// Whether a column needs a scale to mean anything; 1 serves those that need none.
    const SCALED: bool;
    /// Elements that a column of `dim` numbers takes.
    fn stored(dim: usize) -> usize;
    /// The scale of a column: what it is stored with, and read with.
    fn column_scale(row: &[f32]) -> f32;
    /// Reads the column that begins with `src`, times `scale`.
    fn read_column(src: &[Self], scale: f32, out: &mut [f32]);
    /// Stores `row`, divided by `scale`, as the column that begins with `out`.
    fn write_column(row: &[f32], scale: f32, out: &mut [Self]);
    /// Reads a tile without the columns' scales into `out`, `[dim][TILE]`.
    fn read_tile(src: &[Self], out: &mut [f32]);
}

impl<T: Number> Columns for T {
    const TOGETHER: usize = T::TOGETHER;
    const SCALED: bool = T::SCALED;

    fn stored(dim: usize) -> usize {
        dim.next_multiple_of(T::TOGETHER)
    }
    fn column_scale(row: &[f32]) -> f32 {
        T::scale(row)
    }
    fn read_column(src: &[T], scale: f32, out: &mut [f32]) {
        let mut stored = [T::zeroed(); TILE];
        for (part, first) in out.chunks_mut(TILE).zip((0..).step_by(TILE)) {
            let words = src[first * TILE..].chunks(TILE * T::TOGETHER);
            stored[..part.len()]
                .chunks_mut(T::TOGETHER)
                .zip(words)
                .for_each(|(to, word)| to.copy_from_slice(&word[..to.len()]));
            T::widen(&stored[..part.len()], scale, part);
        }
    }
    fn write_column(row: &[f32], scale: f32, out: &mut [T]) {
        let mut narrow = [T::zeroed(); TILE];
        for (part, first) in row.chunks(TILE).zip((0..).step_by(TILE)) {
            T::narrow(part, scale, &mut narrow[..part.len()]);
            let words = out[first * TILE..].chunks_mut(TILE * T::TOGETHER);
            narrow[..part.len()]
                .chunks(T::TOGETHER)
                .zip(words)
                .for_each(|(from, word)| word[..from.len()].copy_from_slice(from));
        }
    }
    fn read_tile(src: &[T], out: &mut [f32]) {
        T::widen_tile(src, out);
    }
}
