// Attention of one token of each sequence over ragged, clustered heads.
//
// Shapes   queries and outputs `[tokens * q_heads][dim]`; a *part* is a run of pages of one KV head, for the queries of its
//          group (1 to 8). One block of four warps for each part: warps take its pages in turn. Then one block of
//          `join_parts` for each query head joins its parts, and the learned sink where there is one.
// Layout   page.cuh; operands.cuh says how a page goes to the matrix units in 16-byte loads, without shared memory.
//          Scores are `keys x queries` (16 entries by 8 queries), sums are `values x weights` (16 dimensions by 8 queries):
//          so no row of an instruction is wasted on a group of less than 16, and a lane has the same two queries in both.
//          Weights are transposed between the two products by `movmatrix`.
// Floor    the bytes of all pages, once: expected 85% of a copy's speed.
//
// Numbers: queries are rounded to halves after each was divided by the power of two next to its largest number; weights
// are rounded to halves; both products are summed in f32. Weights are halves relative to the largest value scale so far, so
// that small scales cost no digits. Sums over pages, warps and parts are taken in a fixed order.
#pragma once
#include "operands.cuh"

struct Part {
  u32 query;   // first query head of the group, of all tokens
  u32 first;   // place of its first page in `pages`
  u32 count;   // pages
  u32 hidden;  // entries of the first pages that are before the window
};

struct Decode {
  u64 pool, pages, parts, queries, sums;
  u32 dim, group;
  f32 scale;
  u32 unused;
};

#define DECODE_WARPS 4
#define MOST_GROUP 8

// Numbers of a part's sums: for each query of the group its weighted values, the largest score, the sum of weights.
DEVICE u32 sums_of(u32 dim) { return MOST_GROUP * (dim + 2); }

// The queries of a group as operands: a lane holds those of query `lane / 4`.
template <int TYPE, int MOST> DEVICE f32 load_queries(const Decode& a, u32 query, u32 lane, u32 (&b)[MOST / 16][2]) {
  u32 g = lane / 4, t = lane % 4;
  const f32* row = at<f32>(a.queries) + (u64)(query + (g < a.group ? g : 0)) * a.dim;
  f32 largest = 0;
  UNROLL
  for (u32 s = 0; s < MOST / 16; s++) {
    u32 d = step_dim<TYPE>(s, t);
    if (d < a.dim)
      for (u32 i = 0; i < 4; i++) largest = max_of(absolute(row[d + i]), largest);
  }
  largest = max_of(largest, shuffle_xor(largest, 1));
  largest = max_of(largest, shuffle_xor(largest, 2));
  // The power of two at or below it, or 1 where it is too small or too large to be turned round.
  u32 exponent = bits_of(largest) & 0x7f800000u;
  f32 unit = exponent < 0x10000000u || exponent > 0x70000000u ? 1.0f : float_of(exponent), inverse = 1.0f / unit;
  UNROLL
  for (u32 s = 0; s < MOST / 16; s++) {
    u32 d = step_dim<TYPE>(s, t);
    b[s][0] = b[s][1] = 0;
    if (d < a.dim) {
      b[s][0] = pack_halves(row[d] * inverse, row[d + 1] * inverse);
      b[s][1] = pack_halves(row[d + 2] * inverse, row[d + 3] * inverse);
    }
  }
  return unit * a.scale * LOG2_E;
}

template <int TYPE, int MOST> DEVICE void decode(const Decode& a, u8* shared) {
  Part part = at<Part>(a.parts)[block_x()];
  if (part.count == 0) return;  // one that fills a list up
  u32 dim = a.dim, warp = thread_index() / 32, lane = thread_index() % 32, g = lane / 4, t = lane % 4;
  u32 queries[MOST / 16][2];
  f32 unit = load_queries<TYPE, MOST>(a, part.query, lane, queries);
  // In results a lane has queries 2 t and 2 t + 1.
  f32 units[2] = {shuffle(unit, 8 * t), shuffle(unit, 8 * t + 4)};
  f32 sums[MOST / 16][4], most[2] = {NO_SCORE, NO_SCORE}, weight[2] = {0, 0}, reference = 1.17549435e-38f;
  UNROLL
  for (u32 n = 0; n < MOST / 16; n++) sums[n][0] = sums[n][1] = sums[n][2] = sums[n][3] = 0;

  for (u32 i = warp; i < part.count; i += DECODE_WARPS) {
    const u8* page = at<u8>(a.pool) + at<u32>(a.pages)[part.first + i] * page_bytes<TYPE>(dim);
    const f32* scales = (const f32*)(page + scales_at<TYPE>(dim));
    const f32* ln_counts = (const f32*)(page + meta_at<TYPE>(dim));
    f32 scores[4][4], value_scales[4][2], largest_scale = reference;
    UNROLL
    for (u32 j = 0; j < 4; j++) {
      // Rows g and g + 8 of tile j are the entries that k-step j of the other product has there.
      u32 entry[2] = {step_entry<TYPE>(j, g / 2) + g % 2, step_entry<TYPE>(j, g / 2) + g % 2 + 2};
      f32 dots[4] = {0, 0, 0, 0};
      UNROLL
      for (u32 load = 0; load < MOST / 16 / KeyLoad<TYPE>::STEPS; load++) {
        KeyLoad<TYPE> low = load_key<TYPE>(page, dim, entry[0], load, t), high = load_key<TYPE>(page, dim, entry[1], load, t);
        UNROLL
        for (u32 s = 0; s < KeyLoad<TYPE>::STEPS; s++) {
          u32 a0, a1, a2, a3, step = load * KeyLoad<TYPE>::STEPS + s;
          open_key<TYPE>(low, s, a0, a2);
          open_key<TYPE>(high, s, a1, a3);
          multiply_halves(dots, a0, a1, a2, a3, queries[step][0], queries[step][1]);
        }
      }
      UNROLL
      for (u32 r = 0; r < 2; r++) {
        f32 key_scale = TYPE == F16 ? 1.0f : scales[entry[r]];
        f32 ln_count = i * PAGE + entry[r] < part.hidden ? NO_SCORE * 2 : ln_counts[entry[r]] * LOG2_E;
        value_scales[j][r] = TYPE == F16 ? 1.0f : scales[PAGE + entry[r]];
        largest_scale = max_of(largest_scale, absolute(value_scales[j][r]));
        UNROLL
        for (u32 c = 0; c < 2; c++) scores[j][2 * r + c] = dots[2 * r + c] * (key_scale * units[c]) + ln_count;
      }
    }
    f32 shrink[2], ratio = 1.0f;
    if (TYPE != F16) {
      for (u32 mask = 4; mask < 32; mask *= 2) largest_scale = max_of(largest_scale, shuffle_xor(largest_scale, mask));
      ratio = reference / largest_scale;
      reference = largest_scale;
    }
    UNROLL
    for (u32 c = 0; c < 2; c++) {
      f32 top = most[c];
      UNROLL
      for (u32 j = 0; j < 4; j++) top = max_of(top, max_of(scores[j][c], scores[j][2 + c]));
      for (u32 mask = 4; mask < 32; mask *= 2) top = max_of(top, shuffle_xor(top, mask));
      shrink[c] = exp2f(most[c] - top);
      most[c] = top;
      weight[c] *= shrink[c];
    }
    UNROLL
    for (u32 n = 0; n < MOST / 16; n++) {
      UNROLL
      for (u32 r = 0; r < 4; r++) sums[n][r] *= shrink[r % 2] * ratio;
    }
    u32 weights[4][2];
    UNROLL
    for (u32 j = 0; j < 4; j++) {
      UNROLL
      for (u32 r = 0; r < 2; r++) {
        f32 w0 = exp2f(scores[j][2 * r] - most[0]), w1 = exp2f(scores[j][2 * r + 1] - most[1]);
        weight[0] += w0;
        weight[1] += w1;
        f32 factor = TYPE == F16 ? 1.0f : value_scales[j][r] / reference;
        weights[j][r] = transpose_halves(pack_halves(w0 * factor, w1 * factor));
      }
    }
    const u8* values = page + values_at<TYPE>(dim);
    UNROLL
    for (u32 n = 0; n < MOST / 16; n++) {
      if (n * 16 < dim) {
        ValueLoad low = load_value<TYPE>(values, n * 16 + g, t), high = load_value<TYPE>(values, n * 16 + g + 8, t);
        UNROLL
        for (u32 s = 0; s < 4; s++) {
          u32 a0, a1, a2, a3;
          open_value<TYPE>(low, s, a0, a2);
          open_value<TYPE>(high, s, a1, a3);
          multiply_halves(sums[n], a0, a1, a2, a3, weights[s][0], weights[s][1]);
        }
      }
    }
  }

  f32* held = (f32*)shared;  // [DECODE_WARPS][MOST_GROUP][dim + 2]
  f32 back = TYPE == F16 ? 1.0f : reference;
  UNROLL
  for (u32 c = 0; c < 2; c++) {
    for (u32 mask = 4; mask < 32; mask *= 2) weight[c] += shuffle_xor(weight[c], mask);
    f32* row = held + (warp * MOST_GROUP + 2 * t + c) * (dim + 2);
    UNROLL
    for (u32 n = 0; n < MOST / 16; n++) {
      if (n * 16 < dim) {
        row[n * 16 + g] = sums[n][c] * back;
        row[n * 16 + g + 8] = sums[n][2 + c] * back;
      }
    }
    if (g == 0) {
      row[dim] = most[c];
      row[dim + 1] = weight[c];
    }
  }
  barrier();
  f32* out = at<f32>(a.sums) + (u64)block_x() * sums_of(dim);
  for (u32 i = thread_index(); i < a.group * (dim + 2); i += DECODE_WARPS * 32) {
    u32 query = i / (dim + 2), d = i % (dim + 2);
    f32 top = NO_SCORE, sum = 0;
    for (u32 w = 0; w < DECODE_WARPS; w++) top = max_of(top, held[(w * MOST_GROUP + query) * (dim + 2) + dim]);
    for (u32 w = 0; w < DECODE_WARPS; w++) {
      const f32* row = held + (w * MOST_GROUP + query) * (dim + 2);
      sum += exp2f(row[dim] - top) * row[d];
    }
    out[i] = d == dim ? top : sum;
  }
}
