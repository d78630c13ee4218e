"""A GGUF's tokenizer as a `tokenizers` object: the judge of the Rust tokenizer.

qwen2 goes through transformers' own GGUF conversion. Its conversion of SmolLM2 does
not look at `tokenizer.ggml.pre` (it splits as GPT-2 and prepends a BOS), so smollm is
put together here from the published pipeline: single digits, then GPT-2's byte-level
splitting. Token types say which tokens are special (3) and which are added but
ordinary text (4), for both.
"""

import pathlib

import gguf
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers.integrations.ggml import GGUFQwen2Converter


def field(reader: gguf.GGUFReader, key: str):
    return reader.fields[key].contents()


def tokenizer_from_gguf(path: pathlib.Path) -> Tokenizer:
    reader = gguf.GGUFReader(path)
    assert field(reader, "tokenizer.ggml.model") == "gpt2"
    pre = field(reader, "tokenizer.ggml.pre")
    tokens = field(reader, "tokenizer.ggml.tokens")
    merges = field(reader, "tokenizer.ggml.merges")
    types = field(reader, "tokenizer.ggml.token_type")
    if pre == "qwen2":
        # The converter adds to these the special tokens it knows by name.
        tokenizer = GGUFQwen2Converter({"tokens": tokens, "merges": merges, "tokenizer_type": "gpt2"}).converted()
    elif pre == "smollm":
        vocab = {token: i for i, token in enumerate(tokens)}
        tokenizer = Tokenizer(BPE(vocab, [tuple(m.split(" ")) for m in merges]))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
    else:
        raise SystemExit(f"no reference for the pre-tokenizer {pre}")
    special = [AddedToken(t, normalized=False, special=True) for t, k in zip(tokens, types) if k == 3]
    added = [AddedToken(t, normalized=False, special=False) for t, k in zip(tokens, types) if k == 4]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(added)
    return tokenizer
