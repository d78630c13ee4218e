#!/usr/bin/env python3
"""Does matching lose when the keys before RoPE of old centroids are not stored?

The cache keeps keys after RoPE only. For a token, turning its key back by its position gives the key
before RoPE exactly; for a centroid, turning the mean back by the mean position does not give the mean of
its members' keys before RoPE. This compresses the same heads in several stages, once with exact means
and once with turned-back ones, and prints the relative error of attention and how many surviving mean
positions the two have in common. One shot stands beside them: its clusters differ from those of the
exact stages just as much.
"""
import json
import os

import numpy as np

import global_clustering as oracle

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../crates/chelsea-kv/tests/data")


def turn_back(K, positions, theta):
    """Undoes `oracle.rope` (half-split layout)."""
    half = K.shape[-1] // 2
    angles = positions[:, None] / theta ** (np.arange(half) * 2 / K.shape[-1])[None]
    c, s = np.cos(angles), np.sin(angles)
    return np.concatenate([K[:, :half] * c + K[:, half:] * s, K[:, half:] * c - K[:, :half] * s], -1)


def compress(heads, w, totals, theta=None, chunk=256):
    """Stages down to each of `totals`; with `theta`, features are turned back anew before every stage."""
    for total in totals:
        if theta is not None:
            heads = [{**h, "F": turn_back(h["K"], h["P"][:, 0], theta)} for h in heads]
        # Positions ride along with values, so that they are averaged alike.
        joined = [dict(K=h["K"], F=h["F"], V=np.concatenate([h["V"], h["P"]], 1), n=h["n"]) for h in heads]
        out, _, _ = oracle.compress(joined, w, total, chunk=chunk)
        heads = [dict(K=h["K"], F=h["F"], V=h["V"][:, :-1], P=h["V"][:, -1:], n=h["n"]) for h in out]
    return heads


def error(heads, full, queries):
    """Mean relative error of attention."""
    errors = []
    for a, b, q in zip(heads, full, queries):
        x, y = (oracle.attend(q, h["K"], h["V"], h["n"]) for h in (a, b))
        errors.append(np.linalg.norm(x - y) / np.linalg.norm(y))
    return np.mean(errors)


def shared(a, b):
    """Share of surviving mean positions that two results have in common."""
    common = [len(np.intersect1d(x["P"].round(6), y["P"].round(6))) / len(x["P"]) for x, y in zip(a, b)]
    return np.mean(common)


def golden(name):
    case = json.load(open(os.path.join(DATA, f"golden_global_{name}.json")))
    arrays = {key: np.asarray(case[key], float) for key in "KFVn"}
    count, tokens = arrays["n"].shape
    middle = slice(case["S"], tokens - case["W"])
    positions = np.arange(tokens, dtype=float)[middle, None]
    heads = [{**{key: arrays[key][i, middle] for key in "KFVn"}, "P": positions} for i in range(count)]
    queries = [np.array(case[f"q_{i}"]) for i in range(count)]
    return heads, np.array(case["w"]), queries, case["total"], 1e4, case["chunk"]


def drifting(seed, count=6, tokens=768, dim=32, theta=1e6):
    """Heads whose keys and values drift from token to token, each at its own pace, and jump at times."""
    g = np.random.default_rng(seed)
    heads, weights, queries = [], [], []
    for _ in range(count):
        pace, state, rows = g.uniform(0.3, 0.97), g.normal(size=2 * dim), []
        for _ in range(tokens):
            stay = pace if g.uniform() > 0.05 else 0.1
            state = stay * state + np.sqrt(1 - stay * stay) * g.normal(size=2 * dim)
            rows.append(state)
        F, V = np.split(np.array(rows), 2, axis=1)
        F = F * g.uniform(0.5, 1.5) + 3 * g.normal(size=dim)
        Q = g.normal(size=(16, dim)) * g.uniform(0.3, 1.2, size=dim)
        positions = np.arange(tokens)
        heads.append(dict(K=oracle.rope(F, positions, theta), F=F, V=V, n=np.ones(tokens), P=positions[:, None] * 1.0))
        weights.append(oracle.power_weights(Q[None], 1)[0])
        queries.append(oracle.rope(Q, np.full(16, tokens), theta))
    return heads, np.array(weights), queries, count * tokens // 4, theta, 256


def main():
    cases = [(f"golden {name}", golden(name)) for name in ("layers", "odd", "counts")]
    cases += [(f"drifting {seed}", drifting(seed)) for seed in range(3)]
    print(f"{'':16} attention error of                  survivors shared with staged exact")
    print(f"{'':16} one shot  staged exact  turned back  one shot  turned back")
    for name, (heads, w, queries, total, theta, chunk) in cases:
        everything = sum(len(h["n"]) for h in heads)
        stages = [int(total + (everything - total) * share) for share in (0.6, 0.3, 0.1)] + [total]
        once = compress(heads, w, [total], chunk=chunk)
        exact = compress(heads, w, stages, chunk=chunk)
        turned = compress(heads, w, stages, theta, chunk)
        errors = [error(result, heads, queries) for result in (once, exact, turned)]
        print(f"{name:16} {errors[0]:8.3f}  {errors[1]:12.3f}  {errors[2]:11.3f}  {shared(once, exact):8.2f}  {shared(turned, exact):11.2f}")


if __name__ == "__main__":
    main()
