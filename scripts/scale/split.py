"""What it takes to read on one server and answer on another: bytes on the wire, and time to the first token.

    python3 scripts/scale/split.py --chelsea target/release/chelsea --model smollm2 --file TEXT

For each budget two servers, one that reads and one that answers, with links between them that bring no more than 1 or 10
Gbit a second (link.py). In every round each budget has a prompt read by the server that answers, and for each link one read
by the other and handed over, so that what the machine does meanwhile meets all of them alike. The answers must be the
same, token for token. Prints one table of medians in Markdown, with the smallest and the largest of what it is about, and
with `--json` writes every round. Nothing else should run on the machine: the load before it began is told.
"""

import argparse
import itertools
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


class Pair:
    """Two servers of a budget, with links of so many bits between them."""

    def __init__(self, args, folder: pathlib.Path, budget: str):
        self.args, self.folder, self.budget, self.processes = args, folder, budget, []
        self.reading, self.answering = cluster.free_port(), cluster.free_port()
        self.links = {bits: Link((cluster.LOOPBACK, self.reading), bits) for bits in args.links}
        name = budget.rstrip("%")
        peers = [word for link in self.links.values() for word in ("--transfer-peer", link.address)]
        try:
            self.processes.append(server(args, folder, f"reader-{name}", self.reading, "--kv-budget", budget))
            self.processes.append(server(args, folder, f"answerer-{name}", self.answering, "--kv-budget", budget, *peers))
        except BaseException:
            self.end()
            raise

    def end(self):
        for process in self.processes:
            process.end()
        for link in self.links.values():
            link.close()

    def body(self, prompt: str) -> dict:
        return {"prompt": prompt, "max_tokens": self.args.answer, "temperature": 0, "ignore_eos": True}

    def local(self, prompt: str) -> dict:
        """Read by the server that answers."""
        first, _, usage = first_token(self.answering, self.body(prompt))
        if usage["prompt_tokens_details"]["cached_tokens"]:
            sys.exit(f"a prompt was not read, but found: see {self.folder}")
        return {"tokens": usage["prompt_tokens"], "local": first}

    def handed(self, bits: float, prompt: str) -> dict:
        """Read by the other one, and handed over."""
        link, body = self.links[bits], self.body(prompt)
        before, passed = figure(self.answering, "chelsea:kv_taken_over_seconds_total"), link.back.passed
        start = time.monotonic()
        told = post(self.reading, {**body, "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}})
        read = time.monotonic() - start
        offer = told["kv_transfer_params"]
        # By the way of this link.
        offer["url"] = f"http://{link.address}/v1/kv/" + offer["url"].rsplit("/", 1)[1]
        over, answer, usage = first_token(self.answering, {**body, "kv_transfer_params": offer})
        if usage["prompt_tokens_details"]["cached_tokens"] != usage["prompt_tokens"]:
            sys.exit(f"the cache was not gone on from: see {self.folder}")
        alone = post(self.reading, body)["choices"][0]["text"]
        if alone != answer:
            sys.exit(f"another answer: {alone!r} and {answer!r}")
        return {
            "bytes": offer["bytes"],
            "wire": link.back.passed - passed,
            "read": read,
            "over": over,
            "fetched": figure(self.answering, "chelsea:kv_taken_over_seconds_total") - before,
        }

    def round(self, number, text: str) -> list:
        """One prompt read here, and one for each link, each with a beginning of its own, so that nothing lies on a shelf."""
        here = self.local(f"Copy {number} of the text, read here.\n{text}")
        rows = []
        for bits in self.links:
            row = self.handed(bits, f"Copy {number} of the text, over {bits:g} bits a second.\n{text}")
            rows.append({"budget": self.budget, "link": bits, "round": number, **here, **row})
        return rows


def table(rows: list) -> str:
    lines = [
        "| budget | link | tokens | bytes on the wire | the link alone would take | first token on the answering server, "
        "handed over | of these, fetched and checked | first token, read there itself | reading on the other server |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for budget, bits in itertools.product(*(dict.fromkeys(row[key] for row in rows) for key in ("budget", "link"))):
        these = [row for row in rows if (row["budget"], row["link"]) == (budget, bits)]
        middle = {key: statistics.median(row[key] for row in these) for key in these[0] if key not in ("budget", "link")}

        def spread(key: str) -> str:
            values = [row[key] for row in these]
            return f"{middle[key]:.3f} s ({min(values):.3f} to {max(values):.3f})"

        lines.append(
            f"| {budget} | {bits / 1e9:g} Gbit/s | {middle['tokens']:.0f} | {middle['wire']:,.0f} | "
            f"{middle['wire'] * 8 / bits:.3f} s | {spread('over')} | {middle['fetched']:.3f} s | {spread('local')} | "
            f"{middle['read']:.3f} s |"
        )
    return "\n".join(lines)


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
    about.add_argument("--memory", default="3GiB", help="for the caches of each of the four servers")
    about.add_argument("--json", type=pathlib.Path, help="where every round goes")
    args = about.parse_args()
    text = args.file.read_text()[: args.characters]
    if len(text) < args.characters:
        print(f"{args.file} has {len(text)} characters only", file=sys.stderr)
    load = os.getloadavg()[0]
    print(f"load of this machine before it began: {load:.2f}", file=sys.stderr)
    start, folder, pairs, rows = time.monotonic(), pathlib.Path(tempfile.mkdtemp(prefix="chelsea-split-")), [], []
    try:
        for budget in args.budgets:
            pairs.append(Pair(args, folder, budget))
        for pair in pairs:
            # What happens once only is over before anything is measured.
            pair.round("zero", text[:2000])
        for trial in range(1, args.trials + 1):
            # Every other round the other way about.
            for pair in pairs if trial % 2 else reversed(pairs):
                rows += pair.round(trial, text)
            print(f"round {trial} of {args.trials}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    finally:
        for pair in pairs:
            pair.end()
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps({"load": load, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
