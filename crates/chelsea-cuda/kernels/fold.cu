// Clusters become entries: count-weighted means of their members, written into other pages.
//
// Shapes   a survivor has a list of members, entries of the head's old pages, in their order; one block of 128 threads for
//          each run of survivors that go into one new page. A survivor that stays alone is copied bit for bit.
// Layout   page.cuh. A thread has the same dimensions of all survivors of its run, so that half bytes of one byte are written
//          by one thread.
// Floor    every old page read and every new one written once: expected 60% of a copy's speed, since columns of values are
//          read one number at a time.
//
// Sums are taken in the order of the members, in f32, and divided by the count, as on the CPU: the same bits.
#include "round.cuh"

struct FoldRun {
  u32 page;      // the new page
  u32 slot;      // of the first survivor
  u32 count;     // survivors
  u32 survivor;  // the first one: its members are `members[starts[survivor] .. starts[survivor + 1]]`
  u32 pages;     // place of the head's first old page in `pages`
  u32 balance;   // row of `balances` that keys are stored divided by, or ~0
};

struct Fold {
  u64 pool, runs, starts, members, pages, balances;
  u32 dim, unused;
};

#define FOLD_THREADS 128

template <int TYPE> DEVICE void fold(const Fold& a, u8* shared) {
  FoldRun run = at<FoldRun>(a.runs)[block_x()];
  u32 dim = a.dim, thread = thread_index();
  f32* keys = (f32*)shared;             // [dim] the mean key as it is stored
  f32* values = keys + dim;             // [dim]
  f32* largest = values + dim;          // [2][4] of warps
  f32* errors = largest + 8;            // [8]
  f32* inverses = errors + 8;           // [2]
  u8* page = at<u8>(a.pool) + run.page * page_bytes<TYPE>(dim);
  f32* scales = (f32*)(page + scales_at<TYPE>(dim));
  for (u32 e = 0; e < run.count; e++) {
    u32 first = at<u32>(a.starts)[run.survivor + e], end = at<u32>(a.starts)[run.survivor + e + 1], slot = run.slot + e;
    const u32* members = at<u32>(a.members);
    // Of a member: its page and its slot.
    #define MEMBER(m)                                                                                          \
      u32 entry = members[m], from_slot = entry % PAGE;                                                        \
      const u8* from = at<u8>(a.pool) + at<u32>(a.pages)[run.pages + entry / PAGE] * page_bytes<TYPE>(dim);
    u32* meta = (u32*)(page + meta_at<TYPE>(dim)) + slot;
    if (end - first == 1) {
      MEMBER(first)
      for (u32 d = thread; d < dim; d += FOLD_THREADS) {
        const u8* row = from + from_slot * key_row_bytes<TYPE>(dim);
        u8* to = page + slot * key_row_bytes<TYPE>(dim);
        const u8* column = from + values_at<TYPE>(dim) + d * value_row_bytes<TYPE>();
        u8* to_column = page + values_at<TYPE>(dim) + d * value_row_bytes<TYPE>();
        if (TYPE == F16) {
          ((u16*)to)[d] = ((const u16*)row)[d];
          ((u16*)to_column)[slot] = ((const u16*)column)[from_slot];
        } else {
          to[d] = row[d];
          if (TYPE == Q8) to_column[slot] = column[from_slot];
          if (TYPE == K8V4) {
            u32 nibble = column[nibble_byte(from_slot)] >> nibble_shift(from_slot) & 15;
            u8* byte = to_column + nibble_byte(slot);
            *byte = (u8)((*byte & ~(15u << nibble_shift(slot))) | nibble << nibble_shift(slot));
          }
        }
      }
      if (thread < 3) meta[thread * PAGE] = ((const u32*)(from + meta_at<TYPE>(dim)))[thread * PAGE + from_slot];
      if (TYPE != F16 && thread < 2) scales[thread * PAGE + slot] = ((const f32*)(from + scales_at<TYPE>(dim)))[thread * PAGE + from_slot];
      continue;
    }
    u32 count = 0;
    for (u32 m = first; m < end; m++) {
      MEMBER(m)
      count += ((const u32*)(from + meta_at<TYPE>(dim)))[PAGE + from_slot];
    }
    f32 total = (f32)count, most = 0, most_value = 0;
    for (u32 d = thread; d < dim; d += FOLD_THREADS) {
      f32 key = 0, value = 0, size = run.balance == NO_BALANCE ? 1.0f : at<f32>(a.balances)[(u64)run.balance * dim + d];
      for (u32 m = first; m < end; m++) {
        MEMBER(m)
        f32 weight = (f32)((const u32*)(from + meta_at<TYPE>(dim)))[PAGE + from_slot], x = read_key<TYPE>(from, dim, from_slot, d);
        key += weight * (run.balance == NO_BALANCE ? x : x * size);
        value += weight * read_value<TYPE>(from, dim, from_slot, d);
      }
      key /= total;
      keys[d] = run.balance == NO_BALANCE ? key : key / size;
      values[d] = value / total;
      most = max_of(absolute(keys[d]), most);
      most_value = max_of(absolute(values[d]), most_value);
    }
    if (TYPE != F16) {
      most = warp_max(most);
      most_value = warp_max(most_value);
      if (thread % 32 == 0) {
        largest[thread / 32] = most;
        largest[4 + thread / 32] = most_value;
      }
      // With three barriers a survivor none of what they keep apart is written again before all have read it.
      barrier();
      if (TYPE == K8V4 && thread < 8) errors[thread] = error_of(values, dim, thread);
      barrier();
      if (thread < 2) {
        f32 scale = largest[4 * thread];
        for (u32 w = 1; w < 4; w++) scale = max_of(scale, largest[4 * thread + w]);
        scale = byte_scale(scale);
        if (TYPE == K8V4 && thread == 1) scale = nibble_scale(values, dim, errors);
        scales[thread * PAGE + slot] = scale;
        inverses[thread] = inverse_of(scale);
      }
      barrier();
    }
    for (u32 d = thread; d < dim; d += FOLD_THREADS) {
      u8* to = page + slot * key_row_bytes<TYPE>(dim);
      if (TYPE == F16) ((u16*)to)[d] = half_bits(keys[d]);
      if (TYPE != F16) ((i8*)to)[d] = to_byte(keys[d], inverses[0]);
      write_value<TYPE>(page, dim, d, slot, values[d], TYPE == F16 ? 1.0f : inverses[1]);
    }
    if (thread == 0) {
      double moment = 0;
      for (u32 m = first; m < end; m++) {
        MEMBER(m)
        const u32* words = (const u32*)(from + meta_at<TYPE>(dim)) + from_slot;
        moment += (double)words[PAGE] * (double)float_of(words[2 * PAGE]);
      }
      meta[0] = bits_of(logf(total));
      meta[PAGE] = count;
      meta[2 * PAGE] = bits_of((f32)(moment / (double)count));
    }
  }
}

KERNEL(fold_f16, Fold, FOLD_THREADS) { SHARED(shared); fold<F16>(a, shared); }
KERNEL(fold_q8, Fold, FOLD_THREADS) { SHARED(shared); fold<Q8>(a, shared); }
KERNEL(fold_k8v4, Fold, FOLD_THREADS) { SHARED(shared); fold<K8V4>(a, shared); }
