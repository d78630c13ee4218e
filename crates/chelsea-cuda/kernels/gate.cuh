// What gates a feed-forward: 0 SiLU, 1 GELU by tanh, 2 the clamped gate of gpt-oss.
#pragma once
#include "common.cuh"

DEVICE f32 gated(f32 x, f32 up, u32 activation, f32 alpha, f32 limit) {
  if (activation == 1) {
    f32 twice = 1.5957692f * (x + 0.044715f * x * x * x);
    return x / (1.0f + expf(-twice)) * up;
  }
  if (activation == 2) {
    f32 low = min_of(x, limit), inner = clamped(up, -limit, limit);
    return low / (1.0f + expf(-alpha * low)) * (inner + 1.0f);
  }
  return x / (1.0f + expf(-x)) * up;
}
