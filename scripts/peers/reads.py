"""What the peers of `cargo xtask bench-peers --field` have in common: the work, and the report on it.

A peer's script is run once for each setting, so that a caller can interleave settings and engines and take medians. It
reads a prompt of each length, answers it, and prints one JSON object on stdout:
  {"version", "system",
   "reads": [{"prompt": tokens, "prompt_s": s, "generate": tokens, "decode_s": s of all of them,
              "kv_bytes": of the cache after the last token, "kv_bytes_peak"}, ..]}

Tokens are pseudo-random: speed does not depend on them. What the choice of a token costs is not measured.
"""
import json, os, sys, time

# Read before anything is timed, so that no trial pays for pages that were never touched.
WARM_UP = 512


def arguments(parser):
    """The arguments that every peer takes."""
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", default="512,4096", help="comma-separated lengths of prompts, in tokens")
    parser.add_argument("--generate", type=int, default=64, help="tokens of each answer")
    return parser


def prompts(a):
    return sorted(int(n) for n in a.prompts.split(","))


def longest(a):
    """Tokens that a context has to hold."""
    return max(prompts(a) + [WARM_UP]) + a.generate


class Tokens:
    """Pseudo-random token numbers, the same in every run."""

    def __init__(self, vocab):
        self.vocab, self.state = vocab, 1

    def take(self, n):
        out = []
        for _ in range(n):
            self.state = (self.state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
            out.append(100 + (self.state >> 33) % (self.vocab - 200))
        return out


def fed(feed, tokens, answer, size):
    """Times an engine that is fed tokens: all of a prompt, then an answer one by one. `size` tells the bytes of its cache."""
    start = time.perf_counter()
    feed(tokens)
    read = time.perf_counter()
    for token in answer:
        feed([token])
    end = time.perf_counter()
    held = size()
    return {"prompt": len(tokens), "prompt_s": read - start, "generate": len(answer), "decode_s": end - read,
            "kv_bytes": held, "kv_bytes_peak": held}


def report(version, system, reads):
    """Prints the report and leaves at once: what a library does while Python ends is not part of the comparison."""
    print(json.dumps({"version": version, "system": system, "reads": reads}))
    sys.stdout.flush()
    os._exit(0)
