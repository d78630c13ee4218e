// Entries become rows of whole numbers, to be clustered by cluster.cu.
//
// Shapes   a row is an entry's key before RoPE, less its head's mean and times `scale` dimension by dimension, then its value
//          times the head's value factor, unless that is 0; all in multiples of a unit, in 16 bits, filled up with zeros to
//          `stride`. `measure` finds each head's mean key, its unit, the mean |value|^2 where that is not known, and the
//          factor that follows from it, one block a head; `features` writes the rows of stretches (cluster.cuh), one block
//          for 16 entries (grid: entries, stretches).
// Layout   page.cuh. A thread of `measure` has a pair of dimensions and every few entries, then a dimension of values; a
//          warp of `features` has an entry.
// Floor    268 bytes in and 512 out an entry (q8, 128 numbers a key), pages twice: expected 40% of a copy's speed; of a GPU
//          that is slow in f64, the two products in f64 of each phase are what it takes.
//
// Sines and cosines are those of the CPU's cache, bit for bit. Means are sums in f64, in an order that suits many threads.
#include "cluster.cuh"
#include "round.cuh"

struct Features {
  u64 pool, heads, pages, balances, frequencies;  // frequencies: f32 `[pairs]`
  u64 scales, centres, found;                     // f32 `[heads][dim]`, `[heads][dim]`, `Found` each head
  u64 stretches, rows, weights;                   // i16 `[rows][stride]`, u32 `[rows]`
  double value_weight;                            // of the squared distance of values; 0 leaves them out
  u32 dim, pairs, stride;
  f32 most;                                       // the largest number of a row
};

#define MEASURE_THREADS 256
#define FEATURE_ENTRIES 16

// Sine and cosine as the cache's: the quadrant is taken off in f64, polynomials do the rest.
DEVICE void sine_cosine(f32 phase, f32& sine, f32& cosine) {
  double shifted = (double)phase * 0.63661977236758134308 + 6755399441055744.0;
  double whole = shifted - 6755399441055744.0;
  u32 quadrant = (u32)(i32)whole;
  f32 r = (f32)((double)phase - whole * 1.57079632679489661923), z = r * r;
  f32 s = r + r * z * (-1.6666655e-1f + z * (8.332161e-3f - z * 1.9515296e-4f));
  f32 c = 1.0f - 0.5f * z + z * z * (4.1666646e-2f + z * (-1.3887316e-3f + z * 2.4433157e-5f));
  u32 swap = 0u - (quadrant & 1), sb = bits_of(s), cb = bits_of(c);
  sine = float_of(((sb & ~swap) | (cb & swap)) ^ ((quadrant & 2) << 30));
  cosine = float_of(((cb & ~swap) | (sb & swap)) ^ (((quadrant + 1) & 2) << 30));
}

// Key dimension `d` of an entry as the cache gives it, times what it is stored divided by.
template <int TYPE> DEVICE f32 cached_key(const Features& a, const PlannedHead& head, const u8* page, u32 slot, u32 d) {
  f32 x = read_key<TYPE>(page, a.dim, slot, d);
  return head.balance == NO_BALANCE ? x : x * at<f32>(a.balances)[(u64)head.balance * a.dim + d];
}

// Dimensions `pair` and `pair + pairs` of a key before RoPE; of dimensions that are not turned, `pair` counts those alone.
template <int TYPE> DEVICE void key_pair(const Features& a, const PlannedHead& head, const u8* page, u32 slot, u32 pair, f32& x, f32& y) {
  f32 position = ((const f32*)(page + meta_at<TYPE>(a.dim)))[2 * PAGE + slot], s, c;
  f32 left = cached_key<TYPE>(a, head, page, slot, pair), right = cached_key<TYPE>(a, head, page, slot, pair + a.pairs);
  sine_cosine(position * at<f32>(a.frequencies)[pair], s, c);
  x = left * c + right * s;
  y = right * c - left * s;
}

template <int TYPE> DEVICE const u8* page_of(const Features& a, const PlannedHead& head, u32 entry) {
  return at<u8>(a.pool) + at<u32>(a.pages)[head.pages + entry / PAGE] * page_bytes<TYPE>(a.dim);
}

template <int TYPE> DEVICE void measure(const Features& a, u8* shared) {
  PlannedHead head = at<PlannedHead>(a.heads)[block_x()];
  u32 thread = thread_index(), rest = a.dim - 2 * a.pairs, items = a.pairs + rest;  // pairs, then dimensions alone
  double* sums = (double*)shared;                  // [256][2]
  f32* extremes = (f32*)(sums + 2 * MEASURE_THREADS);  // [256][4]
  f32* reaches = extremes + 4 * MEASURE_THREADS;   // [256]
  const f32* scale = at<f32>(a.scales) + (u64)block_x() * a.dim;
  f32* centre = at<f32>(a.centres) + (u64)block_x() * a.dim;
  const f32 infinity = float_of(0x7f800000u);
  f32 reach = 0;
  u32 slices = MEASURE_THREADS / items, item = thread % items, slice = thread / items;  // items are at most 256
  f32 least[2] = {infinity, infinity}, most[2] = {-infinity, -infinity};
  double sum[2] = {0, 0};
  if (slice < slices) {
    for (u32 i = slice; i < head.count; i += slices) {
      u32 entry = head.first + i, slot = entry % PAGE;
      const u8* page = page_of<TYPE>(a, head, entry);
      f32 x[2] = {0, 0};
      if (item < a.pairs) key_pair<TYPE>(a, head, page, slot, item, x[0], x[1]);
      else x[0] = cached_key<TYPE>(a, head, page, slot, item + a.pairs);
      for (u32 k = 0; k < 2; k++) {
        sum[k] += (double)x[k];
        least[k] = min_of(least[k], x[k]);
        most[k] = max_of(most[k], x[k]);
      }
    }
  }
  for (u32 k = 0; k < 2; k++) {
    sums[thread * 2 + k] = sum[k];
    extremes[thread * 4 + k] = least[k];
    extremes[thread * 4 + 2 + k] = most[k];
  }
  barrier();
  if (slice == 0) {
    for (u32 k = 0; k < (item < a.pairs ? 2u : 1u); k++) {
      u32 d = item + k * a.pairs + (item < a.pairs ? 0 : a.pairs);
      for (u32 other = 1; other < slices; other++) {
        u32 place = other * items + item;
        sum[k] += sums[place * 2 + k];
        least[k] = min_of(least[k], extremes[place * 4 + k]);
        most[k] = max_of(most[k], extremes[place * 4 + 2 + k]);
      }
      f32 mean = (f32)(sum[k] / (double)(head.count < 1 ? 1 : head.count));
      centre[d] = mean;
      reach = max_of(scale[d] * max_of(most[k] - mean, mean - least[k]), reach);
    }
  }
  // Values: the largest, and the sum of squares.
  f32 largest = 0;
  double power = 0;
  if (a.value_weight != 0) {
    u32 parts = MEASURE_THREADS / a.dim, d = thread % a.dim, part = thread / a.dim;  // a key has at most 256 numbers
    if (part < parts) {
      for (u32 i = part; i < head.count; i += parts) {
        u32 entry = head.first + i;
        f32 x = read_value<TYPE>(page_of<TYPE>(a, head, entry), a.dim, entry % PAGE, d);
        largest = max_of(absolute(x), largest);
        power += (double)x * (double)x;
      }
    }
  }
  // What was put down before was read.
  barrier();
  sums[thread] = power;
  extremes[thread] = largest;
  reaches[thread] = reach;
  barrier();
  if (thread == 0) {
    for (u32 i = 1; i < MEASURE_THREADS; i++) {
      power += sums[i];
      largest = max_of(extremes[i], largest);
      reach = max_of(reaches[i], reach);
    }
    Found found;
    found.value_scale = head.value_scale != 0 ? head.value_scale : power > 0 ? (f32)(power / (double)head.count) : 1.0f;
    found.value_factor = (f32)sqrt(a.value_weight / (double)found.value_scale);
    if (a.value_weight != 0) reach = max_of(found.value_factor * largest, reach);
    // Where all rows are alike, or hold what is no number, nothing is told apart.
    f32 unit = reach / a.most;
    found.unit = unit >= 1.17549435e-38f && unit < infinity ? unit : 1.0f;
    found.left = head.count;
    at<Found>(a.found)[block_x()] = found;
  }
}

DEVICE i16 whole_of(f32 x, f32 factor, f32 most) { return (i16)nearest_whole(clamped(x * factor, -most, most)); }

template <int TYPE> DEVICE void features(const Features& a) {
  Stretch stretch = at<Stretch>(a.stretches)[block_y()];
  PlannedHead head = at<PlannedHead>(a.heads)[stretch.head];
  Found found = at<Found>(a.found)[stretch.head];
  u32 warp = thread_index() / 32, lane = thread_index() % 32;
  const f32* scale = at<f32>(a.scales) + (u64)stretch.head * a.dim;
  const f32* centre = at<f32>(a.centres) + (u64)stretch.head * a.dim;
  f32 factor = 1.0f / found.unit;
  for (u32 k = warp; k < FEATURE_ENTRIES; k += 4) {
    u32 i = block_x() * FEATURE_ENTRIES + k;
    if (i >= stretch.count) break;
    u32 entry = head.first + stretch.first + i, slot = entry % PAGE;
    const u8* page = page_of<TYPE>(a, head, entry);
    i16* row = at<i16>(a.rows) + (u64)(stretch.row + i) * a.stride;
    for (u32 pair = lane; pair < a.pairs; pair += 32) {
      f32 x, y;
      key_pair<TYPE>(a, head, page, slot, pair, x, y);
      row[pair] = whole_of((x - centre[pair]) * scale[pair], factor, a.most);
      row[pair + a.pairs] = whole_of((y - centre[pair + a.pairs]) * scale[pair + a.pairs], factor, a.most);
    }
    for (u32 d = 2 * a.pairs + lane; d < a.dim; d += 32)
      row[d] = whole_of((cached_key<TYPE>(a, head, page, slot, d) - centre[d]) * scale[d], factor, a.most);
    u32 end = a.dim;
    if (a.value_weight != 0) {
      for (u32 d = lane; d < a.dim; d += 32) row[a.dim + d] = whole_of(read_value<TYPE>(page, a.dim, slot, d) * found.value_factor, factor, a.most);
      end = 2 * a.dim;
    }
    for (u32 d = end + lane; d < a.stride; d += 32) row[d] = 0;
    if (lane == 0) at<u32>(a.weights)[stretch.row + i] = ((const u32*)(page + meta_at<TYPE>(a.dim)))[PAGE + slot];
  }
}

KERNEL(measure_f16, Features, MEASURE_THREADS) { SHARED(shared); measure<F16>(a, shared); }
KERNEL(measure_q8, Features, MEASURE_THREADS) { SHARED(shared); measure<Q8>(a, shared); }
KERNEL(measure_k8v4, Features, MEASURE_THREADS) { SHARED(shared); measure<K8V4>(a, shared); }
KERNEL(features_f16, Features, 128) { features<F16>(a); }
KERNEL(features_q8, Features, 128) { features<Q8>(a); }
KERNEL(features_k8v4, Features, 128) { features<K8V4>(a); }
