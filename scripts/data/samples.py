"""What the scripts of this folder share: their arguments, and files that are whole or not there."""

import argparse
import hashlib
import json
import pathlib


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json of the model")
    parser.add_argument("--length", type=int, required=True, help="tokens of a sample")
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    return parser


def write(folder: pathlib.Path, name: str, lines: list[dict]) -> None:
    """Writes `name`.jsonl and prints its SHA-256 and its path."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    partial = folder / f".{name}.partial"
    partial.write_bytes(text)
    partial.replace(folder / f"{name}.jsonl")
    print(f"{hashlib.sha256(text).hexdigest()}  {folder / name}.jsonl", flush=True)


def longbench(dataset: str, id: str, input: str, context: str, answers: list[str], **more) -> dict:
    """A line in the format of LongBench."""
    line = {"_id": id, "dataset": dataset, "language": "en", "input": input, "context": context, "answers": answers}
    return {**line, "all_classes": None, "length": len(context.split()), **more}
