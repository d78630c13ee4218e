// Tokens become entries: keys and values are rounded and written into pages. `append` takes keys after RoPE; `enter` turns
// them on the way, and queries in place, which are multiplied by what the keys of their heads are stored divided by.
//
// Shapes   keys and values `[rows][stride]`, a KV head's numbers at column `head * dim`; one block for each run of at most
//          64 entries of one page. Behind those, `enter` has blocks for queries, `[rows][q_heads][dim]`, a thread for each pair
//          of numbers; tables of RoPE are `[rows][pairs]`.
// Layout   page.cuh. Keys are written in rows, by a warp each. Values are written in columns, by a thread each, so that
//          no two threads write half bytes of one byte.
// Floor    what is read and written once: 8 D bytes of f32 and a page's share for each entry. In decode it is one entry a
//          head, some 20 KB a layer: the launch is what it costs.
#include "round.cuh"

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

#define APPEND_WARPS 4

struct Enter {
  Append append;
  u64 queries, cosines, sines;
  u64 noted;  // where queries go that are turned and nothing else, for statistics; or 0
  u64 which;  // row of `balances` for each KV head of each row, u32 `[rows][q_heads / group]`, or ~0; 0 where there are none
  u32 pairs;  // of numbers that are turned; 0 where all were turned before
  u32 runs;   // blocks that append
  u32 rows;   // of queries
  u32 q_heads, group, unused;
};

// Number `d` of a head after RoPE, in the half-split layout: number i pairs with number i + pairs.
DEVICE f32 turned(const f32* x, const f32* cosines, const f32* sines, u32 pairs, u32 d) {
  if (d < pairs) return x[d] * cosines[d] - x[d + pairs] * sines[d];
  if (d < 2 * pairs) return x[d] * cosines[d - pairs] + x[d - pairs] * sines[d - pairs];
  return x[d];
}

// Numbers of keys as they are stored: those of `append`, and those of `enter`.
struct Plain {
  DEVICE_MEMBER f32 operator()(const Append& a, const Run& run, u32 entry, u32 d) const {
    return at<f32>(a.keys)[(u64)(run.row + entry) * a.stride + run.head * a.dim + d];
  }
};
struct Turned {
  const f32* cosines;
  const f32* sines;
  u32 pairs;
  DEVICE_MEMBER f32 operator()(const Append& a, const Run& run, u32 entry, u32 d) const {
    u64 row = run.row + entry;
    return turned(at<f32>(a.keys) + row * a.stride + run.head * a.dim, cosines + row * pairs, sines + row * pairs, pairs, d);
  }
};
template <class Keys> DEVICE f32 key_of(const Append& a, const Keys& keys, const Run& run, u32 entry, u32 d) {
  f32 x = keys(a, run, entry, d);
  return run.balance == NO_BALANCE ? x : x / at<f32>(a.balances)[run.balance * a.dim + d];
}

template <int TYPE, class Keys> DEVICE void append(const Append& a, const Keys& keys, u8* shared) {
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
      for (u32 d = lane; d < dim; d += 32) ((u16*)row)[d] = half_bits(key_of(a, keys, run, e, d));
      continue;
    }
    f32 largest = 0, largest_value = 0;
    for (u32 d = lane; d < dim; d += 32) {
      largest = max_of(absolute(key_of(a, keys, run, e, d)), largest);
      largest_value = max_of(absolute(values[(u64)e * a.stride + d]), largest_value);
    }
    f32 scale = byte_scale(warp_max(largest)), value_scale = byte_scale(warp_max(largest_value)), inverse = inverse_of(scale);
    for (u32 d = lane; d < dim; d += 32) ((i8*)row)[d] = to_byte(key_of(a, keys, run, e, d), inverse);
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
      f32 scale = nibble_scale(values + (u64)e * a.stride, dim, errors + e * 8);
      scales[PAGE + run.slot + e] = scale;
      inverses[e] = inverse_of(scale);
    }
  }
  barrier();
  for (u32 d = thread; d < dim; d += APPEND_WARPS * 32) {
    for (u32 e = 0; e < run.count; e++) {
      write_value<TYPE>(page, dim, d, run.slot + e, values[(u64)e * a.stride + d], TYPE == F16 ? 1.0f : inverses[e]);
    }
  }
  for (u32 e = thread; e < run.count; e += APPEND_WARPS * 32) {
    u32* meta = (u32*)(page + meta_at<TYPE>(dim)) + run.slot + e;
    meta[0] = 0;  // ln 1
    meta[PAGE] = 1;
    meta[2 * PAGE] = bits_of((f32)(run.position + e));
  }
}

KERNEL(append_f16, Append, APPEND_WARPS * 32) { SHARED(shared); append<F16>(a, Plain(), shared); }
KERNEL(append_q8, Append, APPEND_WARPS * 32) { SHARED(shared); append<Q8>(a, Plain(), shared); }
KERNEL(append_k8v4, Append, APPEND_WARPS * 32) { SHARED(shared); append<K8V4>(a, Plain(), shared); }

template <int TYPE> DEVICE void enter(const Enter& a, u8* shared) {
  const f32 *cosines = at<f32>(a.cosines), *sines = at<f32>(a.sines);
  u32 dim = a.append.dim, pairs = a.pairs;
  if (block_x() < a.runs) {
    append<TYPE>(a.append, Turned{cosines, sines, pairs}, shared);
    return;
  }
  // A pair of numbers, or one of those that are not turned.
  u32 each = dim - pairs, i = (block_x() - a.runs) * APPEND_WARPS * 32 + thread_index();
  u32 place = i % each, head = i / each % a.q_heads, row = i / each / a.q_heads;
  if (row >= a.rows) return;
  f32* x = at<f32>(a.queries) + ((u64)row * a.q_heads + head) * dim;
  u32 balance = a.which ? at<u32>(a.which)[row * (a.q_heads / a.group) + head / a.group] : NO_BALANCE;
  const f32* factors = at<f32>(a.append.balances) + (u64)(balance == NO_BALANCE ? 0 : balance) * dim;
  u32 d[2] = {place < pairs ? place : place + pairs, place + pairs};
  f32 numbers[2];
  f32* noted = at<f32>(a.noted) + ((u64)row * a.q_heads + head) * dim;
  for (u32 k = 0; k < 2; k++) {
    numbers[k] = turned(x, cosines + row * pairs, sines + row * pairs, pairs, d[k]);
    if (a.noted) noted[d[k]] = numbers[k];
    if (balance != NO_BALANCE) numbers[k] *= factors[d[k]];
  }
  x[d[0]] = numbers[0];
  x[d[1]] = numbers[1];
}

KERNEL(enter_f16, Enter, APPEND_WARPS * 32) { SHARED(shared); enter<F16>(a, shared); }
KERNEL(enter_q8, Enter, APPEND_WARPS * 32) { SHARED(shared); enter<Q8>(a, shared); }
KERNEL(enter_k8v4, Enter, APPEND_WARPS * 32) { SHARED(shared); enter<K8V4>(a, shared); }

// Slots from `first` on of pages hold no entry: new pages (and truncated ones) are so before anything is appended. Scales
// of entries that are gone would move answers: attention rounds weights in units of the largest scale of a page's values.
struct Clear {
  u64 pool, pages, firsts;  // u32 each
  u32 scales, meta, bytes;  // where scales and ln counts lie in a page (both in one place: it has no scales), and its size
  u32 unused;
};

KERNEL(clear_slots, Clear, PAGE) {
  u32 slot = thread_index(), first = at<u32>(a.firsts)[block_x()];
  u8* page = at<u8>(a.pool) + (u64)at<u32>(a.pages)[block_x()] * a.bytes;
  u32 *meta = (u32*)(page + a.meta), *scales = (u32*)(page + a.scales);
  if (slot >= first) {
    if (a.scales != a.meta) scales[slot] = scales[PAGE + slot] = 0;
    meta[slot] = bits_of(float_of(0xff800000u));
    meta[PAGE + slot] = 0;
    meta[2 * PAGE + slot] = 0;
  }
}
