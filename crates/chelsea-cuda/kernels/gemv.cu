// Products of one to eight tokens with up to three matrices of quantised weights at once: those that are multiplied by the
// same rows, such as queries, keys and values. Each has a format of its own. See linear.cuh.
#include "linear.cuh"

struct Matrix {
  u64 weights, out, bias;  // bias: f32 `[rows]` that is added, or 0
  u32 rows, format;
};

struct Products {
  u64 bytes, scales;
  Matrix matrices[3];
  u32 blocks, tokens, count, unused;
};

#define GEMV_WARPS 4
#define GEMV_ROWS 2

// A block's codes, in words of four: 0 to 3 are the first half.
template <int BITS> struct Codes {
  u32 words[8];
};
template <int BITS> DEVICE Codes<BITS> load_codes(const Weights& w, u64 block) {
  Codes<BITS> codes;
  const uint4* low = (const uint4*)(w.low + block * low_bytes<BITS>());
  uint4 first = load_stream(low);
  if (BITS == 8) {
    uint4 second = load_stream(low + 1);
    const u32 words[8] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
    UNROLL
    for (u32 i = 0; i < 8; i++) codes.words[i] = words[i];
    return codes;
  }
  const u32 words[4] = {first.x, first.y, first.z, first.w};
  const u8* high = w.high + block * high_bytes<BITS>();
  UNROLL
  for (u32 i = 0; i < 4; i++) {
    codes.words[i] = (words[i] & 0x0f0f0f0fu) | high_bits<BITS>(high, i, 0);
    codes.words[4 + i] = (words[i] >> 4 & 0x0f0f0f0fu) | high_bits<BITS>(high, i, 1);
  }
  return codes;
}

template <int BITS, int GROUP, int TOKENS> DEVICE void gemv(const Products& a, const Matrix& m, u32 first) {
  u32 lane = thread_index() % 32;
  Weights w = weights_at<BITS, GROUP>(m.weights, m.rows, a.blocks);
  f32 sums[GEMV_ROWS][TOKENS];
  UNROLL
  for (u32 r = 0; r < GEMV_ROWS; r++) {
    UNROLL
    for (u32 t = 0; t < TOKENS; t++) sums[r][t] = 0;
  }
  for (u32 b = lane; b < a.blocks; b += 32) {
    UNROLL
    for (u32 r = 0; r < GEMV_ROWS; r++) {
      // A row past the last is the last once more: all lanes stay together for the sums.
      u64 block = (u64)min_of(first + r, m.rows - 1) * a.blocks + b;
      Codes<BITS> codes = load_codes<BITS>(w, block);
      UNROLL
      for (u32 t = 0; t < TOKENS; t++) {
        u32 token = min_of(t, a.tokens - 1);
        const uint4* x = (const uint4*)(at<u8>(a.bytes) + ((u64)token * a.blocks + b) * BLOCK);
        uint4 x0 = x[0], x1 = x[1];
        const u32 words[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
        const f32* scale = at<f32>(a.scales) + ((u64)token * a.blocks + b) * 4;
        i32 dots[2] = {0, 0};
        UNROLL
        for (u32 i = 0; i < 8; i++) dots[i / 4] = dot_unsigned_signed(codes.words[i], words[i], dots[i / 4]);
        if (GROUP == 32) {
          u32 pair = w.scales[block];
          sums[r][t] += half_value((u16)pair) * scale[0] * (f32)(dots[0] + dots[1]);
          sums[r][t] -= half_value((u16)(pair >> 16)) * (scale[1] + scale[2]);
        } else {
          UNROLL
          for (u32 g = 0; g < 2; g++) {
            u32 pair = w.scales[block * 2 + g];
            sums[r][t] += half_value((u16)pair) * scale[0] * (f32)dots[g];
            sums[r][t] -= half_value((u16)(pair >> 16)) * scale[1 + g];
          }
        }
      }
    }
  }
  UNROLL
  for (u32 r = 0; r < GEMV_ROWS; r++) {
    UNROLL
    for (u32 t = 0; t < TOKENS; t++) {
      f32 sum = warp_sum(sums[r][t]);
      if (lane == 0 && first + r < m.rows && t < a.tokens) {
        sum = sum * w.units[first + r];
        at<f32>(m.out)[(u64)t * m.rows + first + r] = m.bias ? sum + at<f32>(m.bias)[first + r] : sum;
      }
    }
  }
}

// Blocks of threads take the rows of the first matrix, then those of the next; all threads of one have the same matrix.
template <int TOKENS> DEVICE void gemv_of(const Products& a) {
  const u32 each = GEMV_WARPS * GEMV_ROWS;
  u32 block = block_x();
  // One after the other, and not by a number: what is indexed by one would lie in memory.
  Matrix m = a.matrices[0];
  UNROLL
  for (u32 next = 1; next < 3; next++) {
    u32 blocks = (m.rows + each - 1) / each;
    if (next < a.count && block >= blocks) {
      block -= blocks;
      m = a.matrices[next];
    } else {
      break;
    }
  }
  u32 first = block * each + thread_index() / 32 * GEMV_ROWS;
  if (m.format == 0) gemv<4, 16, TOKENS>(a, m, first);
  if (m.format == 1) gemv<4, 32, TOKENS>(a, m, first);
  if (m.format == 2) gemv<5, 32, TOKENS>(a, m, first);
  if (m.format == 3) gemv<6, 16, TOKENS>(a, m, first);
  if (m.format == 4) gemv<8, 32, TOKENS>(a, m, first);
}

KERNEL(gemv_1, Products, GEMV_WARPS * 32) { gemv_of<1>(a); }
KERNEL(gemv_2, Products, GEMV_WARPS * 32) { gemv_of<2>(a); }
KERNEL(gemv_4, Products, GEMV_WARPS * 32) { gemv_of<4>(a); }
KERNEL(gemv_8, Products, GEMV_WARPS * 32) { gemv_of<8>(a); }
