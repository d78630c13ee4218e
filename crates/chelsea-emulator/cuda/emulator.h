// CUDA's threads on a CPU: what kernels ask of a GPU, for a C++ compiler.
//
// The threads of a block are fibers of one thread of the operating system. A fiber runs until it waits: at a barrier of
// its block or of its warp, or in an instruction that the lanes of a warp carry out together (shuffles, matrix
// instructions): each puts down what it has, and goes on once all have. Then the schedule says who is next. Blocks
// run one after the other, in an order that the schedule says, too.
//
// Asynchronous copies are made when they are waited for, as late as may be. Shared memory is filled with 0xff (as floats: no numbers) before each block. Barriers are strict: all threads of the block,
// or of the warp, have to come, and a launch where some wait forever is an error. What cannot be seen here: races between
// blocks that run at the same time, races within a warp between barriers that its schedules happen not to show, and time.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

struct uint4 { uint32_t x, y, z, w; };
struct uint2 { uint32_t x, y; };
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
static inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }

namespace emulator {

struct Thread {
  uint32_t index;       // in its block
  uint32_t turn;        // how often it put something down for its warp, modulo 2
  uint64_t slots[2][3]; // what: the last time, and the time before, which others may still be reading
};

// The thread that runs.
extern thread_local Thread* current;
// Where the block is in the grid, and how many threads it has.
extern thread_local uint32_t block[3], threads;
extern thread_local unsigned char* shared_memory;

void sync_block();
void sync_warp();
// Puts something of at most 24 bytes down for the warp, once all of whose lanes have come.
void put_down(const void* bytes, size_t count);
// What lane `index` of the warp put down then.
const unsigned char* put_by(uint32_t index);

// Copies of 16 bytes that are made when their group is waited for, and no sooner.
void copy_later(void* to, const void* from);
void end_group();
void wait_for_groups(uint32_t left);

struct Kernel {
  const char* name;
  uint32_t bytes;
  void (*call)(const void*);
  Kernel* next;
  Kernel(const char* name, uint32_t bytes, void (*call)(const void*));
};

template <class T> T exchange(T x, uint32_t from) {
  static_assert(sizeof(T) <= 8, "a shuffle moves up to 8 bytes");
  put_down(&x, sizeof(T));
  T result;
  memcpy(&result, put_by(from % 32), sizeof(T));
  return result;
}

}  // namespace emulator

#define KERNEL(kernel, Arguments, most_threads)                                          \
  static void kernel(const Arguments a);                                                \
  static void call_##kernel(const void* bytes) {                                        \
    Arguments a;                                                                        \
    memcpy(&a, bytes, sizeof a);                                                        \
    kernel(a);                                                                          \
  }                                                                                     \
  static emulator::Kernel entry_##kernel(#kernel, sizeof(Arguments), call_##kernel);    \
  static void kernel(const Arguments a)
#define DEVICE [[maybe_unused]] static inline
#define DEVICE_MEMBER inline
#define SHARED(name) unsigned char* name = emulator::shared_memory
#define UNROLL

DEVICE u32 thread_index() { return emulator::current->index; }
DEVICE u32 block_x() { return emulator::block[0]; }
DEVICE u32 block_y() { return emulator::block[1]; }
DEVICE u32 block_z() { return emulator::block[2]; }
DEVICE u32 threads_of_block() { return emulator::threads; }
DEVICE void barrier() { emulator::sync_block(); }
DEVICE void warp_barrier() { emulator::sync_warp(); }
template <class T> DEVICE T shuffle_xor(T x, u32 mask) { return emulator::exchange(x, emulator::current->index % 32 ^ mask); }
template <class T> DEVICE T shuffle(T x, u32 lane) { return emulator::exchange(x, lane); }

DEVICE u32 bits_of(f32 x) { u32 r; memcpy(&r, &x, 4); return r; }
DEVICE f32 float_of(u32 x) { f32 r; memcpy(&r, &x, 4); return r; }
DEVICE u16 half_bits(f32 x) { _Float16 h = (_Float16)x; u16 r; memcpy(&r, &h, 2); return r; }
DEVICE f32 half_value(u16 x) { _Float16 h; memcpy(&h, &x, 2); return (f32)h; }
DEVICE u32 pack_halves(f32 low, f32 high) { return half_bits(low) | (u32)half_bits(high) << 16; }
DEVICE u32 subtract_halves(u32 a, u32 b) {
  return pack_halves(half_value((u16)a) - half_value((u16)b), half_value((u16)(a >> 16)) - half_value((u16)(b >> 16)));
}
DEVICE u32 permute(u32 a, u32 b, u32 selector) {
  u64 bytes = (u64)b << 32 | a;
  u32 r = 0;
  for (u32 i = 0; i < 4; i++) r |= (u32)(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return r;
}
DEVICE i32 dot_unsigned_signed(u32 a, u32 b, i32 sum) {
  for (u32 i = 0; i < 32; i += 8) sum += (i32)(u8)(a >> i) * (i8)(b >> i);
  return sum;
}
DEVICE i32 dot_signed(u32 a, u32 b, i32 sum) {
  for (u32 i = 0; i < 32; i += 8) sum += (i32)(i8)(a >> i) * (i8)(b >> i);
  return sum;
}
DEVICE void copy_later(uint4* to, const uint4* from) { emulator::copy_later(to, from); }
DEVICE void end_group() { emulator::end_group(); }
template <int LEFT> DEVICE void wait_for_groups() { emulator::wait_for_groups(LEFT); }
DEVICE uint4 load_stream(const uint4* p) { return *p; }
DEVICE uint2 load_stream(const uint2* p) { return *p; }

// Matrix instructions: fragments.cpp.
void multiply_halves(f32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1);
void multiply_ss(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1);
void multiply_su(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1);
void multiply_us(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1);
void multiply_uu(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1);
void multiply_us16(i32 (&d)[4], u32 a0, u32 a1, u32 b0);
u32 transpose_halves(u32 x);
