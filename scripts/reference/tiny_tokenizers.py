"""Two tiny tokenizers of the kinds no small real model here has, with golden ids: Llama 3's and Llama 2's.

    pip install -r requirements.txt
    python tiny_tokenizers.py OUT.json

Made with tokenizers 0.22.2, transformers 5.2.0, sentencepiece 0.2.3.

OUT.json has two parts, each trained on the texts of tokenizer_goldens.py.
- "llama3": a whole tokenizer.json (byte-level BPE, Llama 3's splitting, ignore_merges, a BOS by template) and rows
  of {"text", "ids", "special", "sequence"}: control tokens as text, control tokens parsed (null where the same),
  and control tokens as text with what the post-processor adds.
- "llama2": SentencePiece BPE with byte fallback as [piece, score, type] with GGUF's types, the tokenizer.json parts
  transformers' conversion gives it (a normalizer that prepends and replaces, merges by score), and rows as above.
  Every row was also encoded by sentencepiece itself; "same_as_sentencepiece" counts the texts where it agrees.
"""

import io
import json
import pathlib
import sys

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers.convert_slow_tokenizer import generate_merges

from tokenizer_goldens import CORPUS

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
MORE = ["<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", "<s>[INST] Hi [/INST] yes</s><s> again", "x<s>", "</s"]


def rows(tokenizer: Tokenizer) -> list[dict]:
    out = []
    for text in CORPUS + MORE:
        tokenizer.encode_special_tokens = True
        literal = tokenizer.encode(text, add_special_tokens=False).ids
        sequence = tokenizer.encode(text).ids
        tokenizer.encode_special_tokens = False
        parsed = tokenizer.encode(text, add_special_tokens=False).ids
        out.append({"text": text, "ids": literal, "special": parsed if parsed != literal else None, "sequence": sequence})
    return out


def llama3() -> dict:
    tokenizer = Tokenizer(BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL3])
    bos = SPECIAL3[0]
    template = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return {"tokenizer": json.loads(tokenizer.to_str()), "rows": rows(tokenizer)}


def llama2() -> dict:
    # Other scripts are left to the byte tokens.
    lines = [line for text in CORPUS for line in text.replace("\0", "").splitlines()]
    latin = [line for line in lines if line.strip() and max(line) < "\u0250"]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(latin),
        model_writer=model, vocab_size=700, model_type="bpe", byte_fallback=True, character_coverage=0.99,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, add_dummy_prefix=True, minloglevel=2, num_threads=1,
    )
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())

    def kind(i: int) -> int:
        return 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1

    pieces = [[sp.id_to_piece(i), sp.get_score(i), kind(i)] for i in range(sp.get_piece_size())]
    vocab = {piece: i for i, (piece, _, _) in enumerate(pieces)}
    skip = [piece for piece, _, kind in pieces if kind != 1]
    merges = generate_merges(vocab, [(piece, score) for piece, score, _ in pieces], skip)
    tokenizer = Tokenizer(BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(p, special=True, normalized=False) for p, _, k in pieces if k in (2, 3)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    golden = rows(tokenizer)
    same = sum(sp.encode(row["text"]) == row["ids"] for row in golden)
    for row in golden:
        if sp.encode(row["text"]) != row["ids"]:
            print("differs from sentencepiece:", repr(row["text"][:60]))
    return {
        "pieces": pieces,
        "tokenizer": json.loads(tokenizer.to_str()),
        "rows": golden,
        "same_as_sentencepiece": same,
    }


def main() -> None:
    out = pathlib.Path(sys.argv[1])
    parts = {"llama3": llama3(), "llama2": llama2()}
    lines = []
    for name, part in parts.items():
        table = part.pop("rows")
        head = ",\n".join(f"{json.dumps(k)}:{json.dumps(v, separators=(',', ':'))}" for k, v in part.items())
        body = ",\n".join(json.dumps(row, separators=(",", ":")) for row in table)
        lines.append(f'{json.dumps(name)}:{{{head},\n"rows":[\n{body}\n]}}')
        print(name, len(table), "texts,", sum(len(r["ids"]) for r in table), "ids", part.get("same_as_sentencepiece"))
    out.write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
