"""Reference logits of a GGUF model: transformers, weights dequantised to f32.

    pip install -r requirements.txt
    python logits.py MODEL.gguf OUT.bin                        # 64 positions of texts.PASSAGE
    python logits.py MODEL.gguf OUT.bin --long 8000            # the last 4 of 8000 positions

Made with transformers 5.2.0, torch 2.15.0, tokenizers 0.22.2, gguf 0.19.0, accelerate 1.15.0, on a CPU.
The model runs in float32 with sdpa attention and no cache, on ids without a BOS (Gemma: with its own).

The whole logits of 64 positions would be 39 MB for a vocabulary of 152K, so a file
keeps for each position what a test needs to be honest:

- the TOP largest logits with their ids. With the log of the sum of all exponentials
  they are the exact probabilities of nearly all of the mass; the remainder is one
  bucket whose mass is known exactly. A KL divergence over TOP + 1 buckets is a lower
  bound of the true one (merging outcomes never raises it), and a tight one.
- the logits of PROBES ids drawn once, uniformly, with a fixed seed: the bulk of the
  vocabulary, where a wrong row would not show among the largest.
- the log of the sum of all exponentials, which every logit of the row enters.

Layout, little-endian, no padding:
    magic  b"CHLOGITS"
    u32    version = 1, vocabulary, number of ids, first position kept, positions kept,
           TOP, PROBES
    u32[]  ids of the text
    u32[]  probe ids
    then for each kept position:
        f32    logsumexp
        u32[TOP]  ids of the largest logits, largest first;  f32[TOP] their logits
        f32[PROBES]  logits of the probe ids
"""

import argparse
import pathlib
import struct

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from texts import NEEDLE, PASSAGE, QUESTION, long_text
from tokenizers_from_gguf import SentencePieceTokenizer, field, tokenizer_from_gguf

TOP = 256
PROBES = 512
POSITIONS = 64
LONG_POSITIONS = 4


def text_ids(path: pathlib.Path, long: int | None) -> list[int]:
    bos: list[int] = []
    if field(gguf.GGUFReader(path), "tokenizer.ggml.model") == "llama":
        # Gemma has learned to begin with its BOS, and says little of use without.
        spm = SentencePieceTokenizer(path)
        encode, bos = spm.encode, [spm.bos]
    else:
        tokenizer = tokenizer_from_gguf(path)

        def encode(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False).ids

    if long is None:
        ids = bos + encode(PASSAGE)
        assert len(ids) >= POSITIONS, f"the passage has only {len(ids)} tokens"
        return ids[:POSITIONS]
    head, tail = bos + encode(NEEDLE), encode(QUESTION)
    filler = encode(long_text(seed=20, sentences=long // 8))
    assert len(filler) + len(head) + len(tail) >= long, "too few sentences"
    return head + filler[: long - len(head) - len(tail)] + tail


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("model", type=pathlib.Path)
    args.add_argument("out", type=pathlib.Path)
    args.add_argument("--long", type=int, help="length of the generated text in tokens")
    args.add_argument("--threads", type=int, default=2)
    args = args.parse_args()
    torch.set_num_threads(args.threads)

    ids = text_ids(args.model, args.long)
    model = AutoModelForCausalLM.from_pretrained(
        args.model.parent, gguf_file=args.model.name, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    keep = LONG_POSITIONS if args.long else POSITIONS
    with torch.inference_mode():
        out = model(torch.tensor([ids]), use_cache=False, logits_to_keep=keep)
    logits = out.logits[0]
    vocab = logits.shape[-1]
    probes = np.sort(np.random.default_rng(0).choice(vocab, PROBES, replace=False)).astype("<u4")

    with args.out.open("wb") as f:
        f.write(b"CHLOGITS")
        f.write(struct.pack("<7I", 1, vocab, len(ids), len(ids) - keep, keep, TOP, PROBES))
        f.write(np.asarray(ids, "<u4").tobytes())
        f.write(probes.tobytes())
        for row in logits:
            top = torch.topk(row, TOP)
            lse = torch.logsumexp(row.double(), -1)
            f.write(struct.pack("<f", lse.item()))
            f.write(top.indices.numpy().astype("<u4").tobytes())
            f.write(top.values.numpy().astype("<f4").tobytes())
            f.write(row[torch.from_numpy(probes.astype(np.int64))].numpy().astype("<f4").tobytes())
    mass = [torch.exp(torch.topk(r.double(), TOP).values - torch.logsumexp(r.double(), -1)).sum().item() for r in logits]
    print(f"{len(ids)} ids, {keep} positions, vocabulary {vocab}; top {TOP} hold at least {min(mass):.4f} of the mass")
    print("top-1 of the last positions:", [int(r.argmax()) for r in logits[-4:]])


if __name__ == "__main__":
    main()
