#!/usr/bin/env python3
"""Makes more golden cases of both recipes, with random sizes and settings. See README.md."""
import argparse
import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import chunked_soft_matching as plain
import global_clustering as pooled


def plain_case(name, g):
    """One or two rounds of the plain recipe; seeds whose decisions are too close to call are skipped."""
    heads, group = int(g.integers(1, 4)), int(g.integers(1, 4))
    tokens, dim = int(g.integers(40, 160)), 2 * int(g.integers(2, 17))
    kw = dict(chunk=int(g.integers(2, 80)), sinks=int(g.integers(0, 5)), window=int(g.integers(0, 20)))
    # Every chunk of m entries offers m // 2 edges.
    middle = tokens - kw["sinks"] - kw["window"]
    edges = middle // kw["chunk"] * (kw["chunk"] // 2) + middle % kw["chunk"] // 2
    rounds = [int(g.integers(1, edges + 1))]
    for attempt in range(100):
        try:
            plain._case(name, int(g.integers(1 << 30)), heads, tokens, dim, heads * group, 3, rounds, counts=bool(g.integers(2)), **kw)
            return
        except AssertionError:
            continue
    raise SystemExit(f"{name}: no seed keeps its decisions apart")


def global_case(name, g):
    """The global recipe; `_case` itself looks for a seed that keeps decisions apart."""
    sinks, window = int(g.integers(0, 5)), int(g.integers(1, 16))
    pooled._case(
        name, int(g.integers(1, 4)), int(g.integers(1, 3)), int(g.integers(1, 4)), int(g.integers(50, 120)),
        2 * int(g.integers(2, 9)), float(g.uniform(0.2, 0.8)), sinks, window, counts=bool(g.integers(2)),
        chunk=int(g.integers(8, 100)), frac=float(g.choice([0.05, 0.125, 0.5])), floor=float(g.choice([0.0, 0.4, 0.8])),
        lam=float(g.choice([0.0, 0.1])),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5, help="cases of each recipe")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same cases")
    parser.add_argument("--out", required=True, help="folder for the JSON files")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    os.chdir(args.out)
    for i in range(args.count):
        plain_case(f"plain_{args.seed}_{i}", np.random.default_rng([args.seed, i, 0]))
        global_case(f"{args.seed}_{i}", np.random.default_rng([args.seed, i, 1]))
    for name in os.listdir("."):
        if name.endswith(".npz"):
            os.remove(name)


if __name__ == "__main__":
    main()
