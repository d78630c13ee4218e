// Weights of some rows as halves. See halves.cuh and, for how they lie before, linear.cuh.
//
// A thread opens eight weights: a quarter of a block of 32 columns.
#include "halves.cuh"

#define OPEN_THREADS 256

struct Open {
  u64 weights, out;               // out: halves `[count][32 blocks]`
  u32 rows, blocks, first, count;  // rows of the matrix, and those that are opened
  f32 factor;                     // one over the unit of the matrix
  u32 unused;
};

template <int BITS, int GROUP> DEVICE void open(const Open& a) {
  u64 place = (u64)block_x() * OPEN_THREADS + thread_index(), quarter = place % 4, block = (u64)a.first * a.blocks + place / 4;
  if (place >= (u64)a.count * a.blocks * 4) return;
  Weights w = weights_at<BITS, GROUP>(a.weights, a.rows, a.blocks);
  const u32* low = (const u32*)(w.low + block * low_bytes<BITS>());
  u32 half = (u32)quarter / 2, codes[2];
  UNROLL
  for (u32 i = 0; i < 2; i++) {
    u32 word = (u32)quarter % 2 * 2 + i;
    codes[i] = BITS == 8 ? low[half * 4 + word] : (low[word] >> half * 4 & 0x0f0f0f0fu) | high_bits<BITS>(w.high + block * high_bytes<BITS>(), word, half);
  }
  u32 pair = w.scales[block * (BLOCK / GROUP) + (GROUP == 16 ? half : 0)];
  f32 scale = half_value((u16)pair), min = half_value((u16)(pair >> 16)), unit = w.units[block / a.blocks];
  u32 out[4];
  UNROLL
  for (u32 i = 0; i < 4; i++) {
    u32 two = codes[i / 2] >> i % 2 * 16;
    f32 first = scale * (f32)(two & 255) - min, second = scale * (f32)(two >> 8 & 255) - min;
    out[i] = pack_halves(first * unit * a.factor, second * unit * a.factor);
  }
  at<uint4>(a.out)[place] = make_uint4(out[0], out[1], out[2], out[3]);
}

KERNEL(open_4_16, Open, OPEN_THREADS) { open<4, 16>(a); }
KERNEL(open_4_32, Open, OPEN_THREADS) { open<4, 32>(a); }
KERNEL(open_5_32, Open, OPEN_THREADS) { open<5, 32>(a); }
KERNEL(open_6_16, Open, OPEN_THREADS) { open<6, 16>(a); }
KERNEL(open_8_32, Open, OPEN_THREADS) { open<8, 32>(a); }
