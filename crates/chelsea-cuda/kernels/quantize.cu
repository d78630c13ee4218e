// Activations to bytes, for products with quantised weights. See linear.cuh.
//
// Shapes   x `[tokens][columns]`, f32; a warp for each block of 32 columns, a lane for each number. Columns past the last
//          count as zeros.
// Floor    4 bytes read and 1.5 written for each number: with the launch, a few microseconds.
#include "linear.cuh"

struct Quantize {
  u64 x, bytes, scales;
  u32 columns, blocks, tokens, unused;
};

KERNEL(quantize, Quantize, 128) {
  u64 block = (u64)block_x() * 4 + thread_index() / 32, all = (u64)a.tokens * a.blocks;
  u32 lane = thread_index() % 32, column = (u32)(block % a.blocks) * BLOCK + lane;
  bool there = block < all;
  f32 x = there && column < a.columns ? at<f32>(a.x)[block / a.blocks * a.columns + column] : 0;
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
    at<i8>(a.bytes)[block * BLOCK + lane] = (i8)byte;
    if (lane == 0) {
      f32* out = at<f32>(a.scales) + block * 4;
      out[0] = scale;
      out[1] = scale * (f32)sum;
      out[2] = scale * (f32)last;
      out[3] = 0;
    }
  }
}
