#!/usr/bin/env python3
"""Times llama.cpp (through llama-cpp-python==0.3.36) on one model: prefill, decode at given depths, and a prompt with
its answer. `cargo xtask bench-peers` runs it, in turns with Chelsea.

Prints one JSON object on stdout:
  {"prefill_s": {"512": s}, "decode_s": {"4000": s_a_token, ..}, "end_to_end": {"prefill_s", "decode_s"} or null,
   "threads", "flash", "repack", "filled", "version", "system"}

One process is one setting (flash attention on or off, weight repacking on or off), so that a caller can interleave
settings and engines and take medians. Tokens are pseudo-random: speed does not depend on them.

Long depths are filled by restoring a state: the keys and values of a few hundred tokens that were really read, laid
end to end at positions that go on. What attention finds there means nothing; where it reads and how much is as after
reading. `--real` reads instead.

With `--prompts`, as `cargo xtask bench-peers --field` calls it, prompts of these lengths are read and answered and
nothing else is done; reads.py says what is printed then. `--cache` is the type of keys and values; llama.cpp rotates
those that are quantised.
"""
import argparse, ctypes, json, struct, sys, time

import llama_cpp as ll
import reads

# What a state begins with in this version; another one may lay it out otherwise.
VERSION = "0.3.36"
BLOCK = 512
# Numbers of types in ggml.h.
TYPES = {"f16": 1, "q4_0": 2, "q8_0": 8}


class Bench:
    def __init__(self, a, longest):
        ll.llama_backend_init()
        ll.llama_log_set(QUIET, None)
        mp = ll.llama_model_default_params()
        mp.n_gpu_layers = 0
        mp.use_mmap = not a.repack
        mp.use_extra_bufts = bool(a.repack)
        self.model = ll.llama_model_load_from_file(a.model.encode(), mp)
        if not self.model:
            sys.exit(f"llama.cpp cannot load {a.model}")
        self.vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))
        cp = ll.llama_context_default_params()
        cp.n_ctx = longest + 64
        cp.n_batch = cp.n_ubatch = BLOCK
        cp.n_threads = cp.n_threads_batch = a.threads
        cp.flash_attn_type = ll.LLAMA_FLASH_ATTN_TYPE_ENABLED if a.flash else ll.LLAMA_FLASH_ATTN_TYPE_DISABLED
        cp.type_k = cp.type_v = TYPES[a.cache]
        self.ctx = ll.llama_init_from_model(self.model, cp)
        if not self.ctx:
            sys.exit("llama.cpp cannot make a context")
        self.memory = ll.llama_get_memory(self.ctx)
        self.state = 1
        self.real = a.real

    def tokens(self, n):
        out = []
        for _ in range(n):
            self.state = (self.state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
            out.append(100 + (self.state >> 33) % (self.vocab - 200))
        return out

    def feed(self, tokens):
        for i in range(0, len(tokens), BLOCK):
            part = tokens[i:i + BLOCK]
            array = (ll.llama_token * len(part))(*part)
            if ll.llama_decode(self.ctx, ll.llama_batch_get_one(array, len(part))):
                sys.exit("llama_decode failed")
        ll.llama_synchronize(self.ctx)

    def timed(self, tokens):
        start = time.perf_counter()
        self.feed(tokens)
        return time.perf_counter() - start

    def clear(self):
        ll.llama_memory_clear(self.memory, True)

    def prefill(self, n):
        self.clear()
        return self.timed(self.tokens(n))

    def decode(self, depth, n):
        """Seconds of a step at this depth, the median of n."""
        self.clear()
        self.fill(depth)
        times = sorted(self.timed([t]) for t in self.tokens(n))
        return times[n // 2] if n % 2 else (times[n // 2 - 1] + times[n // 2]) / 2

    def end_to_end(self, prompt, generate):
        self.clear()
        prefill = self.timed(self.tokens(prompt))
        start = time.perf_counter()
        for _ in range(generate):
            logits = ll.llama_get_logits_ith(self.ctx, -1)
            # The choice of a token is not what is measured: a number of the logits stands in for it.
            self.feed([100 + int(abs(logits[0]) * 1e4) % (self.vocab - 200)])
        return {"prefill_s": prefill, "decode_s": time.perf_counter() - start}

    def read(self, prompt, generate):
        self.clear()
        tokens, answer = self.tokens(prompt), self.tokens(generate)
        # The state of a sequence: keys and values as they lie in the cache, and 12 bytes for each token.
        return reads.fed(self.feed, tokens, answer, lambda: ll.llama_state_seq_get_size(self.ctx, 0))

    def fill(self, depth):
        if self.real or depth <= BLOCK:
            self.feed(self.tokens(depth))
            return
        self.feed(self.tokens(BLOCK))
        size = ll.llama_state_seq_get_size(self.ctx, 0)
        buffer = (ctypes.c_uint8 * size)()
        written = ll.llama_state_seq_get_data(self.ctx, buffer, size, 0)
        longer = lengthened(memoryview(buffer)[:written], BLOCK, depth)
        self.clear()
        array = (ctypes.c_uint8 * len(longer)).from_buffer(longer)
        if ll.llama_state_seq_set_data(self.ctx, array, len(longer), 0) != len(longer):
            sys.exit("llama.cpp does not take the lengthened state: use --real")
        top = ll.llama_memory_seq_pos_max(self.memory, 0)
        if top != depth - 1:
            sys.exit(f"the lengthened state ends at position {top}, not {depth - 1}: use --real")


def lengthened(state, have, want):
    """The state of a sequence of `have` tokens as one of `want` tokens: cells repeated, positions going on.

    Layout: 8 bytes of heading; streams (1), cells; position, number of sequences (1), sequence of each cell;
    whether values are transposed, layers; then for each layer its keys (type, bytes a row, rows) and after those for
    each layer its values, as keys or (type, bytes a number, numbers a row, numbers of each column) if transposed.
    """
    state = bytes(state)
    streams, cells = struct.unpack_from("<II", state, 8)
    if streams != 1 or cells != have:
        raise SystemExit(f"a state of {streams} streams and {cells} cells is not understood: use --real")
    at = 16
    out = bytearray(state[:12])
    out += struct.pack("<I", want)
    for position in range(want):
        out += struct.pack("<iII", position, 1, 0)
    at += 12 * cells
    transposed, layers = struct.unpack_from("<II", state, at)
    out += state[at:at + 8]
    at += 8

    def repeated(row, count):
        """`count` lists of rows, each lengthened by itself."""
        nonlocal at
        for _ in range(count):
            rows = state[at:at + cells * row]
            at += cells * row
            whole, rest = divmod(want, cells)
            out.extend(rows * whole + rows[:rest * row])

    for _ in range(layers):
        row = struct.unpack_from("<Q", state, at + 4)[0]
        out += state[at:at + 12]
        at += 12
        repeated(row, 1)
    for _ in range(layers):
        out += state[at:at + 12]
        if transposed:
            size, numbers = struct.unpack_from("<II", state, at + 4)
            at += 12
            repeated(size, numbers)
        else:
            row = struct.unpack_from("<Q", state, at + 4)[0]
            at += 12
            repeated(row, 1)
    if at != len(state):
        raise SystemExit("a state with something after its values is not understood: use --real")
    return out


@ll.llama_log_callback
def QUIET(level, text, data):
    if level == 4:  # errors
        sys.stderr.write(text.decode(errors="replace"))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--prefill", type=int, default=512, help="tokens of the timed prompt; 0 leaves it out")
    ap.add_argument("--depths", default="0", help="comma-separated cached tokens before decode is timed")
    ap.add_argument("--decode", type=int, default=32, help="tokens decoded at each depth; 0 leaves it out")
    ap.add_argument("--prompt", type=int, default=0, help="tokens of a prompt to read and answer; 0 leaves it out")
    ap.add_argument("--generate", type=int, default=256, help="tokens of its answer")
    ap.add_argument("--flash", type=int, choices=(0, 1), default=1)
    ap.add_argument("--repack", type=int, choices=(0, 1), default=1)
    ap.add_argument("--cache", choices=sorted(TYPES), default="f16")
    ap.add_argument("--prompts", help="comma-separated tokens of prompts to read and answer, instead of all the rest")
    ap.add_argument("--real", action="store_true", help="read up to each depth instead of restoring a made-up state")
    a = ap.parse_args()
    if a.prompts:
        bench = Bench(a, reads.longest(a))
        bench.read(reads.WARM_UP, 4)
        reads.report(ll.__version__, ll.llama_print_system_info().decode().strip(),
                     [bench.read(prompt, a.generate) for prompt in reads.prompts(a)])
    if ll.__version__ != VERSION and not a.real:
        sys.exit(f"llama-cpp-python is {ll.__version__}, not {VERSION}: its states may look otherwise; use --real")
    depths = sorted(int(d) for d in a.depths.split(",")) if a.decode else []
    longest = max([a.prefill, a.prompt + a.generate if a.prompt else 0] + [d + a.decode for d in depths])
    bench = Bench(a, longest)
    bench.feed(bench.tokens(8))
    result = {"prefill_s": {}, "decode_s": {}, "end_to_end": None, "threads": a.threads, "flash": a.flash,
              "repack": a.repack, "filled": "read" if a.real else "restored", "version": ll.__version__,
              "system": ll.llama_print_system_info().decode().strip()}
    if a.prefill:
        bench.prefill(min(a.prefill, 64))
        result["prefill_s"][str(a.prefill)] = bench.prefill(a.prefill)
    for depth in depths:
        result["decode_s"][str(depth)] = bench.decode(depth, a.decode)
    if a.prompt:
        result["end_to_end"] = bench.end_to_end(a.prompt, a.generate)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
