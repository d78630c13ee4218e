// Products with quantised weights for many tokens, by matrix instructions on bytes. See linear.cuh.
//
// A block of four warps makes 16 rows for up to 64 tokens. Its warps take the columns' blocks in turn and are summed up at the
// end, in order. For more tokens there are more blocks, which find the weights in the second-level cache.
#include "linear.cuh"

#define GEMM_WARPS 4
#define GEMM_TOKENS 64

// Four codes of the first half of a block, and four of the second: those that a lane multiplies.
template <int BITS> DEVICE void load_words(const Weights& w, u64 block, u32 t, u32& first, u32& second) {
  const u32* low = (const u32*)(w.low + block * low_bytes<BITS>());
  if (BITS == 8) {
    first = low[t];
    second = low[4 + t];
    return;
  }
  const u8* high = w.high + block * high_bytes<BITS>();
  first = (low[t] & 0x0f0f0f0fu) | high_bits<BITS>(high, t, 0);
  second = (low[t] >> 4 & 0x0f0f0f0fu) | high_bits<BITS>(high, t, 1);
}

// TILES: groups of eight tokens.
template <int BITS, int GROUP, int TILES> DEVICE void gemm(const Product& a, u8* shared) {
  u32 warp = thread_index() / 32, lane = thread_index() % 32, g = lane / 4, t = lane % 4;
  u32 first = block_x() * 16, token = block_y() * GEMM_TOKENS;
  Weights w = weights_at<BITS, GROUP>(a.weights, a.rows, a.blocks);
  u64 row[2] = {(u64)min_of(first + g, a.rows - 1) * a.blocks, (u64)min_of(first + g + 8, a.rows - 1) * a.blocks};
  f32 sums[TILES][4];
  UNROLL
  for (u32 n = 0; n < TILES; n++) sums[n][0] = sums[n][1] = sums[n][2] = sums[n][3] = 0;
  for (u32 b = warp; b < a.blocks; b += GEMM_WARPS) {
    u32 w0, w1, w2, w3;
    load_words<BITS>(w, row[0] + b, t, w0, w2);
    load_words<BITS>(w, row[1] + b, t, w1, w3);
    f32 scales[2][32 / GROUP], mins[2][32 / GROUP];
    UNROLL
    for (u32 r = 0; r < 2; r++) {
      UNROLL
      for (u32 i = 0; i < 32 / GROUP; i++) {
        u32 pair = w.scales[(row[r] + b) * (32 / GROUP) + i];
        scales[r][i] = half_value((u16)pair);
        mins[r][i] = half_value((u16)(pair >> 16));
      }
    }
    UNROLL
    for (u32 n = 0; n < TILES; n++) {
      if (token + n * 8 < a.tokens) {
        const u32* x = (const u32*)(at<u8>(a.bytes) + ((u64)min_of(token + n * 8 + g, a.tokens - 1) * a.blocks + b) * BLOCK);
        // Results are of tokens 2 t and 2 t + 1.
        const f32* of[2];
        UNROLL
        for (u32 c = 0; c < 2; c++) of[c] = at<f32>(a.scales) + ((u64)min_of(token + n * 8 + 2 * t + c, a.tokens - 1) * a.blocks + b) * 4;
        if (GROUP == 32) {
          i32 dots[4] = {0, 0, 0, 0};
          multiply_us(dots, w0, w1, w2, w3, x[t], x[4 + t]);
          UNROLL
          for (u32 r = 0; r < 4; r++) {
            sums[n][r] += scales[r / 2][0] * of[r % 2][0] * (f32)dots[r];
            sums[n][r] -= mins[r / 2][0] * (of[r % 2][1] + of[r % 2][2]);
          }
        } else {
          UNROLL
          for (u32 i = 0; i < 2; i++) {
            i32 dots[4] = {0, 0, 0, 0};
            multiply_us16(dots, i ? w2 : w0, i ? w3 : w1, x[4 * i + t]);
            UNROLL
            for (u32 r = 0; r < 4; r++) {
              sums[n][r] += scales[r / 2][GROUP == 32 ? 0 : i] * of[r % 2][0] * (f32)dots[r];
              sums[n][r] -= mins[r / 2][GROUP == 32 ? 0 : i] * of[r % 2][1 + i];
            }
          }
        }
      }
    }
  }
  f32* held = (f32*)shared;  // [GEMM_WARPS][TILES * 8][17]
  UNROLL
  for (u32 n = 0; n < TILES; n++) {
    UNROLL
    for (u32 r = 0; r < 4; r++) held[(warp * TILES * 8 + n * 8 + 2 * t + r % 2) * 17 + g + r / 2 * 8] = sums[n][r];
  }
  barrier();
  for (u32 i = thread_index(); i < TILES * 8 * 16; i += GEMM_WARPS * 32) {
    u32 r = first + i % 16, column = token + i / 16;
    if (r < a.rows && column < a.tokens) {
      f32 sum = 0;
      for (u32 k = 0; k < GEMM_WARPS; k++) sum += held[(k * TILES * 8 + i / 16) * 17 + i % 16];
      sum = sum * w.units[r];
      at<f32>(a.out)[(u64)column * a.rows + r] = a.bias ? sum + at<f32>(a.bias)[r] : sum;
    }
  }
}

#define GEMM(bits, group)                                                                                                 \
  KERNEL(gemm_##bits##_##group##_16, Product, GEMM_WARPS * 32) { SHARED(shared); gemm<bits, group, 2>(a, shared); }      \
  KERNEL(gemm_##bits##_##group##_64, Product, GEMM_WARPS * 32) { SHARED(shared); gemm<bits, group, 8>(a, shared); }
GEMM(4, 16)
GEMM(4, 32)
GEMM(5, 32)
GEMM(6, 16)
GEMM(8, 32)
