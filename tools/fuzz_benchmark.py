"""Measure damaged .tflite files: each must end in a latency, or in one clear line and exit status 2, and leave nothing.

python tools/fuzz_benchmark.py [FILES] [SEED.tflite...]      prints Markdown; exit status 1 where a file did else

The seeds are exports of nin_digits where none is given. The damage is that of fuzz_tflite.py; half of the files are
damaged in one small place, so that many of them get past the reader and into the runtime.
"""

import argparse
import collections
import contextlib
import dataclasses
import io
import os
import pathlib
import random
import re
import struct
import sys
import tempfile
import time

import fuzz_tflite

from keras_nin.cli import main

RUNS = 3
MARK = "KERAS_NIN_FUZZ"
_SLOWEST_SECONDS = 90  # a minute of silence, and what comes before


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a damaged file: "measured", "refused by the reader" or "by the runtime", "crashed", or another."""

    number: int
    mutation: str
    kind: str
    seconds: float
    detail: str = ""


def one_number(data, rng):
    """Change one small number (a shape, an index, a type, an option) by little, or to an end of its range."""
    damaged = bytearray(data)
    words = [at for at in range(8, len(data) - 3, 4) if 0 < struct.unpack_from("<I", data, at)[0] < 4096]
    at = rng.choice(words)
    value = struct.unpack_from("<I", data, at)[0]
    struct.pack_into("<I", damaged, at, rng.choice((0, value + 1, value - 1, 2 * value, 16 * value, 0x7FFFFFFF)))
    return bytes(damaged)


def one_byte(data, rng):
    """Flip one bit."""
    damaged = bytearray(data)
    damaged[rng.randrange(8, len(data))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def mutant(name, data, number):
    """Return (name of the mutation, bytes) of the damaged file `number` of a seed, always the same."""
    rng = random.Random(f"{name} {number}")
    mild = (one_number, one_number, one_byte, fuzz_tflite.rewired)
    change = mild[number // 2 % len(mild)] if number % 2 else fuzz_tflite.MUTATIONS[number // 2 % 7]
    return change.__name__, change(data, rng)


def outcome(path, number, mutation):
    """Run the command on a file in this process and return its `Outcome`."""
    out, errors = io.StringIO(), io.StringIO()
    start = time.perf_counter()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            status = main.run(["benchmark", str(path), "--runs", str(RUNS), "--json"])
    except BaseException as error:  # what the whole script is for
        return Outcome(number, mutation, f"{type(error).__name__}", time.perf_counter() - start, str(error)[:300])
    seconds = time.perf_counter() - start
    kind = _kind(status, errors.getvalue())
    return Outcome(number, mutation, kind, seconds, errors.getvalue().strip().replace(str(path), "FILE")[:300])


def _kind(status, text):
    if status == 0:
        return "measured"
    if status != 2 or text.count("\n") != 1 or not text.startswith("Error: Expected"):
        return f"exit status {status}, {text.count(chr(10))} lines"
    signal = re.search(r"killed by (SIG\w+)", text)
    if signal:
        return f"crashed ({signal[1]})"
    return "refused by the runtime" if "that the LiteRT runtime runs" in text else "refused by the reader"


def survivors():
    """Return the command lines of processes that carry this process' mark in their environment, without itself."""
    found = []
    mark = f"{MARK}={os.getpid()}".encode()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(process.name) != os.getpid() and mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def survey(seeds, count, run=outcome):
    """Return the `Outcome` of `count` damaged files of the seeds (bytes by their names), and the survivors.

    `run` is what is done with a file: a function of its path, number and mutation.
    """
    os.environ[MARK] = str(os.getpid())
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "damaged.tflite")
        for number in range(count):
            name = list(seeds)[number % len(seeds)]
            mutation, data = mutant(name, seeds[name], number // len(seeds))
            path.write_bytes(data)
            outcomes.append(run(path, number, mutation))
    return outcomes, survivors()


def is_failure(found):
    """Return whether an `Outcome` is what may not be."""
    known = ("measured", "refused by the reader", "refused by the runtime")
    return not (found.kind in known or found.kind.startswith("crashed")) or found.seconds > _SLOWEST_SECONDS


def report(seeds, count):
    """Print what became of the files as Markdown; return whether all ended as they must."""
    outcomes, left = survey(seeds, count)
    print(f"`python tools/fuzz_benchmark.py {count}` on {fuzz_tflite._machine()},")
    print(f"seeds {', '.join(f'{name} ({len(data):,} bytes)' for name, data in seeds.items())}:\n")
    print("| outcome | files | slowest [s] |")
    print("| --- | ---: | ---: |")
    for kind, files in sorted(collections.Counter(each.kind for each in outcomes).items()):
        print(f"| {kind} | {files} | {max(each.seconds for each in outcomes if each.kind == kind):.1f} |")
    print(f"\nProcesses left over: {len(left)}. A crash is one of the child process; the command said so in one line.")
    failures = [each for each in outcomes if is_failure(each)]
    for each in failures[:20]:
        print("FAILED", each)
    return not failures and not left


def seeds_of(paths):
    """Return the bytes of the seeds by their names."""
    if paths:
        return {path.name: path.read_bytes() for path in paths}
    return {f"nin_digits {scheme}": fuzz_tflite.converted(scheme) for scheme in ("float32", "int8")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", nargs="?", type=int, default=500, help="damaged files")
    parser.add_argument("seeds", nargs="*", type=pathlib.Path, metavar="SEED.tflite")
    given = parser.parse_args()
    sys.exit(0 if report(seeds_of(given.seeds), given.count) else 1)
