// How candidates are laid out while a plan is made, from the rows of features.cu to the lists of fold.cu.
//
// Every head that has candidates is a `PlannedHead`; its candidates are cut into stretches of at most 4096, which are
// clustered on their own. What is found out about a head stays on the device until the plan is complete: nothing between
// two of its kernels waits for the host.
#pragma once
#include "common.cuh"

#define STRETCH_ROWS 4096

struct PlannedHead {
  u32 pages;        // place of the head's first page in the list of pages
  u32 first;        // first candidate, an entry of the head
  u32 count;        // candidates
  u32 len;          // entries of the head
  u32 balance;      // row of the balances that keys are stored divided by, or ~0
  f32 value_scale;  // mean |value|^2 of its candidates, or 0: to be measured
  u32 stretch;      // its first stretch
  u32 stretches;    // how many follow one another
  u32 start;        // where its list of starts begins: survivors and one more
  u32 member;       // where its list of members begins: all entries from the page of the first candidate on
};

// What is found out about a head.
struct Found {
  f32 unit;          // what its rows' numbers are multiples of
  f32 value_factor;  // what values are multiplied by in rows
  f32 value_scale;   // mean |value|^2 of its candidates
  u32 left;          // candidates that survive
};

struct Stretch {
  u32 head;     // which of the heads
  u32 first;    // its first candidate, counted from the head's first
  u32 count;    // candidates, at most 4096
  u32 row;      // where its rows begin
  u32 list;     // where its merges and their prices begin
  u32 least;    // clusters that are left at least
  f32 ceiling;  // price beyond which there is no need to go on
  u32 unused;
};

// Sorts `count` keys in shared memory, a power of two, by all `threads` threads of a block.
template <class T> DEVICE void sort_keys(T* keys, u32 count, u32 threads) {
  for (u32 size = 2; size <= count; size *= 2) {
    for (u32 half = size / 2; half > 0; half /= 2) {
      barrier();
      for (u32 i = thread_index(); i < count / 2; i += threads) {
        u32 low = i / half * half * 2 + i % half, high = low + half;
        bool up = (low & size) == 0;
        T x = keys[low], y = keys[high];
        if ((x > y) == up) {
          keys[low] = y;
          keys[high] = x;
        }
      }
    }
  }
  barrier();
}

// The sum of `own` over all threads before this one, and over all of them; `sums` is room for a number a thread.
DEVICE u32 sum_before(u32 own, u32* sums, u32 threads, u32& total) {
  u32 thread = thread_index();
  sums[thread] = own;
  barrier();
  for (u32 step = 1; step < threads; step *= 2) {
    u32 sum = sums[thread] + (thread >= step ? sums[thread - step] : 0);
    barrier();
    sums[thread] = sum;
    barrier();
  }
  u32 before = sums[thread] - own;
  total = sums[threads - 1];
  barrier();
  return before;
}
