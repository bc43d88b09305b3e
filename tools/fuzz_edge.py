"""Give damaged .tflite files to `edgetpu`, `micro` and `ethosu`: each must end in a report, or in one clear line.

python tools/fuzz_edge.py COMMAND [FILES] [SEED.tflite...]   prints Markdown; exit status 1 where a file did else

The files are those of fuzz_benchmark.py. A report has exit status 0, also where it says that a file does not compile
or that a runtime aborts; the line has exit status 2. No process may be left.
"""

import argparse
import collections
import contextlib
import functools
import io
import json
import pathlib
import sys
import time

import fuzz_benchmark
import fuzz_tflite

from keras_nin.cli import main

OPTIONS = {
    "edgetpu": (),
    "micro": ("--seconds", "1", "--timeout", "60"),
    "ethosu": ("--timeout", "60"),
}
_SLOWEST_SECONDS = 300


def outcome(command, path, number, mutation):
    """Run a command on a file in this process and return its `Outcome`."""
    out, errors = io.StringIO(), io.StringIO()
    start = time.perf_counter()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            status = main.run([command, str(path), "--json", *OPTIONS[command]])
            kind = _kind(command, status, out.getvalue(), errors.getvalue())
    except BaseException as error:  # what the whole script is for
        kind, status = f"FAILED: {type(error).__name__} {error}"[:200], None
    seconds = time.perf_counter() - start
    if seconds > _SLOWEST_SECONDS:
        kind = "FAILED: too slow"
    detail = errors.getvalue().strip().replace(str(path), "FILE")[:300]
    return fuzz_benchmark.Outcome(number, mutation, kind, seconds, detail)


def _kind(command, status, out, errors):
    if status == 0:
        return f"reported: {_words(command, json.loads(out))}" if not errors else "FAILED: a report and more"
    is_one_line = errors.count("\n") == 1 and errors.startswith("Error: ")
    if status != 2 or not is_one_line or json.loads(out).keys() != {"error"}:
        return f"FAILED: exit status {status}, {errors.count(chr(10))} lines"
    if "Vela does not compile" in errors:
        return f"refused by Vela{' (a crash)' if 'was killed by' in errors else ''}"
    return "refused here"


def _words(command, document):
    """Return what a report says in a word or two."""
    if command == "edgetpu":
        return "compiles" if document["compiles"] else document["failure"]["message"][:60]
    if command == "micro":
        return document["finding"]["kind"] if document["finding"] else "an arena"
    return "an estimate"


def survey(command, seeds, count):
    """Return what `fuzz_benchmark.survey` does, of a command."""
    return fuzz_benchmark.survey(seeds, count, functools.partial(outcome, command))


def report(command, seeds, count):
    """Print what became of the files as Markdown; return whether all ended as they must."""
    outcomes, left = survey(command, seeds, count)
    print(f"`python tools/fuzz_edge.py {command} {count}` on {fuzz_tflite._machine()},")
    print(f"seeds {', '.join(f'{name} ({len(data):,} bytes)' for name, data in seeds.items())}:\n")
    print("| outcome | files | slowest [s] |")
    print("| --- | ---: | ---: |")
    for kind, files in sorted(collections.Counter(each.kind for each in outcomes).items()):
        print(f"| {kind} | {files} | {max(each.seconds for each in outcomes if each.kind == kind):.1f} |")
    print(f"\nProcesses left over: {len(left)}.")
    failures = [each for each in outcomes if each.kind.startswith("FAILED")]
    for each in failures[:20]:
        print(each)
    return not failures and not left


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=OPTIONS)
    parser.add_argument("count", nargs="?", type=int, default=100, help="damaged files")
    parser.add_argument("seeds", nargs="*", type=pathlib.Path, metavar="SEED.tflite")
    given = parser.parse_args()
    sys.exit(0 if report(given.command, fuzz_benchmark.seeds_of(given.seeds), given.count) else 1)
