//! Products in f32.

use crate::blocks::open_any;
use crate::blocks::with_quant;
use crate::kernel::Isa;
use crate::quant::Quant;
use crate::rows::{Picked, Place};
use crate::tile::{self, BLOCK, Layout, OpenBlock, TILE};
use crate::types::GgmlType;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::array;
use std::cell::Cell;

/// Columns that are opened at once: whole blocks of every type, and few enough that 16 rows of them stay
/// in the first-level cache while all tokens pass.
const COLUMNS: usize = 512;

/// Room for a strip, kept by each thread.
#[derive(Default)]
struct Scratch {
    /// Weights as they are opened, `[16][COLUMNS]`; rows that the matrix does not have are zeros.
    rows: Vec<f32>,
    /// The same, `[column][16]`.
    panel: Vec<[f32; TILE]>,
    /// Sums, `[token][16]`.
    sums: Vec<[f32; TILE]>,
}

/// Sixteen rows of weights (fewer at the end of a matrix of rows).
#[derive(Clone, Copy)]
pub(crate) enum Strip<'a> {
    /// A tile of a packed type.
    Tile { ty: GgmlType, tile: &'a [u8] },
    /// Rows of a float type.
    Rows { ty: GgmlType, bytes: &'a [u8], row_bytes: usize },
}

/// Calls `write(place, sums)` with the products of a strip with some rows. Weights are opened once.
pub(crate) fn products(isa: Isa, strip: Strip<'_>, rows: Picked<'_>, mut write: impl FnMut(Place, &[f32; TILE])) {
    thread_local!(static SCRATCH: Cell<Scratch> = Cell::default());
    let mut scratch = SCRATCH.take();
    if let Strip::Rows { .. } = strip {
        scratch.rows.clear();
        scratch.rows.resize(TILE * COLUMNS, 0.0);
    }
    scratch.panel.resize(COLUMNS, [0.0; TILE]);
    scratch.sums.clear();
    scratch.sums.resize(rows.len(), [0.0; TILE]);
    for first in (0..rows.cols).step_by(COLUMNS) {
        let part = Part { strip, rows, first, n: COLUMNS.min(rows.cols - first) };
        match isa {
            // SAFETY: an `Isa` that exists may be used.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Isa::Avx512 => unsafe { part_avx512(part, &mut scratch) },
            // SAFETY: an `Isa` that exists may be used.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Isa::Avx2 => unsafe { part_avx2(part, &mut scratch) },
            // SAFETY: plain code. Fused multiply-add is part of every aarch64; elsewhere it may be a slow
            // library call.
            #[cfg(target_arch = "aarch64")]
            #[allow(unsafe_code)]
            Isa::Neon => unsafe { part.run::<6, Plain<true>>(&mut scratch) },
            // SAFETY: plain code.
            #[allow(unsafe_code)]
            Isa::Scalar => unsafe { part.run::<4, Plain<false>>(&mut scratch) },
        }
    }
    for (&place, sums) in rows.places.iter().zip(&scratch.sums) {
        write(place, sums);
    }
    SCRATCH.set(scratch);
}

// Six tokens of sixteen sums take 12 of the 16 registers of AVX2; AVX-512 has twice as many, of twice the size.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn part_avx512(part: Part<'_>, scratch: &mut Scratch) {
    // SAFETY: the instructions are here.
    #[allow(unsafe_code)]
    unsafe {
        part.run::<12, Avx512>(scratch);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn part_avx2(part: Part<'_>, scratch: &mut Scratch) {
    // SAFETY: the instructions are here.
    #[allow(unsafe_code)]
    unsafe {
        part.run::<6, Avx2>(scratch);
    }
}

/// Columns `first..first + n` of a strip.
#[derive(Clone, Copy)]
struct Part<'a> {
    strip: Strip<'a>,
    rows: Picked<'a>,
    first: usize,
    n: usize,
}

impl Part<'_> {
    /// Adds the products of these columns to the sums, up to `T` tokens at a time.
    ///
    /// # Safety
    /// The machine must have the instructions of `M`.
    #[allow(unsafe_code)]
    #[inline(always)]
    unsafe fn run<const T: usize, M: Multiply>(self, scratch: &mut Scratch) {
        let Scratch { rows, panel, sums } = scratch;
        let panel = &mut panel[..self.n];
        self.open(rows, panel);
        let mut tokens = self.rows.iter().map(|x| &x[self.first..][..self.n]);
        let (blocks, rest) = sums.as_chunks_mut::<T>();
        for sums in blocks {
            let x = array::from_fn(|_| tokens.next().unwrap_or(&[]));
            // SAFETY: by the contract.
            unsafe { M::multiply::<T>(panel, x, sums) };
        }
        for (x, sums) in tokens.zip(rest) {
            // SAFETY: by the contract.
            unsafe { M::multiply::<1>(panel, [x], array::from_mut(sums)) };
        }
    }

    /// Opens these columns.
    #[inline(always)]
    fn open(self, out: &mut [f32], panel: &mut [[f32; TILE]]) {
        match self.strip {
            Strip::Tile { ty, tile } => {
                let (blocks, first) = (self.rows.cols.div_ceil(BLOCK), self.first / BLOCK);
                with_quant!(ty, Q => open_tile::<Q>(tile, blocks, first, panel), _ => unreachable!("float tiles"));
            }
            Strip::Rows { ty, bytes, row_bytes } => {
                let (size, len) = (ty.block_bytes(), ty.block_len());
                for (row, out) in bytes.chunks_exact(row_bytes).zip(out.chunks_exact_mut(COLUMNS)) {
                    open_any(ty, &row[self.first / len * size..][..self.n / len * size], &mut out[..self.n]);
                }
                transpose(out, panel);
            }
        }
    }
}

// Opening is written for the compiler to turn into vector instructions of whichever function it ends up in.

/// Opens blocks `first..` of a tile, as many as `panel` has columns for.
#[inline(always)]
fn open_tile<Q: Quant>(tile: &[u8], blocks: usize, first: usize, panel: &mut [[f32; TILE]]) {
    let layout = Layout::of::<Q>(blocks);
    let mut w = OpenBlock::new();
    for (b, panel) in panel.chunks_exact_mut(BLOCK).enumerate() {
        tile::open::<Q>(tile, layout, first + b, &mut w);
        for (s, panel) in panel.chunks_exact_mut(4).enumerate() {
            // Copies, which the compiler knows to be apart from `panel`.
            let (scale, min) = (w.scale[s * 4 / Q::GROUP], w.min[s * 4 / Q::GROUP]);
            // Four columns of a row, as one number.
            let mut q = bytemuck::cast::<_, [u32; TILE]>(w.q[s]).map(u32::from_le);
            for panel in panel {
                let mut open = [0.0; TILE];
                for r in 0..TILE {
                    open[r] = scale[r] * ((q[r] & 0xff) as i32 - Q::OFFSET) as f32 - min[r];
                    q[r] >>= 8;
                }
                *panel = open;
            }
        }
    }
}

/// Turns rows, `[16][COLUMNS]`, into `[column][16]`.
#[inline(always)]
fn transpose(rows: &[f32], panel: &mut [[f32; TILE]]) {
    for (c, panel) in panel.iter_mut().enumerate() {
        for (r, w) in panel.iter_mut().enumerate() {
            *w = rows[r * COLUMNS + c];
        }
    }
}

/// Products of 16 rows with some tokens.
#[allow(unsafe_code)]
trait Multiply {
    /// Adds the products with `T` tokens to `sums`.
    ///
    /// # Panics
    /// When a token has fewer columns than `panel`.
    ///
    /// # Safety
    /// The machine must have the instructions of this kernel.
    unsafe fn multiply<const T: usize>(panel: &[[f32; TILE]], x: [&[f32]; T], sums: &mut [[f32; TILE]; T]);
}

/// Plain code, with fused multiply-add or without.
struct Plain<const FUSED: bool>;

#[allow(unsafe_code)]
impl<const FUSED: bool> Multiply for Plain<FUSED> {
    #[inline(always)]
    unsafe fn multiply<const T: usize>(panel: &[[f32; TILE]], x: [&[f32]; T], sums: &mut [[f32; TILE]; T]) {
        let x = x.map(|x| &x[..panel.len()]);
        let mut s = *sums;
        for (k, w) in panel.iter().enumerate() {
            for (s, x) in s.iter_mut().zip(x) {
                for (s, &w) in s.iter_mut().zip(w) {
                    *s = if FUSED { w.mul_add(x[k], *s) } else { w * x[k] + *s };
                }
            }
        }
        *sums = s;
    }
}

#[cfg(target_arch = "x86_64")]
struct Avx2;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
impl Multiply for Avx2 {
    #[inline(always)]
    unsafe fn multiply<const T: usize>(panel: &[[f32; TILE]], x: [&[f32]; T], sums: &mut [[f32; TILE]; T]) {
        let x = x.map(|x| x[..panel.len()].as_ptr());
        // SAFETY: rows are 16 numbers; column `k` of a token is below `panel.len()`.
        unsafe {
            let load = |row: &[f32; TILE]| [_mm256_loadu_ps(row.as_ptr()), _mm256_loadu_ps(row.as_ptr().add(8))];
            let mut s: [[__m256; 2]; T] = array::from_fn(|t| load(&sums[t]));
            for (k, w) in panel.iter().enumerate() {
                let w = load(w);
                for t in 0..T {
                    let x = _mm256_broadcast_ss(&*x[t].add(k));
                    s[t] = [_mm256_fmadd_ps(w[0], x, s[t][0]), _mm256_fmadd_ps(w[1], x, s[t][1])];
                }
            }
            for (sums, s) in sums.iter_mut().zip(s) {
                _mm256_storeu_ps(sums.as_mut_ptr(), s[0]);
                _mm256_storeu_ps(sums.as_mut_ptr().add(8), s[1]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
struct Avx512;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
impl Multiply for Avx512 {
    #[inline(always)]
    unsafe fn multiply<const T: usize>(panel: &[[f32; TILE]], x: [&[f32]; T], sums: &mut [[f32; TILE]; T]) {
        let x = x.map(|x| x[..panel.len()].as_ptr());
        // SAFETY: rows are 16 numbers; column `k` of a token is below `panel.len()`.
        unsafe {
            let mut s: [__m512; T] = array::from_fn(|t| _mm512_loadu_ps(sums[t].as_ptr()));
            for (k, w) in panel.iter().enumerate() {
                let w = _mm512_loadu_ps(w.as_ptr());
                for t in 0..T {
                    s[t] = _mm512_fmadd_ps(w, _mm512_set1_ps(*x[t].add(k)), s[t]);
                }
            }
            for (sums, s) in sums.iter_mut().zip(s) {
                _mm512_storeu_ps(sums.as_mut_ptr(), s);
            }
        }
    }
}
