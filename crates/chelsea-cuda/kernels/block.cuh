// What blocks of 256 threads do with rows.
#pragma once
#include "common.cuh"

#define ROW_THREADS 256

// The sum over all threads of a block of at most 256, the same in each. `shared` has room for 8 numbers.
DEVICE f32 block_sum(f32 x, f32* shared) {
  x = warp_sum(x);
  if (thread_index() % 32 == 0) shared[thread_index() / 32] = x;
  barrier();
  f32 sum = 0;
  for (u32 w = 0; w < threads_of_block() / 32; w++) sum += shared[w];
  barrier();
  return sum;
}
