"""What it takes to read on one server and answer on another: bytes on the wire, and time to the first token.

    python3 scripts/scale/split.py --chelsea target/release/chelsea --model smollm2 --file TEXT

Two servers, one that reads and one that answers, with a link between them that brings no more than 1 or 10 Gbit a second
(link.py). For each budget and link the same prompts go both ways in turns: read by the server that answers, and read by
the other one and handed over. The answers must be the same, token for token. Prints a table of medians in Markdown.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "deploy"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import cluster  # noqa: E402
from chaos import stream  # noqa: E402
from link import Link  # noqa: E402


def post(port: int, body: dict) -> dict:
    import http.client

    connection = http.client.HTTPConnection(cluster.LOOPBACK, port, timeout=600)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    value = json.loads(answer.read())
    connection.close()
    if answer.status != 200:
        sys.exit(f"status {answer.status}: {value}")
    return value


def first_token(port: int, body: dict):
    """Seconds to the first text of a stream, and all of the text."""
    start, at = time.monotonic(), []
    text, _, usage = stream(port, "/v1/completions", {**body, "stream": True,
                            "stream_options": {"include_usage": True}}, lambda _: at or at.append(time.monotonic()), 600)
    return at[0] - start, text, usage


def server(args, folder: pathlib.Path, name: str, port: int, *more):
    argv = [args.chelsea, "serve", "-m", args.model, "--port", port, "--kv-memory", args.memory, "--threads", args.threads]
    argv += ["--read-step", args.read_step, "--max-stall", 60_000, *more]
    process = cluster.Process(argv, folder / f"{name}.log", {"CHELSEA_TRANSFER_TOKEN": "measured"})
    cluster.wait_for(name, lambda: cluster.get(f"http://{cluster.LOOPBACK}:{port}/ready")[0] == 200, 300)
    return process


def figure(port: int, name: str) -> float:
    for line in cluster.get(f"http://{cluster.LOOPBACK}:{port}/metrics")[1].splitlines():
        if line.startswith(name + "{"):
            return float(line.rsplit(" ", 1)[1])
    raise KeyError(name)


def measure(args, budget: str, bits: float, text: str) -> dict:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="chelsea-split-"))
    reading, answering = cluster.free_port(), cluster.free_port()
    link = Link((cluster.LOOPBACK, reading), bits)
    processes = []
    try:
        processes.append(
            server(args, folder, "reader", reading, "--kv-budget", budget, "--transfer-url", f"http://{link.address}")
        )
        processes.append(
            server(args, folder, "answerer", answering, "--kv-budget", budget, "--transfer-peer", link.address)
        )
        rows = []
        for trial in range(args.trials):
            # Another beginning each time, so that nothing lies on a shelf.
            prompts = [f"Copy {trial}{way} of the text.\n{text}" for way in "ab"]
            body = {"max_tokens": args.answer, "temperature": 0, "ignore_eos": True}
            local, _, usage = first_token(answering, {**body, "prompt": prompts[0]})
            before, passed = figure(answering, "chelsea:kv_taken_over_seconds_total"), link.back.passed
            start = time.monotonic()
            told = post(reading, {**body, "max_tokens": 1, "prompt": prompts[1],
                                  "kv_transfer_params": {"do_remote_decode": True}})
            read = time.monotonic() - start
            offer = told["kv_transfer_params"]
            over, answer, details = first_token(answering, {**body, "prompt": prompts[1], "kv_transfer_params": offer})
            cached = details["prompt_tokens_details"]["cached_tokens"]
            if cached != details["prompt_tokens"]:
                sys.exit(f"the cache was not gone on from: see {folder}")
            alone = post(reading, {**body, "prompt": prompts[1]})["choices"][0]["text"]
            if alone != answer:
                sys.exit(f"another answer: {alone!r} and {answer!r}")
            rows.append({
                "tokens": usage["prompt_tokens"],
                "bytes": offer["bytes"],
                "wire": link.back.passed - passed,
                "local": local,
                "read": read,
                "over": over,
                "fetched": figure(answering, "chelsea:kv_taken_over_seconds_total") - before,
            })
        return {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    finally:
        for process in processes:
            process.end()
        link.close()


def main():
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("--chelsea", default="target/release/chelsea")
    about.add_argument("--model", default="smollm2")
    about.add_argument("--file", required=True, type=pathlib.Path, help="a long text")
    about.add_argument("--characters", type=int, default=28_000, help="of the text that are read")
    about.add_argument("--budgets", nargs="*", default=["100%", "25%"])
    about.add_argument("--links", nargs="*", type=float, default=[1e9, 1e10])
    about.add_argument("--answer", type=int, default=32)
    about.add_argument("--trials", type=int, default=3)
    about.add_argument("--threads", type=int, default=os.cpu_count())
    about.add_argument("--read-step", type=int, default=128)
    about.add_argument("--memory", default="3GiB")
    args = about.parse_args()
    text = args.file.read_text()[: args.characters]
    print("| budget | link | tokens | bytes handed over | bytes on the wire | first token, read here | read there | "
          "fetched, checked and mapped | first token, handed over |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for budget in args.budgets:
        for bits in args.links:
            row = measure(args, budget, bits, text)
            print(f"| {budget} | {bits / 1e9:g} Gbit/s | {row['tokens']:.0f} | {row['bytes']:.0f} | {row['wire']:.0f} | "
                  f"{row['local']:.3f} s | {row['read']:.3f} s | {row['fetched']:.3f} s | "
                  f"{row['read'] + row['over']:.3f} s |", flush=True)


if __name__ == "__main__":
    main()
