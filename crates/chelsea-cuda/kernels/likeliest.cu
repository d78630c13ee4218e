// The 256 largest logits of each row, with their tokens: all that most ways of sampling look at.
//
// Shapes   x `[rows][width]`, logits (f32) or pairs of a logit and its token; out `[rows][parts][256]` pairs. A block of
//          threads takes 8,192 of a row; what the blocks of a row leave behind goes through the same once more, until one
//          block has done it all.
// Layout   a thread has 32 neighbours in registers. The 256th largest is found bit by bit, by counting how many are at least
//          as large; those above it are written in the order of the row, and of those equal to it as many as there is room for.
//          What is left of the 256 has the token ~0.
// Floor    4 bytes for each logit, and 32 barriers: about 5 us, whatever the vocabulary.
//
// Largest by the bits of the numbers, so that -0 comes after 0. What is infinite or no number comes first, so that whoever
// looks at the list finds it.
#include "block.cuh"

#define LIKELIEST 256
#define LIKELIEST_EACH 32

struct Likeliest {
  u64 x, out;
  u32 width, parts;  // of a row
  u32 pairs;         // whether x is pairs
  u32 unused;
};

DEVICE u32 order_of(f32 x) {
  u32 bits = bits_of(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return 0xffffffffu;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The sum over the block, and the sum over the threads before this one. Every second call may use the same `shared` (8 numbers).
DEVICE u32 count_of(u32 x, u32* shared, u32& before) {
  u32 lane = thread_index() % 32, warp = thread_index() / 32, sum = x;
  for (u32 step = 1; step < 32; step *= 2) {
    u32 other = shuffle(sum, lane < step ? lane : lane - step);
    sum += lane < step ? 0 : other;
  }
  if (lane == 31) shared[warp] = sum;
  barrier();
  u32 all = 0;
  before = sum - x;
  for (u32 w = 0; w < ROW_THREADS / 32; w++) {
    before += w < warp ? shared[w] : 0;
    all += shared[w];
  }
  return all;
}

KERNEL(likeliest, Likeliest, ROW_THREADS) {
  SHARED(shared);
  u32* counts = (u32*)shared;  // [2][8]
  u64 row = block_y();
  u32 first = (block_x() * ROW_THREADS + thread_index()) * LIKELIEST_EACH, orders[LIKELIEST_EACH];
  const f32* logits = at<f32>(a.x) + row * a.width;
  const uint2* pairs = at<uint2>(a.x) + row * a.width;
  UNROLL
  for (u32 i = 0; i < LIKELIEST_EACH; i++) {
    orders[i] = 0;  // that of no number
    if (first + i < a.width) {
      if (a.pairs) {
        uint2 pair = pairs[first + i];
        orders[i] = pair.y == 0xffffffffu ? 0 : order_of(float_of(pair.x));
      } else {
        orders[i] = order_of(logits[first + i]);
      }
    }
  }
  u32 least = 0, before;
  for (u32 bit = 32; bit-- > 0;) {
    u32 next = least | 1u << bit, count = 0;
    UNROLL
    for (u32 i = 0; i < LIKELIEST_EACH; i++) count += orders[i] >= next;
    if (count_of(count, counts + bit % 2 * 8, before) >= LIKELIEST) least = next;
  }
  u32 above = 0, equal = 0, above_before, equal_before;
  UNROLL
  for (u32 i = 0; i < LIKELIEST_EACH; i++) {
    above += orders[i] > least;
    equal += orders[i] == least && least > 0;
  }
  u32 all_above = count_of(above, counts + 8, above_before);
  u32 all_equal = count_of(equal, counts, equal_before), room = LIKELIEST - all_above;
  uint2* out = at<uint2>(a.out) + (row * a.parts + block_x()) * LIKELIEST;
  UNROLL
  for (u32 i = 0; i < LIKELIEST_EACH; i++) {
    bool larger = orders[i] > least, fits = orders[i] == least && least > 0 && equal_before < room;
    if (larger || fits) {
      uint2 pair;
      if (a.pairs) {
        pair = pairs[first + i];
      } else {
        pair.x = bits_of(logits[first + i]);
        pair.y = first + i;
      }
      out[above_before + min_of(equal_before, room)] = pair;
    }
    above_before += larger;
    equal_before += orders[i] == least && least > 0;
  }
  for (u32 i = all_above + min_of(all_equal, room) + thread_index(); i < LIKELIEST; i += ROW_THREADS) {
    uint2 none;
    none.x = none.y = 0xffffffffu;
    out[i] = none;
  }
}
