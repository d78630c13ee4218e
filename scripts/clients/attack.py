"""Many mixed requests against a running `chelsea serve`: good ones, malformed ones, clients that go away, slow readers.

    chelsea serve -m smollm2 --port 8099 --kv-memory 60MiB &
    python scripts/clients/attack.py http://127.0.0.1:8099 --requests 2000

Every answer is held against the same request asked alone, and the bytes of all caches, as /metrics tells them, against
their limit. Needs nothing but Python. Loopback only.
"""

import argparse
import http.client
import json
import random
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlparse

WORDS = "river stone green seven window letter market silver garden paper winter number people morning".split()


def prompt(rng):
    return " ".join(rng.choices(WORDS, k=rng.choice([3, 10, 60, 300, 900])))


class Target:
    def __init__(self, base):
        url = urlparse(base)
        self.host, self.port = url.hostname, url.port
        assert self.host in ("127.0.0.1", "localhost"), "loopback only"

    def ask(self, method, path, body=None, headers=None, timeout=300):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
        connection.close()
        return response.status, text

    def metric(self, name):
        text = self.ask("GET", "/metrics")[1]
        return float(re.search(rf"^{re.escape(name)}\{{[^}}]*\}} (\S+)$", text, re.M).group(1))

    def raw(self, payload, read, wait=0.0):
        with socket.create_connection((self.host, self.port), timeout=60) as s:
            s.sendall(payload)
            time.sleep(wait)
            return s.recv(read) if read else b""


def chat(rng, stream):
    return {
        "messages": [{"role": "user", "content": prompt(rng)}],
        "max_tokens": rng.choice([1, 5, 20, 40]),
        "temperature": rng.choice([0, 1]),
        "seed": rng.randrange(1000),
        "stream": stream,
    }


def text_of(status, body, stream):
    if status != 200:
        return None
    if not stream:
        return json.loads(body)["choices"][0]["message"]["content"]
    events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
    assert not any("error" in e for e in events), events
    return "".join(c["delta"].get("content") or "" for e in events for c in e["choices"])


MALFORMED = [
    b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b'{"messages": 5}', b'{"messages": [{}]}',
    b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": -5}',
    b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e99}',
    b'{"messages": [{"role": "user", "content": "x"}], "stop": ["a", 3]}',
    b'{"messages": [{"role": "user", "content": "x"}], "kv": {"budget": "0%"}}',
    b'{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"999999999999": 5}}',
    b'{"messages": [' + b'{"role": "user", "content": "x"},' * 2000 + b'{"role": "user"}]}',
    b'{"messages": [{"role": "user", "content": "' + b"word " * 60000 + b'"}]}',
    b"[" * 20000,
]


def one(target, i, told):
    rng = random.Random(i)
    kind = rng.choice(["good"] * 5 + ["cancel"] * 2 + ["malformed", "slow", "wrong path"])
    try:
        if kind == "good":
            stream = rng.random() < 0.5
            body = chat(rng, stream)
            status, text = target.ask("POST", "/v1/chat/completions", body)
            while status == 429:
                time.sleep(0.5)
                status, text = target.ask("POST", "/v1/chat/completions", body)
            assert status == 200, (status, text[:200])
            told.append((body, text_of(status, text, stream)))
        elif kind == "malformed":
            body = rng.choice(MALFORMED)
            path = rng.choice(["/v1/chat/completions", "/v1/completions", "/v1/messages", "/tokenize"])
            status, text = target.ask("POST", path, body)
            assert 400 <= status < 500 and "error" in json.loads(text), (path, body[:60], status, text[:200])
        elif kind == "wrong path":
            assert target.ask("GET", "/v1/" + "x" * rng.randrange(200))[0] == 404
        else:
            data = json.dumps({**chat(rng, True), "max_tokens": 60}).encode()
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            payload = head + b"Content-Length: %d\r\n\r\n" % len(data) + data
            if kind == "cancel":
                cut = rng.choice([len(payload), len(payload), len(payload) // 2])
                target.raw(payload[:cut], rng.choice([0, 0, 300]), rng.random() * 0.5)
            else:
                target.raw(payload, 2000, 1.0)
        return kind, None
    except (AssertionError, OSError, http.client.HTTPException, ValueError) as error:
        return kind, f"{kind} {i}: {type(error).__name__} {error}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("base")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--threads", type=int, default=24)
    args = parser.parse_args()
    target, told, peak, over = Target(args.base), [], [0.0], threading.Event()
    limit = target.metric("chelsea:kv_bytes_limit")

    def watch():
        while not over.is_set():
            peak[0] = max(peak[0], target.metric("chelsea:kv_bytes"))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(args.threads) as pool:
        results = list(pool.map(lambda i: one(target, i, told), range(args.requests)))
    over.set()
    watcher.join()
    wrong = [error for _, error in results if error]
    kinds = {kind: sum(k == kind for k, _ in results) for kind, _ in results}
    # The same once more, alone.
    sample = random.Random(1).sample(told, min(len(told), 60))
    for body, text in sample:
        status, alone = target.ask("POST", "/v1/chat/completions", body)
        if text_of(status, alone, body["stream"]) != text:
            wrong.append(f"another answer alone: {body}")
    for _ in range(100):
        if target.metric("chelsea:num_requests_running") + target.metric("chelsea:num_requests_waiting") == 0:
            break
        time.sleep(0.1)
    else:
        wrong.append("requests are left over")
    if peak[0] > limit:
        wrong.append(f"{peak[0]} bytes of {limit}")
    print(f"{args.requests} requests {kinds}, {len(sample)} asked again alone")
    print(f"caches: {peak[0] / 2**20:.1f} MiB at most, of {limit / 2**20:.1f} MiB; {len(wrong)} wrong")
    for line in wrong[:20]:
        print(" ", line[:300])
    raise SystemExit(bool(wrong))


main()
