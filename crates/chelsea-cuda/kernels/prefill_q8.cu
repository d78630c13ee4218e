// Attention of many tokens over pages of q8. See prefill.cuh.
#include "prefill.cuh"

KERNEL(prefill_q8_64, Prefill, PREFILL_WARPS * 32) { SHARED(shared); prefill<Q8, 64>(a, shared); }
KERNEL(prefill_q8_128, Prefill, PREFILL_WARPS * 32) { SHARED(shared); prefill<Q8, 128>(a, shared); }
KERNEL(prefill_q8_256, Prefill, PREFILL_WARPS * 32) { SHARED(shared); prefill<Q8, 256>(a, shared); }
