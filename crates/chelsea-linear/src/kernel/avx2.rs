//! AVX2: `vpmaddubsw` multiplies unsigned codes by signed activations and adds neighbours in 16 bits,
//! which saturates; how many steps may be added there before widening depends on the bits of a code.
//!
//! | bits of a code | largest sum of two products | steps added in 16 bits |
//! |---|---|---|
//! | 2, 3, 4 | 2 * 15 * 127 = 3,810 | 8 |
//! | 5 | 2 * 31 * 127 = 7,874 | 4 |
//! | 6 | 2 * 63 * 127 = 16,002 | 2 |
//! | 8 | signed: magnitude 128 against +-127, 32,512 | 1 |
//!
//! Eight-bit codes are symmetric, so they are made signed and their sign is moved to the activation.

#![allow(unsafe_code)]

use crate::activations::{Block, TOKEN_BYTES};
use crate::blocks::{Quant, Scales};
use crate::tile::{BLOCK, Layout, TILE, open_codes, scale_bytes};
use std::arch::x86_64::*;

/// Rows of a vector of sums.
const HALF: usize = 8;

/// See [`super::TileKernel`]. The width of the group is `out.len()`.
///
/// # Safety
/// The machine must have the instructions that this function enables.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn tile<Q: Quant>(tile: &[u8], acts: &[u8], out: &mut [[f32; TILE]]) {
    let width = out.len();
    let blocks = acts.len() / (width * TOKEN_BYTES);
    let layout = Layout::of::<Q>(blocks);
    let per_scales = Q::LEN / BLOCK;
    let mut codes = [[0u8; 64]; 8];
    out.fill([0.0; TILE]);
    for (b, x) in acts.chunks_exact(width * TOKEN_BYTES).enumerate() {
        open_codes::<Q>(tile, layout, b, &mut codes);
        if signed::<Q>() {
            codes.as_flattened_mut().iter_mut().for_each(|q| *q ^= 0x80);
        }
        let scales = &tile[layout.scales + b / per_scales * scale_bytes::<Q>()..][..scale_bytes::<Q>()];
        let x = Block::of(x, width);
        for half in 0..2 {
            let group = group_scales::<Q>(scales, b % per_scales, half);
            for (t, out) in out.iter_mut().enumerate() {
                // SAFETY: eight rows of the sixteen; the instructions are here.
                unsafe {
                    let sums = out.as_mut_ptr().add(half * HALF);
                    let sum = token::<Q>(&codes, half, &group, x, t, _mm256_loadu_ps(sums));
                    _mm256_storeu_ps(sums, sum);
                }
            }
        }
    }
}

const fn signed<Q: Quant>() -> bool {
    Q::LOW == 8
}

/// Scales and mins of the one or two groups of a block, one lane a row.
struct Group {
    scale: [__m256; 2],
    min: [__m256; 2],
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn group_scales<Q: Quant>(scales: &[u8], i: usize, half: usize) -> Group {
    let halves = |at: usize| {
        let bytes = &scales[at + half * 16..][..16];
        // SAFETY: sixteen bytes.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
    };
    let bytes = |at: usize| {
        let bytes = &scales[at + half * HALF..][..8];
        // SAFETY: eight bytes.
        unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) }
    };
    let unsigned = |at: usize| _mm256_cvtepu8_epi32(bytes(at));
    let d = halves(0);
    match Q::SCALES {
        Scales::Block => Group { scale: [d; 2], min: [_mm256_setzero_ps(); 2] },
        Scales::BlockMin => Group { scale: [d; 2], min: [halves(32); 2] },
        Scales::SuperMin => {
            let at = 64 + i / 2 * 48;
            let byte = unsigned(at + i % 2 * 16);
            let high = _mm256_srl_epi32(unsigned(at + 32), _mm_cvtsi32_si128((i % 2 * 4) as i32));
            let high = _mm256_and_si256(_mm256_slli_epi32::<2>(high), _mm256_set1_epi32(60));
            let scale = _mm256_cvtepi32_ps(_mm256_and_si256(byte, _mm256_set1_epi32(63)));
            let min = _mm256_cvtepi32_ps(_mm256_or_si256(_mm256_srli_epi32::<6>(byte), high));
            let (scale, min) = (_mm256_mul_ps(d, scale), _mm256_mul_ps(halves(32), min));
            Group { scale: [scale; 2], min: [min; 2] }
        }
        Scales::SuperSigned => {
            let scale = |g: usize| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes(32 + (2 * i + g) * 16)));
            Group { scale: [_mm256_mul_ps(d, scale(0)), _mm256_mul_ps(d, scale(1))], min: [_mm256_setzero_ps(); 2] }
        }
        Scales::SuperNibble => {
            let m = halves(32);
            let (a, b) = (unsigned(64 + 2 * i * 16), unsigned(64 + (2 * i + 1) * 16));
            let scale = |b| _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_and_si256(b, _mm256_set1_epi32(15))));
            let min = |b| _mm256_mul_ps(m, _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(b)));
            Group { scale: [scale(a), scale(b)], min: [min(a), min(b)] }
        }
    }
}

/// Adds one block's products of token `t` with eight rows to `sum`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn token<Q: Quant>(codes: &[[u8; 64]; 8], half: usize, group: &Group, x: Block<'_>, t: usize, sum: __m256) -> __m256 {
    let x_scale = _mm256_set1_ps(x.scale(t));
    let steps = Q::GROUP / 4;
    let mut sum = sum;
    for g in 0..BLOCK / Q::GROUP {
        let dot = dot::<Q>(&codes[g * steps..][..steps], half, &x.q(t)[g * Q::GROUP..][..Q::GROUP]);
        let minus_sum = x.minus_sum(t, (Q::GROUP != BLOCK).then_some(g));
        let dot = if signed::<Q>() { dot } else { _mm256_add_epi32(dot, _mm256_set1_epi32(minus_sum * Q::OFFSET)) };
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(group.scale[g], x_scale), sum);
        if Q::SCALES.has_min() {
            sum = _mm256_fmadd_ps(group.min[g], _mm256_set1_ps(x.scale(t) * minus_sum as f32), sum);
        }
    }
    sum
}

/// Dot products of eight rows with four columns a step.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn dot<Q: Quant>(codes: &[[u8; 64]], half: usize, x: &[i8]) -> __m256i {
    let run = match Q::LOW + Q::HIGH {
        2..=4 => 8,
        5 => 4,
        6 => 2,
        _ => 1,
    };
    let ones = _mm256_set1_epi16(1);
    let mut dot = _mm256_setzero_si256();
    for (codes, x) in codes.chunks(run).zip(x.chunks(run * 4)) {
        let mut short = _mm256_setzero_si256();
        for (codes, x) in codes.iter().zip(x.chunks_exact(4)) {
            // SAFETY: 32 bytes of the 64.
            let codes = unsafe { _mm256_loadu_si256(codes.as_ptr().add(half * 32).cast()) };
            let x = _mm256_set1_epi32(i32::from_ne_bytes([x[0] as u8, x[1] as u8, x[2] as u8, x[3] as u8]));
            let products = if signed::<Q>() {
                _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes))
            } else {
                _mm256_maddubs_epi16(codes, x)
            };
            short = _mm256_add_epi16(short, products);
        }
        dot = _mm256_add_epi32(dot, _mm256_madd_epi16(short, ones));
    }
    dot
}

/// The plain quantiser, compiled for these instructions. See [`super::quantize_group`].
///
/// # Safety
/// The machine must have the instructions that this function enables.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quantize_group(x: &[f32], cols: usize, width: usize, out: &mut [u8]) {
    super::scalar::quantize_group(x, cols, width, out);
}
