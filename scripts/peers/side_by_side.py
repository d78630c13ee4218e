#!/usr/bin/env python3
"""Chelsea and llama.cpp on the same model, lengths and threads, in interleaved runs; prints medians and ratios.

  python3 -m venv .peers && .peers/bin/pip install llama-cpp-python==0.3.36   # builds from source
  cargo build --release
  .peers/bin/python scripts/peers/side_by_side.py MODEL.gguf --depths 0,4000 --trials 5

llama.cpp runs with flash attention on and off and with weight repacking on and off; the best median counts.
"""
import argparse, json, os, statistics, subprocess, sys
from collections import defaultdict

HERE = os.path.dirname(os.path.abspath(__file__))


def run(command):
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode:
        sys.exit(f"{' '.join(command)}\n{out.stderr[-2000:]}")
    return json.loads(out.stdout[out.stdout.index("{"):])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("--chelsea", default=os.path.join(HERE, "..", "..", "target", "release", "chelsea"))
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--depths", default="0,4000")
    ap.add_argument("--keeps", default="1,0.2")
    ap.add_argument("--prefill", type=int, default=512)
    ap.add_argument("--decode", type=int, default=16)
    ap.add_argument("--trials", type=int, default=5)
    a = ap.parse_args()

    seen = defaultdict(list)
    settings = [(1, 1), (1, 0), (0, 1), (0, 0)]
    for trial in range(a.trials):
        print(f"trial {trial + 1} of {a.trials}", file=sys.stderr)
        own = run([a.chelsea, "bench", "-m", a.model, "--threads", str(a.threads), "--depths", a.depths, "--keeps", a.keeps,
                   "--prefill", str(a.prefill), "--decode", str(a.decode), "--trials", "1", "--json"])
        for row in own["rows"]:
            seen["chelsea", row["keep"], "decode", row["depth"]].append(row["decode_tokens_per_s"])
            if row["depth"] == 0 and row["keep"] == own["rows"][0]["keep"]:
                seen["chelsea", 1.0, "prefill", a.prefill].append(row["prefill_tokens_per_s"])
        for flash, repack in settings:
            peer = run([sys.executable, os.path.join(HERE, "llama_cpp_bench.py"), a.model, "--threads", str(a.threads),
                        "--depths", a.depths, "--prefill", str(a.prefill), "--decode", str(a.decode),
                        "--flash", str(flash), "--repack", str(repack)])
            for kind in ("prefill", "decode"):
                for at, rate in peer[kind].items():
                    seen["llama.cpp", (flash, repack), kind, int(at)].append(rate)

    median = {key: statistics.median(rates) for key, rates in seen.items()}
    best = {}
    for (engine, setting, kind, at), rate in median.items():
        if engine == "llama.cpp" and rate > best.get((kind, at), (0,))[0]:
            best[kind, at] = (rate, f"flash {setting[0]}, repack {setting[1]}")
    print(f"{os.path.basename(a.model)}, {a.threads} threads, medians of {a.trials} interleaved trials, tokens/s\n")
    print(f"{'work':24} {'chelsea':>10} {'llama.cpp':>10} {'ratio':>7}  llama.cpp's best setting")
    for (engine, keep, kind, at), rate in sorted(median.items(), key=str):
        if engine == "chelsea":
            peer, setting = best[kind, at]
            work = f"{kind} {at}" if kind == "prefill" else f"{kind} at {at}, keep {keep:g}"
            print(f"{work:24} {rate:10.1f} {peer:10.1f} {rate / peer:6.2f}x  {setting}")


if __name__ == "__main__":
    main()
