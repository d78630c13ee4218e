"""RULER's thirteen tasks for the tokenizer of the model under test, as JSON lines.

The generators are the published ones, run unchanged, one process a task. What they expect around them is put in
place here: a tokenizer behind the name they import it by, the sentence model they would otherwise download, and a
seed. Each line gets the beginning of the answer as a field of its own, so that document, question and answer can be
told apart; nothing else is changed.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import long_context_eval
import yaml

import samples

PACKAGE = pathlib.Path(long_context_eval.__file__).parent

# `transformers.AutoTokenizer` as far as the generators use it, over the same library that is inside of it.
TRANSFORMERS = '''
import tokenizers

class AutoTokenizer:
    def __init__(self, path):
        self.tokenizer = tokenizers.Tokenizer.from_file(path)

    @classmethod
    def from_pretrained(cls, path, **_):
        return cls(path)

    def tokenize(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).tokens
'''


def sentence_models() -> pathlib.Path:
    """The folder that nltk finds its English sentence model in."""
    for entry in sys.path:
        folder = pathlib.Path(entry) / "llama_index" / "core" / "_static" / "nltk_cache"
        if (folder / "tokenizers" / "punkt_tab" / "english").is_dir():
            return folder
    raise SystemExit("the sentence model is missing: llama-index-core is not installed as packages.txt has it")


def configured() -> dict:
    """Every task with its generator, its arguments, its template and its number of tokens."""
    sys.path.insert(0, str(PACKAGE / "data" / "synthetic"))
    from constants import TASKS

    tasks = yaml.safe_load((PACKAGE / "synthetic.yaml").read_text())
    return {name: {**task, **TASKS[task["task"]]} for name, task in tasks.items()}


def generate(name: str, task: dict, args, work: pathlib.Path) -> pathlib.Path:
    command = [sys.executable, str(PACKAGE / "data" / "synthetic" / f"{task['task']}.py")]
    options = {
        "save_dir": work,
        "save_name": name,
        "subset": "validation",
        "tokenizer_path": args.tokenizer,
        "tokenizer_type": "hf",
        "max_seq_length": args.length,
        "tokens_to_generate": task["tokens_to_generate"],
        "num_samples": args.samples,
        "random_seed": args.seed,
        "template": task["template"] + task["answer_prefix"],
        **task["args"],
    }
    for option, value in options.items():
        command += [f"--{option}", str(value)]
    paths = [str(work), os.environ.get("PYTHONPATH", "")]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "NLTK_DATA": str(sentence_models()),
        "TOKENIZERS_PARALLELISM": "false",
        # Sets are walked in the same order every time.
        "PYTHONHASHSEED": "0",
    }
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=args.timeout)
    if done.returncode != 0:
        raise RuntimeError("\n".join(done.stderr.strip().splitlines()[-3:]))
    return work / name / "validation.jsonl"


def told_apart(name: str, task: dict, args, made: pathlib.Path) -> list[dict]:
    """The lines with the beginning of the answer taken off the end of the input."""
    # What stands before the first blank of the template's answer is the same in every line.
    start = task["answer_prefix"].split("{")[0]
    lines = []
    for line in made.read_text().splitlines():
        line = json.loads(line)
        at = line["input"].rfind(start)
        assert at > 0 and line["outputs"], f"{name}: line {line['index']} is not what was expected"
        lines.append(
            {
                "index": line["index"],
                "task": name,
                "input": line["input"][:at],
                "answer_prefix": line["input"][at:],
                "outputs": line["outputs"],
                "length": line["length"],
                "max_length": args.length,
                "tokens_to_generate": task["tokens_to_generate"],
            }
        )
    assert len(lines) == args.samples, f"{name}: {len(lines)} lines instead of {args.samples}"
    return lines


def main() -> None:
    parser = samples.arguments()
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for a task")
    parser.add_argument("tasks", nargs="*")
    args = parser.parse_args()
    tasks = configured()
    unknown = [name for name in args.tasks if name not in tasks]
    if unknown:
        raise SystemExit(f"no such task: {', '.join(unknown)}; there are: {', '.join(tasks)}")
    failed = []
    for name in args.tasks or tasks:
        try:
            with tempfile.TemporaryDirectory() as folder:
                work = pathlib.Path(folder)
                (work / "transformers.py").write_text(TRANSFORMERS)
                lines = told_apart(name, tasks[name], args, generate(name, tasks[name], args, work))
        except (RuntimeError, AssertionError, subprocess.TimeoutExpired) as error:
            print(f"{name} could not be made: {error}", file=sys.stderr)
            failed.append(name)
            continue
        samples.write(args.out, name, lines)
    if failed:
        raise SystemExit(f"not made: {', '.join(failed)}; the others are there")


if __name__ == "__main__":
    main()
