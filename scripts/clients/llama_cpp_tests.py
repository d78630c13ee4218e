#!/usr/bin/env python3
"""llama.cpp's own tests of its server, against `chelsea serve`: what passes, and why the rest does not.

    pip install pytest filelock numpy openai prometheus-client requests wget aiohttp
    python scripts/clients/llama_cpp_tests.py --program target/release/chelsea --model smollm2 FOLDER

The tests come with the sources of the package llama-cpp-python, which pip downloads into FOLDER where they are not there
yet. They start a server for each test: this very file, which turns llama-server's settings into those of `chelsea serve`
and becomes it. Their tiny models are not there, so that all of them get `--model`; what they expect of a model's words or
of its numbers of tokens cannot hold then. Also changed are paths (`/chat/completions` is asked as `/v1/chat/completions`)
and names of models, which llama-server ignores.
"""

import argparse
import collections
import os
import pathlib
import re
import subprocess
import sys
import tarfile

TESTS = "vendor/llama.cpp/tools/server/tests"
PACKAGE = "llama-cpp-python==0.3.36"
FILES = "basic chat_completion compat_anthropic compat_oai_responses completion ctx_shift ignore_eos metrics security stream"
FILES += " template tokenize tool_call"
# Settings that have a counterpart; what they do to all others is told by the test's failure.
SAME = {"--port": "--port", "--host": "--host", "--api-key": "--api-key", "--alias": "--served-model-name"}
SAME |= {"--threads": "--threads", "--cors-origins": "--allow-origin"}


def become_server(arguments):
    """Runs `chelsea serve` in place of llama-server, with what is the same in both."""
    given = dict(zip(arguments, arguments[1:]))
    slots = int(given.get("--parallel", 1))
    context = int(given.get("--ctx-size", 4096)) // slots
    command = [os.environ["CHELSEA"], "serve", "--model", os.environ["CHELSEA_MODEL"], "--ctx", str(context)]
    command += ["--kv-memory", "256MiB", "--max-running", str(slots)]
    for name, ours in SAME.items():
        if name in given:
            command += [ours, given[name]]
    os.execvp(command[0], command)


# What pytest calls, as this file is a plugin of it.

asked = []
REASONS = collections.defaultdict(list)
PASSED = []
# What tells why, in what the test complains of or in what the server said.
SIGNS = [
    ("the template of this model knows no tools", r"shows it no (tools|calls)"),
    ("web pages of other origins are refused, also before they ask", r"web pages of \S+ may not call"),
    ("pictures are refused, with status 400", r"reads text alone|something else than text|tinygemma3"),
    ("a stream begins with an empty text, as OpenAI's do", r"assert '' is None|non empty content delta"),
    ("there is no `system_fingerprint`", r"system_fingerprint|\(None is not None"),
    ("prompts are not told (`__verbose`)", r"__verbose"),
    ("another model says something else, in other tokens", r"match_regex|n_prompt\b|n_predicted\b|prompt_tokens|Expected .*, got (?!\d{3}\b)"),
]


def pytest_configure(config):
    import openai
    import requests
    import utils

    url, send, ask = utils.ServerProcess.make_url, requests.Session.request, utils.ServerProcess.make_request

    def make_url(self, path, host=None):
        bare = re.match(r"/(chat/completions|responses|models|messages|embeddings)\b", path)
        return url(self, "/v1" + path if bare else path, host)

    def unnamed(data):
        return {**data, "model": None} if isinstance(data, dict) and "model" in data else data

    def request(self, method, url, **more):
        more["json"] = unnamed(more.get("json"))
        response = send(self, method, url, **{**more, "timeout": 60})
        body = response.text if response.status_code >= 400 else ""
        asked.append((re.sub(r"^http://[^/]*", "", url), response.status_code, body))
        return response

    class Client(openai.OpenAI):
        def _prepare_options(self, options):
            options.json_data = unnamed(options.json_data)
            return options

        def __init__(self, **more):
            base = more["base_url"]
            super().__init__(**{**more, "base_url": base if base.endswith("/v1") else base + "/v1"})

    utils.ServerProcess.make_url, requests.Session.request, openai.OpenAI = make_url, request, Client
    utils.ServerPreset.load_all = staticmethod(lambda: None)


def reason(report):
    text = report.longreprtext
    for path, status, body in asked:
        if status == 404 and "there is nothing at" in body:
            return f"there is no `{path.split('?')[0]}`"
        if status == 405:
            return f"`{path}` is not asked by that method"
    for _, status, body in asked:
        if found := re.search(r"`(\w+)` is not supported here", body):
            return f"`{found[1]}` is refused"
    bodies = "\n".join(body for _, _, body in asked)
    wrong = "\n".join(line for line in text.splitlines() if line.startswith(("E ", ">")))
    return next((why for why, sign in SIGNS if re.search(sign, wrong) or re.search(sign, bodies)), "other")


def pytest_runtest_logreport(report):
    if report.when == "setup":
        asked.clear()
    if report.failed:
        why = reason(report)
        wrong = [line[1:].strip() for line in report.longreprtext.splitlines() if line.startswith("E ")]
        REASONS[why].append((report.nodeid, wrong[0] if wrong else "", asked[-1:]))
    elif report.when == "call" and report.passed:
        PASSED.append(report.nodeid)


def pytest_terminal_summary(terminalreporter):
    write = terminalreporter.write_line
    write(f"\n{len(PASSED)} pass")
    for why, tests in sorted(REASONS.items(), key=lambda item: -len(item[1])):
        write(f"{len(tests)}: {why}")
        for name, wrong, last in tests:
            write(f"    {name}" + (f": {wrong[:200]} {str(last)[:300]}" if why == "other" else ""))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--program", default="chelsea")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--only", nargs="*", default=FILES.split(), help="names of test files, without `test_`")
    args, more = parser.parse_known_args()
    here = pathlib.Path(__file__).resolve()
    if not list(args.folder.glob(f"*/{TESTS}")):
        download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python"]
        subprocess.run([*download, "--dest", args.folder, PACKAGE], check=True)
        (archive,) = args.folder.glob("llama_cpp_python-*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(args.folder, filter="data")
    (tests,) = args.folder.glob(f"*/{TESTS}")
    # As a program of its own, since the tests start the server by one path.
    here.chmod(here.stat().st_mode | 0o111)
    program = str(pathlib.Path(args.program).resolve()) if "/" in args.program else args.program
    environment = {**os.environ, "CHELSEA": program, "CHELSEA_MODEL": args.model, "LLAMA_SERVER_BIN_PATH": str(here)}
    environment["PYTHONPATH"] = os.pathsep.join([str(here.parent), "."])
    files = [f"unit/test_{name}.py" for name in args.only]
    command = [sys.executable, "-m", "pytest", "-p", "llama_cpp_tests", "-q", "--tb=short", "-m", "not slow", *more, *files]
    raise SystemExit(subprocess.run(command, cwd=tests, env=environment).returncode)


if __name__ == "__main__":
    become_server(sys.argv[1:]) if "LLAMA_SERVER_BIN_PATH" in os.environ else main()
