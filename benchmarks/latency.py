"""Our whole-model median against that of litert-benchmark, in turns, on the same files and threads.

python benchmarks/latency.py [FILE.tflite...] [--threads N] [--turns N]
                                                    prints Markdown; exit status 1 where a ratio is out of its limit

litert-benchmark is the tool of the same wheel, but the wheel has the runtime twice: we run `libLiteRt.so`, which has
the profiler, and the wheel's Python modules what is built into `libpywrap_litert_common.so`. Times of the two builds
differ by a few percent, up or down from model to model (squeezenet_cifar10 int8: ours 3 % less). "our loop, their
build" is therefore measured too: our warm-up, rounds and median around the Python modules, which shows what the way of
measuring alone makes of it.

Its loop runs unchanged in a process of its own; only the rounding of its results to 0.01 ms is taken away, which is a
tenth of the shortest run here. Turns are short, because a machine that others use changes its speed within seconds: the
ratio is the median of those within turns, with its 95 % interval. A file does not hold where the whole interval is out
of the limit; where it reaches beyond the limit, more turns are needed to tell. Without files, exports of about 0.1, 1
and 10 ms are made.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from keras_nin.benchmark import measure_files
from keras_nin.benchmark.runner import timing
from keras_nin.child_process import python_command
from keras_nin.tflite.host import describe_host

SECONDS = 0.2
RELATIVE = 0.03
SHORT_US, SHORT_ALLOWANCE_US = 500, 5
MODELS = (("deepphys_softconv", "float32"), ("squeezenet_v1_1", "int8"), ("googlenet_bn", "int8"))
_THEIRS = """
import json, sys
from ai_edge_litert.tools import benchmark_litert_model as tool
tool.round = lambda value, digits: value
for line in sys.stdin:
    sys.argv = ["litert-benchmark", *json.loads(line)]
    print("RESULT", tool.run_benchmark(tool.parse_args())["latency"]["median_ms"] * 1000, flush=True)
"""
_OUR_LOOP = """
import json, sys
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.options import CpuOptions, HardwareAccelerator, Options
from keras_nin.benchmark.runner import litert, timing
for line in sys.stdin:
    path, threads, seconds = json.loads(line)
    options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=CpuOptions(num_threads=threads))
    model = CompiledModel.from_file(path, options=options)
    signature = next(iter(model.get_signature_list()))
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    for buffer, details in zip(inputs, model.get_input_tensor_details(signature).values()):
        dtype = details["dtype"]
        buffer.write(litert.generate_input(tuple(details["shape"]), dtype, dtype in ("int8", "uint8")))
    series = timing.TimedRuns(lambda: model.run_by_index(0, inputs, outputs))
    timing.time_in_turns([series], timing.TimeBudget(None, seconds))
    print("RESULT", series.summary()["us"]["median"], flush=True)
"""


class Server:
    """A process that runs a script which answers every line of JSON with a line "RESULT <us>"."""

    def __init__(self, script):
        self._script = script

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", self._script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=python_command("keras_nin")[1],
        )
        return self

    def __exit__(self, *error):
        self._process.kill()
        self._process.wait()

    def ask(self, words):
        """Return the us that the script answers."""
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("RESULT "):
                return float(line.split()[1])
        raise RuntimeError(f"no answer to {words}")


def ours(path, threads, seconds=SECONDS):
    """Return our median in us, and how many runs it is over."""
    profile = measure_files([path], threads=(threads,), seconds=seconds, layers=False).profiles[0]
    return profile.total.median, profile.runs


def compare(path, threads, turns):
    """Return the medians in us of all three in each turn; the order changes from turn to turn."""
    _, runs = ours(path, threads)
    words = [f"--model={path}", f"--num_threads={threads}", f"--num_runs={runs}", f"--warmup_runs={runs // 5 + 5}"]
    with contextlib.ExitStack() as stack:
        theirs, loop = (stack.enter_context(Server(script)) for script in (_THEIRS, _OUR_LOOP))
        measures = {
            "ours": lambda: ours(path, threads)[0],
            "theirs": lambda: theirs.ask(words),
            "loop": lambda: loop.ask([str(path), threads, SECONDS]),
        }
        names = list(measures)
        return [{name: measures[name]() for name in names[turn % 3 :] + names[: turn % 3]} for turn in range(turns)]


def allowed(us):
    """Return by how much of `us` the medians may differ."""
    return RELATIVE + (SHORT_ALLOWANCE_US / us if us < SHORT_US else 0)


def verdict(low, high, limit):
    """Return whether a ratio known to lie from `low` to `high` is within `limit` of 1, in a word or two."""
    if low > 1 + limit or high < 1 - limit:
        return "no"
    return "yes" if 1 - limit <= low and high <= 1 + limit else "not told"


def report(paths, threads, turns):
    """Print a line for each file; return whether no ratio is out of its limit."""
    host = describe_host()
    print(f"{host['cpu']}, {host['cores']} cores, LiteRT {host['litert']}, {threads} threads, {turns} turns\n")
    print("| file | ours [us] | litert-benchmark [us] | ratio | 95 % | allowed | passed | our loop, their build |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |")
    good = True
    for path in paths:
        pairs = compare(path, threads, turns)
        ratios = [pair["ours"] / pair["theirs"] for pair in pairs]
        method = statistics.median(pair["loop"] / pair["theirs"] for pair in pairs)
        us = {who: statistics.median(pair[who] for pair in pairs) for who in pairs[0]}
        ratio, limit = statistics.median(ratios), allowed(us["theirs"])
        low, high = timing.median_interval(ratios)
        passed = verdict(low, high, limit)
        good = good and passed != "no"
        print(
            f"| {os.path.basename(path)} | {us['ours']:.1f} | {us['theirs']:.1f} | {ratio:.3f} | "
            f"{low:.3f} to {high:.3f} | ± {limit:.1%} | {passed} | {method:.3f} |"
        )
    return good


def make(folder):
    """Write the exports of `MODELS`, with random weights and calibration, and return their paths."""
    import numpy as np

    from keras_nin import export, models

    paths = []
    for name, scheme in MODELS:
        model = models.build_model(name, weights=None)
        images = np.random.default_rng(0).random((4, *model.input_shape[1:]), np.float32)
        paths.append(folder / f"{name}_{scheme}.tflite")
        paths[-1].write_bytes(export.convert_model(model, scheme, images).data)
    return paths


def main():
    """Compare the files of the command line, or those that are made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=pathlib.Path, metavar="FILE.tflite")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=31)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = given.files or make(pathlib.Path(folder))
        return 0 if report(paths, given.threads, given.turns) else 1


if __name__ == "__main__":
    sys.exit(main())
