//! GGML blocks, opened: where each type keeps its codes, scales and mins. The packed tiles and [`dequantize`] both
//! build on it.

use crate::error::LinearError;
use crate::floats;
use crate::quant::{Codes, Quant, Scales};
use crate::types::GgmlType;
use half::f16;

fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// Low nibbles are the first 16 weights, high nibbles the last 16.
#[inline(always)]
fn nibbles(src: &[u8], q: &mut [u8]) {
    let (first, last) = q.split_at_mut(src.len());
    for ((&s, a), b) in src.iter().zip(first).zip(last) {
        *a = s & 15;
        *b = s >> 4;
    }
}

#[inline(always)]
fn fifth_bits(src: &[u8], q: &mut [u8]) {
    let bits = u32::from_le_bytes([src[0], src[1], src[2], src[3]]);
    for (i, q) in q[..32].iter_mut().enumerate() {
        *q |= ((bits >> i) as u8 & 1) << 4;
    }
}

macro_rules! quant {
    ($(#[$doc:meta])* $name:ident, $len:literal, $bytes:literal, $low:literal + $high:literal, $group:literal, $offset:literal,
     $scales:ident $(, table $table:expr)?, |$block:ident, $codes:ident| $open:block) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name;
        impl Quant for $name {
            const LEN: usize = $len;
            const BYTES: usize = $bytes;
            const LOW: usize = $low;
            const HIGH: usize = $high;
            const GROUP: usize = $group;
            const OFFSET: i32 = $offset;
            const SCALES: Scales = Scales::$scales;
            $(const TABLE: Option<[i8; 16]> = Some($table);)?
            #[inline(always)]
            fn open($block: &[u8], $codes: &mut Codes) {
                assert_eq!($block.len(), Self::BYTES);
                $open
            }
        }
    };
}

quant!(Q4_0, 32, 18, 4 + 0, 32, 8, Block, |block, codes| {
    codes.d = u16_at(block, 0);
    nibbles(&block[2..18], &mut codes.q[..32]);
});

quant!(
    /// The file's min is added, ours is subtracted: the sign bit is turned.
    Q4_1, 32, 20, 4 + 0, 32, 0, BlockMin, |block, codes| {
    codes.d = u16_at(block, 0);
    codes.m = u16_at(block, 2) ^ 0x8000;
    nibbles(&block[4..20], &mut codes.q[..32]);
});

quant!(Q5_0, 32, 22, 4 + 1, 32, 16, Block, |block, codes| {
    codes.d = u16_at(block, 0);
    nibbles(&block[6..22], &mut codes.q[..32]);
    fifth_bits(&block[2..6], &mut codes.q);
});

quant!(
    /// The file's min is added, ours is subtracted: the sign bit is turned.
    Q5_1, 32, 24, 4 + 1, 32, 0, BlockMin, |block, codes| {
    codes.d = u16_at(block, 0);
    codes.m = u16_at(block, 2) ^ 0x8000;
    nibbles(&block[8..24], &mut codes.q[..32]);
    fifth_bits(&block[4..8], &mut codes.q);
});

quant!(Q8_0, 32, 34, 8 + 0, 32, 128, Block, |block, codes| {
    codes.d = u16_at(block, 0);
    for (q, &s) in codes.q[..32].iter_mut().zip(&block[2..34]) {
        *q = s ^ 0x80;
    }
});

quant!(Q2K, 256, 84, 2 + 0, 16, 0, SuperNibble, |block, codes| {
    codes.d = u16_at(block, 80);
    codes.m = u16_at(block, 82);
    for (i, &s) in block[..16].iter().enumerate() {
        codes.scale[i] = s & 15;
        codes.min[i] = s >> 4;
    }
    pairs(&block[16..80], &mut codes.q);
});

quant!(Q3K, 256, 110, 2 + 1, 16, 4, SuperSigned, |block, codes| {
    codes.d = u16_at(block, 108);
    let packed = &block[96..108];
    for i in 0..16 {
        let low = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
        let high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
        codes.scale[i] = (low | high << 4).wrapping_sub(32);
    }
    pairs(&block[32..96], &mut codes.q);
    for (j, q) in codes.q.chunks_exact_mut(32).enumerate() {
        for (q, &mask) in q.iter_mut().zip(&block[..32]) {
            *q |= ((mask >> j) & 1) << 2;
        }
    }
});

quant!(Q4K, 256, 144, 4 + 0, 32, 0, SuperMin, |block, codes| {
    codes.d = u16_at(block, 0);
    codes.m = u16_at(block, 2);
    six_bit_scales(&block[4..16], codes);
    for (src, q) in block[16..144].chunks_exact(32).zip(codes.q.chunks_exact_mut(64)) {
        nibbles(src, q);
    }
});

quant!(Q5K, 256, 176, 4 + 1, 32, 0, SuperMin, |block, codes| {
    codes.d = u16_at(block, 0);
    codes.m = u16_at(block, 2);
    six_bit_scales(&block[4..16], codes);
    for (src, q) in block[48..176].chunks_exact(32).zip(codes.q.chunks_exact_mut(64)) {
        nibbles(src, q);
    }
    for (j, q) in codes.q.chunks_exact_mut(32).enumerate() {
        for (q, &high) in q.iter_mut().zip(&block[16..48]) {
            *q |= ((high >> j) & 1) << 4;
        }
    }
});

quant!(Q6K, 256, 210, 4 + 2, 16, 32, SuperSigned, |block, codes| {
    codes.d = u16_at(block, 208);
    codes.scale.copy_from_slice(&block[192..208]);
    for (half, q) in codes.q.chunks_exact_mut(128).enumerate() {
        nibbles(&block[half * 64..half * 64 + 64], q);
        let high = &block[128 + half * 32..128 + half * 32 + 32];
        for (j, q) in q.chunks_exact_mut(32).enumerate() {
            for (q, &high) in q.iter_mut().zip(high) {
                *q |= ((high >> (2 * j)) & 3) << 4;
            }
        }
    }
});

/// The sixteen numbers of IQ4_NL and IQ4_XS.
const UNEVEN: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

quant!(IQ4NL, 32, 18, 4 + 0, 32, 128, Block, table UNEVEN, |block, codes| {
    codes.d = u16_at(block, 0);
    nibbles(&block[2..18], &mut codes.q[..32]);
});

quant!(IQ4XS, 256, 136, 4 + 0, 32, 128, SuperSigned, table UNEVEN, |block, codes| {
    codes.d = u16_at(block, 0);
    let high = u16_at(block, 2);
    for j in 0..8 {
        let low = block[4 + j / 2] >> (4 * (j % 2)) & 15;
        codes.scale[j] = (low | ((high >> (2 * j)) as u8 & 3) << 4).wrapping_sub(32);
    }
    for (src, q) in block[8..136].chunks_exact(16).zip(codes.q.chunks_exact_mut(32)) {
        nibbles(src, q);
    }
});

quant!(
    /// Four-bit floats (e2m1: a sign, two bits of exponent, one of mantissa), taken twice, so that they are integers,
    /// under half the power of two.
    MXFP4, 32, 17, 4 + 0, 32, 16, Exponent, table [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12],
    |block, codes| {
    codes.d = u16::from(block[0]);
    nibbles(&block[1..17], &mut codes.q[..32]);
});

/// Two-bit codes: each half of a block takes 32 bytes, which hold 4 runs of 32 weights.
#[inline(always)]
fn pairs(src: &[u8], q: &mut [u8; 256]) {
    for (src, q) in src.chunks_exact(32).zip(q.chunks_exact_mut(128)) {
        for (j, q) in q.chunks_exact_mut(32).enumerate() {
            for (q, &s) in q.iter_mut().zip(src) {
                *q = (s >> (2 * j)) & 3;
            }
        }
    }
}

/// Eight six-bit scales and eight six-bit mins in 12 bytes.
#[inline(always)]
fn six_bit_scales(s: &[u8], codes: &mut Codes) {
    for j in 0..4 {
        codes.scale[j] = s[j] & 63;
        codes.min[j] = s[j + 4] & 63;
        codes.scale[j + 4] = (s[j + 8] & 15) | (s[j] >> 6) << 4;
        codes.min[j + 4] = (s[j + 8] >> 4) | (s[j + 4] >> 6) << 4;
    }
}

/// Calls `$body` with `$q` bound to the quantised type of `$ty`; float types go to `$float`.
macro_rules! with_quant {
    ($ty:expr, $q:ident => $body:expr, $float:pat => $otherwise:expr) => {{
        use $crate::blocks::*;
        match $ty {
            $crate::types::GgmlType::Q4_0 => {
                type $q = Q4_0;
                $body
            }
            $crate::types::GgmlType::Q4_1 => {
                type $q = Q4_1;
                $body
            }
            $crate::types::GgmlType::Q5_0 => {
                type $q = Q5_0;
                $body
            }
            $crate::types::GgmlType::Q5_1 => {
                type $q = Q5_1;
                $body
            }
            $crate::types::GgmlType::Q8_0 => {
                type $q = Q8_0;
                $body
            }
            $crate::types::GgmlType::Q2K => {
                type $q = Q2K;
                $body
            }
            $crate::types::GgmlType::Q3K => {
                type $q = Q3K;
                $body
            }
            $crate::types::GgmlType::Q4K => {
                type $q = Q4K;
                $body
            }
            $crate::types::GgmlType::Q5K => {
                type $q = Q5K;
                $body
            }
            $crate::types::GgmlType::Q6K => {
                type $q = Q6K;
                $body
            }
            $crate::types::GgmlType::IQ4NL => {
                type $q = IQ4NL;
                $body
            }
            $crate::types::GgmlType::IQ4XS => {
                type $q = IQ4XS;
                $body
            }
            $crate::types::GgmlType::MXFP4 => {
                type $q = MXFP4;
                $body
            }
            $float => $otherwise,
        }
    }};
}
pub(crate) use with_quant;

fn dequantize_quant<Q: Quant>(data: &[u8], out: &mut [f32]) {
    let mut codes = Codes::new();
    for (block, out) in data.chunks_exact(Q::BYTES).zip(out.chunks_exact_mut(Q::LEN)) {
        Q::open(block, &mut codes);
        for (g, (out, q)) in out.chunks_exact_mut(Q::GROUP).zip(codes.q.chunks_exact(Q::GROUP)).enumerate() {
            let (scale, min) = codes.group(Q::SCALES, g);
            for (out, &q) in out.iter_mut().zip(q) {
                *out = scale * (i32::from(Q::number(q)) - Q::OFFSET) as f32 - min;
            }
        }
    }
}

/// Writes the weights that `data` holds as numbers.
///
/// # Errors
/// [`LinearError::PartialBlock`] when `out` is not a whole number of blocks, [`LinearError::Length`]
/// when `data` is not what `out.len()` weights take.
pub fn dequantize(ty: GgmlType, data: &[u8], out: &mut [f32]) -> Result<(), LinearError> {
    let expected = ty.bytes_for(1, out.len())?;
    if data.len() != expected {
        return Err(LinearError::Length { ty, expected, found: data.len() });
    }
    open_any(ty, data, out);
    Ok(())
}

/// Opens whole blocks of any type; `data` is what `out.len()` weights take.
#[inline(always)]
pub(crate) fn open_any(ty: GgmlType, data: &[u8], out: &mut [f32]) {
    with_quant!(ty, Q => dequantize_quant::<Q>(data, out), float => floats::open(float, data, out));
}

/// Rounds 32 or fewer numbers (the rest counts as zeros) to codes of [`Q8_0`]: how float weights come
/// into packed tiles. Rounding is to the nearest code under the half-precision scale. Where one is not finite, the scale is
/// not a number, and so is what comes of it: a damaged weight shows.
pub(crate) fn round_to_q8(x: &[f32], codes: &mut Codes) {
    if x.iter().any(|x| !x.is_finite()) {
        codes.d = f16::NAN.to_bits();
        codes.q[..32].fill(129);
        return;
    }
    let amax = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    let d = f16::from_f32((amax / 127.0).min(f16::MAX.to_f32()));
    let inverse = if d.to_f32() > 0.0 { 1.0 / d.to_f32() } else { 0.0 };
    codes.d = d.to_bits();
    codes.q[..32].fill(128);
    for (q, &x) in codes.q.iter_mut().zip(x) {
        *q = ((x * inverse).round_ties_even().clamp(-127.0, 127.0) as i32 + 128) as u8;
    }
}
