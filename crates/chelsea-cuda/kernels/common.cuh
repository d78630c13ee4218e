// What all kernels share. One source for two compilers: NVRTC, for GPUs from compute capability 8.0 on, and a C++
// compiler, for which the emulator's header says what a GPU is.
//
// Every kernel takes one struct by value, in which addresses are 64-bit numbers, and declares no static shared memory:
// what it needs is asked for at the launch. All threads of a block reach every barrier and every shuffle.
//
// Products and sums are rounded one by one (no contraction to fused ones), so that the CPU computes the same bits.
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef float f32;

#ifdef __CUDACC__

#define KERNEL(name, Arguments, threads) extern "C" __global__ void __launch_bounds__(threads) name(const Arguments a)
#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#define SHARED(name) extern __shared__ __align__(16) u8 name[]
#define UNROLL _Pragma("unroll")

DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 block_x() { return blockIdx.x; }
DEVICE u32 block_y() { return blockIdx.y; }
DEVICE u32 block_z() { return blockIdx.z; }
DEVICE u32 threads_of_block() { return blockDim.x; }
DEVICE void barrier() { __syncthreads(); }
DEVICE void warp_barrier() { __syncwarp(); }
template <class T> DEVICE T shuffle_xor(T x, u32 mask) { return __shfl_xor_sync(~0u, x, mask); }
template <class T> DEVICE T shuffle(T x, u32 lane) { return __shfl_sync(~0u, x, lane); }

DEVICE u32 bits_of(f32 x) { return __float_as_uint(x); }
DEVICE f32 float_of(u32 x) { return __uint_as_float(x); }
DEVICE u16 half_bits(f32 x) { u16 h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x)); return h; }
DEVICE f32 half_value(u16 h) { f32 x; asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h)); return x; }
DEVICE u32 pack_halves(f32 low, f32 high) {
  u32 pair; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low)); return pair;
}
DEVICE u32 subtract_halves(u32 a, u32 b) { u32 r; asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); return r; }
// The four bytes of `b:a` that the low nibbles of `selector` name.
DEVICE u32 permute(u32 a, u32 b, u32 selector) { return __byte_perm(a, b, selector); }
// Unsigned bytes times signed ones, summed up.
DEVICE i32 dot_unsigned_signed(u32 a, u32 b, i32 sum) {
  i32 r; asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(sum)); return r;
}
DEVICE i32 dot_signed(u32 a, u32 b, i32 sum) { return __dp4a((i32)a, (i32)b, sum); }

// 16 bytes that are read once.
DEVICE uint4 load_stream(const uint4* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}
DEVICE uint2 load_stream(const uint2* p) {
  uint2 v; asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p)); return v;
}

// Copies 16 bytes to shared memory, some time before their group has been waited for. Those that a thread asks for until it
// ends a group are one.
DEVICE void copy_later(uint4* to, const uint4* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"((u32)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
DEVICE void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for all groups of this thread but the last `LEFT`.
template <int LEFT> DEVICE void wait_for_groups() { asm volatile("cp.async.wait_group %0;" :: "n"(LEFT) : "memory"); }

// d += a b for a 16x16 by 16x8 product of halves, spread over a warp as the PTX manual says.
DEVICE void multiply_halves(f32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// d += a b for a 16x32 by 32x8 product of bytes, of which a's or b's may be signed.
#define MULTIPLY_BYTES(name, left, right)                                                                              \
  DEVICE void name(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {                                      \
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32." left "." right ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1)); \
  }
MULTIPLY_BYTES(multiply_ss, "s8", "s8")
MULTIPLY_BYTES(multiply_su, "s8", "u8")
MULTIPLY_BYTES(multiply_us, "u8", "s8")
MULTIPLY_BYTES(multiply_uu, "u8", "u8")
// The same for a 16x16 by 16x8 product.
DEVICE void multiply_us16(i32 (&d)[4], u32 a0, u32 a1, u32 b0) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a0), "r"(a1), "r"(b0));
}
// Transposes an 8x8 matrix of halves, of which lane 4 i + j holds numbers 2 j and 2 j + 1 of row i.
DEVICE u32 transpose_halves(u32 x) { u32 r; asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(x)); return r; }

#else
#include "emulator.h"
#endif

#define LOG2_E 1.44269504088896340736f
#define NO_SCORE (-1e30f)

DEVICE f32 max_of(f32 a, f32 b) { return a > b ? a : b; }
DEVICE f32 min_of(f32 a, f32 b) { return a < b ? a : b; }
DEVICE u32 min_of(u32 a, u32 b) { return a < b ? a : b; }
// What is no number stays so.
DEVICE f32 clamped(f32 x, f32 low, f32 high) { return x < low ? low : x > high ? high : x; }
DEVICE f32 absolute(f32 x) { return float_of(bits_of(x) & 0x7fffffffu); }
template <class T> DEVICE T* at(u64 address) { return (T*)address; }

// The sum over all lanes of a warp, the same in each.
DEVICE f32 warp_sum(f32 x) {
  for (u32 mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}
DEVICE f32 warp_max(f32 x) {
  for (u32 mask = 16; mask > 0; mask /= 2) x = max_of(x, shuffle_xor(x, mask));
  return x;
}
// The nearest whole number, of two the even one, of one that is not beyond 2^22.
DEVICE i32 nearest_whole(f32 x) { return (i32)(bits_of(x + 12582912.0f) - 0x4b400000u); }
