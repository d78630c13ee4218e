// Joins the parts of each query head. See decode.cuh.
#include "decode.cuh"

struct Join {
  u64 sums, firsts, sinks, out;  // `firsts` [heads + 1]: first part of each KV head of each token; `sinks` [q_heads] or 0
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
  for (u32 d = thread_index(); d < dim; d += threads_of_block()) {
    f32 sum = 0;
    for (u32 p = first; p < end; p++) {
      const f32* part = at<f32>(a.sums) + p * (u64)sums_of(dim) + row * (dim + 2);
      sum += exp2f(part[dim] - top) * part[d];
    }
    at<f32>(a.out)[(u64)query * dim + d] = sum * inverse;
  }
}
