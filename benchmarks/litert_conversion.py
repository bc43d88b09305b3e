"""Conversion without TensorFlow: the tables in docs/concepts/conversion_without_tensorflow.md.

python benchmarks/litert_conversion.py FOLDER --python PYTHON [--models NAME...]

PYTHON is that of an environment with JAX and litert-converter, without TensorFlow. Every network is converted to
float32 by TensorFlow's converter here and by litert-converter there, from the same weights, each in a process of its
own; the files are compared and run on the same noise. FOLDER keeps what was converted: repeated, it continues.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

from keras_nin import files, models
from keras_nin._compat.litert import interpreter
from keras_nin.errors import InputError
from keras_nin.formatting import format_bytes, format_markdown_table
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.records import TFLiteModel, TFLiteOperator

DOCS = pathlib.Path(__file__).parents[1] / "docs" / "concepts" / "conversion_without_tensorflow.md"
TABLE = re.compile(r"(?<=<!-- networks -->\n).*?(?=<!-- end -->)", re.DOTALL)
APPLICATIONS = ("keras:MobileNetV2", "keras:ResNet50", "keras:EfficientNetV2B0")
COLUMNS = ("network", "converts", "operators", "outputs, XNNPACK", "outputs, builtin", "bytes, TensorFlow",
           "bytes, LiteRT", "CPU s, TensorFlow", "CPU s, LiteRT", "--converter litert")  # fmt: skip
CONVERTERS = ("tensorflow", "litert")
SAMPLES = 4


def stem_of(name: str) -> str:
    """Return the name of a network in file names."""
    return name.replace(":", "_")


def convert(name: str, converter: str, folder: pathlib.Path) -> dict[str, Any]:
    """Convert a network in this process, write the file, and return what is known of the conversion."""
    from keras_nin.workflows import backends

    backends.start_keras(backend="jax" if converter == "litert" else "tensorflow")
    shape = {"input_shape": (224, 224, 3)} if name.startswith("keras:") else {}
    weights = folder / f"{stem_of(name)}.weights.h5"
    if converter == "tensorflow" and not weights.exists():
        loaded = models.load_model(name, **{"weights": "random"} if shape else {})
        loaded.model.save_weights(weights)
        model = loaded.model
    else:
        model = models.load_model(name, weights="random", **shape).model
        model.load_weights(weights)
    start, record = time.process_time(), {}
    path = folder / f"{stem_of(name)}_{converter}.tflite"
    if converter == "tensorflow":
        from keras_nin.export import convert_model

        path.write_bytes(convert_model(model, "float32").data)
    else:
        from keras_nin.export.litert_conversion import check_operators, convert_unchecked
        from keras_nin.export.weight_comparison import map_fused_layers

        try:
            path.write_bytes(convert_unchecked(model))
            tflite = read_model(path)
            check_operators(model, tflite, map_fused_layers(model, tflite).layers)
        except InputError as error:
            record["refused"] = str(error)
    assert converter == "tensorflow" or "tensorflow" not in sys.modules
    record["cpu_s"] = time.process_time() - start
    record["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return record


def describe_operator(model: TFLiteModel, operator: TFLiteOperator) -> tuple[Any, ...]:
    """Return the operator, the shapes and types of its tensors, and its options; padding by what it adds."""
    tensors = model.main.tensors
    options = dict(operator.options)
    options.pop("padding", None)  # follows from shapes and strides, except where nothing is padded
    if "axis" in options:
        options["axis"] %= len(tensors[operator.outputs[0]].shape)
    sides = [[tensors[index].shape for index in side if index >= 0] for side in (operator.inputs, operator.outputs)]
    return operator.op, *map(str, sides), str(sorted(options.items()))


def compare_operators(first: TFLiteModel, second: TFLiteModel) -> str:
    """Return how the operators of two files compare."""
    one, other = (
        collections.Counter(describe_operator(file, op) for op in file.main.operators) for file in (first, second)
    )
    if one == other:
        return f"same {one.total()}"
    lost, added = (collections.Counter(key[0] for key in (a - b).elements()) for a, b in ((one, other), (other, one)))
    changed = lost & added
    lost, added = lost - changed, added - changed
    names = [f"other options of {count} {op}" for op, count in changed.items()]
    names += [f"{sign}{count} {op}" for sign, ops in (("-", lost), ("+", added)) for op, count in ops.items()]
    return ", ".join(names)


def run(model: TFLiteModel, sample: np.ndarray, delegate: bool) -> list[np.ndarray]:
    """Return the outputs of a file."""
    runtime = interpreter(model.content, delegate=delegate)
    runtime.allocate_tensors()
    runtime.set_tensor(runtime.get_input_details()[0]["index"], sample)
    runtime.invoke()
    return [runtime.get_tensor(entry["index"]) for entry in runtime.get_output_details()]


def compare_outputs(first: TFLiteModel, second: TFLiteModel, delegate: bool) -> str:
    """Return how the outputs of two files compare on noise in [0, 1]."""
    shape, rng, largest, equal = first.main.tensors[first.main.inputs[0]].shape, np.random.default_rng(0), 0.0, True
    for _ in range(SAMPLES):
        sample = rng.random(shape, np.float32)
        for one, other in zip(run(first, sample, delegate), run(second, sample, delegate), strict=True):
            equal &= one.tobytes() == other.tobytes()
            largest = max(largest, float(np.abs(one - other).max() / np.abs(one).max()))
    return "bit-exact" if equal else f"{largest:.1g}"


def convert_in_process(name: str, converter: str, folder: pathlib.Path, python: str) -> dict[str, Any]:
    """Return the record of a conversion in a process of its own, which is made where it is missing."""
    path = folder / f"{stem_of(name)}_{converter}.json"
    if not path.exists():
        command = [python, __file__, str(folder), "--convert", name, "--with", converter]
        environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
        subprocess.run(command, check=True, env=environment)
    return json.loads(path.read_text())


def row_of(name: str, folder: pathlib.Path) -> list[str] | None:
    """Return the row of a network; None where it was not converted by both."""
    paths = [folder / f"{stem_of(name)}_{converter}.json" for converter in CONVERTERS]
    if not all(path.exists() for path in paths):
        return None
    records = [json.loads(path.read_text()) for path in paths]
    cpu = [f"{record['cpu_s']:.1f}" for record in records]
    refused = records[1].get("refused")
    verdict = "refused" if refused else "exact"
    tflites = [path.with_suffix(".tflite") for path in paths]
    if not tflites[1].exists():
        return [name, "no", "-", "-", "-", f"{tflites[0].stat().st_size:,}", "-", *cpu, verdict]
    first, second = map(read_model, tflites)
    outputs = [compare_outputs(first, second, delegate) for delegate in (True, False)]
    sizes = [f"{len(file.content):,}" for file in (first, second)]
    return [name, "yes", compare_operators(first, second), *outputs, *sizes, *cpu, verdict]


def main() -> None:
    """Convert what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--models", nargs="+", default=[*models.list_models(), *APPLICATIONS])
    parser.add_argument("--convert", help=argparse.SUPPRESS)
    parser.add_argument("--with", dest="converter", choices=CONVERTERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.convert:
        record = convert(arguments.convert, arguments.converter, arguments.folder)
        path = arguments.folder / f"{stem_of(arguments.convert)}_{arguments.converter}.json"
        files.write_files({path: files.dump_json(record).encode()}, force=True)
        return
    for name in arguments.models:
        for converter, python in zip(CONVERTERS, (sys.executable, arguments.python), strict=True):
            record = convert_in_process(name, converter, arguments.folder, python)
            print(
                name,
                converter,
                f"{record['cpu_s']:.1f} s",
                format_bytes(record["peak_bytes"]),
                record.get("refused", ""),
            )
    rows = [row for name in [*models.list_models(), *APPLICATIONS] if (row := row_of(name, arguments.folder))]
    table = format_markdown_table(COLUMNS, rows, right=COLUMNS[5:9])
    DOCS.write_text(TABLE.sub(lambda _: table + "\n", DOCS.read_text()))
    print(table)


if __name__ == "__main__":
    main()
