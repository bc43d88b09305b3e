"""Readable names for the operators of a .tflite file."""

import functools
import json
import pathlib
import re
from collections import Counter

from keras_nin import files

EXPORT_SCHEMA = "keras_nin.export_file/1"
_LONGEST = 120
_LARGEST_SIDECAR = 1 << 26
# The mark that our own export puts on layer names, "conv1." or numbered "conv1._1" (see `export.operators`).
_MARK = re.compile(r"(?P<name>.+)\.(_\d+)?")
# TensorFlow operations as they end the name of a tensor, after the layer's name.
_OPERATIONS = re.compile(
    r"(add|addv2|avgpool\w*|batch_?norm\w*|biasadd|concat(v2)?|conv2d\w*|convolution\w*|depthwise\w*|"
    r"fusedbatchnorm\w*|identity|l2loss|leakyrelu|lrn|matmul|maxpool\w*|mean|mul|pad(v2)?|relu6?|reshape|"
    r"separable_conv2d\w*|sigmoid|softmax|squeeze\d*|sub|tanh|transpose|act_quant|fakequant\w*|mulitply|"
    r"resize\w*)(_\d+)?(:\d+)?",
    re.IGNORECASE,
)
_PRODUCTS = re.compile(r"(conv|depthwise|separable_conv|matmul)", re.IGNORECASE)
_NAMELESS = re.compile(r"(StatefulPartitionedCall|PartitionedCall|Identity)(_\d+)?(:\d+)?")


def layers_of(path, file):
    """Return for each operator of `file`'s main subgraph the layer that an export recorded, or None without a record.

    The record is the JSON file beside `path`. It counts only where the size and the hash in it are those of the file.
    """
    sidecar = pathlib.Path(path).with_suffix(".json")
    try:
        if sidecar.stat().st_size > _LARGEST_SIDECAR:
            return None
        document = json.loads(sidecar.read_bytes())
    except (OSError, ValueError, RecursionError):  # no record of ours, whatever it is
        return None
    if not isinstance(document, dict) or document.get("schema") != EXPORT_SCHEMA:
        return None
    if document.get("bytes") != file.size_bytes or document.get("sha256") != files.sha256(file.content):
        return None
    entries = document.get("operators")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return None
    if [entry.get("op") for entry in entries] != [operator.op for operator in file.main.operators]:
        return None
    layers = tuple(entry.get("layer") for entry in entries)
    return layers if all(layer is None or isinstance(layer, str) for layer in layers) else None


def paths_of(file, layers, primary):
    """Return a different path ("scope/name") for each operator of `file`'s main subgraph.

    Args:
        file: `keras_nin.tflite.graph.Graph`.
        layers: what `layers_of` returned.
        primary: names of operators that stand for their layer, where it became several.

    Returns:
        List of (scope, name). An operator bears its layer's name; others of that layer have their type behind it.
    """
    operators = file.main.operators
    guessed = _from_tensors(file.main)
    recorded = layers or (None,) * len(operators)
    named = [layer or guess for layer, guess in zip(recorded, guessed, strict=True)]
    groups = {}
    for path, operator in zip(named, operators, strict=True):
        groups.setdefault(path, []).append(operator)
    uses = Counter()
    result = []
    for path, operator in zip(named, operators, strict=True):
        first = next((each for each in groups[path] if each.op in primary), groups[path][0])
        own = path if operator.op == first.op else f"{path}/{operator.op}"
        uses[own] += 1
        scope, _, name = printable(path).rpartition("/")
        name += "" if operator.op == first.op else f"/{printable(operator.op)}"
        result.append((scope, name if uses[own] == 1 else f"{name} ({uses[own]})"))
    return result


def printable(text):
    """Return `text` on one line, control characters escaped and the middle of a very long one left out."""
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[: 4 * _LONGEST])
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 2 :]}"


def parts(tensor_name):
    """Return the names that the converter joined into a tensor's name, as lists of scopes without marks."""
    return [[_unmarked(scope) for scope in part.split("/")] for part in tensor_name[:4096].split(";") if part]


def _unmarked(scope):
    match = _MARK.fullmatch(scope)
    return match["name"] if match else scope


def _from_tensors(main):
    chosen = [
        _best_part(main.tensors[operator.outputs[0]].name if operator.outputs else "") for operator in main.operators
    ]
    prefix = functools.reduce(_common, (part[:-2] for part in chosen if len(part) > 1), None) or []
    names = []
    for part, operator in zip(chosen, main.operators, strict=True):
        own = part[len(prefix) :] if part[: len(prefix)] == prefix else part
        if len(own) > 1 and _OPERATIONS.fullmatch(own[-1]):
            own = own[:-1]
        names.append("/".join(own) or operator.op.lower())
    return names


def _best_part(tensor_name):
    """Return the scopes of the part that names the product (a convolution) where there is one, else of the first."""
    found = [part for part in parts(tensor_name) if not _NAMELESS.fullmatch(part[-1])]
    return next((part for part in found if len(part) > 1 and _PRODUCTS.match(part[-1])), found[0] if found else [])


def _common(prefix, part):
    if prefix is None:
        return part
    length = next(
        (at for at, (a, b) in enumerate(zip(prefix, part, strict=False)) if a != b), min(len(prefix), len(part))
    )
    return prefix[:length]
