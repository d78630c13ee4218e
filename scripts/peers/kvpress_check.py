#!/usr/bin/env python3
"""Which positions kvpress keeps, and which this project's policies of the same names keep: same weights, same ids.

  python3 -m venv .peers && .peers/bin/pip install kvpress==0.5.5 transformers==5.2.0 torch==2.15.0 gguf==0.19.0 \\
      accelerate==1.15.0 sentencepiece==0.2.3 protobuf==7.36.2
  cargo build --release -p chelsea-engine --example kept
  .peers/bin/python scripts/peers/kvpress_check.py MODEL.gguf

Both compute in f32 on one text of --tokens ids. What a press keeps is read off the cache it leaves: by the keys
that are still there, or by those it masks. Printed for each method: the share of kept positions that both keep,
heads that agree in full, and what explains a difference. Last run with kvpress 0.5.5, transformers 5.2.0, torch
2.15.0 on a CPU.
"""
import argparse, json, os, pathlib, subprocess, sys, tempfile

import torch
from transformers import AutoModelForCausalLM, DynamicCache

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "reference"))
from texts import PASSAGE, long_text
from tokenizers_from_gguf import tokenizer_from_gguf

import kvpress
from kvpress import (
    AdaKVPress, ExpectedAttentionPress, KeyDiffPress, KnormPress, LagKVPress, ObservedAttentionPress, PyramidKVPress,
    SnapKVPress, StreamingLLMPress, TOVAPress,
)
from kvpress.presses.kvzip_press import KVzipPress

FIRST = "\n\nRepeat the previous context exactly."
NEXT = "\n\nRepeat the part of the previous context exactly, starting with"
TURN = "\n"


class Words:
    """What KVzipPress asks of a tokenizer."""

    chat_template = None

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode(self, text, return_tensors, add_special_tokens):
        return torch.tensor([self.ids(text)], dtype=torch.long)


class OurPyramid(PyramidKVPress):
    """PyramidKV with the layer budgets that our policy leaves: kvpress counts the window into the pyramid."""

    budgets = None

    def get_layer_budget(self, module, q_len):
        return self.budgets[module.layer_idx]


def keys_of(model, ids):
    cache = DynamicCache()
    with torch.inference_mode():
        model(torch.tensor([ids]), past_key_values=cache, logits_to_keep=1)
    return [layer.keys[0] for layer in cache.layers]


def surviving(full, kept):
    """Positions of the rows of `kept` in `full`, head by head: rows are compared bit for bit."""
    heads = []
    for all_rows, rows in zip(full, kept):
        at = {row.numpy().tobytes(): i for i, row in enumerate(all_rows)}
        heads.append(sorted(at[row.numpy().tobytes()] for row in rows))
    return heads


def kept_by(model, press, ids):
    """The positions that `press` keeps, a list for each head of each layer."""
    full = {}
    compress = press.compress

    def remember(module, hidden, keys, values, attentions, kwargs):
        full[module.layer_idx] = keys[0].clone()
        return compress(module, hidden, keys, values, attentions, kwargs)

    press.compress = remember
    cache = DynamicCache()
    for layer in model.model.layers:
        layer.self_attn.masked_key_indices = None
    with torch.inference_mode(), press(model):
        model(torch.tensor([ids]), past_key_values=cache, logits_to_keep=1)
    heads = []
    for index, layer in enumerate(model.model.layers):
        masked = layer.self_attn.masked_key_indices
        if masked is None:
            heads += surviving(full[index], cache.layers[index].keys[0])
        else:
            heads += unmasked(masked, full[index].shape[0], len(ids))
    return heads


def unmasked(masked, kv_heads, tokens):
    gone = [set() for _ in range(kv_heads)]
    for head, at in zip(masked[1].tolist(), masked[2].tolist()):
        gone[head].add(at)
    return [[i for i in range(tokens) if i not in head] for head in gone]


def kept_by_kvzip(model, press, ids, words):
    """KVzip's passes without the part that fetches a tokenizer by name."""
    press._suffix_ids = words.encode(TURN, "pt", False)
    press._context_ids, press.prefix_length = torch.tensor([ids]), 0
    press._cache = DynamicCache()
    for layer in model.model.layers:
        layer.self_attn.masked_key_indices = None
        layer.self_attn.rotary_emb = model.model.rotary_emb
    with torch.inference_mode():
        model(torch.tensor([ids]), past_key_values=press._cache, logits_to_keep=1)
        press._perform_kvzip_compression(model, words)
    kv_heads = model.config.num_key_value_heads
    return [h for layer in model.model.layers for h in unmasked(layer.self_attn.masked_key_indices, kv_heads, len(ids))]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model", type=pathlib.Path)
    ap.add_argument("--kept", default=HERE.parent.parent / "target/release/examples/kept")
    ap.add_argument("--tokens", type=int, default=600)
    ap.add_argument("--keep", type=float, default=0.25)
    ap.add_argument("--only", help="methods whose policy begins so")
    ap.add_argument("--threads", type=int, default=2)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)

    words = Words(tokenizer_from_gguf(a.model))
    ids = words.ids(PASSAGE + "\n\n" + long_text(seed=4, sentences=a.tokens // 8))[: a.tokens]
    assert len(ids) == a.tokens, "too few sentences"
    ratio = 1 - a.keep
    snap_why = "scores within rounding of each other"
    # policy, sinks, window, press, attention, what explains a difference
    cases = [
        ("streaming", 4, 0, StreamingLLMPress(ratio), "sdpa", ""),
        ("knorm", 0, 0, KnormPress(ratio), "sdpa", snap_why),
        ("keydiff", 0, 0, KeyDiffPress(ratio), "sdpa", snap_why),
        ("keydiff:heads=adaptive", 0, 0, AdaKVPress(KeyDiffPress(ratio)), "sdpa", snap_why),
        ("knorm:heads=adaptive,floor=0.3", 0, 0, AdaKVPress(KnormPress(ratio), 0.3), "sdpa", snap_why),
        ("lagkv:lag=64", 4, 0, LagKVPress(ratio, lag_size=64), "sdpa", "equal ranks in different partitions: we keep the later"),
        ("snapkv", 0, 64, SnapKVPress(ratio), "sdpa", snap_why),
        ("snapkv:window=32,kernel=7", 0, 32, SnapKVPress(ratio, 32, 7), "sdpa", snap_why),
        ("snapkv:heads=adaptive,floor=0", 0, 64, AdaKVPress(SnapKVPress(ratio), 0.0), "sdpa", snap_why),
        ("pyramidkv", 0, 64, OurPyramid(ratio), "sdpa", "budgets are ours, scores are compared"),
        ("tova", 0, 1, TOVAPress(ratio), "sdpa", snap_why),
        ("expected-attention", 4, 0, ExpectedAttentionPress(ratio), "sdpa", snap_why),
        ("expected-attention:cov=0,vnorm=0", 4, 0, ExpectedAttentionPress(ratio, use_covariance=False, use_vnorm=False), "sdpa", snap_why),
        ("h2o:recent=0,average=1", 0, 0, ObservedAttentionPress(ratio), "eager", snap_why),
        ("kvzip", 4, 0, KVzipPress(ratio), "sdpa", snap_why),
        ("kvzip:chunk=256", 4, 0, KVzipPress(ratio, chunk_size=256), "sdpa", snap_why),
        ("kvzip:heads=adaptive", 4, 0, KVzipPress(ratio, layerwise=True), "sdpa", snap_why),
    ]
    cases = [case for case in cases if case[0].startswith(a.only or "")]

    runs = [{"policy": policy, "keep": a.keep, "sinks": sinks, "window": window} for policy, sinks, window, *_ in cases]
    request = {"ids": ids, "first": words.ids(FIRST), "next": words.ids(NEXT), "turn": words.ids(TURN), "runs": runs}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(request, file)
        file.flush()
        out = subprocess.run([a.kept, a.model, file.name], capture_output=True, text=True)
    if out.returncode:
        sys.exit(out.stderr)
    ours = json.loads(out.stdout)

    models = {}
    for attention in sorted({case[4] for case in cases}):
        models[attention] = AutoModelForCausalLM.from_pretrained(
            a.model.parent, gguf_file=a.model.name, dtype=torch.float32, attn_implementation=attention
        ).eval()
    print(f"{a.model.name}, {len(ids)} tokens, {a.keep:.0%} kept; kvpress {kvpress.__version__ if hasattr(kvpress, '__version__') else ''}")
    print(f"{'policy':34} {'press':24} {'kept':>8} {'theirs':>8} {'overlap':>8} {'heads equal':>12}  note")
    for (policy, _, _, press, attention, why), mine in zip(cases, ours):
        model = models[attention]
        if isinstance(press, OurPyramid):
            kv_heads = model.config.num_key_value_heads
            press.budgets = [len(mine[i * kv_heads]) for i in range(model.config.num_hidden_layers)]
        theirs = kept_by_kvzip(model, press, ids, words) if isinstance(press, KVzipPress) else kept_by(model, press, ids)
        both = sum(len(set(x) & set(y)) for x, y in zip(mine, theirs))
        total, other = sum(map(len, mine)), sum(map(len, theirs))
        equal = sum(x == y for x, y in zip(mine, theirs))
        inner = getattr(press, "press", None)
        name = type(press).__name__.replace("Press", "") + (f"({type(inner).__name__.replace('Press', '')})" if inner else "")
        note = "" if equal == len(mine) else why
        print(f"{policy:34} {name:24} {total:8} {other:8} {both / max(total, other):8.4f} {equal:5} of {len(mine):3}  {note}", flush=True)


if __name__ == "__main__":
    main()
