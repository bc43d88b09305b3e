"""Give damaged .tflite files to commands: each must end in a result or in one clear line, soon and in little memory.

python tools/fuzz_tflite.py [--first N] [--count N] [--record FILE] COMMAND... [SEED.tflite...]

Prints Markdown; exit status 1 where a command did anything else: a traceback, exit status 70, a crash of its process,
more than a second line on stderr, 10 s or 1 GiB more than before, a process that outlives it. A crash of the process in
which a command runs the file is no failure, but a file that is refused.

The damage follows the structure of the file: offsets, vtables, lengths of vectors, operator codes, indices of tensors,
shapes, quantization, subgraphs, signatures, names and options are found by the schema; one to four are changed.
The file NUMBER of the same seeds is always the same: `--first NUMBER --count 1` makes it again. A failure is printed
with its changes, less those that it does not need. `--record FILE` keeps what was found, to continue a run.
"""

import argparse
import collections
import contextlib
import dataclasses
import importlib
import io
import json
import os
import pathlib
import platform
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time

from keras_nin.cli import main as cli
from keras_nin.tflite import schema

LIMIT_SECONDS = 10.0
LIMIT_BYTES = 1 << 30
MARK = "KERAS_NIN_FUZZ"
# What follows the path of the file, and what precedes it.
OPTIONS = {
    "check": (),
    "audit": (),
    "edgetpu": (),
    "report": ("--force", "--out", "report.html"),
    "benchmark": ("--runs", "3"),
    "evaluate": ("--test-count", "10", "--data", "digits"),
    "verify": ("--test-count", "10"),
    "micro": ("--seconds", "1"),
    "ethosu": (),
}
BEFORE = {"verify": ("nin_digits",)}
WITHOUT_JSON = {"report"}


# Seeds


def hand_written():
    """Return a file with a convolution, a mean, a product, a loop of two subgraphs, a custom operator, a signature."""
    generated = importlib.import_module("ai_edge_litert.schema_py_generated")

    def record(kind, **fields):
        made = getattr(generated, kind + "T")()
        vars(made).update(fields)
        return made

    def tensor(name, shape, buffer=0):
        scale = record("QuantizationParameters", scale=[0.5], zeroPoint=[0])
        return record("Tensor", name=name, shape=shape, type=9, buffer=buffer, quantization=scale)

    def operator(code, inputs, outputs, options=None, **values):
        made = record("Operator", opcodeIndex=code, inputs=inputs, outputs=outputs)
        if options:
            made.builtinOptionsType = getattr(generated.BuiltinOptions, options)
            made.builtinOptions = record(options, **values)
        return made

    axes = record("Tensor", name="axes", shape=[2], type=2, buffer=3)
    tensors = [
        *(tensor("image", [1, 8, 8, 3]), tensor("net/conv/Relu", [1, 4, 4, 4]), tensor("net/mean/Mean", [1, 4])),
        *(tensor("net/dense/MatMul", [1, 5]), tensor("looped", [1, 5]), tensor("own", [1, 5])),
        *(tensor("filters", [4, 3, 3, 3], 1), tensor("weights", [5, 4], 2), axes),
    ]
    operators = [
        operator(0, [0, 6, -1], [1], "Conv2DOptions", strideW=2, strideH=2, fusedActivationFunction=1),
        operator(1, [1, 8], [2], "ReducerOptions", keepDims=False),
        operator(2, [2, 7, -1], [3], "FullyConnectedOptions"),
        operator(3, [3], [4], "WhileOptions", condSubgraphIndex=2, bodySubgraphIndex=1),
        operator(4, [4], [5]),
    ]
    body = [tensor("in", [1, 5]), tensor("out", [1, 5])]
    condition = [tensor("in", [1, 5]), record("Tensor", name="goes_on", shape=[1], type=6)]
    subgraphs = [
        record("SubGraph", name="main", tensors=tensors, operators=operators, inputs=[0], outputs=[5]),
        record("SubGraph", name="body", tensors=body, operators=[operator(5, [0], [1])], inputs=[0], outputs=[1]),
        record(
            "SubGraph", name="condition", tensors=condition, operators=[operator(4, [0], [1])], inputs=[0], outputs=[1]
        ),
    ]
    codes = [record("OperatorCode", builtinCode=code, deprecatedBuiltinCode=code) for code in (3, 40, 9, 119, 32, 19)]
    codes[4].customCode = "Own"
    maps = [[record("TensorMap", name=name, tensorIndex=index)] for name, index in (("image", 0), ("scores", 5))]
    signature = record("SignatureDef", inputs=maps[0], outputs=maps[1], signatureKey="serving_default", subgraphIndex=0)
    content = (b"", bytes(range(108)), bytes(20), struct.pack("<2i", 1, 2))
    model = record(
        "Model",
        version=3,
        description="",
        operatorCodes=codes,
        subgraphs=subgraphs,
        buffers=[record("Buffer", data=list(data)) for data in content],
        signatureDefs=[signature],
    )
    builder = importlib.import_module("flatbuffers").Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


# Places


@dataclasses.dataclass(frozen=True)
class Place:
    """A number of the file, or the bytes of a name, that can be changed: `code` is its `struct` format."""

    kind: str
    where: str
    position: int
    code: str


_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_KINDS = {
    "OperatorCode": "operator code",
    "QuantizationParameters": "quantization",
    "SignatureDef": "signature",
    "TensorMap": "signature",
    **dict.fromkeys(("IfOptions", "WhileOptions", "CallOnceOptions", "CallOptions"), "subgraph"),
    **dict.fromkeys(("Model", "SubGraph", "Metadata", "Buffer"), "index"),
}
_SLOT_KINDS = {("Operator", 0): "operator code", ("Operator", 1): "index", ("Operator", 2): "index"} | {
    ("Tensor", 0): "shape", ("Tensor", 7): "shape", ("Tensor", 1): "tensor", ("Tensor", 2): "index"
}  # fmt: skip
_ELEMENTS = 16  # of a vector of numbers that are places: its first ones


def find_places(data):
    """Return the places of a valid file by kind."""
    places = collections.defaultdict(list)

    def add(kind, where, position, code):
        places[kind].append(Place(kind, where, position, code))

    def read(code, position):
        return struct.unpack_from("<" + code, data, position)[0]

    pending, seen = [(read("I", 0), "Model")], set()
    add("offset", "root", 0, "I")
    while pending:
        table, name = pending.pop()
        if (table, name) in seen:
            continue
        seen.add((table, name))
        vtable = table - read("i", table)
        add("vtable", f"{name} to its vtable", table, "i")
        for entry in range(vtable, vtable + read("H", vtable), 2):
            add("vtable", f"vtable of {name}", entry, "H")
        slots = struct.unpack_from(f"<{read('H', vtable) // 2 - 2}H", data, vtable + 4)
        for slot, (offset, layout) in enumerate(zip(slots, schema.LAYOUTS.get(name, ()), strict=False)):
            if not offset or layout == "-":
                continue
            where, position = f"{name}.{slot}", table + offset
            kind = _SLOT_KINDS.get((name, slot)) or _KINDS.get(name, "option")
            if layout.isdigit():
                add(kind, where, position, _CODES[int(layout)])
                continue
            add("offset", where, position, "I")
            target = position + read("I", position)
            if layout == "string":
                add("length", where, target, "I")
                add("name", where, target + 4, f"{read('I', target)}s")
            elif layout[0] == "[":
                add("length", where, target, "I")
                count, item = read("I", target), layout[1:-1]
                size = int(item) if item.isdigit() else 4
                for element in range(target + 4, target + 4 + size * count, size)[: None if size == 4 else _ELEMENTS]:
                    add(kind if item.isdigit() else "offset", f"{where}[]", element, _CODES[size])
                    if not item.isdigit():
                        pending.append((element + read("I", element), item))
            elif layout[-1] == "?":
                code = read("B", table + slots[slot - 1])
                if code and schema.UNIONS[layout[:-1]][code] in schema.LAYOUTS:
                    pending.append((target, schema.UNIONS[layout[:-1]][code]))
            else:
                pending.append((target, layout))
    return dict(places)


# Damage

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1)
_FLOATS = (0x7FC00000, 0x7F800000, 0xFF800000, 0xBF800000, 1)  # NaN, the infinities, -1, the smallest
_NAMES = (b"\x1b[2J", "\u202eevil".encode(), b"=cmd|' /C calc'!A0", b"<script>x</script>", b"\0", b"\xff\xfe", b"|`a`|",
          b"'\"\\\n", b"../../x", b"%s%n{}")  # fmt: skip
_WHOLE = ("truncated", "moved", "bytes")  # kinds that need no place

Change = tuple[str, str, int, bytes]  # kind, place, first byte, new bytes; of "truncated" the place of the end


def draw_changes(data, places, rng):
    """Return one to four changes of a file."""
    return [_draw_change(data, places, rng) for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4)))]


def _draw_change(data, places, rng):
    kind = rng.choice((*places, *_WHOLE))
    if kind == "truncated":
        return kind, "", rng.randrange(len(data)), b""
    if kind == "bytes":
        return kind, "", rng.randrange(len(data)), rng.randbytes(rng.choice((1, 1, 4, 16)))
    if kind == "moved":
        size = 4 * rng.randint(1, min(16, len(data) // 8))
        source, target = (4 * rng.randrange((len(data) - size) // 4) for _ in range(2))
        return kind, f"from {source}", target, data[source : source + size]
    place = rng.choice(places[kind])
    size = struct.calcsize("<" + place.code)
    if kind == "name":
        return kind, place.where, place.position, (rng.choice(_NAMES) * (1 + size))[:size]
    old = int.from_bytes(data[place.position : place.position + size], "little")
    other = rng.choice(places[kind])
    likely = (old + 1, old - 1, 2 * old, old ^ 1 << rng.randrange(8 * size), old + 4, old - 4)
    chosen = rng.choice((*likely, rng.randrange(8), rng.randrange(256), rng.choice(_EXTREMES), rng.choice(_FLOATS),
                         len(data) - place.position, place.position - other.position))  # fmt: skip
    return kind, place.where, place.position, (chosen % (1 << 8 * size)).to_bytes(size, "little")


def apply_changes(data, changes):
    """Return the file with the changes."""
    damaged = bytearray(data)
    for kind, _, position, new in changes:
        if kind == "truncated":
            del damaged[position:]
        else:
            end = min(position + len(new), len(damaged))
            damaged[position:end] = new[: max(end - position, 0)]
    return bytes(damaged)


class Mutants:
    """Damaged files of some seeds, by number."""

    def __init__(self, seeds):
        self.seeds = dict(seeds)
        self._places = {name: find_places(data) for name, data in self.seeds.items()}

    def draw(self, number):
        """Return the name of the seed of the mutant `number` and its changes, always the same."""
        name = list(self.seeds)[number % len(self.seeds)]
        return name, draw_changes(self.seeds[name], self._places[name], random.Random(f"{name} {number}"))

    def content(self, name, changes):
        """Return the bytes of a mutant."""
        return apply_changes(self.seeds[name], changes)


# Outcomes


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a damaged file in a command: "done", "refused", "crashed in the child process", or a failure."""

    command: str
    number: int
    kind: str
    seconds: float
    changed: tuple[str, ...] = ()
    detail: str = ""

    @property
    def failed(self):
        """Whether this may not be."""
        return self.kind.startswith("FAILED")


def run_command(command, path, number, as_json, limit=LIMIT_SECONDS):
    """Run a command on a file in this process and return its `Outcome`."""
    words = [command, *BEFORE.get(command, ()), str(path), *OPTIONS[command]]
    words += ["--json"] if as_json and command not in WITHOUT_JSON else []
    out, errors = io.StringIO(), io.StringIO()
    start = time.perf_counter()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), _alarm(limit):
            status = cli.run(words)
        kind = _describe(status, errors.getvalue())
        if as_json and out.getvalue():
            json.loads(out.getvalue())
    except BaseException as error:  # what the whole script is for
        if isinstance(error, KeyboardInterrupt):
            raise
        kind = f"FAILED: {type(error).__name__}"
        errors.write(str(error))
    detail = errors.getvalue().strip().replace(str(path), "FILE")[-300:]
    return Outcome(command, number, kind, time.perf_counter() - start, (), detail)


def _describe(status, errors):
    if status in (0, 1):
        return "FAILED: a traceback" if "Traceback" in errors else "done"
    if status == 2 and errors.startswith("Error: ") and errors.count("\n") == 1:
        return "crashed in the child process" if "killed by SIG" in errors else "refused"
    return f"FAILED: exit status {status}, {errors.count(chr(10))} lines"


@contextlib.contextmanager
def _alarm(seconds):
    def ring(*_):
        raise TimeoutError(f"more than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def survey(commands, seeds, numbers):
    """Yield the `Outcome` of every command on some mutants, run in this process in the current folder."""
    mutants = Mutants(seeds)
    path = pathlib.Path("damaged.tflite")
    for number in numbers:
        name, changes = mutants.draw(number)
        content = mutants.content(name, changes)
        path.write_bytes(content)
        for command in commands:
            found = run_command(command, path, number, number % 2)
            if found.failed:
                changes = _minimize(found, mutants, name, changes, path)
            yield dataclasses.replace(found, changed=(name, *map(str, changes)) if found.failed else _kinds(changes))


def _kinds(changes):
    return tuple(kind for kind, *_ in changes)


def _minimize(found, mutants, name, changes, path):
    """Return the changes without those that a failure does not need; `path` has the mutant again afterwards."""
    needed = list(changes)
    for change in changes:
        fewer = [other for other in needed if other is not change]
        path.write_bytes(mutants.content(name, fewer))
        if fewer and run_command(found.command, path, found.number, found.number % 2).kind == found.kind:
            needed = fewer
    path.write_bytes(mutants.content(name, changes))
    return needed


def survivors():
    """Return the command lines of processes that carry this process' mark in their environment, without itself."""
    found = []
    mark = f"{MARK}={os.environ.get(MARK)}".encode()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(process.name) != os.getpid() and mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


# The script


def work(commands, paths, first, last):
    """Run `survey` in this process and in limited memory; print an outcome per line, and the peak memory."""
    seeds = read_seeds(paths)
    taken = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    if not set(commands) & {"verify", "evaluate", "micro", "benchmark", "ethosu"}:  # their frameworks map more
        resource.setrlimit(resource.RLIMIT_AS, (taken + LIMIT_BYTES,) * 2)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for command in commands:  # what they import is no part of the time
            pathlib.Path("whole.tflite").write_bytes(next(iter(seeds.values())))
            run_command(command, pathlib.Path("whole.tflite"), 0, False, limit=600)
        for outcome in survey(commands, seeds, range(first, last)):
            print(json.dumps(dataclasses.asdict(outcome)), flush=True)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"peak_mib": peak // 1024}), flush=True)


def collect(commands, paths, first, count):
    """Run `work` in child processes; yield its lines, one more for a mutant that killed the process."""
    last, end = first - 1, first + count
    while last + 1 < end:
        words = [
            sys.executable,
            __file__,
            *commands,
            "--work",
            "--first",
            str(last + 1),
            "--count",
            str(end - last - 1),
        ]
        process = subprocess.Popen([*words, *map(str, paths)], stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            found = json.loads(line)
            last = found.get("number", last)
            yield found
        if process.wait():
            last += 1
            yield dataclasses.asdict(
                Outcome(commands[0], last, f"FAILED: the process ended with {process.returncode}", 0)
            )


def read_seeds(paths):
    """Return the bytes of the seeds by their names: files, or the one that is written by hand."""
    if paths:
        return {pathlib.Path(path).name: pathlib.Path(path).read_bytes() for path in paths}
    return {"hand-written": hand_written()}


def format_report(commands, found):
    """Return what was found as Markdown."""
    lines = ["| command | files | done | refused | crashed in the child process | failed | slowest [s] |",
             "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    outcomes = [Outcome(**entry) for entry in found if "kind" in entry]
    for command in commands:
        own = [outcome for outcome in outcomes if outcome.command == command]
        counts = collections.Counter("failed" if outcome.failed else outcome.kind for outcome in own)
        cells = [counts[kind] for kind in ("done", "refused", "crashed in the child process", "failed")]
        slowest = max((outcome.seconds for outcome in own), default=0)
        lines.append(f"| {command} | {len(own):,} | {' | '.join(f'{count:,}' for count in cells)} | {slowest:.2f} |")
    peak = max((entry["peak_mib"] for entry in found if "peak_mib" in entry), default=0)
    kinds = collections.Counter(kind for outcome in outcomes if not outcome.failed for kind in set(outcome.changed))
    changed = ", ".join(f"{kind} {count // len(commands):,}" for kind, count in sorted(kinds.items()))
    lines += ["", f"Peak memory of a process: {peak:,} MiB. Files with a change of each kind: {changed}."]
    failures = {(o.command, o.kind, re.sub(r"\d+", "#", o.detail)[-120:]): o for o in outcomes if o.failed}
    lines += [f"FAILED {outcome}" for outcome in failures.values()]
    return "\n".join(lines)


def machine():
    """Return the processor, its cores and the version of Python."""
    model = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line[:10] == "model name"]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def main():
    """Run the script and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="+", metavar="COMMAND... [SEED.tflite...]")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--count", type=int, default=1000, help="mutants")
    parser.add_argument("--record", type=pathlib.Path, help="JSON lines of what was found, to continue from")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_intermixed_args()
    commands = [word for word in given.words if word in OPTIONS]
    paths = [os.path.abspath(word) for word in given.words if word not in OPTIONS]
    if given.work:
        work(commands, paths, given.first, given.first + given.count)
        return 0
    os.environ[MARK] = str(os.getpid())
    known = (
        [json.loads(line) for line in given.record.read_text().splitlines()]
        if given.record and given.record.exists()
        else []
    )
    start = max((entry["number"] + 1 for entry in known if "number" in entry), default=given.first)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(given.record, "a")) if given.record else io.StringIO()
        for entry in collect(commands, paths, start, given.first + given.count - start):
            known.append(entry)
            print(json.dumps(entry), file=log, flush=True)
    left = survivors()
    sizes = ", ".join(f"{name} ({len(data):,} bytes)" for name, data in read_seeds(paths).items())
    print(f"Mutants {given.first:,} to {given.first + given.count - 1:,} on {machine()}; seeds: {sizes}.\n")
    print(format_report(commands, known))
    print(f"Processes left over: {len(left)}.")
    return 1 if left or any(Outcome(**entry).failed for entry in known if "kind" in entry) else 0


if __name__ == "__main__":
    sys.exit(main())
