// How rows are rounded: the scales of bytes and half bytes; and how numbers of entries are read one by one.
#pragma once
#include "page.cuh"

#define NO_BALANCE 0xffffffffu

// The scale of a row of half bytes. Of eight steps the one with the least squared error is taken, the first of equal ones;
// eight threads try one each, with sums in the order of the row, and the first of them chooses.
DEVICE f32 largest_of(const f32* row, u32 dim) {
  f32 largest = 0;
  for (u32 d = 0; d < dim; d++)
    if (absolute(row[d]) > absolute(largest)) largest = row[d];
  return clamped(largest, -1.7014117e38f, 1.7014117e38f);
}
DEVICE f32 steps_of(u32 choice) {
  const f32 steps[8] = {8.0f, 7.0f, 7.5f, 8.5f, 9.0f, 10.0f, 11.0f, 12.5f};
  return steps[choice];
}
DEVICE f32 error_of(const f32* row, u32 dim, u32 choice) {
  f32 unit = -(1.0f / largest_of(row, dim)), steps = steps_of(choice), error = 0;
  for (u32 d = 0; d < dim; d++) {
    f32 x = row[d] * unit * steps, off = x - nibble_whole(x);
    error += off * off;
  }
  return error / (steps * steps);
}
// What the errors of the eight steps choose.
DEVICE f32 nibble_scale(const f32* row, u32 dim, const f32* errors) {
  f32 largest = largest_of(row, dim);
  u32 best = 0;
  for (u32 i = 1; i < 8; i++)
    if (errors[i] < errors[best]) best = i;
  return absolute(largest / 16.0f) < 1.17549435e-38f ? 0.0f : -largest / steps_of(best);
}

// Writes number `d` of the value in a slot. Half bytes share their bytes with those of other slots.
template <int TYPE> DEVICE void write_value(u8* page, u32 dim, u32 d, u32 slot, f32 x, f32 inverse) {
  u8* column = page + values_at<TYPE>(dim) + d * value_row_bytes<TYPE>();
  if (TYPE == F16) ((u16*)column)[slot] = half_bits(x);
  if (TYPE == Q8) ((i8*)column)[slot] = to_byte(x, inverse);
  if (TYPE == K8V4) {
    u32 shift = nibble_shift(slot), nibble = (u32)(i32)nibble_whole(x * inverse) & 15;
    u8* byte = column + nibble_byte(slot);
    *byte = (u8)((*byte & ~(15u << shift)) | nibble << shift);
  }
}

template <int TYPE> DEVICE f32 read_key(const u8* page, u32 dim, u32 slot, u32 d) {
  const u8* row = page + slot * key_row_bytes<TYPE>(dim);
  if (TYPE == F16) return half_value(((const u16*)row)[d]);
  return (f32)((const i8*)row)[d] * ((const f32*)(page + scales_at<TYPE>(dim)))[slot];
}
template <int TYPE> DEVICE f32 read_value(const u8* page, u32 dim, u32 slot, u32 d) {
  const u8* column = page + values_at<TYPE>(dim) + d * value_row_bytes<TYPE>();
  if (TYPE == F16) return half_value(((const u16*)column)[slot]);
  f32 scale = ((const f32*)(page + scales_at<TYPE>(dim)))[PAGE + slot];
  if (TYPE == Q8) return (f32)((const i8*)column)[slot] * scale;
  return (f32)((i32)((u32)column[nibble_byte(slot)] << (28 - nibble_shift(slot))) >> 28) * scale;
}
