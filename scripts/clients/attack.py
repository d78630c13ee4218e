"""Many mixed requests against a running `chelsea serve`, three times as many clients as it lets in, and none of them polite.

    chelsea serve -m smollm2 --threads 2 --port 8099 --kv-memory 60MiB --shelf FOLDER --read-step 64 \
        --max-running 8 --max-waiting 24 --max-body 1MiB --log-file LOG &
    python scripts/clients/attack.py http://127.0.0.1:8099 --requests 2000 --log LOG --pid PID

(Where the server writes to its standard error, that goes to LOG.) Good requests over four interfaces, whole and as
streams, some with a beginning that others have, too; clients that go away while they wait, while a prompt is read and in
the midst of an answer, with and without a farewell; requests that never arrive whole; slow readers; malformed bodies;
bodies, prompts and caches that are too large; wrong paths. Who is told to come back later (429) does, after the time
that it was told.

Every answer that came to its end is kept, and a sample is asked once more, alone, after the shelf was flushed: text, reason of
the end and probabilities have to be the same (`--alone URL` asks another server, one without a shelf say). The bytes of
all caches, as /metrics tells them, are held against their limit all the time, and have to be zero after a flush.
Needs nothing but Python. Loopback only.
"""

import argparse
import collections
import http.client
import json
import pathlib
import random
import re
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlparse

WORDS = "river stone green seven window letter market silver garden paper winter number people morning".split()
SYSTEM = [" ".join(random.Random(i).choices(WORDS, k=k)) for i, k in enumerate([20, 150, 400, 700])]


class Target:
    """A server, and what is asked of it."""

    def __init__(self, base):
        url = urlparse(base)
        self.host, self.port = url.hostname, url.port
        assert self.host in ("127.0.0.1", "localhost"), "loopback only"

    def begin(self, method, path, body=None, headers=None, timeout=600, small=False):
        """A connection and a response of which nothing but its head was read."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        if small:
            connection.sock = socket.socket()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.sock.settimeout(timeout)
            connection.sock.connect((self.host, self.port))
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        return connection, connection.getresponse()

    def ask(self, method, path, body=None, headers=None):
        connection, response = self.begin(method, path, body, headers)
        text = response.read().decode("utf-8", "replace")
        connection.close()
        return response, text

    def metrics(self):
        text = self.ask("GET", "/metrics")[1]
        return {name: float(value) for name, value in re.findall(r"^chelsea:(\w+)\{[^}]*\} (\S+)$", text, re.M)}

    def props(self):
        return json.loads(self.ask("GET", "/props")[1])


def resident(pid):
    """MiB that a process holds."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024


# What is asked, and what was answered.


def good(rng):
    """A path and a request that can be answered."""
    words = " ".join(rng.choices(WORDS, k=rng.choice([3, 10, 60, 300, 900])))
    path = rng.choice(["/v1/chat/completions"] * 3 + ["/v1/completions", "/v1/messages", "/v1/responses"])
    length, system = rng.choice([1, 5, 20, 40]), rng.choice([None, None, *SYSTEM])
    body = {"temperature": rng.choice([0, 1]), "stream": rng.random() < 0.6}
    if path == "/v1/completions":
        body |= {"prompt": f"{system or ''} {words}", "max_tokens": length, "logprobs": 2}
    elif path == "/v1/responses":
        body |= {"input": words, "max_output_tokens": length, "instructions": system}
    else:
        body |= {"messages": [{"role": "user", "content": words}], "max_tokens": length}
        if system and path == "/v1/messages":
            body["system"] = system
        elif system:
            body["messages"].insert(0, {"role": "system", "content": system})
    if path in ("/v1/messages", "/v1/responses"):
        body["temperature"] = 0  # They take no seed.
    else:
        body["seed"] = rng.randrange(1000)
    if rng.random() < 0.2:
        body["kv"] = {"budget": rng.choice(["10%", "50%", "full"])}
    return path, body


def said(path, text, stream):
    """What of an answer has to be the same whenever it is asked for."""
    if not stream:
        answers = [json.loads(text)]
    else:
        answers = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        assert not any("error" in e and e["error"] for e in answers), text[-300:]
    words, ends, probabilities = "", [], []
    for answer in answers:
        if path == "/v1/messages":
            words += (answer.get("delta") or {}).get("text", "")
            words += "".join(part["text"] for part in answer.get("content", []))
            ends.append(answer.get("stop_reason") or (answer.get("delta") or {}).get("stop_reason"))
        elif path == "/v1/responses":
            whole = answer if not stream else answer.get("response", {})
            if whole.get("status") in ("completed", "incomplete"):
                words += "".join(part["text"] for item in whole["output"] for part in item["content"])
                ends.append(whole["status"])
        else:
            for choice in answer["choices"]:
                message = choice.get("message") or choice.get("delta") or {}
                words += choice.get("text") or message.get("content") or ""
                ends.append(choice["finish_reason"])
                logprobs = choice.get("logprobs") or {}
                probabilities += logprobs.get("token_logprobs") or [t["logprob"] for t in logprobs.get("content") or []]
    ends = [end for end in ends if end]
    assert ends and (not stream or "[DONE]" in text or path in ("/v1/messages", "/v1/responses")), text[-300:]
    return words, ends[-1], probabilities


USER = b'{"messages": [{"role": "user", "content": "x"}], '
MALFORMED = [
    b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b'{"messages": 5}', b'{"messages": [{}]}', b"[" * 20000,
    USER + b'"max_tokens": -5}', USER + b'"temperature": 1e99}', USER + b'"stop": ["a", 3]}', USER + b'"n": 100000}',
    USER + b'"kv": {"budget": "0%"}}', USER + b'"logit_bias": {"999999999999": 5}}', USER + b'"tools": [[]]}',
    b'{"messages": [' + b'{"role": "user", "content": "x"},' * 2000 + b'{"role": "user"}]}',
    b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 1, "x": 1}',
]  # fmt: skip


class Attack:
    def __init__(self, target):
        self.target, self.props = target, target.props()
        self.told, self.busy, self.seen = [], 0, collections.Counter()
        self.lock = threading.Lock()

    def note(self, what):
        with self.lock:
            self.seen[what] += 1

    def patiently(self, path, body, read):
        """Asks until the server has room, and comes back no earlier than it was told."""
        small = read is not http.client.HTTPResponse.read
        while True:
            connection, response = self.target.begin("POST", path, body, small=small)
            text = read(response).decode("utf-8", "replace")
            connection.close()
            if response.status != 429:
                return response.status, text
            self.note("answered 429")
            after = response.headers["Retry-After"]
            assert after and after.isdigit() and int(after) >= 1 and "error" in json.loads(text), (after, text)
            time.sleep(int(after))

    def good(self, rng, read=http.client.HTTPResponse.read):
        path, body = good(rng)
        if read is not http.client.HTTPResponse.read:  # Long enough that it does not fit on the way.
            path, body = "/v1/chat/completions", {"messages": [{"role": "user", "content": rng.choice(WORDS)}]}
            body |= {"max_tokens": 80, "stream": True, "seed": rng.randrange(9), "logprobs": True, "top_logprobs": 20}
        status, text = self.patiently(path, body, read)
        assert status == 200, (status, text[:200])
        self.told.append((path, body, said(path, text, body["stream"])))

    def slow(self, rng):
        def read(response):
            parts = []
            while part := response.read1(rng.choice([1, 100, 2000])):
                parts.append(part)
                time.sleep(0.05 if len(parts) < 60 else 0)
            return b"".join(parts)

        self.good(rng, read)

    def payload(self, rng):
        path, body = good(rng)
        data = json.dumps({**body, "stream": rng.random() < 0.8}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data

    def leave(self, payload, wait, read, abruptly):
        """Goes away after a while. Returns whether the server had said before that there is no room."""
        with socket.create_connection((self.target.host, self.target.port), timeout=60) as s:
            s.sendall(payload)
            answer = b""
            try:
                answer = s.recv(read) if read else b""
                time.sleep(wait)
                s.setblocking(False)
                answer += s.recv(100)
            except (BlockingIOError, TimeoutError):
                pass  # It may also be patience that comes to its end.
            if abruptly:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return b" 429 " in answer[:20]

    def cancel(self, rng):
        payload, read, abruptly = self.payload(rng), rng.choice([0, 0, 300, 3000]), rng.random() < 0.5
        while self.leave(payload, rng.random() * 2, read, abruptly):
            pass

    def drop(self, rng):
        payload = self.payload(rng)
        self.leave(payload[: rng.randrange(len(payload))], rng.random() * 2, 0, rng.random() < 0.5)

    def malformed(self, rng):
        body = rng.choice(MALFORMED)
        path = rng.choice(["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses", "/tokenize"])
        response, text = self.target.ask("POST", path, body)
        assert 400 <= response.status < 500 and "error" in json.loads(text), (path, body[:60], response.status, text[:200])

    def oversize(self, rng):
        path, body = good(rng)
        what = rng.choice(["body", "context", "memory"])
        words = {"body": self.props["limits"]["body"], "context": self.props["context"] + 1000, "memory": 6000}[what]
        key = "prompt" if path == "/v1/completions" else "input" if path == "/v1/responses" else "messages"
        text = " stone" * words
        body |= {key: [{"role": "user", "content": text}] if key == "messages" else text}
        if what == "memory":  # In the full cache of 32-bit numbers it is more than all caches may take.
            body["kv"] = {"budget": "full", "type": "f32"}
        response, text = self.target.ask("POST", path, body)
        error = json.loads(text)["error"]
        self.note(f"{what}: {response.status}")
        assert response.status == (413 if what == "body" else 400), (what, response.status, text[:200])
        if what != "body":
            assert len(re.findall(r"\d{4,}", error["message"])) >= 2, error
        if what == "context" and path != "/v1/messages":
            assert error["code"] == "context_length_exceeded", error

    def wrong_path(self, rng):
        response, text = self.target.ask(rng.choice(["GET", "POST"]), "/v1/" + "x" * rng.randrange(1, 200), b"{}")
        assert response.status == 404 and "error" in json.loads(text), (response.status, text)

    def one(self, i):
        rng = random.Random(i)
        kinds = [Attack.good] * 9 + [Attack.cancel] * 5 + [Attack.slow, Attack.drop] * 2
        kind = rng.choice(kinds + [Attack.malformed, Attack.oversize] * 2 + [Attack.wrong_path])
        self.note(kind.__name__.replace("_", " "))
        try:
            kind(self, rng)
        except (AssertionError, OSError, http.client.HTTPException, ValueError, KeyError) as error:
            return f"{kind.__name__} {i}: {type(error).__name__} {error}"


def idle(target):
    for _ in range(300):
        now = target.metrics()
        if now["num_requests_running"] + now["num_requests_waiting"] + now["parked"] == 0:
            return True
        time.sleep(0.1)
    return False


def flush(target):
    """Bytes of caches that are left. An answer that just ended may still come to the shelf, so once is not enough."""
    idle(target)
    for _ in range(50):
        assert target.ask("POST", "/reset_prefix_cache")[0].status == 200
        left = target.metrics()["kv_bytes"]
        if left == 0:
            break
        time.sleep(0.1)
    return left


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("base")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, help="three times as many as are let in where it is not given")
    parser.add_argument("--sample", type=int, default=150, help="answers that are asked for again")
    parser.add_argument("--alone", help="another server that is asked for them")
    parser.add_argument("--log", type=pathlib.Path, help="what the server wrote")
    parser.add_argument("--pid", type=int, help="the server's process, whose memory is told")
    args = parser.parse_args()
    target, over, peaks = Target(args.base), threading.Event(), []
    before, attack = target.metrics(), Attack(target)
    limits = attack.props["limits"]
    clients = args.clients or 3 * (limits["running"] + limits["waiting"])
    memory = [resident(args.pid)] if args.pid else []

    def watch():
        while not over.is_set():
            peaks.append(target.metrics()["kv_bytes"])
            time.sleep(0.05)

    watcher, start = threading.Thread(target=watch), time.time()
    watcher.start()
    with ThreadPoolExecutor(clients) as pool:
        wrong = [error for error in pool.map(attack.one, range(args.requests)) if error]
    took = time.time() - start
    over.set()
    watcher.join()
    if not idle(target):
        wrong.append("requests are left over")
    after = target.metrics()
    if max(peaks) > after["kv_bytes_limit"]:
        wrong.append(f"{max(peaks)} bytes of {after['kv_bytes_limit']}")
    if left := flush(target):
        wrong.append(f"{left} bytes after a flush")
    alone = Target(args.alone or args.base)
    sample = random.Random(1).sample(attack.told, min(len(attack.told), args.sample))
    for path, body, first in sample:
        response, text = alone.ask("POST", path, body)
        again = said(path, text, body["stream"]) if response.status == 200 else (response.status, text)
        if again != first:
            wrong.append(f"another answer alone: {again} for {first}: {path} {body}")
    if left := flush(target):
        wrong.append(f"{left} bytes after a flush at the end")
    if failed := after["requests_failed_total"] - before["requests_failed_total"]:
        wrong.append(f"{failed} requests failed in the server")
    if args.log and (lines := [line for line in args.log.read_text().splitlines() if "panick" in line]):
        wrong.append(f"panics: {lines[:3]}")
    if args.pid:
        memory.append(resident(args.pid))
    print(f"{args.requests} requests of {clients} clients in {took:.0f} s: {dict(attack.seen.most_common())}")
    names = ["requests_cancelled_total", "num_preemptions_total", "parks_total", "shelf_hits_total", "compactions_aside_total"]
    print({name: int(after[name] - before[name]) for name in names})
    print(f"{len(attack.told)} answers came to their end, {len(sample)} were asked for again, alone")
    peak, limit = max(peaks) / 2**20, after["kv_bytes_limit"] / 2**20
    print(f"caches: {peak:.1f} MiB at most in {len(peaks)} samples, of {limit:.1f} MiB; nothing after a flush: {left == 0}")
    if memory:
        print(f"resident: {memory[0]:.0f} MiB before, {memory[1]:.0f} MiB after")
    print(f"{len(wrong)} wrong")
    for line in wrong[:20]:
        print(" ", line[:600])
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
