"""Several Chelsea servers on this machine behind a router: NVIDIA Dynamo or SMG.

    python3 deploy/cluster.py dynamo --model smollm2
    python3 deploy/cluster.py smg --model smollm2

The router comes from its package into an environment of its own below ~/.cache/chelsea/env, which is made when it is
first needed. Everything listens on this machine alone (127.0.0.1). Ctrl-C ends all of it. `--workers N` starts so many
servers, `--port PORT` is where clients ask (OpenAI's interface at /v1), and what stands after `--` goes to every
`chelsea serve`.

A worker of Dynamo is two processes, the server and Dynamo's sidecar, which speaks to it by gRPC. If one of the two ends,
the other is ended, too, and both are started anew: a sidecar without its server would only have errors to tell.

Tests import this file; it needs nothing but Python 3.9 or later. Dynamo itself needs Python 3.10 for its packages.
"""

import argparse
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

DYNAMO = "1.6.1"
SMG = "1.13.0"
LOOPBACK = "127.0.0.1"


class Missing(Exception):
    """Something that this machine does not have."""


def cache() -> pathlib.Path:
    """Where environments are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or str(pathlib.Path.home() / ".cache")
    return pathlib.Path(home) / "chelsea" / "env"


def find_python(version: str) -> str:
    """An interpreter of this version."""
    candidates = [shutil.which(f"python{version}")]
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv")) / "versions"
    candidates += [str(path) for path in sorted(pyenv.glob(f"{version}*/bin/python"))]
    if uv := shutil.which("uv"):
        found = subprocess.run([uv, "python", "find", version], capture_output=True, text=True)
        candidates += [found.stdout.strip()] if found.returncode == 0 else []
    for candidate in filter(None, candidates):
        # A shim may lead nowhere.
        told = subprocess.run([candidate, "--version"], capture_output=True, text=True)
        if told.returncode == 0 and f" {version}." in told.stdout:
            return candidate
    raise Missing(f"there is no Python {version} on this machine (looked for python{version}, pyenv and uv)")


def environment(name: str, packages: list, python: str) -> pathlib.Path:
    """The interpreter of an environment that holds these packages."""
    folder = cache() / name
    interpreter, done = folder / "bin" / "python", folder / ".installed"
    wanted = "\n".join(packages)
    if done.is_file() and done.read_text() == wanted:
        return interpreter
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing {', '.join(packages)} into {folder}", file=sys.stderr)
    steps = [
        [python, "-m", "venv", str(folder)],
        [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
    ]
    for step in steps:
        told = subprocess.run(step, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if told.returncode != 0:
            raise Missing(f"`{' '.join(step)}` failed:\n{told.stdout[-2000:]}")
    done.write_text(wanted)
    return interpreter


def dynamo_python() -> pathlib.Path:
    return environment(f"dynamo-{DYNAMO}", [f"ai-dynamo=={DYNAMO}"], find_python("3.10"))


def smg_python() -> pathlib.Path:
    return environment(f"smg-{SMG}", [f"smg=={SMG}"], sys.executable)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return listener.getsockname()[1]


def get(url: str, timeout: float = 2.0):
    """Status and body of a page; status 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError:
        return 0, ""


def wait_for(what: str, is_so, seconds: float):
    """Waits until something is so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := is_so():
            return found
        time.sleep(0.1)
    raise TimeoutError(f"{what}: not within {seconds:.0f} seconds")


class Process:
    """A program with a log, in a group of its own."""

    def __init__(self, argv: list, log: pathlib.Path, env=None):
        self.log = log
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def is_alive(self) -> bool:
        return self.child.poll() is None

    def signal(self, number: int):
        try:
            os.killpg(self.child.pid, number)
        except ProcessLookupError:
            pass

    def end(self, patience: float = 10.0):
        if self.is_alive():
            self.signal(signal.SIGTERM)
            try:
                self.child.wait(patience)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
        self.child.wait()


class Worker:
    """A server, with the sidecar that drives it where there is one. Dies as a whole and is started anew."""

    def __init__(self, cluster: "Cluster", number: int):
        self.cluster, self.number = cluster, number
        self.port = free_port()
        self.starts = 0
        self.ended = False
        self.lock = threading.RLock()
        self.processes = []
        self.start()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self):
        with self.lock:
            if self.ended:
                return
            self.starts += 1
            self.processes = self.cluster.start_worker(self)

    def kill(self):
        """What kill -9 of a machine's processes does: all of them at once."""
        with self.lock:
            for process in self.processes:
                process.signal(signal.SIGKILL)

    def is_ready(self) -> bool:
        return get(f"{self.url}/ready")[0] == 200

    def figure(self, name: str) -> float:
        """One of the server's own figures."""
        for line in get(f"{self.url}/metrics")[1].splitlines():
            if line.startswith(name + "{"):
                return float(line.rsplit(" ", 1)[1])
        raise KeyError(name)

    def _watch(self):
        while not self.ended:
            processes = self.processes
            if all(process.is_alive() for process in processes):
                time.sleep(0.02)
                continue
            with self.lock:
                for process in processes:
                    process.signal(signal.SIGKILL)
                    process.child.wait()
            if not self.ended:
                self.start()

    def end(self):
        self.ended = True
        with self.lock:
            # The server answers what it has; its sidecar hears of that first.
            for process in reversed(self.processes):
                process.end()


class Cluster:
    """Servers and a router. Use it in a `with`, or call `end`."""

    def __init__(self, args, folder: pathlib.Path):
        self.args, self.folder = args, folder
        self.port = args.port or free_port()
        self.workers, self.router = [], None
        # What servers that hand caches to each other show, drawn anew each time.
        self.server_env = {"CHELSEA_TRANSFER_TOKEN": secrets.token_hex(32)} if args.readers else {}

    def __enter__(self):
        try:
            self.begin()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_):
        self.end()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def begin(self):
        self.prepare()
        for number in range(self.args.workers):
            self.workers.append(Worker(self, number))
        for worker in self.workers:
            wait_for(f"worker {worker.number} ({self.folder})", worker.is_ready, 300)
        self.router = self.start_router()
        wait_for(f"the router ({self.folder})", lambda: self.is_ready(), 120)

    def serve(self, worker: Worker, *more) -> Process:
        argv = [self.args.chelsea, "serve", "-m", self.args.model, "--port", worker.port]
        argv += ["--served-model-name", self.args.name, *more, *self.args.serve]
        return Process(argv, self.folder / f"worker-{worker.number}.log", self.server_env)

    def prepare(self):
        pass

    def sees_all(self) -> bool:
        """Whether the router sends requests to every server, as far as it tells."""
        return True

    def end(self):
        if self.router:
            self.router.end()
        for worker in self.workers:
            worker.end()


class Dynamo(Cluster):
    """NVIDIA Dynamo: discovery by files, requests by TCP, events by ZeroMQ; neither etcd nor NATS."""

    def prepare(self):
        self.python = dynamo_python()
        discovery = self.folder / "discovery"
        discovery.mkdir(exist_ok=True)
        self.env = {
            "DYN_DISCOVERY_BACKEND": "file",
            "DYN_FILE_KV": str(discovery),
            "DYN_REQUEST_PLANE": "tcp",
            "DYN_EVENT_PLANE": "zmq",
            # Everything stays on this machine.
            "DYN_TCP_RPC_HOST": LOOPBACK,
            "DYN_TCP_RESPONSE_STREAM_HOST": LOOPBACK,
            "DYN_EVENT_PLANE_HOST": LOOPBACK,
            "DYN_SYSTEM_HOST": LOOPBACK,
            # The frontend reads tokenizers from the same disk.
            "DYN_SELF_HOST_METADATA": "0",
            "DYN_HTTP_HOST": LOOPBACK,
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def start_worker(self, worker: Worker) -> list:
        grpc = free_port()
        flags, sidecar_flags = self.part(worker)
        server = self.serve(worker, "--grpc-port", grpc, *flags)
        sidecar = [self.python, "-m", "dynamo.vllm.sidecar", "--grpc-endpoint", f"{LOOPBACK}:{grpc}"]
        sidecar += ["--grpc-retry-interval-secs", 1, *sidecar_flags]
        return [server, Process(sidecar, self.folder / f"sidecar-{worker.number}.log", self.env)]

    def reads(self, worker: Worker) -> bool:
        """Whether a worker reads prompts for others: the first ones do, where reading is apart."""
        return worker.number < self.args.readers

    def part(self, worker: Worker):
        """Flags of a server and of its sidecar for its part in the work."""
        if not self.args.readers:
            return [], []
        # Caches are of use only where texts are read in the same steps.
        steps = [] if "--read-step" in self.args.serve else ["--read-step", 128]
        if self.reads(worker):
            return steps, ["--disaggregation-mode", "prefill"]
        peers = [f"{LOOPBACK}:{reader.port}" for reader in self.workers if self.reads(reader)]
        return [*steps, *[word for peer in peers for word in ("--transfer-peer", peer)]], ["--disaggregation-mode", "decode"]

    def start_router(self) -> Process:
        argv = [self.python, "-m", "dynamo.frontend", "--http-host", LOOPBACK, "--http-port", self.port]
        argv += ["--router-mode", "kv", "--kv-cache-block-size", 16, "--migration-limit", 3, *self.args.router]
        return Process(argv, self.folder / "router.log", self.env)

    def is_ready(self) -> bool:
        return self.args.name in get(f"{self.url}/v1/models")[1]


class Smg(Cluster):
    """SMG (Shepherd Model Gateway) in front of plain OpenAI servers."""

    def prepare(self):
        self.python = smg_python()

    def start_worker(self, worker: Worker) -> list:
        return [self.serve(worker)]

    def start_router(self) -> Process:
        argv = [self.python, "-m", "smg.launch_router", "--host", LOOPBACK, "--port", self.port]
        argv += ["--worker-urls", *[worker.url for worker in self.workers], "--policy", "cache_aware"]
        # A server that is gone is given up at once, and one that is back is taken within seconds: by default both take a
        # minute. `/ready` fails from the moment a server begins to end.
        argv += ["--health-check-endpoint", "/ready", "--health-check-interval-secs", 1, "--health-check-timeout-secs", 2]
        argv += ["--health-failure-threshold", 1, "--health-success-threshold", 1]
        argv += ["--cb-failure-threshold", 1, "--cb-success-threshold", 1, "--cb-timeout-duration-secs", 1]
        argv += ["--prometheus-host", LOOPBACK, "--prometheus-port", free_port(), *self.args.router]
        return Process(argv, self.folder / "router.log")

    def is_ready(self) -> bool:
        return self.sees_all()

    def sees_all(self) -> bool:
        status, body = get(f"{self.url}/workers")
        if status != 200:
            return False
        workers = json.loads(body).get("workers", [])
        return sum(bool(worker.get("is_healthy")) for worker in workers) == len(self.workers)


KINDS = {"dynamo": Dynamo, "smg": Smg}


def parser() -> argparse.ArgumentParser:
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("kind", choices=sorted(KINDS), help="which router")
    about.add_argument("--model", default="smollm2", help="as `chelsea serve -m` takes it")
    about.add_argument("--name", default="chelsea", help="the model's name for clients")
    about.add_argument("--workers", type=int, default=2)
    about.add_argument("--readers", type=int, default=0, metavar="N", help="of Dynamo's workers, those that only read prompts")
    about.add_argument("--port", type=int, default=8000, help="where clients ask; 0 takes a free one")
    about.add_argument("--chelsea", default="chelsea", help="the program; for Dynamo built with --features grpc")
    about.add_argument("--logs", type=pathlib.Path, help="folder for logs (default: a new one)")
    about.add_argument("--router", action="append", default=[], metavar="FLAG", help="a further flag of the router, as --router=FLAG")
    return about


def make(argv: list) -> Cluster:
    words = [str(word) for word in argv]
    cut = words.index("--") if "--" in words else len(words)
    args = parser().parse_args(words[:cut])
    args.serve = words[cut + 1 :]
    if args.readers and (args.kind != "dynamo" or not 0 < args.readers < args.workers):
        sys.exit("error: --readers is for Dynamo, and at least one worker has to answer")
    folder = args.logs or pathlib.Path(tempfile.mkdtemp(prefix="chelsea-cluster-"))
    folder.mkdir(parents=True, exist_ok=True)
    return KINDS[args.kind](args, folder)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with make(sys.argv[1:]) as cluster:
            print(f"clients ask at {cluster.url}/v1; logs are in {cluster.folder}")
            for worker in cluster.workers:
                print(f"worker {worker.number}: {worker.url}")
            while cluster.router.is_alive():
                time.sleep(0.5)
            sys.exit(f"the router ended: see {cluster.router.log}")
    except KeyboardInterrupt:
        pass
    except Missing as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
