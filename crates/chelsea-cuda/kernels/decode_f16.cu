// Attention of single tokens over pages of f16. See decode.cuh.
#include "decode.cuh"

KERNEL(decode_f16_64, Decode, DECODE_WARPS * 32) { SHARED(shared); decode<F16, 64>(a, shared); }
KERNEL(decode_f16_128, Decode, DECODE_WARPS * 32) { SHARED(shared); decode<F16, 128>(a, shared); }
KERNEL(decode_f16_256, Decode, DECODE_WARPS * 32) { SHARED(shared); decode<F16, 256>(a, shared); }
