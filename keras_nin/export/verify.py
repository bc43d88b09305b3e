"""Is the exported file as good as the model? Both run on the same images; differences are in quantisation steps."""

import dataclasses

import numpy as np

from keras_nin.errors import InputError
from keras_nin.export import tolerance
from keras_nin.export.parity import Check, Limits, Parity, check_labels, compare, with_weights, worst_of
from keras_nin.export.ports import input_ports, output_ports, pack_inputs
from keras_nin.export.weights import worst_weight

__all__ = ["Check", "Limits", "Parity", "check_labels", "compare", "verify"]


def verify(model, runners, batches, *, source, random_weights=False, limits=None):
    """Run a model and its exported files on the same images and compare the outputs.

    Args:
        model: keras.Model.
        runners: `keras_nin.tflite.run.Runner` of each file.
        batches: iterable of (float32 images (N, H, W, C), labels (N,) or None), as `Dataset.batches` gives them; of
            several inputs a dictionary of arrays by the names of `keras_nin.export.ports`.
        source: name of the images' source, for the record.
        random_weights: whether agreement and accuracy mean nothing because the weights are random.
        limits: `Limits`; None takes the defaults.

    Returns:
        List of `Parity`, one for each runner; of several outputs that of the worst, with the checks of all.

    Raises:
        InputError: no images, files whose input or output does not have the model's shape, or labels beyond its
            classes.
    """
    limits = limits or Limits()
    limits = limits.untrained() if random_weights else limits
    sides = [[_Side(runner, position) for position in _outputs(model, runner)] for runner in runners]
    references, labels = _run(model, [side for each in sides for side in each], batches)
    names = [port.name for port in output_ports(model)]
    found = []
    for runner, each in zip(runners, sides, strict=True):
        parities = [
            side.compare(reference, labels, name if len(names) > 1 else None, source, limits)
            for side, reference, name in zip(each, references, names, strict=True)
        ]
        found.append(with_weights(worst_of(parities), worst_weight(model, runner.graph), limits))
    return found


def _outputs(model, runner):
    """Return for each output of the model the index of the file's that computes it.

    Raises:
        InputError: the file's inputs or outputs have other shapes, or other names where there are several.
    """
    _check_shapes("input", model, runner, input_ports(model), runner.inputs)
    ports = output_ports(model)
    if len(ports) == 1 and len(runner.outputs) == 1:
        positions = [0]
    else:
        names = [entry.signature for entry in runner.outputs]
        if sorted(names, key=str) != sorted(port.name for port in ports):
            raise InputError(
                f"Expected a file with the outputs {[port.name for port in ports]} of {model.name!r} in its signature. "
                f"Received: {runner.source} with {names}"
            )
        positions = [names.index(port.name) for port in ports]
    _check_shapes("output", model, runner, ports, [runner.outputs[position] for position in positions])
    return positions


def _check_shapes(kind, model, runner, ports, entries):
    if len(ports) > 1 and kind == "input":
        named = {entry.signature: entry for entry in entries}
        entries = [named[port.name] for port in ports] if set(named) == {port.name for port in ports} else []
    expected, received = [port.shape for port in ports], [entry.shape[1:] for entry in entries]
    if len(expected) != len(received) or not all(map(_fits, expected, received)):
        words = [", ".join(map(str, shapes)) or "others" for shapes in (expected, received)]
        raise InputError(
            f"Expected a file with the {kind} {words[0]} of {model.name!r}. Received: {runner.source} with {words[1]}"
        )


def _fits(expected, received):
    pairs = zip(expected, received, strict=len(expected) == len(received))
    return len(expected) == len(received) and all(size in (None, other) for size, other in pairs)


class _Side:
    """One output of a file, and the values before its closing softmax or sigmoid."""

    def __init__(self, runner, position):
        kind, graph = type(runner), runner.graph
        several = len(runner.outputs) > 1
        self.place = tolerance.judged(graph, position)
        self.runner = kind(graph.content, runner.threads, position, runner.batch) if several else runner
        self.inner = None
        if self.place is not None and self.place.closing is not None:
            content = tolerance.ending_at(graph, self.place.tensor)
            self.inner = kind(content, runner.threads, 0 if several else None, runner.batch)
        self.outputs, self.values = [], []

    def add(self, images):
        """Run the file."""
        self.outputs.append(self.runner.predict(images))
        if self.inner:
            self.values.append(self.inner.predict(images))

    def compare(self, reference, labels, name, source, limits):
        """Return the `Parity` with what the model gave; `name` is that of the output where there are several."""
        values = np.concatenate(self.values) if self.inner else None
        output = np.concatenate(self.outputs)
        labels = labels if name is None else None  # which nothing says of which of several outputs they are
        parity = compare(reference, output, labels, place=self.place, values=values, source=source, limits=limits)
        return dataclasses.replace(parity, output=name)


def _run(model, sides, batches):
    """Run the model and the files; return the model's outputs, in their order, and the labels or None."""
    import keras

    references, labels = [], []
    for images, batch_labels in batches:
        outputs = model.predict_on_batch(pack_inputs(model, images))
        references.append([np.asarray(output) for output in keras.tree.flatten(outputs)])
        for side in sides:
            side.add(images)
        labels.append(batch_labels)
    if not references:
        raise InputError("Expected at least one image to verify on. Received: none")
    joined = [np.concatenate(parts) for parts in zip(*references, strict=True)]
    return joined, None if labels[0] is None else np.concatenate(labels)
