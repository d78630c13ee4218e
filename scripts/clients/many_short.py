"""Ten thousand short requests to a running `chelsea serve`, and what its process holds after each thousand.

    chelsea serve -m smollm2 --threads 2 --port 8099 --kv-memory 60MiB --shelf FOLDER &
    python scripts/clients/many_short.py http://127.0.0.1:8099 --pid PID

Needs nothing but Python, and Linux (/proc). Loopback only.
"""

import argparse
import random
import time
from concurrent.futures import ThreadPoolExecutor

from attack import WORDS, Target, flush, idle, resident


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("base")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--thousands", type=int, default=10)
    parser.add_argument("--clients", type=int, default=8)
    args = parser.parse_args()
    target, held, failed = Target(args.base), [], 0

    def one(i):
        rng = random.Random(i)
        words = " ".join(rng.choices(WORDS, k=rng.randrange(3, 60)))
        body = {"messages": [{"role": "user", "content": words}], "max_tokens": rng.randrange(1, 6)}
        return target.ask("POST", "/v1/chat/completions", {**body, "stream": rng.random() < 0.5})[0].status == 200

    for thousand in range(args.thousands):
        start = time.time()
        with ThreadPoolExecutor(args.clients) as pool:
            failed += sum(not fine for fine in pool.map(one, range(thousand * 1000, thousand * 1000 + 1000)))
        held.append(resident(args.pid))
        print(f"after {thousand + 1},000: {held[-1]:.1f} MiB ({time.time() - start:.0f} s)", flush=True)
    done = idle(target)
    left = flush(target)
    print(f"{failed} failed; {100 * (held[-1] / held[0] - 1):+.1f}% since the first thousand")
    print(f"after a flush: {resident(args.pid):.1f} MiB, {left:.0f} bytes of caches")
    raise SystemExit(bool(failed or left or not done))


if __name__ == "__main__":
    main()
