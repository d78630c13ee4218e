// Attention of many tokens of a sequence, causal, over the same pages as decode.cuh.
//
// Shapes   queries and outputs `[tokens][stride]`, a query head's numbers at column `head * dim`; the tokens are the last
//          entries of every KV head. A warp takes 16 rows: the tokens and query heads of one KV head, `row = token * group
//          + head`. A block of four warps takes 64 rows of one KV head (grid: rows, KV heads), so that its warps read the same
//          pages at about the same time, from the first-level cache.
// Layout   page.cuh, operands.cuh. Scores are `queries x keys` (16 rows by 8 entries), whose results are the other product's
//          operand as they lie: `weights x values` (16 rows by 8 dimensions). Queries wait in shared memory.
// Floor    4 dim multiplications and additions for each row and entry: expected 40% of the matrix units' speed.
//
// Numbers as in decode.cuh. Half a page is taken at once, so that sizes of 256 keep their sums in registers.
#pragma once
#include "operands.cuh"

struct Reach {
  u32 first;    // place of the head's first page in `pages`
  u32 entries;  // of the head, the tokens' own included
};

struct Prefill {
  u64 pool, pages, reaches, queries, sinks, out;
  u32 dim, group, tokens, stride, out_stride;
  u32 window;  // entries that a token sees, its own included; 0 for all
  f32 scale;
  u32 unused;
};

#define PREFILL_WARPS 4

template <int TYPE, int MOST> DEVICE void prefill(const Prefill& a, u8* shared) {
  u32 head = block_y(), warp = thread_index() / 32, lane = thread_index() % 32, g = lane / 4, t = lane % 4, dim = a.dim;
  Reach reach = at<Reach>(a.reaches)[head];
  u32 rows = a.tokens * a.group, first_row = (block_x() * PREFILL_WARPS + warp) * 16;
  uint4* held = (uint4*)shared + warp * (MOST / 16) * 32;
  // The two rows of a lane, their queries' units, and the entries that they see: from `low` to before `end`.
  f32 units[2];
  u32 end[2], low[2];
  const f32* query[2];
  UNROLL
  for (u32 r = 0; r < 2; r++) {
    u32 row = min_of(first_row + g + 8 * r, rows - 1), token = row / a.group;
    query[r] = at<f32>(a.queries) + (u64)token * a.stride + (head * a.group + row % a.group) * dim;
    end[r] = reach.entries - a.tokens + token + 1;
    low[r] = a.window == 0 || end[r] < a.window ? 0 : end[r] - a.window;
    f32 largest = 0;
    for (u32 s = 0; s < MOST / 16; s++) {
      u32 d = step_dim<TYPE>(s, t);
      if (d < dim)
        for (u32 i = 0; i < 4; i++) largest = max_of(absolute(query[r][d + i]), largest);
    }
    largest = max_of(largest, shuffle_xor(largest, 1));
    largest = max_of(largest, shuffle_xor(largest, 2));
    u32 exponent = bits_of(largest) & 0x7f800000u;
    units[r] = exponent < 0x10000000u || exponent > 0x70000000u ? 1.0f : float_of(exponent);
  }
  for (u32 s = 0; s < MOST / 16; s++) {
    u32 d = step_dim<TYPE>(s, t);
    uint4 x = make_uint4(0, 0, 0, 0);
    if (d < dim) {
      f32 i0 = 1.0f / units[0], i1 = 1.0f / units[1];
      x.x = pack_halves(query[0][d] * i0, query[0][d + 1] * i0);
      x.y = pack_halves(query[1][d] * i1, query[1][d + 1] * i1);
      x.z = pack_halves(query[0][d + 2] * i0, query[0][d + 3] * i0);
      x.w = pack_halves(query[1][d + 2] * i1, query[1][d + 3] * i1);
    }
    held[s * 32 + lane] = x;  // a lane reads its own alone
  }
  units[0] *= a.scale * LOG2_E;
  units[1] *= a.scale * LOG2_E;

  f32 sums[MOST / 8][4], most[2] = {NO_SCORE, NO_SCORE}, weight[2] = {0, 0}, reference = 1.17549435e-38f;
  UNROLL
  for (u32 n = 0; n < MOST / 8; n++) sums[n][0] = sums[n][1] = sums[n][2] = sums[n][3] = 0;
  // The pages that some row of the warp sees.
  u32 last_token = min_of(first_row + 15, rows - 1) / a.group, first_token = min_of(first_row, rows - 1) / a.group;
  u32 last_end = reach.entries - a.tokens + last_token + 1, first_end = reach.entries - a.tokens + first_token + 1;
  u32 start = a.window == 0 || first_end < a.window ? 0 : (first_end - a.window) / PAGE;
  for (u32 i = start; i * PAGE < last_end; i++) {
    const u8* page = at<u8>(a.pool) + at<u32>(a.pages)[reach.first + i] * page_bytes<TYPE>(dim);
    const f32* scales = (const f32*)(page + scales_at<TYPE>(dim));
    const f32* ln_counts = (const f32*)(page + meta_at<TYPE>(dim));
    const u8* values = page + values_at<TYPE>(dim);
    for (u32 half = 0; half < 2; half++) {
      f32 scores[4][4], value_scales[4][2], largest_scale = reference;
      UNROLL
      for (u32 j = 0; j < 4; j++) {
        // Tiles 2 k and 2 k + 1 are k-step `2 half + k` of the other product: its first pairs, its second.
        u32 step = 2 * half + j / 2, key_entry = step_entry<TYPE>(step, g / 2) + g % 2 + 2 * (j % 2);
        f32 dots[4] = {0, 0, 0, 0};
        UNROLL
        for (u32 load = 0; load < MOST / 16 / KeyLoad<TYPE>::STEPS; load++) {
          KeyLoad<TYPE> key = load_key<TYPE>(page, dim, key_entry, load, t);
          UNROLL
          for (u32 s = 0; s < KeyLoad<TYPE>::STEPS; s++) {
            u32 b0, b1;
            open_key<TYPE>(key, s, b0, b1);
            uint4 x = held[(load * KeyLoad<TYPE>::STEPS + s) * 32 + lane];
            multiply_halves(dots, x.x, x.y, x.z, x.w, b0, b1);
          }
        }
        UNROLL
        for (u32 c = 0; c < 2; c++) {
          u32 entry = step_entry<TYPE>(step, t) + c + 2 * (j % 2), place = i * PAGE + entry;
          f32 key_scale = TYPE == F16 ? 1.0f : scales[entry], ln_count = ln_counts[entry] * LOG2_E;
          value_scales[j][c] = TYPE == F16 ? 1.0f : scales[PAGE + entry];
          largest_scale = max_of(largest_scale, absolute(value_scales[j][c]));
          UNROLL
          for (u32 r = 0; r < 2; r++) {
            bool seen = place >= low[r] && place < end[r];
            scores[j][2 * r + c] = seen ? dots[2 * r + c] * (key_scale * units[r]) + ln_count : 2 * NO_SCORE;
          }
        }
      }
      f32 shrink[2], ratio = 1.0f;
      if (TYPE != F16) {
        largest_scale = max_of(largest_scale, shuffle_xor(largest_scale, 1));
        largest_scale = max_of(largest_scale, shuffle_xor(largest_scale, 2));
        ratio = reference / largest_scale;
        reference = largest_scale;
      }
      UNROLL
      for (u32 r = 0; r < 2; r++) {
        f32 top = most[r];
        UNROLL
        for (u32 j = 0; j < 4; j++) top = max_of(top, max_of(scores[j][2 * r], scores[j][2 * r + 1]));
        top = max_of(top, shuffle_xor(top, 1));
        top = max_of(top, shuffle_xor(top, 2));
        shrink[r] = exp2f(most[r] - top);
        most[r] = top;
        weight[r] *= shrink[r];
      }
      UNROLL
      for (u32 n = 0; n < MOST / 8; n++) {
        UNROLL
        for (u32 r = 0; r < 4; r++) sums[n][r] *= shrink[r / 2] * ratio;
      }
      u32 weights[4][2];
      UNROLL
      for (u32 j = 0; j < 4; j++) {
        f32 factors[2] = {TYPE == F16 ? 1.0f : value_scales[j][0] / reference, TYPE == F16 ? 1.0f : value_scales[j][1] / reference};
        UNROLL
        for (u32 r = 0; r < 2; r++) {
          f32 w0 = exp2f(scores[j][2 * r] - most[r]), w1 = exp2f(scores[j][2 * r + 1] - most[r]);
          weight[r] += w0 + w1;
          weights[j][r] = pack_halves(w0 * factors[0], w1 * factors[1]);
        }
      }
      UNROLL
      for (u32 n = 0; n < MOST / 8; n++) {
        if (n * 8 < dim) {
          ValueLoad value = load_half_value<TYPE>(values, n * 8 + g, t, half);
          UNROLL
          for (u32 k = 0; k < 2; k++) {
            u32 b0, b1;
            open_value<TYPE>(value, 2 * half + k, b0, b1);
            multiply_halves(sums[n], weights[2 * k][0], weights[2 * k][1], weights[2 * k + 1][0], weights[2 * k + 1][1], b0, b1);
          }
        }
      }
    }
  }

  UNROLL
  for (u32 r = 0; r < 2; r++) {
    weight[r] += shuffle_xor(weight[r], 1);
    weight[r] += shuffle_xor(weight[r], 2);
    u32 row = first_row + g + 8 * r;
    if (row < rows) {
      u32 q_head = head * a.group + row % a.group;
      f32 total = weight[r], back = TYPE == F16 ? 1.0f : reference;
      if (a.sinks) {
        f32 sink = at<f32>(a.sinks)[q_head] * LOG2_E, top = max_of(sink, most[r]);
        total = total * exp2f(most[r] - top) + exp2f(sink - top);
        back *= exp2f(most[r] - top);
      }
      f32 inverse = total > 0 ? back / total : 0;
      f32* out = at<f32>(a.out) + (u64)(row / a.group) * a.out_stride + q_head * dim;
      UNROLL
      for (u32 n = 0; n < MOST / 8; n++) {
        if (n * 8 < dim) {
          out[n * 8 + 2 * t] = sums[n][2 * r] * inverse;
          out[n * 8 + 2 * t + 1] = sums[n][2 * r + 1] * inverse;
        }
      }
    }
  }
}
