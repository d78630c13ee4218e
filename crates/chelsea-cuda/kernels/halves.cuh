// Products of 16-bit numbers, for long chunks of tokens: y = W x. Weights are opened to halves a strip of rows at a time, tokens
// become halves, and both go to the library of the GPU's maker (`Device::multiply`) or to `multiply_opened`.
//
// Shapes   W `[rows][columns]`, x `[tokens][columns]`, y `[tokens][rows]`, f32; columns are whole blocks of 32, filled up
//          with zeros.
// Layout   halves, row after row. A weight is `unit * half` with one unit for its matrix, a number of a token `unit * half`
//          with one for each token, all powers of two. The unit of a token is 1 but where its numbers are too large or too
//          small for halves.
// Floor    2 multiplications and additions for each weight and token; to open them, a weight's code is read once and 2 bytes
//          are written.
//
// Sums are taken in f32. Those of `multiply_opened` have an order that depends on the columns alone.
#pragma once
#include "linear.cuh"

// What numbers of which this is the largest are divided by before they become halves, whose largest is 65,504: 1, where they fit
// and lose nothing to speak of.
DEVICE f32 unit_of(u32 largest_bits) {
  u32 exponent = largest_bits & 0x7f800000u;
  bool fits = exponent >= 0x3a800000u && exponent <= 0x46800000u;  // 2^-10, 2^14
  return fits || exponent < 0x10000000u || exponent > 0x7e000000u ? 1.0f : float_of(exponent);
}
