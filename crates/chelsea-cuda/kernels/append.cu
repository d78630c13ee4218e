// Tokens become entries: keys (after RoPE) and values are rounded and written into pages.
//
// Shapes   keys and values `[rows][stride]`, a KV head's numbers at column `head * dim`; one block for each run of at most
//          64 entries of one page.
// Layout   page.cuh. Keys are written in rows, by a warp each. Values are written in columns, by a thread each, so that
//          no two threads write half bytes of one byte.
// Floor    what is read and written once: 8 D bytes of f32 and a page's share for each entry. In decode it is one entry a
//          head, some 20 KB a layer: the launch is what it costs.
#include "page.cuh"

struct Run {
  u32 page;      // number of the page in the pool
  u32 slot;      // of the first entry
  u32 count;     // entries
  u32 row;       // of the first token
  u32 head;      // of the layer
  u32 position;  // of the first token
  u32 balance;   // row of `balances` that keys are divided by, or ~0
};

struct Append {
  u64 pool, runs, keys, values, balances;
  u32 dim, stride;
};

#define NO_BALANCE 0xffffffffu
#define APPEND_WARPS 4

DEVICE f32 key_of(const Append& a, const Run& run, u32 entry, u32 d) {
  f32 x = at<f32>(a.keys)[(u64)(run.row + entry) * a.stride + run.head * a.dim + d];
  return run.balance == NO_BALANCE ? x : x / at<f32>(a.balances)[run.balance * a.dim + d];
}

// The scale of a row of half bytes. Of eight steps the one with the least squared error is taken, the first of equal ones;
// eight threads try one each, with sums in the order of the row, and the first of them chooses.
DEVICE f32 largest_of(const f32* row, u32 dim) {
  f32 largest = 0;
  for (u32 d = 0; d < dim; d++)
    if (absolute(row[d]) > absolute(largest)) largest = row[d];
  return clamped(largest, -1.7014117e38f, 1.7014117e38f);
}
DEVICE f32 steps_of(u32 choice) {
  const f32 steps[8] = {8.0f, 7.0f, 7.5f, 8.5f, 9.0f, 10.0f, 11.0f, 12.5f};
  return steps[choice];
}
DEVICE f32 error_of(const f32* row, u32 dim, u32 choice) {
  f32 unit = -(1.0f / largest_of(row, dim)), steps = steps_of(choice), error = 0;
  for (u32 d = 0; d < dim; d++) {
    f32 x = row[d] * unit * steps, off = x - nibble_whole(x);
    error += off * off;
  }
  return error / (steps * steps);
}

template <int TYPE> DEVICE void append(const Append& a, u8* shared) {
  f32* inverses = (f32*)shared;             // [64] of values
  f32* errors = (f32*)shared + PAGE;        // [64][8]
  Run run = at<Run>(a.runs)[block_x()];
  u32 dim = a.dim, thread = thread_index(), warp = thread / 32, lane = thread % 32;
  u8* page = at<u8>(a.pool) + run.page * page_bytes<TYPE>(dim);
  f32* scales = (f32*)(page + scales_at<TYPE>(dim));
  const f32* values = at<f32>(a.values) + (u64)run.row * a.stride + run.head * dim;
  for (u32 e = warp; e < run.count; e += APPEND_WARPS) {
    u32 slot = run.slot + e;
    u8* row = page + slot * key_row_bytes<TYPE>(dim);
    if (TYPE == F16) {
      for (u32 d = lane; d < dim; d += 32) ((u16*)row)[d] = half_bits(key_of(a, run, e, d));
      continue;
    }
    f32 largest = 0, largest_value = 0;
    for (u32 d = lane; d < dim; d += 32) {
      largest = max_of(absolute(key_of(a, run, e, d)), largest);
      largest_value = max_of(absolute(values[(u64)e * a.stride + d]), largest_value);
    }
    f32 scale = byte_scale(warp_max(largest)), value_scale = byte_scale(warp_max(largest_value)), inverse = inverse_of(scale);
    for (u32 d = lane; d < dim; d += 32) ((i8*)row)[d] = to_byte(key_of(a, run, e, d), inverse);
    if (lane == 0) {
      scales[slot] = scale;
      if (TYPE == Q8) {
        scales[PAGE + slot] = value_scale;
        inverses[e] = inverse_of(value_scale);
      }
    }
  }
  if (TYPE == K8V4) {
    for (u32 i = thread; i < run.count * 8; i += APPEND_WARPS * 32) errors[i] = error_of(values + (u64)(i / 8) * a.stride, dim, i % 8);
    barrier();
    for (u32 e = thread; e < run.count; e += APPEND_WARPS * 32) {
      f32 largest = largest_of(values + (u64)e * a.stride, dim);
      u32 best = 0;
      for (u32 i = 1; i < 8; i++)
        if (errors[e * 8 + i] < errors[e * 8 + best]) best = i;
      f32 scale = absolute(largest / 16.0f) < 1.17549435e-38f ? 0.0f : -largest / steps_of(best);
      scales[PAGE + run.slot + e] = scale;
      inverses[e] = inverse_of(scale);
    }
  }
  barrier();
  for (u32 d = thread; d < dim; d += APPEND_WARPS * 32) {
    u8* column = page + values_at<TYPE>(dim) + d * value_row_bytes<TYPE>();
    for (u32 e = 0; e < run.count; e++) {
      f32 x = values[(u64)e * a.stride + d];
      u32 slot = run.slot + e;
      if (TYPE == F16) ((u16*)column)[slot] = half_bits(x);
      if (TYPE == Q8) ((i8*)column)[slot] = to_byte(x, inverses[e]);
      if (TYPE == K8V4) {
        u32 shift = nibble_shift(slot), nibble = (u32)(i32)nibble_whole(x * inverses[e]) & 15;
        u8* byte = column + nibble_byte(slot);
        *byte = (u8)((*byte & ~(15u << shift)) | nibble << shift);
      }
    }
  }
  for (u32 e = thread; e < run.count; e += APPEND_WARPS * 32) {
    u32* meta = (u32*)(page + meta_at<TYPE>(dim)) + run.slot + e;
    meta[0] = 0;  // ln 1
    meta[PAGE] = 1;
    meta[2 * PAGE] = bits_of((f32)(run.position + e));
  }
}

KERNEL(append_f16, Append, APPEND_WARPS * 32) { SHARED(shared); append<F16>(a, shared); }
KERNEL(append_q8, Append, APPEND_WARPS * 32) { SHARED(shared); append<Q8>(a, shared); }
KERNEL(append_k8v4, Append, APPEND_WARPS * 32) { SHARED(shared); append<K8V4>(a, shared); }

// Slots from `first` on of pages hold no entry: new pages (and truncated ones) are so before anything is appended.
struct Clear {
  u64 pool, pages, firsts;  // u32 each
  u32 meta, bytes;          // where ln counts lie in a page, and its size
};

KERNEL(clear_slots, Clear, PAGE) {
  u32 slot = thread_index(), first = at<u32>(a.firsts)[block_x()];
  u32* meta = (u32*)(at<u8>(a.pool) + (u64)at<u32>(a.pages)[block_x()] * a.bytes + a.meta);
  if (slot >= first) {
    meta[slot] = bits_of(float_of(0xff800000u));
    meta[PAGE + slot] = 0;
    meta[2 * PAGE + slot] = 0;
  }
}
