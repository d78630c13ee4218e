#!/usr/bin/env python3
"""Times OpenVINO GenAI (openvino-genai==2026.4.1.0) on one model: prompts, answers, bytes of the cache.
`cargo xtask bench-peers --field` runs it; reads.py says what it prints.

It reads GGUF files itself and makes its own weights of them. Between two tokens of an answer lies all that its pipeline
does, the choice of the greatest logit included.

`--evict-to N` has it keep no more than N bytes of cache for each token of the prompt, by its own rule: the first 32
tokens, the last 128, and between these the ones that were attended to most. It evicts nothing while it reads a prompt.
"""
import argparse, time

import numpy
import openvino
import openvino_genai as genai
import reads

# Tokens of a block of its cache on a CPU, of which eviction drops whole ones; and what it never drops.
BLOCK, FIRST, LAST = 32, 32, 128
# Token numbers that every vocabulary here has.
VOCABULARY = 32_000


class Bench:
    def __init__(self, a, keep=None):
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 0  # grows as it must
        scheduler.enable_prefix_caching = False
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_batched_tokens = a.step
        if keep is not None:
            scheduler.use_cache_eviction = True
            rule = genai.AggregationMode.NORM_SUM
            scheduler.cache_eviction_config = genai.CacheEvictionConfig(FIRST, LAST, keep, rule)
        properties = {"INFERENCE_NUM_THREADS": a.threads, "KV_CACHE_PRECISION": a.cache}
        if a.precision != "default":
            properties["INFERENCE_PRECISION_HINT"] = a.precision
        self.pipe = genai.ContinuousBatchingPipeline(a.model, scheduler, "CPU", properties)
        self.tokens = reads.Tokens(VOCABULARY)
        self.read(reads.WARM_UP, 4)

    def read(self, prompt, generate):
        config = genai.GenerationConfig()
        config.max_new_tokens = generate + 1  # the first comes of the prompt
        config.ignore_eos = True
        tokens = openvino.Tensor(numpy.array([self.tokens.take(prompt)], dtype=numpy.int64))
        result = self.pipe.generate([tokens], [config])[0]
        metrics, cache = result.perf_metrics, self.pipe.get_metrics()
        steps = metrics.raw_metrics.m_durations
        if len(steps) != generate:
            raise SystemExit(f"{len(steps)} steps were timed, not {generate}")
        return {"prompt": prompt, "prompt_s": metrics.get_ttft().mean / 1e3, "generate": generate,
                "decode_s": sum(steps) / 1e6,
                "kv_bytes": round(cache.kv_cache_size_in_bytes * cache.cache_usage / 100),
                "kv_bytes_peak": cache.kv_cache_size_in_bytes}

    def bytes_a_token(self):
        read = self.read(reads.WARM_UP, 1)
        return read["kv_bytes_peak"] / (-(-(reads.WARM_UP + 1) // BLOCK) * BLOCK)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reads.arguments(ap)
    ap.add_argument("--cache", choices=("f16", "u8", "u4"), default="u8")
    ap.add_argument("--precision", choices=("default", "f32"), default="default", help="numbers of its products")
    ap.add_argument("--step", type=int, default=256, help="tokens of a prompt that are read at once, at most")
    ap.add_argument("--evict-to", type=int, default=0, help="bytes of cache for each token of a prompt; 0 keeps all")
    a = ap.parse_args()
    bench, results = Bench(a), []
    a_token = bench.bytes_a_token() if a.evict_to else 0
    for prompt in reads.prompts(a):
        if a.evict_to:
            keep = int(a.evict_to * prompt / a_token) // BLOCK * BLOCK
            if keep <= FIRST + LAST:
                raise SystemExit(f"it keeps {FIRST + LAST} tokens in any case: {keep} of {prompt} cannot be asked for")
            bench = None
            bench = Bench(a, keep)
        results.append(bench.read(prompt, a.generate))
    reads.report(genai.__version__, f"openvino {openvino.__version__}", results)


if __name__ == "__main__":
    main()
