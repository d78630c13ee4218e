//! AVX-512 with VNNI: `vpdpbusd` multiplies one step of a tile (64 unsigned codes) by four columns of
//! a token, broadcast from memory, and adds into 16 sums, one per row.
//!
//! A block's codes are brought from their bit planes into eight registers once and meet all tokens of
//! the group there. The zero of symmetric codes is folded into the start value of the integer sums,
//! mins meet the sum of the activations in one more multiply-add.

#![allow(unsafe_code)]

use super::x86::{minus_sums, prefetch};
use crate::byte_block::{GROUP, ROW_BYTES, SMALLEST};
use crate::quant::{Quant, Scales, numbers};
use crate::rows::Picked;
use crate::tile::{BLOCK, Layout, SUPER, TILE, block_bytes, high_bytes, low_bytes, scale_bytes};
use std::arch::x86_64::*;

/// Repeats an expression with constant indices, so that arrays of registers stay in registers.
macro_rules! unroll {
    ($i:ident, $body:expr, $($n:literal)*) => {{ $({ let $i: usize = $n; $body; })* }};
}
macro_rules! unroll2 {
    ($i:ident, $body:expr) => {
        unroll!($i, $body, 0 1)
    };
}
macro_rules! unroll4 {
    ($i:ident, $body:expr) => {
        unroll!($i, $body, 0 1 2 3)
    };
}
macro_rules! unroll8 {
    ($i:ident, $body:expr) => {
        unroll!($i, $body, 0 1 2 3 4 5 6 7)
    };
}

/// Tokens whose sums are interleaved to hide the latency of the dot product.
const STRANDS: usize = 4;

/// See [`super::TileKernel`].
///
/// # Safety
/// The machine must have the instructions that this function enables.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn tile<Q: Quant, const T: usize>(tile: &[u8], acts: &[u8], out: &mut [[f32; TILE]]) {
    let blocks = acts.len() / (T * ROW_BYTES);
    let layout = Layout::of::<Q>(blocks);
    assert!(tile.len() >= layout.bytes && out.len() == T);
    let mut sums = [_mm512_setzero_ps(); T];
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
            let (d, m) = super_scales::<Q>(scales);
            for i in 0..per_scales {
                prefetch(tile, ahead, step);
                ahead += step;
                let codes = unpack::<Q>(low, high);
                let group = group_scales::<Q>(scales, i, d, m);
                block::<Q, T>(&codes, &group, x, &mut sums);
                low = low.add(low_bytes::<Q>());
                high = high.add(high_bytes::<Q>());
                x = x.add(T * ROW_BYTES);
            }
            scales = scales.add(scale_bytes::<Q>());
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            _mm512_storeu_ps(out.as_mut_ptr(), sum);
        }
    }
}

/// Scales and mins of the one or two groups of a block, one lane a row.
pub(super) struct Group {
    pub scale: [__m512; 2],
    pub min: [__m512; 2],
}

/// The half-precision scales and mins at the head of a (super-)block's scales, or its powers of two.
///
/// # Safety
/// `scales` must point at `scale_bytes::<Q>()` bytes.
#[inline(always)]
pub(super) unsafe fn super_scales<Q: Quant>(scales: *const u8) -> (__m512, __m512) {
    // SAFETY: 32 bytes of halves, 64 where there are mins; 16 bytes of exponents.
    unsafe {
        if Q::SCALES == Scales::Exponent {
            let e = _mm512_cvtepu8_epi32(_mm_loadu_si128(scales.cast()));
            let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
            let small = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
            let bits = _mm512_mask_sllv_epi32(normal, small, _mm512_set1_epi32(0x20_0000), e);
            return (_mm512_castsi512_ps(bits), _mm512_setzero_ps());
        }
        let d = _mm512_cvtph_ps(_mm256_loadu_si256(scales.cast()));
        let m = if Q::SCALES.has_min() {
            _mm512_cvtph_ps(_mm256_loadu_si256(scales.add(32).cast()))
        } else {
            _mm512_setzero_ps()
        };
        (d, m)
    }
}

/// # Safety
/// `scales` must point at `scale_bytes::<Q>()` bytes, and `i` be a block within them.
#[inline(always)]
pub(super) unsafe fn group_scales<Q: Quant>(scales: *const u8, i: usize, d: __m512, m: __m512) -> Group {
    // SAFETY: group `i` (groups `2 i` and `2 i + 1` of 16 columns) lies inside the scales.
    unsafe {
        match Q::SCALES {
            Scales::Block | Scales::BlockMin | Scales::Exponent => Group { scale: [d; 2], min: [m; 2] },
            Scales::SuperMin => {
                let at = scales.add(64 + i / 2 * 48);
                let byte = _mm512_cvtepu8_epi32(_mm_loadu_si128(at.add(i % 2 * 16).cast()));
                let high = _mm512_cvtepu8_epi32(_mm_loadu_si128(at.add(32).cast()));
                let high = _mm512_srl_epi32(high, _mm_cvtsi32_si128((i % 2 * 4) as i32));
                let high = _mm512_and_si512(_mm512_slli_epi32::<2>(high), _mm512_set1_epi32(60));
                let scale = _mm512_cvtepi32_ps(_mm512_and_si512(byte, _mm512_set1_epi32(63)));
                let min = _mm512_cvtepi32_ps(_mm512_or_si512(_mm512_srli_epi32::<6>(byte), high));
                Group { scale: [_mm512_mul_ps(d, scale); 2], min: [_mm512_mul_ps(m, min); 2] }
            }
            Scales::SuperSigned => {
                let scale = |g: usize| {
                    let g = BLOCK / Q::GROUP * i + g;
                    let bytes = _mm_loadu_si128(scales.add(32 + g * 16).cast());
                    _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)))
                };
                if Q::GROUP == BLOCK {
                    return Group { scale: [scale(0); 2], min: [m; 2] };
                }
                Group { scale: [scale(0), scale(1)], min: [m; 2] }
            }
            Scales::SuperNibble => {
                let bytes = |g: usize| _mm512_cvtepu8_epi32(_mm_loadu_si128(scales.add(64 + (2 * i + g) * 16).cast()));
                let scale = |b| _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_and_si512(b, _mm512_set1_epi32(15))));
                let min = |b| _mm512_mul_ps(m, _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(b)));
                let (a, b) = (bytes(0), bytes(1));
                Group { scale: [scale(a), scale(b)], min: [min(a), min(b)] }
            }
        }
    }
}

/// The eight steps of a block, as unsigned numbers.
///
/// # Safety
/// `low` and `high` must point at a block's planes.
#[inline(always)]
pub(super) unsafe fn unpack<Q: Quant>(low: *const u8, high: *const u8) -> [__m512i; 8] {
    // SAFETY: by the contract.
    unsafe {
        let load = |p: *const u8, v: usize| _mm512_loadu_si512(p.add(v * 64).cast());
        let mut steps = [_mm512_setzero_si512(); 8];
        match Q::LOW {
            8 => unroll8!(s, steps[s] = load(low, s)),
            4 => {
                let mask = _mm512_set1_epi8(15);
                unroll4!(v, {
                    let both = load(low, v);
                    steps[v] = _mm512_and_si512(both, mask);
                    steps[v + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask);
                });
            }
            _ => {
                let mask = _mm512_set1_epi8(3);
                let (a, b) = (load(low, 0), load(low, 1));
                steps[0] = _mm512_and_si512(a, mask);
                steps[1] = _mm512_and_si512(b, mask);
                steps[2] = _mm512_and_si512(_mm512_srli_epi16::<2>(a), mask);
                steps[3] = _mm512_and_si512(_mm512_srli_epi16::<2>(b), mask);
                steps[4] = _mm512_and_si512(_mm512_srli_epi16::<4>(a), mask);
                steps[5] = _mm512_and_si512(_mm512_srli_epi16::<4>(b), mask);
                steps[6] = _mm512_and_si512(_mm512_srli_epi16::<6>(a), mask);
                steps[7] = _mm512_and_si512(_mm512_srli_epi16::<6>(b), mask);
            }
        }
        if Q::TABLE.is_some() {
            let numbers = const { &numbers::<Q>() };
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(numbers.as_ptr().cast()));
            unroll8!(s, steps[s] = _mm512_shuffle_epi8(table, steps[s]));
        }
        // The high bits, moved to bit `LOW` of their byte.
        if Q::HIGH == 1 {
            let bits = load(high, 0);
            let mask = _mm512_set1_epi8(1 << (Q::LOW % 8));
            unroll8!(s, {
                let moved = if s < Q::LOW {
                    _mm512_sll_epi16(bits, _mm_cvtsi32_si128((Q::LOW - s) as i32))
                } else {
                    _mm512_srl_epi16(bits, _mm_cvtsi32_si128((s - Q::LOW) as i32))
                };
                steps[s] = and_or(moved, mask, steps[s]);
            });
        }
        if Q::HIGH == 2 {
            let mask = _mm512_set1_epi8(0x30);
            unroll2!(v, {
                let bits = load(high, v);
                steps[v] = and_or(_mm512_slli_epi16::<4>(bits), mask, steps[v]);
                steps[2 + v] = and_or(_mm512_slli_epi16::<2>(bits), mask, steps[2 + v]);
                steps[4 + v] = and_or(bits, mask, steps[4 + v]);
                steps[6 + v] = and_or(_mm512_srli_epi16::<2>(bits), mask, steps[6 + v]);
            });
        }
        steps
    }
}

/// `(a & b) | c`.
#[inline(always)]
unsafe fn and_or(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    // SAFETY: the caller has AVX-512.
    unsafe { _mm512_ternarylogic_epi32::<0xEA>(a, b, c) }
}

/// What the tokens of a block bring besides their bytes: start values of the integer sums, and
/// `-scale * sum` for the mins; one of each per group of columns.
struct Starts {
    sum: [[i32; 16]; 2],
    min: [[f32; 16]; 2],
}

/// # Safety
/// `x` must point at a block of activations of `T` tokens.
#[inline(always)]
unsafe fn starts<Q: Quant, const T: usize>(x: *const u8) -> Starts {
    let mut starts = Starts { sum: [[0; 16]; 2], min: [[0.0; 16]; 2] };
    // SAFETY: masked to the `T` tokens that are there.
    unsafe {
        let mask: __mmask16 = ((1u32 << T) - 1) as u16;
        let pairs = |at: usize| _mm512_maskz_loadu_epi32(mask, x.add(T * at).cast());
        let sum = |pairs| _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
        let (first, second) = (pairs(BLOCK + 4), pairs(BLOCK + 8));
        let (first, second) = if Q::GROUP == BLOCK {
            let all = sum(_mm512_add_epi16(first, second));
            (all, all)
        } else {
            (sum(first), sum(second))
        };
        if Q::OFFSET > 0 {
            let shift = _mm_cvtsi32_si128(Q::OFFSET.trailing_zeros() as i32);
            _mm512_storeu_si512(starts.sum[0].as_mut_ptr().cast(), _mm512_sll_epi32(first, shift));
            if Q::GROUP != BLOCK {
                _mm512_storeu_si512(starts.sum[1].as_mut_ptr().cast(), _mm512_sll_epi32(second, shift));
            }
        }
        if Q::SCALES.has_min() {
            let scale = _mm512_maskz_loadu_ps(mask, x.add(T * BLOCK).cast());
            _mm512_storeu_ps(starts.min[0].as_mut_ptr(), _mm512_mul_ps(scale, _mm512_cvtepi32_ps(first)));
            if Q::GROUP != BLOCK {
                _mm512_storeu_ps(starts.min[1].as_mut_ptr(), _mm512_mul_ps(scale, _mm512_cvtepi32_ps(second)));
            }
        }
    }
    starts
}

/// Adds one block's products of all tokens.
///
/// # Safety
/// `x` must point at a block of activations of `T` tokens.
#[inline(always)]
unsafe fn block<Q: Quant, const T: usize>(codes: &[__m512i; 8], group: &Group, x: *const u8, sums: &mut [__m512; T]) {
    // SAFETY: token `t < T` of the block; the caller has the instructions.
    unsafe {
        let starts = starts::<Q, T>(x);
        let start = |g: usize, t: usize| {
            if Q::OFFSET > 0 { _mm512_set1_epi32(starts.sum[g][t]) } else { _mm512_setzero_si512() }
        };
        let four = |t: usize, s: usize| _mm512_set1_epi32(x.add(t * BLOCK + s * 4).cast::<i32>().read_unaligned());
        let scales = x.add(T * BLOCK).cast::<f32>();
        unroll2!(quad, {
            if quad * STRANDS < T {
                let first = quad * STRANDS;
                let n = if T - first < STRANDS { T - first } else { STRANDS };
                let mut dot = [_mm512_setzero_si512(); STRANDS];
                let mut head = [_mm512_setzero_ps(); STRANDS];
                unroll4!(
                    i,
                    if i < n {
                        dot[i] = start(0, first + i)
                    }
                );
                unroll8!(s, {
                    if s == 4 && Q::GROUP != BLOCK {
                        unroll4!(
                            i,
                            if i < n {
                                head[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[i]), group.scale[0]);
                                dot[i] = start(1, first + i);
                            }
                        );
                    }
                    unroll4!(
                        i,
                        if i < n {
                            dot[i] = _mm512_dpbusd_epi32(dot[i], codes[s], four(first + i, s))
                        }
                    );
                });
                unroll4!(
                    i,
                    if i < n {
                        let t = first + i;
                        let scale = _mm512_set1_ps(scales.add(t).read_unaligned());
                        let dot = _mm512_cvtepi32_ps(dot[i]);
                        if Q::GROUP == BLOCK {
                            sums[t] = _mm512_fmadd_ps(dot, _mm512_mul_ps(group.scale[0], scale), sums[t]);
                        } else {
                            sums[t] = _mm512_fmadd_ps(_mm512_fmadd_ps(dot, group.scale[1], head[i]), scale, sums[t]);
                        }
                        if Q::SCALES.has_min() {
                            sums[t] = _mm512_fmadd_ps(group.min[0], _mm512_set1_ps(starts.min[0][t]), sums[t]);
                            if Q::GROUP != BLOCK {
                                sums[t] = _mm512_fmadd_ps(group.min[1], _mm512_set1_ps(starts.min[1][t]), sums[t]);
                            }
                        }
                    }
                );
            }
        });
    }
}

/// See [`super::quantize_group`].
///
/// # Safety
/// The machine must have the instructions that this function enables.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn quantize_group(rows: Picked<'_>, width: usize, out: &mut [u8]) {
    let blocks = rows.cols.div_ceil(BLOCK);
    assert!(out.len() == blocks * width * ROW_BYTES && rows.len() <= width);
    if rows.len() < width {
        out.fill(0);
    }
    let absolute = _mm512_set1_epi32(0x7fff_ffff);
    for (t, x) in rows.iter().enumerate() {
        for (x, out) in x.chunks(BLOCK).zip(out.chunks_exact_mut(width * ROW_BYTES)) {
            // SAFETY: loads are masked to the numbers that are there; stores stay inside this token's
            // part of the block.
            unsafe {
                let mask = u32::MAX >> (BLOCK - x.len());
                let a = _mm512_maskz_loadu_ps(mask as u16, x.as_ptr());
                let b = _mm512_maskz_loadu_ps((mask >> 16) as u16, x.as_ptr().wrapping_add(16));
                let abs_a = _mm512_and_si512(_mm512_castps_si512(a), absolute);
                let abs_b = _mm512_and_si512(_mm512_castps_si512(b), absolute);
                // As integers, absolute values order like the numbers, with infinity and NaN on top.
                let amax = f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(abs_a, abs_b)));
                let inverse = _mm512_set1_ps(if amax > SMALLEST { 127.0 / amax } else { 0.0 });
                let finite = if amax.is_finite() { 0xffff } else { 0 };
                let a = _mm512_maskz_cvtps_epi32(finite, _mm512_mul_ps(a, inverse));
                let b = _mm512_maskz_cvtps_epi32(finite, _mm512_mul_ps(b, inverse));
                let q = out.as_mut_ptr().add(t * BLOCK);
                let (a, b) = (_mm512_cvtsepi32_epi8(a), _mm512_cvtsepi32_epi8(b));
                _mm_storeu_si128(q.cast(), a);
                _mm_storeu_si128(q.add(16).cast(), b);
                let tail = out.as_mut_ptr().add(width * BLOCK + t * 4);
                tail.cast::<f32>().write_unaligned(amax * (1.0 / 127.0));
                let [first, second] = minus_sums(_mm256_set_m128i(b, a));
                tail.add(width * 4).cast::<[i16; 2]>().write_unaligned(first);
                tail.add(width * 8).cast::<[i16; 2]>().write_unaligned(second);
            }
        }
    }
}

const _: () = assert!(SUPER == 8 * BLOCK && TILE == 16 && GROUP <= 2 * STRANDS);
