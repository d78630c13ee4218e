#!/usr/bin/env python3
"""How well llama.cpp (through llama-cpp-python==0.3.36) predicts texts with each type of cache: the check by another
engine on what plain caches in few bits cost.

  python3 -m venv .peers && .peers/bin/pip install llama-cpp-python==0.3.36
  .peers/bin/python scripts/peers/llama_cpp_loss.py MODEL.gguf TEXT ...

Prints for every text its tokens, and for every type of cache the mean -ln p of all of them but the first two, read in
steps of 512, and the KL divergence from the cache in 16 bits. A type for both keys and values, or one for each:
q8_0/q4_0. llama.cpp rotates what is quantised. The same of Chelsea, which draws nothing from a text that is as long
as what is asked for:

  chelsea eval stream -m MODEL.gguf --haystack TEXT --tokens TOKENS --samples 1 --pieces 1 --keeps 1 --kv-type k8v4
"""
import argparse, ctypes, sys

import llama_cpp as ll
import numpy as np

BLOCK = 512
# Numbers of types in ggml.h.
TYPES = {"f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8}


@ll.llama_log_callback
def QUIET(level, text, data):
    if level == 4:  # errors
        sys.stderr.write(text.decode(errors="replace"))


def tokens_of(vocab, text):
    raw = text.encode()
    out = (ll.llama_token * (len(raw) + 8))()
    n = ll.llama_tokenize(vocab, raw, len(raw), out, len(out), True, False)
    if n < 0:
        sys.exit("llama.cpp cannot tokenise the text")
    return list(out[:n])


def log_probabilities(model, tokens, keys, values, threads):
    """Rows of ln p of every next token, in 16 bits, which a text of some thousand tokens needs a GiB for."""
    cp = ll.llama_context_default_params()
    cp.n_ctx = len(tokens) + 64
    cp.n_batch = cp.n_ubatch = BLOCK
    cp.n_threads = cp.n_threads_batch = threads
    cp.flash_attn_type = ll.LLAMA_FLASH_ATTN_TYPE_ENABLED
    cp.type_k, cp.type_v = TYPES[keys], TYPES[values]
    ctx = ll.llama_init_from_model(model, cp)
    if not ctx:
        sys.exit(f"llama.cpp cannot make a context with {keys}/{values}")
    size = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    rows = np.empty((len(tokens), size), np.float16)
    batch = ll.llama_batch_init(BLOCK, 0, 1)
    for start in range(0, len(tokens), BLOCK):
        part = tokens[start:start + BLOCK]
        batch.n_tokens = len(part)
        for i, token in enumerate(part):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, start + i, 1, 1
            batch.seq_id[i][0] = 0
        if ll.llama_decode(ctx, batch):
            sys.exit("llama_decode failed")
        for i in range(len(part)):
            logits = np.ctypeslib.as_array(ll.llama_get_logits_ith(ctx, i), (size,)).astype(np.float64)
            top = logits.max()
            rows[start + i] = logits - top - np.log(np.exp(logits - top).sum())
    ll.llama_batch_free(batch)
    ll.llama_free(ctx)
    return rows


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("texts", nargs="+")
    ap.add_argument("--caches", default="q8_0,q8_0/q4_0,q4_0", help="types beside f16, comma-separated")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--most", type=int, default=6000, help="texts of more tokens are refused")
    a = ap.parse_args()
    caches = ["f16"] + [cache for cache in a.caches.split(",") if cache != "f16"]
    for cache in caches:
        if not set(cache.split("/")) <= set(TYPES) or cache.count("/") > 1:
            sys.exit(f"no cache is called {cache}; types are {', '.join(TYPES)}")
    ll.llama_backend_init()
    ll.llama_log_set(QUIET, ctypes.c_void_p(0))
    mp = ll.llama_model_default_params()
    mp.n_gpu_layers = 0
    model = ll.llama_model_load_from_file(a.model.encode(), mp)
    if not model:
        sys.exit(f"llama.cpp cannot load {a.model}")
    print("text\ttokens\tcache\tloss\tKL from f16\tsame first choice")
    for path in a.texts:
        with open(path, encoding="utf-8") as file:
            tokens = tokens_of(ll.llama_model_get_vocab(model), file.read())
        if not 3 <= len(tokens) <= a.most:
            sys.exit(f"{path} has {len(tokens)} tokens; 3 to {a.most} can be measured")
        full = None
        for cache in caches:
            keys, values = (cache.split("/") * 2)[:2]
            rows = log_probabilities(model, tokens, keys, values, a.threads)[1:-1]
            loss = -rows[np.arange(len(rows)), tokens[2:]].astype(np.float64).mean()
            full = rows if full is None else full
            kl, same = 0.0, 0
            for p, q in zip(full, rows):
                p, q = p.astype(np.float64), q.astype(np.float64)
                kl += float((np.exp(p) * (p - q)).sum())
                same += int(p.argmax() == q.argmax())
            print(f"{path}\t{len(tokens)}\t{cache}\t{loss:.4f}\t{kl / len(rows):.4f}\t{100 * same / len(rows):.1f}%", flush=True)


if __name__ == "__main__":
    main()
