// Joins the parts of each query head, and rounds them to bytes for the product that follows. See decode.cuh.
#include "decode.cuh"
#include "linear.cuh"

struct Join {
  u64 sums, firsts, sinks, out;  // `firsts` [heads + 1]: first part of each KV head of each token; `sinks` [q_heads] or 0
  u64 bytes, scales;             // rows `[q_heads * dim]` in bytes, where `dim` is a multiple of 32; or 0, and `out` is written
  u32 dim, group, q_heads, unused;
};

KERNEL(join_parts, Join, 256) {
  u32 query = block_x(), head = query / a.group, row = query % a.group, dim = a.dim;
  u32 first = at<u32>(a.firsts)[head], end = at<u32>(a.firsts)[head + 1];
  f32 sink = a.sinks ? at<f32>(a.sinks)[query % a.q_heads] * LOG2_E : NO_SCORE, top = sink;
  for (u32 p = first; p < end; p++) top = max_of(top, at<f32>(a.sums)[p * (u64)sums_of(dim) + row * (dim + 2) + dim]);
  f32 total = a.sinks ? exp2f(sink - top) : 0;
  for (u32 p = first; p < end; p++) {
    const f32* part = at<f32>(a.sums) + p * (u64)sums_of(dim) + row * (dim + 2);
    total += exp2f(part[dim] - top) * part[dim + 1];
  }
  f32 inverse = total > 0 ? 1.0f / total : 0;
  // A thread for each dimension: there are at most as many as threads.
  u32 d = thread_index();
  f32 sum = 0;
  if (d < dim) {
    for (u32 p = first; p < end; p++) {
      const f32* part = at<f32>(a.sums) + p * (u64)sums_of(dim) + row * (dim + 2);
      sum += exp2f(part[dim] - top) * part[d];
    }
  }
  sum *= inverse;
  if (a.bytes) {
    round_block(sum, (u64)query * (dim / BLOCK) + d / BLOCK, true, at<i8>(a.bytes), at<f32>(a.scales));
  } else if (d < dim) {
    at<f32>(a.out)[(u64)query * dim + d] = sum;
  }
}
