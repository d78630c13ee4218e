// Activations to bytes, for products with quantised weights, alone or with what makes them. See linear.cuh.
//
// Shapes   `quantize`: x `[tokens][columns]`, f32; a warp for each block of 32 columns, a lane for each number.
//          `gate_round`: the same of `activation(gate) * up`. `norm_round`: x `[rows][width]`, a block of threads for each row;
//          `y` of the same shape is added to x before, where there is one. Columns past the last count as zeros.
// Floor    4 bytes read (8 where two rows are) and 1.5 written for each number: in decode the launch is what it costs.
#include "block.cuh"
#include "gate.cuh"
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
  round_block(x, block, there, at<i8>(a.bytes), at<f32>(a.scales));
}

struct GateRound {
  u64 gate, up, bytes, scales;
  u32 columns, blocks, tokens, activation;
  f32 alpha, limit;
};

KERNEL(gate_round, GateRound, 128) {
  u64 block = (u64)block_x() * 4 + thread_index() / 32, all = (u64)a.tokens * a.blocks;
  u32 lane = thread_index() % 32, column = (u32)(block % a.blocks) * BLOCK + lane;
  bool there = block < all;
  f32 x = 0;
  if (there && column < a.columns) {
    u64 i = block / a.blocks * a.columns + column;
    x = gated(at<f32>(a.gate)[i], at<f32>(a.up)[i], a.activation, a.alpha, a.limit);
  }
  round_block(x, block, there, at<i8>(a.bytes), at<f32>(a.scales));
}

struct NormRound {
  u64 x, y, weight, bytes, scales;  // y: 0 for none
  u32 width, blocks;
  f32 eps;
  u32 unused;
};

KERNEL(norm_round, NormRound, ROW_THREADS) {
  SHARED(shared);
  u64 row = block_x();
  f32* x = at<f32>(a.x) + row * a.width;
  const f32* y = at<f32>(a.y) + row * a.width;
  f32 sum = 0;
  for (u32 i = thread_index(); i < a.width; i += ROW_THREADS) {
    f32 number = x[i];
    if (a.y) {
      number += y[i];
      x[i] = number;
    }
    sum += number * number;
  }
  sum = block_sum(sum, (f32*)shared);
  f32 scale = 1.0f / sqrtf(sum / (f32)a.width + a.eps);
  // A thread has the columns that it has read (and written) before.
  for (u32 block = thread_index() / 32; block < a.blocks; block += ROW_THREADS / 32) {
    u32 i = block * BLOCK + thread_index() % 32;
    f32 number = i < a.width ? x[i] * scale * at<f32>(a.weight)[i] : 0;
    round_block(number, row * a.blocks + block, true, at<i8>(a.bytes), at<f32>(a.scales));
  }
}
