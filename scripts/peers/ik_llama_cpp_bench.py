#!/usr/bin/env python3
"""Times ik_llama.cpp (through ik-llama-cpp-python==0.1.5) on one model: prompts, answers, bytes of the cache.
`cargo xtask bench-peers --field` runs it; reads.py says what it prints.

The package's classes know no cache types, so its C structures are filled in here. The Hadamard transform of keys and
values (`-khad -vhad` on the command line of ik_llama.cpp) is on where `--hadamard 1` says so; it does nothing to a
cache in 16 bits.
"""
import argparse, ctypes, sys

import reads
import ik_llama_cpp
import ik_llama_cpp._ctypes_api as ik

BLOCK = 512
# Numbers of types in ggml.h.
TYPES = {"f16": 1, "q4_0": 2, "q8_0": 8}


def function(name, arguments, result):
    """A function of the library that the package leaves out."""
    found = getattr(ik._lib, name)
    found.argtypes, found.restype = arguments, result
    return found


LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
log_set = function("llama_log_set", [LOG, ctypes.c_void_p], None)
synchronize = function("llama_synchronize", [ctypes.c_void_p], None)
state_size = function("llama_state_seq_get_size", [ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32], ctypes.c_size_t)
system_info = function("llama_print_system_info", [], ctypes.c_char_p)
batch_get_one = function(
    "llama_batch_get_one", [ik.llama_token_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32], ik.llama_batch)


@LOG
def QUIET(level, text, data):
    if level == 4:  # errors
        sys.stderr.write(text.decode(errors="replace"))


class Bench:
    def __init__(self, a, longest):
        log_set(QUIET, None)
        ik.llama_backend_init()
        mp = ik.llama_model_default_params()
        mp.n_gpu_layers = 0
        mp.use_mmap = not a.repack
        mp.repack_tensors = bool(a.repack)
        mp.flash_attn = bool(a.flash)
        mp.type_k = mp.type_v = TYPES[a.cache]
        self.model = ik.llama_model_load_from_file(a.model.encode(), mp)
        if not self.model:
            sys.exit(f"ik_llama.cpp cannot load {a.model}")
        self.tokens = reads.Tokens(ik.llama_vocab_n_tokens(ik.llama_model_get_vocab(self.model)))
        cp = ik.llama_context_default_params()
        cp.n_ctx = longest + 64
        cp.n_batch = cp.n_ubatch = BLOCK
        cp.n_threads = cp.n_threads_batch = a.threads
        cp.flash_attn = bool(a.flash)
        cp.type_k = cp.type_v = TYPES[a.cache]
        cp.k_cache_hadamard = cp.v_cache_hadamard = bool(a.hadamard)
        self.ctx = ik.llama_init_from_model(self.model, cp)
        if not self.ctx:
            sys.exit("ik_llama.cpp cannot make a context")
        self.at = 0

    def feed(self, tokens):
        for i in range(0, len(tokens), BLOCK):
            part = tokens[i:i + BLOCK]
            array = (ik.llama_token * len(part))(*part)
            if ik.llama_decode(self.ctx, batch_get_one(array, len(part), self.at, 0)):
                sys.exit("llama_decode failed")
            self.at += len(part)
        synchronize(self.ctx)

    def read(self, prompt, generate):
        ik.llama_kv_cache_clear(self.ctx)
        self.at = 0
        tokens, answer = self.tokens.take(prompt), self.tokens.take(generate)
        # The state of a sequence: keys and values as they lie in the cache, and 12 bytes for each token.
        return reads.fed(self.feed, tokens, answer, lambda: state_size(self.ctx, 0, 0))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reads.arguments(ap)
    ap.add_argument("--cache", choices=sorted(TYPES), default="f16")
    ap.add_argument("--flash", type=int, choices=(0, 1), default=1)
    ap.add_argument("--repack", type=int, choices=(0, 1), default=1)
    ap.add_argument("--hadamard", type=int, choices=(0, 1), default=0)
    a = ap.parse_args()
    bench = Bench(a, reads.longest(a))
    bench.read(reads.WARM_UP, 4)
    reads.report(ik_llama_cpp.__version__, system_info().decode().strip(),
                 [bench.read(prompt, a.generate) for prompt in reads.prompts(a)])


if __name__ == "__main__":
    main()
