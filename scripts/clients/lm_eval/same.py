"""lm-eval through a server, and the same samples through the library: every number has to be the same.

    pip install 'lm-eval[api]==0.4.13'
    chelsea serve -m smollm2 --port 8099 --kv-budget 100% &
    python scripts/clients/lm_eval/same.py http://127.0.0.1:8099 MODEL.gguf

lm-eval scores the capitals over /v1/completions (`local-completions`) and keeps what it sent. The example `likelihoods` of
chelsea-engine computes the same from the model's file, with the server's budget and step. Compared are the likelihood of
every answer, whether its tokens were the likeliest ones, and the score. `--sample N` takes the first N questions alone.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
TASK = "chelsea_capitals"


def through_the_server(base, name, folder, limit):
    """The score, and each question's answers with what lm-eval says of them."""
    arguments = f"model={name},base_url={base}/v1/completions,tokenizer_backend=remote,num_concurrent=2"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--tasks", TASK, "--include_path", "."]
    command += ["--model_args", arguments, "--log_samples", "--output_path", str(folder)]
    subprocess.run(command + (["--limit", str(limit)] if limit else []), cwd=HERE, check=True)
    (results,), (samples,) = folder.rglob("results_*.json"), folder.rglob(f"samples_{TASK}_*.jsonl")
    score = json.loads(results.read_text())["results"][TASK]["acc,none"]
    return score, [json.loads(line) for line in samples.read_text().splitlines()]


def pair(context, continuation):
    """lm-eval gives blanks at the end of a context to what goes on from it."""
    stripped = context.rstrip()
    return {"context": stripped, "continuation": context[len(stripped) :] + continuation}


def through_the_library(model, budget, step, pairs):
    command = ["cargo", "run", "--release", "--quiet", "-p", "chelsea-engine", "--example", "likelihoods", "--"]
    lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
    done = subprocess.run(command + [model, budget, str(step)], input=lines, capture_output=True, text=True, cwd=HERE)
    if done.returncode:
        sys.exit(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("base")
    parser.add_argument("model")
    parser.add_argument("--sample", type=int)
    args = parser.parse_args()
    props = json.load(urllib.request.urlopen(f"{args.base}/props"))
    with tempfile.TemporaryDirectory() as folder:
        score, samples = through_the_server(args.base, props["model"], pathlib.Path(folder), args.sample)
    asked = [[argument["arg_0"], argument["arg_1"]] for sample in samples for argument in sample["arguments"].values()]
    told = [answer for sample in samples for answer in sample["filtered_resps"]]
    scored = through_the_library(args.model, props["kv"]["budget"], props["read_step"], [pair(*one) for one in asked])
    assert len(scored) == len(told) == len(asked)
    wrong = 0
    for one, (likelihood, greedy), own in zip(asked, told, scored):
        # lm-eval adds them up in this order.
        if float(likelihood) != sum(own["logprobs"]) or (str(greedy) == "True") != own["greedy"]:
            wrong += 1
            print("NOT the same:", one, likelihood, greedy, "and", sum(own["logprobs"]), own["greedy"])
    right, at = 0, 0
    for sample in samples:
        count = len(sample["arguments"])
        sums = [sum(own["logprobs"]) for own in scored[at : at + count]]
        right += sums.index(max(sums)) == int(sample["target"])
        at += count
    print(f"{len(samples)} questions with {len(asked)} answers at a budget of {props['kv']['budget']}: {wrong} likelihoods differ")
    print(f"score through the server {score}, through the library {right / len(samples)}")
    raise SystemExit(bool(wrong) or score != right / len(samples))


main()
