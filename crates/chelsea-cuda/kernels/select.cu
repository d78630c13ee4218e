// From the merges of all stretches to what each head becomes: the cheapest are selected over all heads together, and lists
// are made of them as fold.cu reads them.
//
// Shapes   `select`, one block of 256 threads: of the `wanted` cheapest merges of all lists (cluster.cu), how many each
//          stretch carries out, a beginning of its list; where its first survivor is among those of its head, and how many
//          candidates each head has left. Of equal prices those of the first stretches are taken. `list_members`, one block of
//          256 threads a stretch: the members of each survivor, ascending, and where they begin; entries before the
//          candidates (from the start of their page on) and behind them stay alone.
// Layout   cluster.cuh. Prices of a stretch never fall, so that those below a threshold are counted by halving; the
//          threshold is found bit by bit. Whom an entry joins in the end is found by pointer jumping, in shared memory, and
//          members are put in order by sorting them by root and place.
// Floor    `select` 31 steps of 12 reads that wait for each other for every 256 stretches: expected 0.3 ms for 256 of them,
//          2 ms for 2,048. `list_members` reads 8 bytes a merge and writes 8 bytes an entry: sorting is what it takes, expected
//          0.2 ms for 132 stretches.
//
// Whole numbers throughout: the lists are those of the twin.
#include "cluster.cuh"
#include "page.cuh"

struct Select {
  u64 stretches, heads, found;  // `Stretch`es, head by head; `PlannedHead`s; `Found` of each
  u64 prices, counts;           // lists of f32, and how long they are: u32 a stretch
  u64 taken, places;            // u32 a stretch: merges that are carried out, and which survivor of its head is its first
  u32 count, head_count;
  u32 wanted;                   // merges over all
  u32 unused;
};

#define SELECT_THREADS 256

// How many of `count` prices that never fall are not beyond the one with these bits.
DEVICE u32 up_to(const u32* prices, u32 count, u32 bits) {
  u32 low = 0, high = count;
  while (low < high) {
    u32 middle = (low + high) / 2;
    if (prices[middle] <= bits) low = middle + 1;
    else high = middle;
  }
  return low;
}

DEVICE u32 prices_up_to(const Select& a, u32 bits, u32* sums) {
  u32 own = 0, total;
  for (u32 s = thread_index(); s < a.count; s += SELECT_THREADS)
    own += up_to(at<u32>(a.prices) + at<Stretch>(a.stretches)[s].list, at<u32>(a.counts)[s], bits);
  sum_before(own, sums, SELECT_THREADS, total);
  return total;
}

KERNEL(select, Select, SELECT_THREADS) {
  SHARED(shared);
  u32* sums = (u32*)shared;  // [256]
  const Stretch* stretches = at<Stretch>(a.stretches);
  const u32* counts = at<u32>(a.counts);
  u32* taken = at<u32>(a.taken);
  // The least price, as bits, up to which there are enough: prices are not negative, so their bits are in their order.
  u32 threshold = 0x7f800000u;
  if (prices_up_to(a, threshold, sums) > a.wanted) {
    threshold = 0;
    for (u32 bit = 1u << 30; bit > 0; bit /= 2)
      if (prices_up_to(a, threshold + bit - 1, sums) < a.wanted) threshold += bit;
  }
  u32 below = threshold == 0 ? 0 : prices_up_to(a, threshold - 1, sums);
  u32 ties = a.wanted > below ? a.wanted - below : 0;
  for (u32 first = 0; first < a.count; first += SELECT_THREADS) {
    u32 s = first + thread_index(), under = 0, equal = 0, all;
    if (s < a.count) {
      const u32* prices = at<u32>(a.prices) + stretches[s].list;
      under = threshold == 0 ? 0 : up_to(prices, counts[s], threshold - 1);
      equal = up_to(prices, counts[s], threshold) - under;
    }
    u32 before = sum_before(equal, sums, SELECT_THREADS, all);
    u32 left = ties > before ? ties - before : 0;
    if (s < a.count) taken[s] = under + min_of(equal, left);
    ties = ties > all ? ties - all : 0;
  }
  barrier();
  for (u32 h = thread_index(); h < a.head_count; h += SELECT_THREADS) {
    PlannedHead head = at<PlannedHead>(a.heads)[h];
    u32 left = 0;
    for (u32 s = head.stretch; s < head.stretch + head.stretches; s++) {
      at<u32>(a.places)[s] = head.first % PAGE + left;
      left += stretches[s].count - taken[s];
    }
    at<Found>(a.found)[h].left = left;
  }
}

struct Members {
  u64 stretches, heads, found, taken, places;  // as `Select` has them
  u64 pairs;                                   // lists of merges: u32 `[2]`, by row of the stretch
  u64 starts, members;                         // u32: where each survivor's members begin, and entries of the head
};

#define MEMBERS_THREADS 256

KERNEL(list_members, Members, MEMBERS_THREADS) {
  SHARED(shared);
  u32* keys = (u32*)shared;                      // [4096] root and place
  u16* roots = (u16*)(keys + STRETCH_ROWS);      // [4096] whom each row joins
  u16* ranks = roots + STRETCH_ROWS;             // [4096] which survivor each root is
  u32* sums = (u32*)(ranks + STRETCH_ROWS);      // [256]
  Stretch stretch = at<Stretch>(a.stretches)[block_x()];
  PlannedHead head = at<PlannedHead>(a.heads)[stretch.head];
  u32 thread = thread_index(), count = stretch.count;
  u32* starts = at<u32>(a.starts) + head.start;
  u32* members = at<u32>(a.members) + head.member;
  u32 apart = head.first % PAGE, page = head.first - apart;  // entries before the candidates that share a page with them
  for (u32 i = thread; i < count; i += MEMBERS_THREADS) roots[i] = (u16)i;
  barrier();
  const u32* pairs = at<u32>(a.pairs) + (u64)stretch.list * 2;
  // Nobody joins twice.
  for (u32 m = thread; m < at<u32>(a.taken)[block_x()]; m += MEMBERS_THREADS) roots[pairs[2 * m]] = (u16)pairs[2 * m + 1];
  barrier();
  // Ways double in every step. Whom others have moved on already is the same root, sooner.
  for (u32 step = 1; step < count; step *= 2) {
    for (u32 i = thread; i < count; i += MEMBERS_THREADS) roots[i] = roots[roots[i]];
    barrier();
  }
  u32 own = 0, all;
  for (u32 i = thread * 16; i < thread * 16 + 16 && i < count; i++) own += roots[i] == i;
  u32 rank = sum_before(own, sums, MEMBERS_THREADS, all);
  for (u32 i = thread * 16; i < thread * 16 + 16 && i < count; i++)
    if (roots[i] == i) ranks[i] = (u16)rank++;
  u32 padded = 2;
  while (padded < count) padded *= 2;
  for (u32 i = thread; i < padded; i += MEMBERS_THREADS) keys[i] = i < count ? (u32)roots[i] << 16 | i : ~0u;
  sort_keys(keys, padded, MEMBERS_THREADS);
  u32 place = at<u32>(a.places)[block_x()], at_member = apart + stretch.first;
  for (u32 j = thread; j < count; j += MEMBERS_THREADS) {
    u32 root = keys[j] >> 16;
    members[at_member + j] = head.first + stretch.first + (keys[j] & 0xffffu);
    if (j == 0 || keys[j - 1] >> 16 != root) starts[place + ranks[root]] = head.member + at_member + j;
  }
  if (stretch.first == 0) {
    for (u32 i = thread; i < apart; i += MEMBERS_THREADS) {
      members[i] = page + i;
      starts[i] = head.member + i;
    }
  }
  if (stretch.first + count == head.count) {
    u32 behind = head.first + head.count, left = apart + at<Found>(a.found)[stretch.head].left;
    for (u32 i = behind + thread; i < head.len; i += MEMBERS_THREADS) {
      members[i - page] = i;
      starts[left + i - behind] = head.member + i - page;
    }
    if (thread == 0) starts[left + head.len - behind] = head.member + head.len - page;
  }
}
