// Products with quantised weights: y = W x, with activations in bytes.
//
// Shapes   W `[rows][32 blocks]`, x `[tokens][32 blocks]`, y `[tokens][rows]`; columns come in blocks of 32.
// Layout   A weight is `unit[row] * (scale * code - min)`, with an unsigned code of 4, 5, 6 or 8 bits and halves `scale`
//          and `min` for each group of 32 or 16 columns. Planes lie one after the other, each over all rows:
//
//            low     [rows][blocks] 16 bytes: byte i is code i (low nibble) and code 16 + i (high nibble);
//                    of 8 bits: 32 bytes, the codes in order
//            high    [rows][blocks] 4 bytes (5 bits: bit 8 (i % 4) + i / 4 is the fifth bit of code i),
//                    or 8 bytes (6 bits: two bits at 8 (i % 4) + 2 (i % 16 / 4) of word i / 16)
//            scales  [rows][groups] two halves: scale, min
//            units   [rows] f32
//
//          Activations are `scale * byte`, rounded by `quantize`: bytes `[tokens][blocks][32]`, and for each block four
//          floats: its scale, and the sums of its first and last 16 bytes times the scale, and 0.
// Floor    weights once, for up to 64 tokens. Expected 75% of a copy's speed for one to eight tokens (`gemv`: a warp
//          takes two rows, a lane a block); with matrix instructions on bytes (`gemm`) 50% for 16, 20% for 64, whose sums
//          are scaled block by block: longer chunks go by halves.cuh.
//
// All products of bytes are exact; each block's is scaled and added in f32. Sums over blocks are taken in an order that
// depends on the shape alone.
#pragma once
#include "common.cuh"

#define BLOCK 32

template <int BITS> DEVICE u32 low_bytes() { return BITS == 8 ? 32 : 16; }
template <int BITS> DEVICE u32 high_bytes() { return BITS == 5 ? 4 : BITS == 6 ? 8 : 0; }

// Where the planes of a matrix lie.
struct Weights {
  const u8* low;
  const u8* high;
  const u32* scales;
  const f32* units;
};
template <int BITS, int GROUP> DEVICE Weights weights_at(u64 address, u32 rows, u32 blocks) {
  u64 all = (u64)rows * blocks;
  Weights w;
  w.low = at<u8>(address);
  w.high = w.low + all * low_bytes<BITS>();
  w.scales = (const u32*)(w.high + all * high_bytes<BITS>());
  w.units = (const f32*)(w.scales + all * (BLOCK / GROUP));
  return w;
}

// Bits of `codes` above the low four, of four codes `4 word ..` of the first half or the second.
template <int BITS> DEVICE u32 high_bits(const u8* high, u32 word, u32 half) {
  if (BITS == 5) return (*(const u32*)high >> (word + 4 * half) & 0x01010101u) << 4;
  if (BITS == 6) return (((const u32*)high)[half] >> (2 * word) & 0x03030303u) << 4;
  return 0;
}

struct Product {
  u64 weights, bytes, scales, out, bias;  // bias: f32 `[rows]` that is added, or 0
  u32 rows, blocks, tokens;
  u32 unused;
};

// Rounds the number that each lane of a warp has to a byte, and writes the block where it belongs to the warp (`there`): its
// 32 bytes, its scale and sums.
DEVICE void round_block(f32 x, u64 block, bool there, i8* bytes, f32* scales) {
  u32 lane = thread_index() % 32;
  // As whole numbers, magnitudes are in the order of the numbers, with what is infinite or no number on top.
  u32 most = bits_of(absolute(x));
  for (u32 mask = 16; mask > 0; mask /= 2) {
    u32 other = shuffle_xor(most, mask);
    most = other > most ? other : most;
  }
  f32 largest = float_of(most), scale = largest * (1.0f / 127.0f), inverse = largest > 1e-35f ? 127.0f / largest : 0;
  f32 product = x * inverse;
  i32 byte = product != product ? 0 : nearest_whole(clamped(product, -127.0f, 127.0f));
  i32 sum = byte;
  for (u32 mask = 8; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  i32 last = shuffle(sum, 16);
  if (there) {
    bytes[block * BLOCK + lane] = (i8)byte;
    if (lane == 0) {
      f32* out = scales + block * 4;
      out[0] = scale;
      out[1] = scale * (f32)sum;
      out[2] = scale * (f32)last;
      out[3] = 0;
    }
  }
}
