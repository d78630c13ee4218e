// Attention of many tokens over pages of f16. See prefill.cuh.
#include "prefill.cuh"

KERNEL(prefill_f16_64, Prefill, PREFILL_WARPS * 32) { SHARED(shared); prefill<F16, 64>(a, shared); }
KERNEL(prefill_f16_128, Prefill, PREFILL_WARPS * 32) { SHARED(shared); prefill<F16, 128>(a, shared); }
KERNEL(prefill_f16_256, Prefill, PREFILL_WARPS * 32) { SHARED(shared); prefill<F16, 256>(a, shared); }
