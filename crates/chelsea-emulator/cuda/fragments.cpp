// Matrix instructions as the PTX manual describes their fragments ("Matrix Fragments for mma.m16n8k16", "... for
// mma.m16n8k32", "... for mma.m16n8k16 with .u8"): each lane puts its registers down, and computes its own numbers of the
// result from those of its warp.
#include "common.cuh"

namespace {

// Number (row, k) of a, of bytes each number: two registers hold rows g and g + 8 of the first half of k, two more those of
// the second.
template <class T> T left(uint32_t row, uint32_t k) {
  const uint32_t each = 4 / sizeof(T);  // numbers of a register
  const uint32_t part = k / (4 * each), place = k % (4 * each);
  const auto& thread = emulator::lane(row % 8 * 4 + place / each);
  T x;
  memcpy(&x, (const char*)thread.slot + (row / 8 + 2 * part) * 4 + place % each * sizeof(T), sizeof(T));
  return x;
}
template <class T> T right(uint32_t k, uint32_t column) {
  const uint32_t each = 4 / sizeof(T);
  const uint32_t part = k / (4 * each), place = k % (4 * each);
  const auto& thread = emulator::lane(column * 4 + place / each);
  T x;
  memcpy(&x, (const char*)thread.slot + 16 + part * 4 + place % each * sizeof(T), sizeof(T));
  return x;
}

struct Half {
  u16 bits;
  operator f32() const { return half_value(bits); }
};

template <class Left, class Right, class Sum> void multiply(Sum (&d)[4], uint32_t depth, const u32 (&registers)[6]) {
  memcpy(emulator::current->slot, registers, sizeof registers);
  emulator::sync_warp();
  const uint32_t lane = emulator::current->index % 32;
  for (uint32_t i = 0; i < 4; i++) {
    const uint32_t row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    Sum sum = 0;
    for (uint32_t k = 0; k < depth; k++) sum += (Sum)left<Left>(row, k) * (Sum)right<Right>(k, column);
    d[i] += sum;
  }
  emulator::sync_warp();
}

}  // namespace

void multiply_halves(f32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  multiply<Half, Half>(d, 16, {a0, a1, a2, a3, b0, b1});
}
void multiply_ss(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  multiply<i8, i8>(d, 32, {a0, a1, a2, a3, b0, b1});
}
void multiply_su(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  multiply<i8, u8>(d, 32, {a0, a1, a2, a3, b0, b1});
}
void multiply_us(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  multiply<u8, i8>(d, 32, {a0, a1, a2, a3, b0, b1});
}
void multiply_uu(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  multiply<u8, u8>(d, 32, {a0, a1, a2, a3, b0, b1});
}
void multiply_us16(i32 (&d)[4], u32 a0, u32 a1, u32 b0) { multiply<u8, i8>(d, 16, {a0, a1, 0, 0, b0, 0}); }

u32 transpose_halves(u32 x) {
  memcpy(emulator::current->slot, &x, 4);
  emulator::sync_warp();
  const uint32_t lane = emulator::current->index % 32, row = lane / 4;
  u32 result = 0;
  for (uint32_t i = 0; i < 2; i++) {
    const uint32_t column = lane % 4 * 2 + i;  // of the result: a row of what was put down
    u32 pair;
    memcpy(&pair, emulator::lane(column * 4 + row / 2).slot, 4);
    result |= (pair >> (row % 2 * 16) & 0xffff) << (16 * i);
  }
  emulator::sync_warp();
  return result;
}
