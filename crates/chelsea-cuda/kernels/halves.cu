// Rows of tokens as halves, alone or with what makes them, and what is left to do behind a library. See halves.cuh.
//
// Shapes   x `[rows][width]`, f32; halves `[rows][columns]`; units `[rows]`. A block of threads for each row, which goes over it
//          once for its largest number and once more to write it. `halve_normed`: `y` of the same shape is added to x before,
//          where there is one. `halve_gated`: x is `activation(gate) * up`.
// Floor    4 bytes read (8 where two rows are) and 2 written for each number.
#include "block.cuh"
#include "gate.cuh"
#include "halves.cuh"

struct Halves {
  u64 out, units;
  u32 width, columns;
};

// Writes the row of this block, whose number i is `number(i)`. `shared` has room for 8 numbers.
template <class Number> DEVICE void write_row(const Halves& a, u32* shared, Number number) {
  u32 largest = 0;  // magnitudes, as whole numbers, are in the order of the numbers, with what is none on top
  for (u32 i = thread_index(); i < a.width; i += ROW_THREADS) {
    u32 bits = bits_of(absolute(number(i)));
    largest = bits > largest ? bits : largest;
  }
  for (u32 mask = 16; mask > 0; mask /= 2) {
    u32 other = shuffle_xor(largest, mask);
    largest = other > largest ? other : largest;
  }
  if (thread_index() % 32 == 0) shared[thread_index() / 32] = largest;
  barrier();
  for (u32 w = 0; w < ROW_THREADS / 32; w++) largest = shared[w] > largest ? shared[w] : largest;
  f32 unit = unit_of(largest), inverse = 1.0f / unit;
  u64 row = block_x();
  for (u32 i = thread_index(); i < a.columns; i += ROW_THREADS)
    at<u16>(a.out)[row * a.columns + i] = half_bits(i < a.width ? number(i) * inverse : 0);
  if (thread_index() == 0) at<f32>(a.units)[row] = unit;
}

struct Halve {
  u64 x;
  Halves to;
};

KERNEL(halve, Halve, ROW_THREADS) {
  SHARED(shared);
  const f32* x = at<f32>(a.x) + (u64)block_x() * a.to.width;
  write_row(a.to, (u32*)shared, [=](u32 i) { return x[i]; });
}

struct HalveNormed {
  u64 x, y, weight;  // y: 0 for none
  Halves to;
  f32 eps;
  u32 unused;
};

KERNEL(halve_normed, HalveNormed, ROW_THREADS) {
  SHARED(shared);
  u32 width = a.to.width;
  f32* x = at<f32>(a.x) + (u64)block_x() * width;
  const f32 *y = at<f32>(a.y) + (u64)block_x() * width, *weight = at<f32>(a.weight);
  f32 sum = 0;
  for (u32 i = thread_index(); i < width; i += ROW_THREADS) {
    f32 number = x[i];
    if (a.y) {
      number += y[i];
      x[i] = number;
    }
    sum += number * number;
  }
  sum = block_sum(sum, (f32*)shared);
  f32 scale = 1.0f / sqrtf(sum / (f32)width + a.eps);
  // A thread has the numbers that it has read (and written) before.
  write_row(a.to, (u32*)shared, [=](u32 i) { return x[i] * scale * weight[i]; });
}

struct HalveGated {
  u64 gate, up;
  Halves to;
  u32 activation;
  f32 alpha, limit;
  u32 unused;
};

KERNEL(halve_gated, HalveGated, ROW_THREADS) {
  SHARED(shared);
  u64 first = (u64)block_x() * a.to.width;
  const f32 *gate = at<f32>(a.gate) + first, *up = at<f32>(a.up) + first;
  u32 activation = a.activation;
  f32 alpha = a.alpha, limit = a.limit;
  write_row(a.to, (u32*)shared, [=](u32 i) { return gated(gate[i], up[i], activation, alpha, limit); });
}

// What a library leaves to do: outputs times the units of their tokens, plus biases. A row whose unit is 1 and that has no
// biases stays as it is.
struct Settle {
  u64 out, units, bias;       // out: f32 `[tokens][stride]`, of which `rows` are settled; bias: f32 `[rows]`, or 0
  u32 rows, stride;
};

KERNEL(settle, Settle, ROW_THREADS) {
  u32 row = block_x() * ROW_THREADS + thread_index();
  f32 unit = at<f32>(a.units)[block_y()];
  if (row >= a.rows || (unit == 1.0f && !a.bias)) return;
  f32* out = at<f32>(a.out) + (u64)block_y() * a.stride + row;
  *out = *out * unit + (a.bias ? at<f32>(a.bias)[row] : 0);
}
