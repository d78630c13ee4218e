// What happens to rows between products: norms, residuals, gates, rotary embedding, biases, embeddings, the largest logit.
//
// Shapes   rows `[rows][width]`, f32.
// Layout   a block for each row (`norm`, `largest`), or a thread for each number of some rows.
// Floor    what is read and written once; in decode these are tens of KB, and the launch is what they cost.
#include "block.cuh"
#include "gate.cuh"
#include "linear.cuh"

// out = x / rms(x) * weight, row by row; out may be x. Rows lie `stride` numbers apart.
struct Norm {
  u64 x, weight, out;
  u32 width, rows;
  u32 x_stride, out_stride;
  f32 eps;
  u32 unused;
};

KERNEL(rms_norm, Norm, ROW_THREADS) {
  SHARED(shared);
  const f32* x = at<f32>(a.x) + (u64)block_x() * a.x_stride;
  f32* out = at<f32>(a.out) + (u64)block_x() * a.out_stride;
  f32 sum = 0;
  for (u32 i = thread_index(); i < a.width; i += threads_of_block()) sum += x[i] * x[i];
  sum = block_sum(sum, (f32*)shared);
  f32 scale = 1.0f / sqrtf(sum / (f32)a.width + a.eps);
  for (u32 i = thread_index(); i < a.width; i += threads_of_block()) out[i] = x[i] * scale * at<f32>(a.weight)[i];
}

// x += y for `count` numbers; y repeats after `period` of them (a bias).
struct Add {
  u64 x, y;
  u32 count, period;
};

KERNEL(add, Add, ROW_THREADS) {
  u32 i = block_x() * ROW_THREADS + thread_index();
  if (i < a.count) at<f32>(a.x)[i] += at<f32>(a.y)[i % a.period];
}

// x = x * factor, or cap * tanh(x * factor / cap) where there is a cap.
struct Scale {
  u64 x;
  u32 count;
  f32 factor, cap;
  u32 unused;
};

KERNEL(scale, Scale, ROW_THREADS) {
  u32 i = block_x() * ROW_THREADS + thread_index();
  if (i < a.count) {
    f32 x = at<f32>(a.x)[i] * a.factor;
    at<f32>(a.x)[i] = a.cap > 0 ? a.cap * tanhf(x / a.cap) : x;
  }
}

// gate = activation(gate, up): gate.cuh.
struct Gate {
  u64 gate, up;
  u32 count, activation;
  f32 alpha, limit;
};

KERNEL(gate, Gate, ROW_THREADS) {
  u32 i = block_x() * ROW_THREADS + thread_index();
  if (i >= a.count) return;
  at<f32>(a.gate)[i] = gated(at<f32>(a.gate)[i], at<f32>(a.up)[i], a.activation, a.alpha, a.limit);
}

// Turns heads in place, in the half-split layout: number i of a head pairs with number i + pairs. Tables are
// `[tokens][pairs]`; rows lie `stride` numbers apart.
struct Rope {
  u64 x, cosines, sines;
  u32 tokens, heads, dim, pairs, stride, unused;
};

KERNEL(rope, Rope, ROW_THREADS) {
  u32 i = block_x() * ROW_THREADS + thread_index(), pair = i % a.pairs, head = i / a.pairs % a.heads, token = i / a.pairs / a.heads;
  if (token >= a.tokens) return;
  f32* x = at<f32>(a.x) + (u64)token * a.stride + head * a.dim + pair;
  f32 c = at<f32>(a.cosines)[token * a.pairs + pair], s = at<f32>(a.sines)[token * a.pairs + pair];
  f32 left = x[0], right = x[a.pairs];
  x[0] = left * c - right * s;
  x[a.pairs] = right * c + left * s;
}

// Rows of a matrix of weights as numbers, times `factor`: embeddings of tokens. A thread for each number.
struct Fetch {
  u64 weights, ids, out;  // ids: u32 `[tokens]`
  u32 rows, blocks, tokens, columns;
  f32 factor;
  u32 unused;
};

template <int BITS> DEVICE u32 code_at(const Weights& w, u64 block, u32 i) {
  const u8* low = w.low + block * low_bytes<BITS>();
  if (BITS == 8) return low[i];
  return (low[i % 16] >> i / 16 * 4 & 15) | (high_bits<BITS>(w.high + block * high_bytes<BITS>(), i % 16 / 4, i / 16) >> 8 * (i % 4) & 255);
}

template <int BITS, int GROUP> DEVICE void fetch(const Fetch& a) {
  u32 token = block_y(), column = block_x() * ROW_THREADS + thread_index();
  if (column >= a.columns) return;
  Weights w = weights_at<BITS, GROUP>(a.weights, a.rows, a.blocks);
  u32 row = at<u32>(a.ids)[token], i = column % BLOCK;
  u64 block = (u64)row * a.blocks + column / BLOCK;
  u32 pair = w.scales[block * (BLOCK / GROUP) + i / GROUP];
  f32 x = half_value((u16)pair) * (f32)code_at<BITS>(w, block, i) - half_value((u16)(pair >> 16));
  at<f32>(a.out)[(u64)token * a.columns + column] = x * w.units[row] * a.factor;
}
KERNEL(fetch_4_16, Fetch, ROW_THREADS) { fetch<4, 16>(a); }
KERNEL(fetch_4_32, Fetch, ROW_THREADS) { fetch<4, 32>(a); }
KERNEL(fetch_5_32, Fetch, ROW_THREADS) { fetch<5, 32>(a); }
KERNEL(fetch_6_16, Fetch, ROW_THREADS) { fetch<6, 16>(a); }
KERNEL(fetch_8_32, Fetch, ROW_THREADS) { fetch<8, 32>(a); }

// The place of the largest number of each row, the first of equal ones; what is no number is never it.
struct Largest {
  u64 x, out;  // out: u32 `[rows]`
  u32 width, rows;
};

KERNEL(largest, Largest, ROW_THREADS) {
  SHARED(shared);
  const f32* x = at<f32>(a.x) + (u64)block_x() * a.width;
  f32 most = float_of(0xff800000u);
  u32 place = 0xffffffffu;
  for (u32 i = thread_index(); i < a.width; i += ROW_THREADS) {
    if (x[i] > most || (place == 0xffffffffu && x[i] == most)) {
      most = x[i];
      place = i;
    }
  }
  f32* numbers = (f32*)shared;
  u32* places = (u32*)shared + ROW_THREADS;
  numbers[thread_index()] = most;
  places[thread_index()] = place;
  barrier();
  for (u32 half = ROW_THREADS / 2; half > 0; half /= 2) {
    u32 i = thread_index();
    if (i < half) {
      f32 other = numbers[i + half];
      u32 at_other = places[i + half];
      if (other > numbers[i] || (other == numbers[i] && at_other < places[i])) {
        numbers[i] = other;
        places[i] = at_other;
      }
    }
    barrier();
  }
  if (thread_index() == 0) at<u32>(a.out)[block_x()] = places[0] == 0xffffffffu ? 0 : places[0];
}

// Query heads times what their KV head's keys are stored divided by: x `[rows][stride]`; `which` `[rows][kv_heads]` is the row
// of `factors` (`[..][dim]`) for each KV head, or ~0 for none.
struct ScaleHeads {
  u64 x, factors, which;
  u32 rows, kv_heads, group, dim, stride, unused;
};

KERNEL(scale_heads, ScaleHeads, ROW_THREADS) {
  u32 i = block_x() * ROW_THREADS + thread_index(), width = a.kv_heads * a.group * a.dim, row = i / width, column = i % width;
  if (row >= a.rows) return;
  u32 head = column / a.dim / a.group, factors = at<u32>(a.which)[row * a.kv_heads + head];
  if (factors != 0xffffffffu) at<f32>(a.x)[(u64)row * a.stride + column] *= at<f32>(a.factors)[(u64)factors * a.dim + column % a.dim];
}
