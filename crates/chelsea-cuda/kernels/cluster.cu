// Clusters stretches of entries by rounds of chunked soft matching, all rounds in one launch.
//
// Shapes   a stretch has at most 4096 rows, of `stride` whole numbers in 16 bits (a multiple of 32, filled up with zeros):
//          features.cu. One block of 256 threads a stretch. It answers a list of merges, in order, each with a price that
//          never falls; what is carried out is a beginning of it (select.cu).
// Layout   rows and weights stay where they are; a list in shared memory says which are left, in order. In a round the list is
//          cut into chunks of 256; odd places of a chunk look for the nearest even one, as on the CPU. Distances are exact:
//          a row's numbers are two bytes each, whose products matrix instructions sum up in whole numbers of 32 bits,
//          x y = 65536 hi hi + 256 (hi lo + lo hi) + lo lo, modulo 2^32. The cheapest are found by sorting all.
// Floor    64 bytes of products of the matrix units for each row, number and round, times four: for 4096 rows of 256
//          numbers to a fifth about a millisecond on one multiprocessor of an H100, expected at 50% of that speed.
//
// The same rows give the same list as the twin, bit for bit.
#include "cluster.cuh"

struct Cluster {
  u64 stretches, found;                // `Stretch`, and `Found` of the heads that they name
  u64 rows, weights, lengths;          // lengths: room for an i32 each row
  u64 pairs, prices, counts;           // lists: u32 `[2]` each, who joins whom, by row of the stretch; f32; u32 `[stretches]`
  double share;                        // of what is left, that a round merges at most
  u32 stride, unused;
};

#define CLUSTER_THREADS 256
#define CLUSTER_CHUNK 256

// Eight numbers as four high bytes and four low ones, twice.
struct Split {
  u32 high[2], low[2];
};
DEVICE Split split_row(const i16* row, u32 place) {
  uint4 x = *(const uint4*)(row + place);
  Split s;
  s.high[0] = permute(x.x, x.y, 0x7531);
  s.low[0] = permute(x.x, x.y, 0x6420);
  s.high[1] = permute(x.z, x.w, 0x7531);
  s.low[1] = permute(x.z, x.w, 0x6420);
  return s;
}

// A warp finds the nearest even places for 16 odd ones: edges `edge ..` of a chunk.
DEVICE void match_edges(const Cluster& a, const i16* rows, const i32* lengths, const u16* order, u32 len, u32 edge, u64* keys, u16* nearest) {
  const u32 TILES = 4;
  u32 lane = thread_index() % 32, g = lane / 4, t = lane % 4, edges = len / 2, chunk = edge / (CLUSTER_CHUNK / 2) * CLUSTER_CHUNK;
  const i16* source[2] = {rows + (u64)order[2 * min_of(edge + g, edges - 1) + 1] * a.stride, rows + (u64)order[2 * min_of(edge + g + 8, edges - 1) + 1] * a.stride};
  i32 least[2] = {0x7fffffff, 0x7fffffff};
  u32 best[2] = {0, 0};
  u32 evens = (min_of(chunk + CLUSTER_CHUNK, len) - chunk + 1) / 2;
  for (u32 first = 0; first < evens; first += TILES * 8) {
    i32 high[TILES][4], cross[TILES][4], low[TILES][4];
    UNROLL
    for (u32 n = 0; n < TILES; n++) {
      UNROLL
      for (u32 r = 0; r < 4; r++) high[n][r] = cross[n][r] = low[n][r] = 0;
    }
    for (u32 k = 0; k < a.stride; k += 32) {
      Split x = split_row(source[0], k + t * 8), y = split_row(source[1], k + t * 8);
      UNROLL
      for (u32 n = 0; n < TILES; n++) {
        u32 even = min_of(first + n * 8 + g, evens - 1);
        Split z = split_row(rows + (u64)order[chunk + 2 * even] * a.stride, k + t * 8);
        multiply_ss(high[n], x.high[0], y.high[0], x.high[1], y.high[1], z.high[0], z.high[1]);
        multiply_su(cross[n], x.high[0], y.high[0], x.high[1], y.high[1], z.low[0], z.low[1]);
        multiply_us(cross[n], x.low[0], y.low[0], x.low[1], y.low[1], z.high[0], z.high[1]);
        multiply_uu(low[n], x.low[0], y.low[0], x.low[1], y.low[1], z.low[0], z.low[1]);
      }
    }
    UNROLL
    for (u32 n = 0; n < TILES; n++) {
      UNROLL
      for (u32 r = 0; r < 4; r++) {
        u32 even = first + n * 8 + 2 * t + r % 2;
        if (even < evens) {
          u32 dot = ((u32)high[n][r] << 16) + ((u32)cross[n][r] << 8) + (u32)low[n][r];
          i32 beyond = (i32)((u32)lengths[order[chunk + 2 * even]] - 2 * dot);
          if (beyond < least[r / 2]) {
            least[r / 2] = beyond;
            best[r / 2] = chunk + 2 * even;
          }
        }
      }
    }
  }
  UNROLL
  for (u32 r = 0; r < 2; r++) {
    for (u32 mask = 1; mask < 4; mask *= 2) {
      i32 other = shuffle_xor(least[r], mask);
      u32 place = shuffle_xor(best[r], mask);
      if (other < least[r] || (other == least[r] && place < best[r])) {
        least[r] = other;
        best[r] = place;
      }
    }
    u32 e = edge + g + 8 * r;
    if (t == 0 && e < edges) {
      f32 cost = (f32)(lengths[order[2 * e + 1]] + least[r]);
      keys[e] = (u64)bits_of(cost) << 32 | e;
      nearest[e] = (u16)best[r];
    }
  }
}

// |row|^2, by a warp.
DEVICE void measure_row(const i16* row, u32 stride, i32* length) {
  u32 lane = thread_index() % 32, sum = 0;
  for (u32 i = lane; i < stride; i += 32) sum += (u32)((i32)row[i] * (i32)row[i]);
  for (u32 mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  if (lane == 0) *length = (i32)sum;
}

KERNEL(cluster, Cluster, CLUSTER_THREADS) {
  SHARED(shared);
  u64* keys = (u64*)shared;                            // [2048] cost and edge
  u16* orders = (u16*)(keys + STRETCH_ROWS / 2);       // [2][4096] rows that are left
  u16* nearest = orders + 2 * STRETCH_ROWS;            // [2048] place of the nearest
  u8* taken = (u8*)(nearest + STRETCH_ROWS / 2);       // [2048] whether an edge is carried out
  u32* before = (u32*)(taken + STRETCH_ROWS / 2);      // [256] edges taken by threads before, and by this one
  Stretch stretch = at<Stretch>(a.stretches)[block_x()];
  u32 thread = thread_index(), warp = thread / 32, lane = thread % 32;
  f32 unit = at<Found>(a.found)[stretch.head].unit;
  i16* rows = at<i16>(a.rows) + (u64)stretch.row * a.stride;
  u32* weights = at<u32>(a.weights) + stretch.row;
  i32* lengths = at<i32>(a.lengths) + stretch.row;
  u32* pairs = at<u32>(a.pairs) + (u64)stretch.list * 2;
  f32* prices = at<f32>(a.prices) + stretch.list;
  for (u32 i = thread; i < stretch.count; i += CLUSTER_THREADS) orders[i] = (u16)i;
  for (u32 i = warp; i < stretch.count; i += CLUSTER_THREADS / 32) measure_row(rows + (u64)i * a.stride, a.stride, lengths + i);
  barrier();
  u32 len = stretch.count, done = 0, which = 0;
  f32 price = float_of(0xff800000u);
  while (len > stretch.least && len > 1) {
    u16* order = orders + which * STRETCH_ROWS;
    u32 edges = len / 2, padded = 2;
    while (padded < edges) padded *= 2;
    for (u32 edge = warp * 16; edge < edges; edge += CLUSTER_THREADS / 2) match_edges(a, rows, lengths, order, len, edge, keys, nearest);
    for (u32 i = edges + thread; i < padded; i += CLUSTER_THREADS) keys[i] = ~0ull;
    for (u32 i = thread; i < STRETCH_ROWS / 2; i += CLUSTER_THREADS) taken[i] = 0;
    sort_keys(keys, padded, CLUSTER_THREADS);
    u32 most = (u32)((double)len * a.share);
    most = min_of(min_of(most < 1 ? 1 : most, len - stretch.least), edges);
    f32 last = 0;
    for (u32 i = thread; i < most; i += CLUSTER_THREADS) {
      u32 edge = (u32)keys[i];
      f32 cost = float_of((u32)(keys[i] >> 32)) * unit * unit;
      taken[edge] = 1;
      pairs[2 * (done + i)] = order[2 * edge + 1];
      pairs[2 * (done + i) + 1] = order[nearest[edge]];
      prices[done + i] = max_of(price, cost);
    }
    last = float_of((u32)(keys[most - 1] >> 32)) * unit * unit;
    price = max_of(price, last);
    done += most;
    barrier();
    if (price > stretch.ceiling) break;
    // Joins: a warp takes the edges of a chunk in order, since several may join one row.
    for (u32 chunk = warp; chunk * (CLUSTER_CHUNK / 2) < edges; chunk += CLUSTER_THREADS / 32) {
      u32 end = min_of((chunk + 1) * (CLUSTER_CHUNK / 2), edges);
      for (u32 e = chunk * (CLUSTER_CHUNK / 2); e < end; e++) {
        if (!taken[e]) continue;
        u32 from = order[2 * e + 1], to = order[nearest[e]];
        u32 own = weights[from], sum = weights[to] + own;
        f32 share = (f32)own / (f32)sum;
        i16* mean = rows + (u64)to * a.stride;
        const i16* row = rows + (u64)from * a.stride;
        for (u32 i = lane; i < a.stride; i += 32) {
          f32 old = (f32)mean[i];
          mean[i] = (i16)nearest_whole(old + share * ((f32)row[i] - old));
        }
        // All lanes have read the weight, and see the row, before it is used again.
        warp_barrier();
        if (lane == 0) weights[to] = sum;
        warp_barrier();
        measure_row(mean, a.stride, lengths + to);
        warp_barrier();
      }
    }
    // Each thread moves what is left of eight pairs of places.
    u32 own = 0, first = thread * 8;
    for (u32 e = first; e < first + 8 && e < edges; e++) own += taken[e];
    u32 all, gone = sum_before(own, before, CLUSTER_THREADS, all);
    u16* next = orders + (1 - which) * STRETCH_ROWS;
    for (u32 e = first; e < first + 8; e++) {
      if (2 * e < len) next[2 * e - gone] = order[2 * e];
      if (2 * e + 1 < len) {
        if (taken[e]) gone++;
        else next[2 * e + 1 - gone] = order[2 * e + 1];
      }
    }
    which = 1 - which;
    len -= most;
    barrier();
  }
  if (thread == 0) at<u32>(a.counts)[block_x()] = done;
}
