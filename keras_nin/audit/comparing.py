"""Comparing two networks, or a model with the file that was made of it."""

import dataclasses
import os

from keras_nin.audit import reconcile
from keras_nin.audit.build import audit_graph
from keras_nin.audit.comparison import ComparedRow, Comparison, totals
from keras_nin.audit.tflite_reader import File, read_file


def compare(a, b, *, name_a=None, name_b=None):
    """Return the `Comparison` of two networks.

    A Keras model and a .tflite file are reconciled: every layer with the operators that compute it, or with what
    became of it, and every operator with its layer, or with why it is there; `Comparison.holds` says whether the MACs
    agree exactly. The model is `a` then, whichever comes first. Two models, or two files, are put side by side by the
    names of their rows.

    Args:
        a, b: each a built Functional or Sequential `keras.Model`, what `keras_nin.models.load` accepts, or the path of
            a .tflite file. Two files are compared without Keras.
        name_a, name_b: what to call them; None takes their own names.

    Raises:
        InputError: as `audit` does.
    """
    first, second = _read(a, name_a), _read(b, name_b)
    if isinstance(first, File) and not isinstance(second, File):
        first, second = second, first
    audits = [audit_graph(side.graph if isinstance(side, File) else side) for side in (first, second)]
    if isinstance(second, File) and not isinstance(first, File):
        return reconcile.reconcile(first, second, *audits)
    return _side_by_side(*audits)


def _read(source, name):
    is_path = isinstance(source, (str, os.PathLike))
    if is_path and os.fspath(source).endswith(".tflite"):
        return read_file(source, name=name)
    if is_path:
        from keras_nin import models

        loaded = models.load(os.fspath(source))
        source, name = loaded.model, name or loaded.name
    from keras_nin.audit import keras_reader

    graph = keras_reader.read(source)
    return dataclasses.replace(graph, name=name) if name else graph


def _side_by_side(a, b):
    by_name = [{row.name: row for row in audit.rows} for audit in (a, b)]
    names = _in_order(*([row.name for row in audit.rows] for audit in (a, b)))
    rows = tuple(_pair(name, *(rows.get(name) for rows in by_name)) for name in names)
    return Comparison("networks", a.model, b.model, rows, _blocks(a, b), totals(a, b))


def _in_order(first, second):
    """Return the names of both, each once: those of `second` alone stand behind what precedes them there."""
    known = set(first)
    behind, anchor = {None: []}, None
    for name in dict.fromkeys(second):
        if name in known:
            anchor = name
        else:
            behind.setdefault(anchor, []).append(name)
    return [*behind[None], *(each for name in dict.fromkeys(first) for each in (name, *behind.get(name, ())))]


def _pair(name, left, right):
    pairs = {
        field: tuple(row and getattr(row, field) for row in (left, right))
        for field in ("params", "weight_bytes", "macs", "kernel", "output_shape", "type")
    }
    costs = {field: pairs[field] for field in ("params", "weight_bytes", "macs")}
    block = (left or right).block
    if left is None or right is None:
        status = "only in b" if left is None else "only in a"
        return ComparedRow(left and name, (name,) if right else (), status, "", **costs, block=block)
    changed = [field.replace("_", " ") for field, (one, other) in pairs.items() if one != other]
    status = "changed" if changed else "same"
    return ComparedRow(name, (name,), status, ", ".join(changed), **costs, block=block)


def _blocks(a, b):
    """The sums by block; nothing where one side has no blocks."""
    sums = [_sums(audit.rows) for audit in (a, b)]
    if not all(sums):
        return ()
    return tuple(_pair_of_blocks(name, *(each.get(name) for each in sums)) for name in _in_order(*map(list, sums)))


def _sums(rows):
    found = {}
    for row in rows:
        if row.block:
            params, weight_bytes, macs = found.get(row.block, (0, 0, 0))
            macs = None if macs is None or row.macs is None else macs + row.macs
            found[row.block] = (params + row.params, weight_bytes + row.weight_bytes, macs)
    return found


def _pair_of_blocks(name, left, right):
    nothing = (None, None, None)
    params, weight_bytes, macs = zip(left or nothing, right or nothing, strict=True)
    status = "only in b" if left is None else "only in a" if right is None else "same" if left == right else "changed"
    return ComparedRow(left and name, (name,) if right else (), status, "", params, weight_bytes, macs, name)
