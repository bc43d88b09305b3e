"""Our whole-model median against that of litert-benchmark, in turns, on the same files and threads.

python benchmarks/latency.py [FILE.tflite...] [--threads N] [--turns N]
                                                    prints Markdown; exit status 1 where a ratio is out of its limit

litert-benchmark is the tool of the same wheel. Its loop runs unchanged in a process of its own; only the rounding of
its results to 0.01 ms is taken away, which is a tenth of the shortest run here. Without files, exports of about 0.1, 1
and 10 ms are made.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from keras_nin.benchmark import child, measure

SECONDS = 0.5
RELATIVE = 0.03
SHORT_US, SHORT_ALLOWANCE_US = 500, 5
MODELS = (("deepphys_softconv", "float32"), ("squeezenet_cifar10", "int8"), ("googlenet_bn", "int8"))
_THEIRS = """
import json, sys
from ai_edge_litert.tools import benchmark_litert_model as tool
tool.round = lambda value, digits: value
sys.argv = ["litert-benchmark", *sys.argv[1:]]
results = tool.run_benchmark(tool.parse_args())
print("RESULT", json.dumps(results["latency"]["median_ms"] * 1000))
"""


def ours(path, threads, seconds=SECONDS):
    """Return our median in us, and how many runs it is over."""
    profile = measure([path], threads=(threads,), seconds=seconds, layers=False).profiles[0]
    return profile.total.median, profile.runs


def theirs(path, threads, runs):
    """Return the median in us of litert-benchmark over so many runs, after a fifth of them to warm up."""
    options = [f"--model={path}", f"--num_threads={threads}", f"--num_runs={runs}", f"--warmup_runs={runs // 5 + 5}"]
    done = subprocess.run([sys.executable, "-c", _THEIRS, *options], capture_output=True, text=True, check=True)
    return float(done.stdout.rpartition("RESULT ")[2])


def compare(path, threads, turns):
    """Return the medians in us of both in each turn; who goes first changes from turn to turn."""
    found = []
    _, runs = ours(path, threads)
    for turn in range(turns):
        pair = {}
        for who in ("ours", "theirs")[:: 1 if turn % 2 else -1]:
            pair[who] = ours(path, threads)[0] if who == "ours" else theirs(path, threads, runs)
        found.append(pair)
    return found


def allowed(us):
    """Return by how much of `us` the medians may differ."""
    return RELATIVE + (SHORT_ALLOWANCE_US / us if us < SHORT_US else 0)


def report(paths, threads, turns):
    """Print a line for each file; return whether all ratios are within their limits."""
    host = child.run({"models": []}).host
    print(f"{host['cpu']}, {host['cores']} cores, LiteRT {host['litert']}, {threads} threads, {turns} turns\n")
    print("| file | ours [us] | litert-benchmark [us] | ratio, median of turns | turns | allowed |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    good = True
    for path in paths:
        pairs = compare(path, threads, turns)
        ratios = [pair["ours"] / pair["theirs"] for pair in pairs]
        us = {who: statistics.median(pair[who] for pair in pairs) for who in pairs[0]}
        ratio, limit = statistics.median(ratios), allowed(us["theirs"])
        good = good and abs(ratio - 1) <= limit
        print(
            f"| {os.path.basename(path)} | {us['ours']:.1f} | {us['theirs']:.1f} | {ratio:.3f} | "
            f"{min(ratios):.3f} to {max(ratios):.3f} | ± {limit:.1%} |"
        )
    return good


def make(folder):
    """Write the exports of `MODELS`, with random weights and calibration, and return their paths."""
    import numpy as np

    from keras_nin import export, models

    paths = []
    for name, scheme in MODELS:
        model = models.build(name, weights=None)
        images = np.random.default_rng(0).random((4, *model.input_shape[1:]), np.float32)
        paths.append(folder / f"{name}_{scheme}.tflite")
        paths[-1].write_bytes(export.export(model, scheme, images).data)
    return paths


def main():
    """Compare the files of the command line, or those that are made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=pathlib.Path, metavar="FILE.tflite")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = given.files or make(pathlib.Path(folder))
        return 0 if report(paths, given.threads, given.turns) else 1


if __name__ == "__main__":
    sys.exit(main())
