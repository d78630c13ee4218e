"""A GGUF's tokenizer as a `tokenizers` object: the judge of the Rust tokenizer.

qwen2 goes through transformers' own GGUF conversion. Its conversion of SmolLM2 does
not look at `tokenizer.ggml.pre` (it splits as GPT-2 and prepends a BOS), so smollm is
put together here from the published pipeline: single digits, then GPT-2's byte-level
splitting. Token types say which tokens are special (3) and which are added but
ordinary text (4), for both.

A SentencePiece vocabulary (Gemma's) becomes a model of the `sentencepiece` library itself.
"""

import pathlib
import re

import gguf
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
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


class SentencePieceTokenizer:
    """The `sentencepiece` library behind the names of a `tokenizers.Tokenizer` that the scripts here use."""

    def __init__(self, path: pathlib.Path):
        reader = gguf.GGUFReader(path)
        assert field(reader, "tokenizer.ggml.model") == "llama"
        proto = sentencepiece_model_pb2.ModelProto()
        rows = zip(*(field(reader, f"tokenizer.ggml.{key}") for key in ("tokens", "scores", "token_type")))
        kinds = proto.SentencePiece.Type
        self.pieces = list(rows)
        # SentencePiece asks for its unknown piece; GGUF's conversion marks it as a control token.
        unknown = field(reader, "tokenizer.ggml.unknown_token_id")
        self.control = set()
        for i, (token, score, kind) in enumerate(self.pieces):
            piece = proto.pieces.add()
            piece.piece, piece.score = token.replace(" ", "\u2581"), score
            piece.type = kinds.UNKNOWN if i == unknown else kind
            if kind == 3:
                self.control.add(i)
        spec = proto.trainer_spec
        spec.model_type, spec.byte_fallback, spec.vocab_size = spec.BPE, True, len(self.pieces)
        spec.unk_id = unknown
        normal = proto.normalizer_spec
        normal.name, normal.add_dummy_prefix, normal.remove_extra_whitespaces = "identity", False, False
        normal.escape_whitespaces = True
        self.bos = field(reader, "tokenizer.ggml.bos_token_id")
        self.processor = SentencePieceProcessor(model_proto=proto.SerializeToString())

    def encode(self, text: str) -> list[int]:
        """Ids of a text; control tokens in it are spelled out."""
        return self.processor.encode(text)

    def encode_parsed(self, text: str) -> list[int]:
        """Ids of a text whose control tokens are parsed."""
        names = sorted((self.pieces[i][0] for i in self.control), key=len, reverse=True)
        ids: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, names)) + ")", text):
            known = [i for i in self.control if self.pieces[i][0] == part]
            ids += known or self.encode(part)
        return ids
