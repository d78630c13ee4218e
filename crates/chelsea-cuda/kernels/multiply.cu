// Products of halves by matrix instructions, where there is no library for them. See halves.cuh.
//
// A block of eight warps makes 128 rows for 128 tokens, each of its warps 32 rows for 64 tokens. Slabs of 32 columns of both
// operands lie in shared memory, three of them: two are on their way while one is multiplied. Of a slab a lane reads 16
// bytes of a row: its numbers of two k-steps, which may be any as long as both operands agree (operands.cuh); 8 lanes read
// 128 bytes in a row, so that no bank is asked twice. Blocks that share weights follow one another.
//
// Expected: 40% of the matrix units' speed.
#include "halves.cuh"

#define TILE 128
#define SLAB 32
#define MULTIPLY_THREADS 256
#define PIECES (SLAB / 8)  // of 16 bytes, of a row of a slab
#define SLABS 3            // that lie in shared memory

struct Multiply {
  u64 weights, x, out;               // halves `[rows][columns]` and `[tokens][columns]`; f32 `[tokens][stride]`
  u32 rows, tokens, columns, stride;
  u64 units, bias;                   // f32 `[tokens]`; f32 `[rows]`, or 0
  f32 factor;                        // the unit of the weights
  u32 unused;
};

// Has a slab of rows `first` .. of a matrix copied; past the last, the last once more.
DEVICE void fetch_slab(uint4* to, u64 matrix, u32 first, u32 rows, u32 columns, u32 slab) {
  UNROLL
  for (u32 i = 0; i < TILE * PIECES; i += MULTIPLY_THREADS) {
    u32 place = thread_index() + i, row = min_of(first + place / PIECES, rows - 1);
    copy_later(to + place, (const uint4*)(at<u16>(matrix) + (u64)row * columns + slab * SLAB + place % PIECES * 8));
  }
}

KERNEL(multiply_opened, Multiply, MULTIPLY_THREADS) {
  SHARED(shared);
  u32 warp = thread_index() / 32, lane = thread_index() % 32, g = lane / 4, t = lane % 4;
  u32 token = block_x() * TILE, row = block_y() * TILE, own_token = warp % 2 * 64, own_row = warp / 2 * 32;
  // All lanes of a warp agree.
  bool works = token + own_token < a.tokens && row + own_row < a.rows;
  uint4* slabs = (uint4*)shared;  // [SLABS][x, weights][TILE][PIECES]
  f32 sums[4][4][4];
  UNROLL
  for (u32 m = 0; m < 4; m++) {
    UNROLL
    for (u32 n = 0; n < 4; n++) sums[m][n][0] = sums[m][n][1] = sums[m][n][2] = sums[m][n][3] = 0;
  }
  u32 count = a.columns / SLAB;
  // A slab, or none, is a group.
  for (u32 slab = 0; slab + 1 < SLABS; slab++) {
    if (slab < count) {
      uint4* to = slabs + slab * 2 * TILE * PIECES;
      fetch_slab(to, a.x, token, a.tokens, a.columns, slab);
      fetch_slab(to + TILE * PIECES, a.weights, row, a.rows, a.columns, slab);
    }
    end_group();
  }
  for (u32 slab = 0; slab < count; slab++) {
    wait_for_groups<SLABS - 2>();
    // Of all threads; and all are done with the slab whose place the next is fetched to.
    barrier();
    u32 next = slab + SLABS - 1;
    if (next < count) {
      uint4* to = slabs + next % SLABS * 2 * TILE * PIECES;
      fetch_slab(to, a.x, token, a.tokens, a.columns, next);
      fetch_slab(to + TILE * PIECES, a.weights, row, a.rows, a.columns, next);
    }
    end_group();
    const uint4 *x = slabs + slab % SLABS * 2 * TILE * PIECES, *weights = x + TILE * PIECES;
    if (works) {
      uint4 b[4];
      UNROLL
      for (u32 n = 0; n < 4; n++) b[n] = weights[(own_row + n * 8 + g) * PIECES + t];
      UNROLL
      for (u32 m = 0; m < 4; m++) {
        uint4 low = x[(own_token + m * 16 + g) * PIECES + t], high = x[(own_token + m * 16 + 8 + g) * PIECES + t];
        UNROLL
        for (u32 n = 0; n < 4; n++) {
          multiply_halves(sums[m][n], low.x, high.x, low.y, high.y, b[n].x, b[n].y);
          multiply_halves(sums[m][n], low.z, high.z, low.w, high.w, b[n].z, b[n].w);
        }
      }
    }
  }
  if (!works) return;
  UNROLL
  for (u32 m = 0; m < 4; m++) {
    UNROLL
    for (u32 half = 0; half < 2; half++) {
      u32 own = token + own_token + m * 16 + half * 8 + g;
      if (own < a.tokens) {
        f32 factor = at<f32>(a.units)[own] * a.factor;
        f32* out = at<f32>(a.out) + (u64)own * a.stride;
        UNROLL
        for (u32 n = 0; n < 4; n++) {
          UNROLL
          for (u32 c = 0; c < 2; c++) {
            u32 place = row + own_row + n * 8 + 2 * t + c;
            if (place < a.rows) out[place] = sums[m][n][2 * half + c] * factor + (a.bias ? at<f32>(a.bias)[place] : 0);
          }
        }
      }
    }
  }
}
