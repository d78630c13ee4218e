// How entries lie in a GPU's memory.
//
// A page holds 64 entries of one KV head, D numbers a key and D a value (D is a multiple of 16, at most 256):
//
//   keys        [64][D]      halves, or bytes
//   values      [D][64]      halves, or bytes, or half bytes (32 bytes a row)
//   scales      [64] of keys, [64] of values, f32; pages of halves have none
//   ln count    [64] f32, -inf where no entry is
//   counts      [64] u32, 0 where no entry is
//   positions   [64] f32
//
// What the numbers mean, and how they are rounded, is as in pages of the CPU. Values are transposed so that the matrix
// instructions' operands are loaded in 16 bytes a lane: keys are multiplied along D, values along entries. Of half bytes, the
// 16 entries 16 t .. of a row lie in two words: entry 4 s + i is nibble s + 4 (i % 2) of word i / 2, so that shifting
// by 4 s and masking leaves two neighbours where two halves have their low bits.
#pragma once
#include "common.cuh"

#define PAGE 64

enum Type { F16 = 0, Q8 = 1, K8V4 = 2 };

template <int TYPE> DEVICE u32 key_row_bytes(u32 dim) { return TYPE == F16 ? 2 * dim : dim; }
template <int TYPE> DEVICE u32 value_row_bytes() { return TYPE == F16 ? 2 * PAGE : TYPE == Q8 ? PAGE : PAGE / 2; }
template <int TYPE> DEVICE u32 values_at(u32 dim) { return PAGE * key_row_bytes<TYPE>(dim); }
template <int TYPE> DEVICE u32 scales_at(u32 dim) { return values_at<TYPE>(dim) + dim * value_row_bytes<TYPE>(); }
template <int TYPE> DEVICE u32 meta_at(u32 dim) { return scales_at<TYPE>(dim) + (TYPE == F16 ? 0 : 2 * PAGE * 4); }
template <int TYPE> DEVICE u64 page_bytes(u32 dim) { return meta_at<TYPE>(dim) + 3 * PAGE * 4; }

// Where half byte `entry` of a row of values lies.
DEVICE u32 nibble_byte(u32 entry) { return entry / 16 * 8 + entry % 4 / 2 * 4 + entry % 16 / 8 + entry % 2 * 2; }
DEVICE u32 nibble_shift(u32 entry) { return entry % 8 / 4 * 4; }

// The scale of a row of bytes whose largest number is `largest`, without its sign.
DEVICE f32 byte_scale(f32 largest) {
  f32 scale = min_of(largest, 1.7014117e38f) / 127.0f;
  return scale < 1.17549435e-38f ? 0.0f : scale;
}
DEVICE f32 inverse_of(f32 scale) { return scale == 0.0f ? 0.0f : 1.0f / scale; }
DEVICE i8 to_byte(f32 x, f32 inverse) { return (i8)(u8)bits_of(clamped(x * inverse, -127.0f, 127.0f) + 12582912.0f); }
DEVICE f32 nibble_whole(f32 x) { return (clamped(x, -8.0f, 7.0f) + 12582912.0f) - 12582912.0f; }
