// Kernels that the emulator's own tests run: instructions by themselves, and mistakes that have to show.
#include "common.cuh"

// Registers of each lane: six of operands and four of results, 32 bits each.
struct Registers {
  u64 operands, results;  // `[32][6]`, `[32][4]`
};

#define PROBE(name, Number, instruction)                              \
  KERNEL(name, Registers, 32) {                                       \
    const u32* in = at<u32>(a.operands) + thread_index() * 6;         \
    Number* out = at<Number>(a.results) + thread_index() * 4;         \
    Number d[4] = {out[0], out[1], out[2], out[3]};                   \
    instruction;                                                      \
    for (u32 i = 0; i < 4; i++) out[i] = d[i];                        \
  }

PROBE(probe_multiply_halves, f32, multiply_halves(d, in[0], in[1], in[2], in[3], in[4], in[5]))
PROBE(probe_multiply_ss, i32, multiply_ss(d, in[0], in[1], in[2], in[3], in[4], in[5]))
PROBE(probe_multiply_su, i32, multiply_su(d, in[0], in[1], in[2], in[3], in[4], in[5]))
PROBE(probe_multiply_us, i32, multiply_us(d, in[0], in[1], in[2], in[3], in[4], in[5]))
PROBE(probe_multiply_uu, i32, multiply_uu(d, in[0], in[1], in[2], in[3], in[4], in[5]))
PROBE(probe_multiply_us16, i32, multiply_us16(d, in[0], in[1], in[4]))
PROBE(probe_transpose, u32, d[0] = transpose_halves(in[0]))
PROBE(probe_permute, u32, d[0] = permute(in[0], in[1], in[2]))
PROBE(probe_dots, i32, (d[0] = dot_unsigned_signed(in[0], in[1], (i32)in[2]), d[1] = dot_signed(in[0], in[1], (i32)in[2])))
PROBE(probe_shuffle, u32, (d[0] = shuffle(in[0], thread_index() / 2), d[1] = shuffle_xor(in[0], 5)))

struct Words {
  u64 words;
  u32 mistake, unused;
};

// Each thread reads what its neighbour wrote to shared memory; with a mistake, before a barrier.
KERNEL(probe_neighbours, Words, 128) {
  SHARED(shared);
  u32* words = (u32*)shared;
  words[thread_index()] = thread_index() + 1;
  if (!a.mistake) barrier();
  at<u32>(a.words)[thread_index()] = words[(thread_index() + 1) % threads_of_block()];
}

// With a mistake, a thread leaves before the barrier, or waits for its warp alone.
KERNEL(probe_missing_thread, Words, 128) {
  if (a.mistake == 1 && thread_index() == 7) return;
  if (a.mistake == 2 && thread_index() == 7) warp_barrier();
  else barrier();
  at<u32>(a.words)[thread_index()] = 1;
}

// What shared memory holds that nobody wrote.
KERNEL(probe_shared, Words, 128) {
  SHARED(shared);
  at<u32>(a.words)[thread_index()] = ((u32*)shared)[thread_index()];
  ((u32*)shared)[thread_index()] = 0;
}

// Each thread has three copies made of 16 bytes, in two groups and a third that is not ended, and tells what of them is there once
// it has waited for all groups but `mistake`, and what its neighbour's first is then.
struct Copied {
  u64 from, to;  // `[threads][3][4]`, `[threads][4]`
  u32 mistake, unused;
};
KERNEL(probe_copies, Copied, 64) {
  SHARED(shared);
  uint4* held = (uint4*)shared + thread_index() * 3;
  const uint4* from = at<uint4>(a.from) + thread_index() * 3;
  copy_later(held, from);
  end_group();
  copy_later(held + 1, from + 1);
  end_group();
  copy_later(held + 2, from + 2);
  if (a.mistake == 0) wait_for_groups<0>();
  if (a.mistake == 1) wait_for_groups<1>();
  if (a.mistake == 2) wait_for_groups<2>();
  barrier();
  uint4* next = (uint4*)shared + (thread_index() + 1) % threads_of_block() * 3;
  at<uint4>(a.to)[thread_index()] = make_uint4(held[0].x, held[1].y, held[2].z, next->w);
}

// The order in which blocks run: each writes how many ran before it. (A GPU would need an atomic addition.)
KERNEL(probe_blocks, Words, 1) {
  u32* words = at<u32>(a.words);
  words[1 + block_x()] = words[0]++;
}

// With a mistake, writes behind its memory: for the sanitizer.
KERNEL(probe_bounds, Words, 32) {
  if (thread_index() == 0) at<u32>(a.words)[a.mistake] = 1;
}
