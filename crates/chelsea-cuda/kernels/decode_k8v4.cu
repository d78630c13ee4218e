// Attention of single tokens over pages of k8v4. See decode.cuh.
#include "decode.cuh"

KERNEL(decode_k8v4_64, Decode, DECODE_WARPS * 32) { SHARED(shared); decode<K8V4, 64>(a, shared); }
KERNEL(decode_k8v4_128, Decode, DECODE_WARPS * 32) { SHARED(shared); decode<K8V4, 128>(a, shared); }
KERNEL(decode_k8v4_256, Decode, DECODE_WARPS * 32) { SHARED(shared); decode<K8V4, 256>(a, shared); }
