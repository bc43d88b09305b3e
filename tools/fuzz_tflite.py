"""Audit thousands of damaged .tflite files: each must end in an audit or in one InputError, soon and in little memory.

python tools/fuzz_tflite.py [FILES_PER_BASE]      prints Markdown; exit status 1 where a file did anything else
"""

import argparse
import collections
import importlib
import json
import os
import pathlib
import platform
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time

LIMIT_SECONDS = 1.0
LIMIT_BYTES = 1 << 28
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
HEADER = 8


def hand_written():
    """Return a file with a convolution, a product, a pooling, a loop over a second subgraph and a custom operator."""
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")

    def record(kind, **fields):
        made = getattr(schema, kind + "T")()
        vars(made).update(fields)
        return made

    def tensor(name, shape, buffer=0):
        scale = record("QuantizationParameters", scale=[0.5], zeroPoint=[0])
        return record("Tensor", name=name, shape=shape, type=9, buffer=buffer, quantization=scale)

    def operator(code, inputs, outputs, options=None, **values):
        made = record("Operator", opcodeIndex=code, inputs=inputs, outputs=outputs)
        if options:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
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
        operator(3, [3], [4], "WhileOptions", condSubgraphIndex=1, bodySubgraphIndex=1),
        operator(4, [4], [5]),
    ]
    loop = record(
        "SubGraph",
        name="loop",
        tensors=[tensor("in", [1, 5]), tensor("out", [1, 5]), tensor("w", [5, 4], 2)],
        operators=[operator(3, [0], [1], "WhileOptions", condSubgraphIndex=1, bodySubgraphIndex=1)],
        inputs=[0],
        outputs=[1],
    )
    codes = [record("OperatorCode", builtinCode=code, deprecatedBuiltinCode=code) for code in (3, 40, 9, 119, 32)]
    codes[-1].customCode = "Own"
    content = (b"", bytes(range(108)), bytes(20), struct.pack("<2i", 1, 2))
    model = record(
        "Model",
        version=3,
        description="",
        operatorCodes=codes,
        subgraphs=[
            record("SubGraph", name="main", tensors=tensors, operators=operators, inputs=[0], outputs=[5]),
            loop,
        ],
        buffers=[record("Buffer", data=list(data)) for data in content],
    )
    builder = importlib.import_module("flatbuffers").Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def converted(scheme):
    """Return the shipped digits network as a file."""
    import numpy as np

    from keras_nin import export, models

    model = models.build_model("nin_digits", weights="digits")
    images = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    return export.convert_model(model, scheme, images).data


BASES = {
    "hand-written": hand_written,
    "nin_digits float32": lambda: converted("float32"),
    "nin_digits int8": lambda: converted("int8"),
}


def truncated(data, rng):
    """Cut the end off."""
    return data[: rng.randrange(len(data))]


def random_bytes(data, rng):
    """Put random bytes in a few places."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 16)):
        damaged[rng.randrange(HEADER, len(damaged))] = rng.randrange(256)
    return bytes(damaged)


def extreme_words(data, rng):
    """Put the ends of number ranges, and sizes of the file, into aligned words: offsets out of range, absurd sizes."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = 4 * rng.randrange(_structure(data) // 4)
        struct.pack_into("<I", damaged, at, rng.choice((*EXTREMES, len(data), len(data) - at)) & 0xFFFFFFFF)
    return bytes(damaged)


def changed_numbers(data, rng):
    """Change small numbers (shapes, indexes, counts, offsets) to nearby or huge ones."""
    damaged = bytearray(data)
    words = [at for at in range(HEADER, _structure(data) - 3, 4) if 0 < struct.unpack_from("<I", data, at)[0] < 4096]
    for at in rng.sample(words, min(len(words), rng.randint(1, 2))):
        value = struct.unpack_from("<I", data, at)[0]
        struct.pack_into("<I", damaged, at, rng.choice((value + 1, value - 1, 2 * value, value ^ 4, 0x7FFFFFFF)))
    return bytes(damaged)


def moved_pieces(data, rng):
    """Copy pieces of the file over others, so that offsets refer to what was read before, or in circles."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        size = 4 * rng.randint(1, 16)
        source, target = (4 * rng.randrange(2, (_structure(data) - size) // 4) for _ in range(2))
        damaged[target : target + size] = data[source : source + size]
    return bytes(damaged)


def noise(data, rng):
    """Keep the mark of the format and nothing else."""
    return struct.pack("<I", rng.randrange(4 * HEADER)) + data[4:HEADER] + rng.randbytes(rng.randrange(2048))


def rewired(data, rng):
    """Write a well-formed file that says something impossible: cycles, missing tensors, absurd sizes, other types."""
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    for _ in range(rng.randint(1, 3)):
        subgraph = rng.choice(model.subgraphs)
        tensor, operator = rng.choice(subgraph.tensors), rng.choice(subgraph.operators)
        _rewire(rng, subgraph, tensor, operator, len(model.operatorCodes))
    builder = importlib.import_module("flatbuffers").Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _rewire(rng, subgraph, tensor, operator, codes):
    anyone = rng.randrange(len(subgraph.tensors))
    change = rng.randrange(8)
    if change == 0:
        tensor.shape = [rng.choice((0, 1, 7, 2**31 - 1)) for _ in range(rng.choice((0, 1, 2, 4, 5, 300)))]
    elif change == 1 and len(tensor.shape):
        tensor.shape = list(tensor.shape)
        tensor.shape[rng.randrange(len(tensor.shape))] = rng.choice((0, 3, 5, 2**31 - 1))
    elif change == 2:
        operator.inputs = list(operator.inputs)
        operator.inputs[rng.randrange(len(operator.inputs))] = rng.choice((-1, anyone))
    elif change == 3:
        operator.outputs = rng.choice(([anyone], list(operator.inputs), []))
    elif change == 4:
        operator.opcodeIndex = rng.randrange(codes)
    elif change == 5:
        subgraph.operators = rng.sample(subgraph.operators, len(subgraph.operators))
    elif change == 6:
        tensor.type, tensor.isVariable = rng.randrange(23), rng.random() < 0.5
    else:
        subgraph.inputs, subgraph.outputs = rng.choice((([anyone], subgraph.outputs), (subgraph.inputs, [anyone])))


MUTATIONS = (truncated, random_bytes, extreme_words, changed_numbers, moved_pieces, noise, rewired)


def _structure(data):
    """Bytes at the start to damage: in converted files tables come before and after the weights, so all of them."""
    return len(data) - len(data) % 4


def mutant(base, data, number):
    """Return (name of the mutation, bytes) of the damaged file `number` of `base`, always the same."""
    rng = random.Random(f"{base} {number}")
    change = MUTATIONS[number % len(MUTATIONS)]
    return change.__name__, change(data, rng)


def outcome(path):
    """Return ("audited" or "refused", seconds) of the file; what is neither raises."""
    from keras_nin.audit import audit_model
    from keras_nin.errors import InputError

    start = time.process_time()
    try:
        result = audit_model(path)
        str(result)
        json.dumps(result.to_json())
        return "audited", time.process_time() - start
    except InputError as error:
        if "\n" in str(error):
            raise ValueError("the message has several lines") from error
        return "refused", time.process_time() - start


def work(base, source, first, last):
    """Audit the damaged files from `first` to `last` in this process and little memory; print a JSON line for each."""
    data = pathlib.Path(source).read_bytes()
    mutant(base, data, MUTATIONS.index(rewired))  # what writing a file imports is no part of the limit
    taken = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + LIMIT_BYTES,) * 2)
    path = pathlib.Path(source).with_name("damaged.tflite")
    for number in range(first, last):
        mutation, damaged = mutant(base, data, number)
        path.write_bytes(damaged)
        try:
            kind, seconds = outcome(path)
        except BaseException as error:  # what the whole script is for
            kind, seconds = f"{type(error).__name__}: {error}", 0.0
        print(json.dumps([number, mutation, kind, seconds]), flush=True)


def survey(base, source, count):
    """Run `work` in child processes; return its lines, one of its own for a file that killed the process."""
    lines, first = [], 0
    while first < count:
        words = [sys.executable, __file__, "--work", base, str(source), str(first), str(count)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60 + count)
        lines += [json.loads(line) for line in done.stdout.splitlines()]
        first = lines[-1][0] + 1 if lines else first
        if done.returncode or first < count:
            lines.append([first, "", f"the process ended with {done.returncode} {done.stderr[-300:]}", 0.0])
            first += 1
    return lines


def report(count):
    """Damage `count` files of every base, print the outcomes as Markdown; return whether all were as they must be."""
    print(f"`python tools/fuzz_tflite.py {count}` on {_machine()}:\n")
    print("| base | bytes | damaged files | audited | refused | anything else | slowest [ms] |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    failures = []
    for base, make in BASES.items():
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder, "base.tflite")
            source.write_bytes(make())
            size = source.stat().st_size
            lines = survey(base, source, count)
        kinds = collections.Counter(kind for _, _, kind, _ in lines)
        slowest = max(seconds for *_, seconds in lines)
        failures += [
            (base, *line) for line in lines if line[2] not in ("audited", "refused") or line[3] > LIMIT_SECONDS
        ]
        other = count - kinds["audited"] - kinds["refused"]
        print(
            f"| {base} | {size:,} | {count} | {kinds['audited']} | {kinds['refused']} | {other} | {1e3 * slowest:.0f} |"
        )
    print(f"\nLimits: {LIMIT_SECONDS:g} s for each audit, {LIMIT_BYTES >> 20} MiB of address space for all of them.")
    for failure in failures[:20]:
        print("FAILED", *failure)
    return not failures


def _machine():
    model = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", nargs="?", type=int, default=1000, help="damaged files of each base")
    parser.add_argument("--work", nargs=4, metavar=("BASE", "FILE", "FIRST", "LAST"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        name, file, first_number, last_number = given.work
        work(name, file, int(first_number), int(last_number))
    else:
        sys.exit(0 if report(given.count) else 1)
