//! AVX2: `vpmaddubsw` multiplies one step of half a tile (32 unsigned codes: eight rows, four columns)
//! by four columns of a token, broadcast from memory, and adds neighbours into 16 bits, two lanes per row.
//!
//! The instruction saturates, and so few bits have to last for all steps of a scale: codes of five and
//! more bits are therefore taken as if their middle were zero. Additions in 16 bits wrap, so only the
//! final sum has to fit, and that sum starts at minus the middle times the sum of the activations.
//!
//! | bits of a code | steps of a sum | largest product of a step | largest final sum |
//! |---|---|---|---|
//! | 2, 3, 4 | 8 | 2 * 15 * 127 = 3,810 | 8 * 2 * 15 * 127 = 30,480 |
//! | 5, around 16 | 8 | 2 * 31 * 127 = 7,874 | 8 * 2 * 16 * 127 = 32,512 |
//! | 6, around 32 | 4 | 2 * 63 * 127 = 16,002 | 4 * 2 * 32 * 127 = 32,512 |
//! | 8 | 1 | signed: 2 * 128 * 127 = 32,512 | the same |
//!
//! Numbers of four bits that a table opens take the way of their offset: MXFP4 (up to 12 either way) that of five bits,
//! the uneven ones of IQ4 that of eight. Eight-bit codes are made signed and their sign is moved to the activation. `vpmaddwd` then adds the
//! two lanes of a row; where scales are small integers of 16 columns, it multiplies by them as well.

#![allow(unsafe_code)]

use super::avx2_codes::{middle, unpack, wide};
use super::x86::prefetch;
use crate::byte_block::{GROUP, ROW_BYTES};
use crate::quant::{Quant, Scales};
use crate::tile::{BLOCK, Layout, SUPER, TILE, block_bytes, high_bytes, low_bytes, scale_bytes};
use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Rows of a vector of sums.
const HALF: usize = 8;

/// See [`super::TileKernel`].
///
/// # Safety
/// The machine must have the instructions that this function enables.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn tile<Q: Quant, const T: usize>(tile: &[u8], acts: &[u8], out: &mut [[f32; TILE]]) {
    let blocks = acts.len() / (T * ROW_BYTES);
    let layout = Layout::of::<Q>(blocks);
    assert!(tile.len() >= layout.bytes && out.len() == T);
    align_stack();
    let mut sums = [[_mm256_setzero_ps(); 2]; T];
    let per_scales = Q::LEN / BLOCK;
    let step = block_bytes::<Q>();
    let mut ahead = 0;
    // SAFETY: block `b < blocks` of each plane lies inside the tile by `layout`, and its activations
    // inside `acts` by the definition of `blocks`.
    unsafe {
        let mut low = tile.as_ptr();
        let mut high = low.add(layout.high);
        let mut scales = low.add(layout.scales);
        let mut x = acts.as_ptr();
        for _ in 0..blocks / per_scales {
            for i in 0..per_scales {
                prefetch(tile, ahead, step);
                ahead += step;
                let rows = [rows::<Q>(scales, i, 0), rows::<Q>(scales, i, 1)];
                if Q::OFFSET == 128 {
                    bytes::<Q, T>(low, &rows, x, &mut sums);
                } else {
                    let tokens = tokens::<Q, T>(x);
                    let mut parts = [[_mm256_setzero_si256(); 2]; T];
                    first_half::<Q, T>(low, high, &rows, x, &tokens, &mut parts);
                    let (low, high) = if T > 4 { (anew(low), anew(high)) } else { (low, high) };
                    second_half::<Q, T>(low, high, &rows, x, &tokens, &parts, &mut sums);
                }
                low = low.add(low_bytes::<Q>());
                high = high.add(high_bytes::<Q>());
                x = x.add(T * ROW_BYTES);
            }
            scales = scales.add(scale_bytes::<Q>());
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            _mm256_storeu_ps(out.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(HALF), sums[1]);
        }
    }
}

/// Makes the stack frame of the function that this is inlined into start on a cache line. The compiler
/// aligns vectors that it saves there only if some variable asks for it; those that straddle two lines are
/// handed back slowly, and whether they do would depend on the callers.
#[inline(always)]
fn align_stack() {
    #[repr(align(64))]
    struct Line(#[allow(dead_code)] MaybeUninit<[u8; 64]>);
    let line = Line(MaybeUninit::uninit());
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", in(reg) &raw const line, options(readonly, nostack, preserves_flags)) };
}

/// The same address, unknown to the compiler: what was read from it is not kept for a second use. Where
/// that would be more than the registers hold, it costs less to read it once more than to write it out.
#[allow(clippy::pointers_in_nomem_asm_block)] // nothing is read or written
#[inline(always)]
fn anew(mut address: *const u8) -> *const u8 {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

/// Scales and mins of the one or two groups of a block of eight rows, one lane a row.
struct Rows {
    /// Integer scales of the groups, the same in both 16-bit lanes of a row; ones where a group is a block.
    whole: [__m256i; 2],
    /// What the integer sums are multiplied by.
    scale: __m256,
    min: [__m256; 2],
}

/// # Safety
/// `scales` must point at `scale_bytes::<Q>()` bytes, and `i` be a block within them.
#[inline(always)]
unsafe fn rows<Q: Quant>(scales: *const u8, i: usize, half: usize) -> Rows {
    // SAFETY: group `i` (groups `2 i` and `2 i + 1` of 16 columns) lies inside the scales; eight rows of 16.
    unsafe {
        let halves = |at: usize| _mm256_cvtph_ps(_mm_loadu_si128(scales.add(at + half * 16).cast()));
        let bytes = |at: usize| _mm_loadl_epi64(scales.add(at + half * HALF).cast());
        let unsigned = |at: usize| _mm256_cvtepu8_epi32(bytes(at));
        // Both 16-bit lanes of a row become its low one.
        let twice =
            |v: __m256i| _mm256_or_si256(_mm256_slli_epi32::<16>(v), _mm256_and_si256(v, _mm256_set1_epi32(0xffff)));
        let ones = _mm256_set1_epi16(1);
        let zero = _mm256_setzero_ps();
        if Q::SCALES == Scales::Exponent {
            let e = unsigned(0);
            let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
            let small = _mm256_sllv_epi32(_mm256_set1_epi32(0x20_0000), e);
            let bits = _mm256_blendv_epi8(normal, small, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e));
            return Rows { whole: [ones; 2], scale: _mm256_castsi256_ps(bits), min: [zero; 2] };
        }
        let d = halves(0);
        match Q::SCALES {
            Scales::Block | Scales::Exponent => Rows { whole: [ones; 2], scale: d, min: [zero; 2] },
            Scales::BlockMin => Rows { whole: [ones; 2], scale: d, min: [around::<Q>(halves(32), d); 2] },
            Scales::SuperMin => {
                let at = 64 + i / 2 * 48;
                let byte = unsigned(at + i % 2 * 16);
                let high = _mm256_srl_epi32(unsigned(at + 32), _mm_cvtsi32_si128((i % 2 * 4) as i32));
                let high = _mm256_and_si256(_mm256_slli_epi32::<2>(high), _mm256_set1_epi32(60));
                let scale = _mm256_cvtepi32_ps(_mm256_and_si256(byte, _mm256_set1_epi32(63)));
                let min = _mm256_cvtepi32_ps(_mm256_or_si256(_mm256_srli_epi32::<6>(byte), high));
                let (scale, min) = (_mm256_mul_ps(d, scale), _mm256_mul_ps(halves(32), min));
                Rows { whole: [ones; 2], scale, min: [around::<Q>(min, scale); 2] }
            }
            Scales::SuperSigned => {
                let whole = |g: usize| twice(_mm256_cvtepi8_epi32(bytes(32 + (BLOCK / Q::GROUP * i + g) * 16)));
                if Q::GROUP == BLOCK {
                    return Rows { whole: [whole(0); 2], scale: d, min: [zero; 2] };
                }
                Rows { whole: [whole(0), whole(1)], scale: d, min: [zero; 2] }
            }
            Scales::SuperNibble => {
                let m = halves(32);
                let (a, b) = (unsigned(64 + 2 * i * 16), unsigned(64 + (2 * i + 1) * 16));
                let whole = |b| twice(_mm256_and_si256(b, _mm256_set1_epi32(15)));
                let min = |b| _mm256_mul_ps(m, _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(b)));
                Rows { whole: [whole(a), whole(b)], scale: d, min: [min(a), min(b)] }
            }
        }
    }
}

/// The min of codes that count from their middle although their type counts them from zero.
#[inline(always)]
unsafe fn around<Q: Quant>(min: __m256, scale: __m256) -> __m256 {
    // SAFETY: the caller has AVX2.
    unsafe {
        match middle::<Q>() {
            Some(log) if Q::OFFSET == 0 => _mm256_fnmadd_ps(_mm256_set1_ps((1 << log) as f32), scale, min),
            _ => min,
        }
    }
}

/// What the tokens of a block bring besides their bytes, one of each per group of columns.
#[repr(align(32))]
struct Tokens {
    /// Start values of the 16-bit sums, two lanes each.
    start: [[i32; GROUP]; 2],
    /// `-scale * sum`, which mins are multiplied by.
    min: [[f32; GROUP]; 2],
}

/// # Safety
/// `x` must point at a block of activations of `T` tokens.
#[inline(always)]
unsafe fn tokens<Q: Quant, const T: usize>(x: *const u8) -> Tokens {
    let mut tokens = Tokens { start: [[0; GROUP]; 2], min: [[0.0; GROUP]; 2] };
    // SAFETY: masked to the `T` tokens that are there.
    unsafe {
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(T as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        let load = |at: usize| _mm256_maskload_epi32(x.add(T * at).cast(), mask);
        let (first, second) = (load(BLOCK + 4), load(BLOCK + 8));
        let sums = if Q::GROUP == BLOCK { [_mm256_add_epi16(first, second); 2] } else { [first, second] };
        for (g, sum) in sums.into_iter().enumerate().take(BLOCK / Q::GROUP) {
            if let Some(log) = middle::<Q>() {
                let start = _mm256_sll_epi16(sum, _mm_cvtsi32_si128(log));
                _mm256_storeu_si256(tokens.start[g].as_mut_ptr().cast(), start);
            }
            if Q::SCALES.has_min() {
                let sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
                let scale = _mm256_castsi256_ps(load(BLOCK));
                _mm256_storeu_ps(tokens.min[g].as_mut_ptr(), _mm256_mul_ps(scale, sum));
            }
        }
    }
    tokens
}

/// Four columns of a token, in every row.
///
/// # Safety
/// `x` must point at a block of activations of more than `t` tokens.
#[inline(always)]
unsafe fn four(x: *const u8, t: usize, s: usize) -> __m256i {
    // SAFETY: by the contract.
    unsafe { _mm256_set1_epi32(x.add(t * BLOCK + s * 4).cast::<i32>().read_unaligned()) }
}

/// Scale of a token, times that of the rows.
///
/// # Safety
/// `x` must point at a block of activations of `T > t` tokens.
#[inline(always)]
unsafe fn scaled<const T: usize>(x: *const u8, t: usize, scale: __m256) -> __m256 {
    // SAFETY: by the contract.
    unsafe { _mm256_mul_ps(scale, _mm256_set1_ps(x.add(T * BLOCK + t * 4).cast::<f32>().read_unaligned())) }
}

/// Sums in 16 bits of the products of steps `4 P..4 P + 4` with token `t`.
///
/// # Safety
/// `x` must point at a block of activations of `T > t` tokens.
#[inline(always)]
unsafe fn short<const P: usize>(codes: &[[__m256i; 2]; 4], x: *const u8, t: usize) -> [__m256i; 2] {
    // SAFETY: by the contract; the caller has the instructions.
    unsafe {
        let products = |s: usize| {
            let x = four(x, t, 4 * P + s);
            codes[s].map(|codes| _mm256_maddubs_epi16(codes, x))
        };
        let (a, b, c, d) = (products(0), products(1), products(2), products(3));
        let add =
            |half: usize| _mm256_add_epi16(_mm256_add_epi16(a[half], b[half]), _mm256_add_epi16(c[half], d[half]));
        [add(0), add(1)]
    }
}

/// The first half of a block's columns: leaves sums of 16 bits, or those of a first group times its scales.
///
/// # Safety
/// `low` and `high` must point at a block's planes, `x` at a block of activations of `T` tokens.
#[inline(always)]
unsafe fn first_half<Q: Quant, const T: usize>(
    low: *const u8,
    high: *const u8,
    rows: &[Rows; 2],
    x: *const u8,
    tokens: &Tokens,
    parts: &mut [[__m256i; 2]; T],
) {
    // SAFETY: token `t < T` of the block; the caller has the instructions.
    unsafe {
        let codes = unpack::<Q, 0>(low, high);
        for (t, parts) in parts.iter_mut().enumerate() {
            let mut sums = short::<0>(&codes, x, t);
            for half in 0..2 {
                if middle::<Q>().is_some() {
                    sums[half] = _mm256_add_epi16(sums[half], _mm256_set1_epi32(tokens.start[0][t]));
                }
                if Q::GROUP < BLOCK {
                    sums[half] = _mm256_madd_epi16(sums[half], rows[half].whole[0]);
                }
            }
            *parts = sums;
        }
    }
}

/// The second half of a block's columns: adds the products of the block to `sums`.
///
/// # Safety
/// As for [`first_half`].
#[inline(always)]
unsafe fn second_half<Q: Quant, const T: usize>(
    low: *const u8,
    high: *const u8,
    rows: &[Rows; 2],
    x: *const u8,
    tokens: &Tokens,
    parts: &[[__m256i; 2]; T],
    sums: &mut [[__m256; 2]; T],
) {
    // SAFETY: token `t < T` of the block; the caller has the instructions.
    unsafe {
        let codes = unpack::<Q, 1>(low, high);
        for (t, (sums, parts)) in sums.iter_mut().zip(parts).enumerate() {
            let short = short::<1>(&codes, x, t);
            for half in 0..2 {
                let Rows { whole, scale, min } = &rows[half];
                let dot = if Q::GROUP == BLOCK {
                    _mm256_madd_epi16(_mm256_add_epi16(short[half], parts[half]), whole[1])
                } else {
                    let mut short = short[half];
                    if middle::<Q>().is_some() {
                        short = _mm256_add_epi16(short, _mm256_set1_epi32(tokens.start[1][t]));
                    }
                    _mm256_add_epi32(_mm256_madd_epi16(short, whole[1]), parts[half])
                };
                let mut sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scaled::<T>(x, t, *scale), sums[half]);
                if Q::SCALES.has_min() {
                    for (min, token) in min.iter().zip(&tokens.min).take(BLOCK / Q::GROUP) {
                        sum = _mm256_fmadd_ps(*min, _mm256_set1_ps(token[t]), sum);
                    }
                }
                sums[half] = sum;
            }
        }
    }
}

/// Adds a block's products of all tokens with codes of eight bits. Half of the steps of eight rows meet
/// all tokens at a time: more codes and their magnitudes do not fit the registers.
///
/// # Safety
/// `low` must point at a block's plane, `x` at a block of activations of `T` tokens.
#[inline(always)]
unsafe fn bytes<Q: Quant, const T: usize>(low: *const u8, rows: &[Rows; 2], x: *const u8, sums: &mut [[__m256; 2]; T]) {
    // SAFETY: token `t < T` of the block; the caller has the instructions.
    unsafe {
        for (half, rows) in rows.iter().enumerate() {
            let x = if T > 2 { anew(x) } else { x };
            let mut dots = [_mm256_setzero_si256(); T];
            for first in [0, 4] {
                let codes: [__m256i; 4] = std::array::from_fn(|s| {
                    let codes = wide::<Q>(low, first + s, half);
                    _mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN))
                });
                let sizes = codes.map(|q| _mm256_abs_epi8(q));
                for (t, dot) in dots.iter_mut().enumerate() {
                    for s in 0..4 {
                        let x = _mm256_sign_epi8(four(x, t, first + s), codes[s]);
                        let products = _mm256_maddubs_epi16(sizes[s], x);
                        *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(products, rows.whole[0]));
                    }
                }
            }
            for (t, (sums, dot)) in sums.iter_mut().zip(dots).enumerate() {
                sums[half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scaled::<T>(x, t, rows.scale), sums[half]);
            }
        }
    }
}

const _: () = assert!(SUPER == 8 * BLOCK && TILE == 2 * HALF && GROUP == 8);
