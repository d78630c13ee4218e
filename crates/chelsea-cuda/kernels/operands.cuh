// Keys and values of a page as operands of matrix instructions.
//
// A k-step multiplies 16 numbers. Which 16 is free as long as both operands agree, so a lane takes numbers that lie side by
// side in memory: of a key's row it loads 16 bytes, which serve 4 k-steps (bytes) or 2 (halves); of a value's row (the
// same dimension of all entries) 16 bytes, or 8 of half bytes. `t` is the lane's place among the four of a row.
//
//   dimensions of k-step s:  64 (s / 4) + 16 t + 4 (s % 4) + {0, 1}, + {2, 3}     of bytes
//                            32 (s / 2) +  8 t + 4 (s % 2) + {0, 1}, + {2, 3}     of halves
//   entries of k-step s:     16 t + 4 s + {0, 1}, + {2, 3}                         of bytes and half bytes
//                            32 (s / 2) +  8 t + 4 (s % 2) + {0, 1}, + {2, 3}     of halves
//
// The first pair stands where the instruction has numbers 2 t and 2 t + 1, the second where it has 2 t + 8 and 2 t + 9.
#pragma once
#include "page.cuh"

// The first of the four dimensions of k-step `s`.
template <int TYPE> DEVICE u32 step_dim(u32 s, u32 t) { return TYPE == F16 ? s / 2 * 32 + t * 8 + s % 2 * 4 : s / 4 * 64 + t * 16 + s % 4 * 4; }
// The first of the four entries of k-step `s` of a page.
template <int TYPE> DEVICE u32 step_entry(u32 s, u32 t) { return TYPE == F16 ? s / 2 * 32 + t * 8 + s % 2 * 4 : t * 16 + s * 4; }

// Four signed bytes to two pairs of halves: as unsigned ones they are the low bits of 1024 + u.
DEVICE void open_bytes(u32 x, u32& low, u32& high) {
  x ^= 0x80808080u;
  low = subtract_halves(permute(x, 0x64646464u, 0x4140), 0x64806480u);
  high = subtract_halves(permute(x, 0x64646464u, 0x4342), 0x64806480u);
}
// Two half bytes, at bits 0 and 16, to a pair of halves.
DEVICE u32 open_nibbles(u32 x) { return subtract_halves(((x & 0x000f000fu) ^ 0x00080008u) | 0x64006400u, 0x64086408u); }

// What a lane loads of a key for k-steps `first` .. : those of one load.
template <int TYPE> struct KeyLoad {
  static const u32 STEPS = TYPE == F16 ? 2 : 4;
  uint4 word;
};
template <int TYPE> DEVICE KeyLoad<TYPE> load_key(const u8* page, u32 dim, u32 entry, u32 load, u32 t) {
  u32 place = load * 64 + t * 16;  // bytes
  KeyLoad<TYPE> x;
  x.word = make_uint4(0, 0, 0, 0);
  if (place < key_row_bytes<TYPE>(dim)) x.word = load_stream((const uint4*)(page + entry * key_row_bytes<TYPE>(dim) + place));
  return x;
}
// Its operand for step `s` of the load.
template <int TYPE> DEVICE void open_key(const KeyLoad<TYPE>& x, u32 s, u32& low, u32& high) {
  const u32 words[4] = {x.word.x, x.word.y, x.word.z, x.word.w};
  if (TYPE == F16) {
    low = words[2 * s];
    high = words[2 * s + 1];
  } else {
    open_bytes(words[s], low, high);
  }
}

// What a lane loads of dimension `d` for all four k-steps of a page.
struct ValueLoad {
  uint4 a, b;
};
template <int TYPE> DEVICE ValueLoad load_value(const u8* values, u32 d, u32 t) {
  ValueLoad x;
  x.a = x.b = make_uint4(0, 0, 0, 0);
  const u8* row = values + d * value_row_bytes<TYPE>();
  if (TYPE == F16) {
    x.a = load_stream((const uint4*)(row + t * 16));
    x.b = load_stream((const uint4*)(row + 64 + t * 16));
  } else if (TYPE == Q8) {
    x.a = load_stream((const uint4*)(row + t * 16));
  } else {
    uint2 half = load_stream((const uint2*)(row + t * 8));
    x.a.x = half.x;
    x.a.y = half.y;
  }
  return x;
}
// The same for the two k-steps of one half of a page; of halves, only what they need is loaded.
template <int TYPE> DEVICE ValueLoad load_half_value(const u8* values, u32 d, u32 t, u32 half) {
  if (TYPE != F16) return load_value<TYPE>(values, d, t);
  ValueLoad x;
  x.a = x.b = load_stream((const uint4*)(values + d * value_row_bytes<TYPE>() + half * 64 + t * 16));
  return x;
}
template <int TYPE> DEVICE void open_value(const ValueLoad& x, u32 s, u32& low, u32& high) {
  if (TYPE == F16) {
    const uint4& half = s < 2 ? x.a : x.b;
    low = s % 2 ? half.z : half.x;
    high = s % 2 ? half.w : half.y;
  } else if (TYPE == Q8) {
    const u32 words[4] = {x.a.x, x.a.y, x.a.z, x.a.w};
    open_bytes(words[s], low, high);
  } else {
    low = open_nibbles(x.a.x >> (4 * s));
    high = open_nibbles(x.a.y >> (4 * s));
  }
}
