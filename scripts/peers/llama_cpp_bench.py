#!/usr/bin/env python3
"""Times llama.cpp (through llama-cpp-python==0.3.36) on one model: prefill, and decode at given depths.

Prints one JSON object on stdout:
  {"prefill": {"512": tokens_per_s}, "decode": {"4000": tokens_per_s, ..}, "threads", "flash", "repack", "version"}

One process is one setting (flash attention on or off, weight repacking on or off), so that a caller can
interleave settings and engines and take medians. Tokens are pseudo-random: speed does not depend on them.
"""
import argparse, ctypes, json, sys, time

import llama_cpp as ll


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--prefill", type=int, default=512, help="tokens of the timed prompt; 0 leaves it out")
    ap.add_argument("--depths", default="0", help="comma-separated cached tokens before decode is timed")
    ap.add_argument("--decode", type=int, default=32, help="tokens decoded at each depth; 0 leaves it out")
    ap.add_argument("--flash", type=int, choices=(0, 1), default=1)
    ap.add_argument("--repack", type=int, choices=(0, 1), default=1)
    a = ap.parse_args()
    depths = sorted(int(d) for d in a.depths.split(","))

    ll.llama_backend_init()
    mp = ll.llama_model_default_params()
    mp.n_gpu_layers = 0
    mp.use_mmap = bool(1 - a.repack)
    mp.use_extra_bufts = bool(a.repack)
    model = ll.llama_model_load_from_file(a.model.encode(), mp)
    if not model:
        sys.exit(f"llama.cpp cannot load {a.model}")
    vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    cp = ll.llama_context_default_params()
    cp.n_ctx = max(max(depths) + a.decode, a.prefill) + 64
    cp.n_batch = cp.n_ubatch = 512
    cp.n_threads = cp.n_threads_batch = a.threads
    cp.flash_attn_type = ll.LLAMA_FLASH_ATTN_TYPE_ENABLED if a.flash else ll.LLAMA_FLASH_ATTN_TYPE_DISABLED
    ctx = ll.llama_init_from_model(model, cp)
    if not ctx:
        sys.exit("llama.cpp cannot make a context")
    mem = ll.llama_get_memory(ctx)

    state = 1
    def tokens(n):
        nonlocal state
        out = []
        for _ in range(n):
            state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
            out.append(100 + (state >> 33) % (vocab - 200))
        return out

    def feed(ts):
        for i in range(0, len(ts), 512):
            part = ts[i:i + 512]
            arr = (ll.llama_token * len(part))(*part)
            if ll.llama_decode(ctx, ll.llama_batch_get_one(arr, len(part))):
                sys.exit("llama_decode failed")
        ll.llama_synchronize(ctx)

    result = {"prefill": {}, "decode": {}, "threads": a.threads, "flash": a.flash, "repack": a.repack,
              "version": ll.__version__}
    feed(tokens(8))
    if a.prefill:
        ll.llama_memory_clear(mem, True)
        start = time.perf_counter()
        feed(tokens(a.prefill))
        result["prefill"][str(a.prefill)] = a.prefill / (time.perf_counter() - start)
    if a.decode:
        ll.llama_memory_clear(mem, True)
        at = 0
        for depth in depths:
            if depth > at:
                feed(tokens(depth - at))
                at = depth
            times = []
            for t in tokens(a.decode):
                start = time.perf_counter()
                feed([t])
                times.append(time.perf_counter() - start)
                at += 1
            times.sort()
            result["decode"][str(depth)] = 1 / times[len(times) // 2]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
