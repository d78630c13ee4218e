// Attention of single tokens over pages of q8. See decode.cuh.
#include "decode.cuh"

KERNEL(decode_q8_64, Decode, DECODE_WARPS * 32) { SHARED(shared); decode<Q8, 64>(a, shared); }
KERNEL(decode_q8_128, Decode, DECODE_WARPS * 32) { SHARED(shared); decode<Q8, 128>(a, shared); }
KERNEL(decode_q8_256, Decode, DECODE_WARPS * 32) { SHARED(shared); decode<Q8, 256>(a, shared); }
