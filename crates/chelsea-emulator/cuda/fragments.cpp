// Matrix instructions as the PTX manual describes their fragments ("Matrix Fragments for mma.m16n8k16", "... for
// mma.m16n8k32", "... for mma.m16n8k16 with .u8"): each lane puts its registers down, and computes its own numbers of the
// result from those of its warp.
#include "common.cuh"

namespace {

struct Half {
  u16 bits;
  operator f32() const { return half_value(bits); }
};

// Row `row` of a: four numbers of bytes, or two halves, lie in one register of each of four lanes; two registers hold rows
// g and g + 8 of the first half of k, two more those of the second.
template <class T, uint32_t DEPTH> void left(uint32_t row, T (&numbers)[DEPTH]) {
  const uint32_t each = 4 / sizeof(T);  // numbers of a register
  for (uint32_t k = 0; k < DEPTH; k += each)
    memcpy(numbers + k, emulator::put_by(row % 8 * 4 + k / each % 4) + (row / 8 + k / (4 * each) * 2) * 4, 4);
}
// Column `column` of b.
template <class T, uint32_t DEPTH> void right(uint32_t column, T (&numbers)[DEPTH]) {
  const uint32_t each = 4 / sizeof(T);
  for (uint32_t k = 0; k < DEPTH; k += each)
    memcpy(numbers + k, emulator::put_by(column * 4 + k / each % 4) + 16 + k / (4 * each) * 4, 4);
}

template <uint32_t DEPTH, class Left, class Right, class Sum> void multiply(Sum (&d)[4], const u32 (&registers)[6]) {
  emulator::put_down(registers, sizeof registers);
  const uint32_t lane = emulator::current->index % 32;
  Left a[2][DEPTH];
  Right b[2][DEPTH];
  for (uint32_t i = 0; i < 2; i++) {
    left(lane / 4 + i * 8, a[i]);
    right(lane % 4 * 2 + i, b[i]);
  }
  for (uint32_t i = 0; i < 4; i++) {
    Sum sum = 0;
    for (uint32_t k = 0; k < DEPTH; k++) sum += (Sum)a[i / 2][k] * (Sum)b[i % 2][k];
    d[i] += sum;
  }
}

}  // namespace

void multiply_halves(f32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  multiply<16, Half, Half>(d, {a0, a1, a2, a3, b0, b1});
}
void multiply_ss(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  multiply<32, i8, i8>(d, {a0, a1, a2, a3, b0, b1});
}
void multiply_su(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  multiply<32, i8, u8>(d, {a0, a1, a2, a3, b0, b1});
}
void multiply_us(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  multiply<32, u8, i8>(d, {a0, a1, a2, a3, b0, b1});
}
void multiply_uu(i32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  multiply<32, u8, u8>(d, {a0, a1, a2, a3, b0, b1});
}
void multiply_us16(i32 (&d)[4], u32 a0, u32 a1, u32 b0) { multiply<16, u8, i8>(d, {a0, a1, 0, 0, b0, 0}); }

u32 transpose_halves(u32 x) {
  emulator::put_down(&x, 4);
  const uint32_t lane = emulator::current->index % 32, row = lane / 4;
  u32 result = 0;
  for (uint32_t i = 0; i < 2; i++) {
    const uint32_t column = lane % 4 * 2 + i;  // of the result: a row of what was put down
    u32 pair;
    memcpy(&pair, emulator::put_by(column * 4 + row / 2), 4);
    result |= (pair >> (row % 2 * 16) & 0xffff) << (16 * i);
  }
  return result;
}
