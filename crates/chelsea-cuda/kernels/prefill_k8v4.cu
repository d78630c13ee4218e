// Attention of many tokens over pages of k8v4. See prefill.cuh.
#include "prefill.cuh"

KERNEL(prefill_k8v4_64, Prefill, PREFILL_WARPS * 32) { SHARED(shared); prefill<K8V4, 64>(a, shared); }
KERNEL(prefill_k8v4_128, Prefill, PREFILL_WARPS * 32) { SHARED(shared); prefill<K8V4, 128>(a, shared); }
KERNEL(prefill_k8v4_256, Prefill, PREFILL_WARPS * 32) { SHARED(shared); prefill<K8V4, 256>(a, shared); }
