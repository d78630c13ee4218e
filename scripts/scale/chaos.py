"""What holds when Chelsea servers behind a router are killed: no answer lost, none mixed up.

    python3 scripts/scale/chaos.py dynamo --chelsea target/release/chelsea --requests 500 --kills 20
    python3 scripts/scale/chaos.py smg --chelsea target/release/chelsea --requests 500 --kills 20

It starts two servers and the router (deploy/cluster.py) and checks, in this order:

1. Conversations stay on the server that has read them: from the second turn on most of a prompt is found in a
   checkpoint there, and the other server is asked for none of it.
2. While clients ask, servers are killed (SIGKILL, the sidecar with its server) in the middle of streams, and come back.
   Every prompt is a row of words of its own that repeats, and the answer has to go on with just that row: a token that is
   lost, told twice or another request's shows. Before that, rows are left out with which the model does not go on when
   nobody is killed; small models lose the thread with some.

With `--readers N` so many of Dynamo's workers only read, and hand their caches to the others, which answer. Both checks are
the same there, the first one of those that read, and without kills every cache has to be gone on from.

With Dynamo a stream whose server was killed has to go on on the other one as if nothing had happened. With SMG it has to
end with an error that its client sees; the client then asks again.

The last line is a summary in JSON. The exit status is 0 if everything held, and 77 if this machine lacks what it takes.
"""

import argparse
import http.client
import json
import pathlib
import random
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "deploy"))
import cluster  # noqa: E402

WORDS = (
    "apple river stone cloud tiger silver bread window garden pencil mountain yellow doctor winter music bridge paper "
    "horse ocean candle forest mirror market basket ladder rocket pillow copper island button"
).split()
# Words of a row, how they are told apart, and how often it is told before the model has to go on.
ROW, BETWEEN, TOLD = 4, "\n", 8
SKIPPED = 77
# What servers that read for others count.
CACHES = ("handed_over", "handed_over_bytes", "taken_over", "taken_over_seconds", "refused")


class Broken(Exception):
    """A stream that ended without an end, or with an error."""


class Refused(Exception):
    """A request that was not answered at all."""


def stream(port: int, path: str, body: dict, seen=lambda text: None, timeout: float = 120.0):
    """The text, reason and usage of a streamed answer."""
    connection = http.client.HTTPConnection(cluster.LOOPBACK, port, timeout=timeout)
    text, reason, usage, done, began = "", None, None, False, False
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise Refused(f"status {answer.status}: {answer.read()[:300]!r}")
        for line in answer:
            line = line.decode().strip()
            if line.startswith("event: error"):
                raise Broken("an error event")
            if not line.startswith("data:"):
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                done = True
                break
            event = json.loads(data)
            if "error" in event:
                raise Broken(f"an error: {event['error']}")
            for choice in event.get("choices") or []:
                piece = choice.get("text")
                if piece is None:
                    piece = (choice.get("delta") or {}).get("content") or ""
                text += piece
                began = True
                reason = choice.get("finish_reason") or reason
                if piece:
                    seen(text)
            usage = event.get("usage") or usage
    except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
        if began:
            raise Broken(f"the connection broke: {error!r}") from error
        raise Refused(f"no answer: {error!r}") from error
    finally:
        connection.close()
    if reason is None or not done:
        raise Broken("the stream ended without an end")
    return text, reason, usage


def answers(router: cluster.Cluster, args) -> bool:
    """Whether a short request is answered. A router that has listed all servers may refuse for a moment more."""
    body = {"model": args.name, "prompt": "One, two, three, four, five,", "max_tokens": 4, "temperature": 0, "stream": True}
    try:
        stream(router.port, "/v1/completions", body)
    except Refused:
        return False
    return True


def conversations(router: cluster.Cluster, args) -> dict:
    """Asks turn after turn, and looks where prompts were found."""
    rng = random.Random(args.seed)
    found, told, stayed, turns, servers = 0, 0, 0, 0, set()
    # Those that read, if others answer: these find in what they were handed all of a prompt.
    workers = router.workers[: args.readers] or router.workers
    for number in range(args.conversations):
        story = " ".join(rng.choice(WORDS) for _ in range(150))
        messages = [{"role": "system", "content": f"You are number {number}. Remember: {story}"}]
        for turn in range(3):
            words = " ".join(rng.choice(WORDS) for _ in range(70))
            messages.append({"role": "user", "content": f"Say something about {words}."})
            before = [worker.figure("vllm:prefix_cache_hits_total") for worker in workers]
            asked_before = [worker.figure("vllm:prefix_cache_queries_total") for worker in workers]
            body = {
                "model": args.name,
                "messages": messages,
                "max_tokens": 24,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            text, _, usage = stream(router.port, "/v1/chat/completions", body)
            messages.append({"role": "assistant", "content": text})
            time.sleep(args.pause)
            hits = [worker.figure("vllm:prefix_cache_hits_total") - b for worker, b in zip(workers, before)]
            asked = [
                worker.figure("vllm:prefix_cache_queries_total") - b for worker, b in zip(workers, asked_before)
            ]
            server = max(range(len(asked)), key=asked.__getitem__)
            servers.add(server)
            if turn == 0:
                home = server
                continue
            turns += 1
            found += sum(hits) / max(1, sum(asked))
            # Asked of the server that had the first turn, and found there.
            stayed += server == home and hits[home] > 0.5 * sum(asked)
            details = (usage or {}).get("prompt_tokens_details") or {}
            told += (details.get("cached_tokens") or 0) > 0
    return {
        "turns after the first": turns,
        "on the server that knew them": stayed,
        "servers that had conversations": len(servers),
        "share of their prompts found": round(found / max(1, turns), 3),
        "with cached_tokens in their usage": told,
    }


class Load:
    """Clients that ask until all prompts are answered."""

    def __init__(self, router: cluster.Cluster, args):
        self.router, self.args = router, args
        self.next, self.lock = 0, threading.Lock()
        self.active = {}
        self.results = []
        self.rng = random.Random(args.seed + 1)
        self.rows, self.left_out, self.seen = [], 0, set()
        # What is answered to each row when nobody is killed.
        self.expected = {}
        choosers = [threading.Thread(target=self.choose, args=(number,)) for number in range(args.clients)]
        for chooser in choosers:
            chooser.start()
        for chooser in choosers:
            chooser.join()
        rows = sorted(self.rows[: args.rows])
        # Each comes again only when all others did, so that no two that are asked at a time have the same.
        self.rows = [rows[number % len(rows)] for number in range(args.requests)]

    def body(self, row: tuple) -> dict:
        return {
            "model": self.args.name,
            "prompt": BETWEEN.join(row * TOLD),
            "max_tokens": self.args.tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def goes_on(self, row: tuple, text: str) -> bool:
        return len(text) > 0 and (BETWEEN + BETWEEN.join(row * (1 + self.args.tokens))).startswith(text)

    def choose(self, number: int):
        """Finds rows with which the model goes on, asked of a server itself."""
        worker = self.router.workers[number % len(self.router.workers)]
        while True:
            with self.lock:
                if len(self.rows) >= self.args.rows:
                    return
                row = tuple(self.rng.sample(WORDS, ROW))
                if row in self.seen:
                    continue
                self.seen.add(row)
            text, reason, _ = stream(worker.port, "/v1/completions", self.body(row))
            with self.lock:
                if reason == "length" and self.goes_on(row, text):
                    self.rows.append(row)
                    self.expected[row] = text
                else:
                    self.left_out += 1

    def ask(self, number: int) -> dict:
        row = self.rows[number % len(self.rows)]
        body = self.body(row)
        broken, refused = [], []
        for _ in range(self.args.tries):
            self.active[number] = 0

            def seen(text):
                self.active[number] = len(text)

            try:
                text, reason, usage = stream(self.router.port, "/v1/completions", body, seen)
            except Broken as error:
                broken.append(str(error))
                continue
            except Refused as error:
                refused.append(str(error))
                time.sleep(0.5)
                continue
            finally:
                self.active.pop(number, None)
            tokens = (usage or {}).get("completion_tokens")
            # What the server itself said when nobody was killed, to the last letter.
            right = text == self.expected[row] and reason == "length" and tokens == self.args.tokens
            return {
                "number": number,
                "right": right,
                "text": text,
                "reason": reason,
                "tokens": tokens,
                "broken": broken,
                "refused": refused,
            }
        return {"number": number, "right": False, "lost": True, "broken": broken, "refused": refused}

    def client(self):
        while True:
            with self.lock:
                number = self.next
                self.next += 1
            # Who was quick goes on until all kills were made, which wait for streams and for servers to come back.
            if number >= (len(self.rows) if self.killed else 10 * len(self.rows)):
                return
            result = self.ask(number)
            with self.lock:
                self.results.append(result)

    def run(self) -> dict:
        clients = [threading.Thread(target=self.client) for _ in range(self.args.clients)]
        kills, rng = [], random.Random(self.args.seed + 2)
        self.killed = not self.args.kills
        for client in clients:
            client.start()
        every = max(1, len(self.rows) // (self.args.kills + 1)) if self.args.kills else 0
        due = every
        while any(client.is_alive() for client in clients):
            time.sleep(0.01)
            if not self.args.kills or len(kills) >= self.args.kills or len(self.results) < due:
                continue
            # In the middle of streams, and only while another server is there to go on.
            started = [number for number, seen in list(self.active.items()) if seen > 20]
            if len(started) < 2 or not (
                all(worker.is_ready() for worker in self.router.workers) and self.router.sees_all()
            ):
                continue
            victim = rng.choice(self.router.workers)
            if victim.figure("vllm:num_requests_running") == 0:
                continue
            victim.kill()
            kills.append(victim.number)
            self.killed = len(kills) == self.args.kills
            due = max(due + every, len(self.results) + 1)
            # The router has to hear of it and of the return before the next one goes: two at once would leave nobody.
            cluster.wait_for("a killed server's return", lambda: not victim.is_ready(), 20)
            cluster.wait_for("a killed server's return", victim.is_ready, 120)
            time.sleep(self.args.settle)
        for client in clients:
            client.join()
        return self.summary(kills)

    def summary(self, kills: list) -> dict:
        wrong = [result for result in self.results if not result["right"]]
        for result in wrong[:5]:
            print("wrong:", json.dumps(result)[:1000], file=sys.stderr)
        short = [r for r in self.results if r.get("reason") == "length" and r["tokens"] not in (None, self.args.tokens)]
        return {
            "requests": len(self.results),
            "rows left out": self.left_out,
            "kills": len(kills),
            "lost": sum(bool(result.get("lost")) for result in self.results),
            "mixed or with tokens lost": sum(not r["right"] and not r.get("lost") for r in self.results),
            "with another number of tokens than asked for": len(short),
            "streams that broke and were asked again": sum(len(result["broken"]) for result in self.results),
            "requests that were refused and asked again": sum(len(result["refused"]) for result in self.results),
        }


def main():
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("kind", choices=sorted(cluster.KINDS))
    about.add_argument("--chelsea", default="target/release/chelsea")
    about.add_argument("--model", default="smollm2")
    about.add_argument("--name", default="chelsea")
    about.add_argument("--requests", type=int, default=500)
    about.add_argument("--rows", type=int, default=60, help="rows of words; each is asked for several times")
    about.add_argument("--kills", type=int, default=20)
    about.add_argument("--workers", type=int, default=2)
    about.add_argument("--readers", type=int, default=0, help="of Dynamo's workers, those that only read prompts")
    about.add_argument("--clients", type=int, default=6)
    about.add_argument("--tokens", type=int, default=64)
    about.add_argument("--conversations", type=int, default=6)
    about.add_argument("--tries", type=int, default=None, help="times that a client asks (Dynamo 1, SMG 4)")
    about.add_argument("--pause", type=float, default=0.6, help="seconds in which a router hears of checkpoints")
    about.add_argument("--settle", type=float, default=3.0, help="seconds in which a router hears of a server's return")
    about.add_argument("--seed", type=int, default=1)
    about.add_argument("--threads", type=int, default=1, help="threads of each server")
    about.add_argument("--logs", type=pathlib.Path)
    about.add_argument("--install", action="store_true", help="install the router's packages, and do nothing else")
    args = about.parse_args()
    if args.install:
        try:
            {"dynamo": cluster.dynamo_python, "smg": cluster.smg_python}[args.kind]()
        except cluster.Missing as error:
            print(f"skipped: {error}")
            sys.exit(SKIPPED)
        return
    args.rows = min(args.rows, args.requests)
    args.tries = args.tries or {"dynamo": 1, "smg": 4}[args.kind]
    serve = ["--threads", args.threads, "--kv-memory", "512MiB", "--kv-budget", "100%", "--read-step", 64]
    line = [args.kind, "--chelsea", args.chelsea, "--model", args.model, "--name", args.name, "--port", 0]
    line += ["--workers", args.workers, "--readers", args.readers]
    line += ["--logs", args.logs] if args.logs else []
    # Whoever ends this ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with cluster.make([*line, "--", *serve]) as router:
            print(f"logs are in {router.folder}", file=sys.stderr)
            cluster.wait_for("a first answer", lambda: answers(router, args), 60)
            told = {"router": args.kind}
            if args.conversations:
                told["conversations"] = conversations(router, args)
                print(json.dumps(told["conversations"]), file=sys.stderr)
            start = time.monotonic()
            told["load"] = Load(router, args).run()
            told["load"]["seconds"] = round(time.monotonic() - start, 1)
            if args.readers:
                told["caches"] = {name: sum(w.figure(f"chelsea:kv_{name}_total") for w in router.workers) for name in CACHES}
            told["starts of servers"] = [worker.starts for worker in router.workers]
    except cluster.Missing as error:
        print(f"skipped: {error}")
        sys.exit(SKIPPED)
    load = told["load"]
    held = [
        load["requests"] >= args.requests,
        load["kills"] == args.kills,
        load["lost"] == 0,
        load["mixed or with tokens lost"] == 0,
        load["with another number of tokens than asked for"] == 0,
        # A stream that dies with its server is asked again with SMG, and with Dynamo nobody has to.
        args.kind == "smg" or load["streams that broke and were asked again"] == 0,
    ]
    if args.readers and not args.kills:
        # Every prompt was read by one that reads, and its cache gone on from.
        caches = told["caches"]
        held += [caches["handed_over"] == caches["taken_over"] >= args.requests, caches["refused"] == 0]
    if args.conversations:
        talked = told["conversations"]
        held.append(talked["on the server that knew them"] >= 0.8 * talked["turns after the first"])
    told["held"] = all(held)
    print(json.dumps(told))
    sys.exit(0 if told["held"] else 1)


if __name__ == "__main__":
    main()
