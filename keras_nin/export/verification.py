"""Is an exported file as good as its model? Both run on the same images, and their weights are compared."""

import dataclasses
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.errors import input_error
from keras_nin.export.parity import (
    Parity,
    ParityLimits,
    check_value,
    compare_outputs,
    find_compared_tensor,
    worst_parity,
)
from keras_nin.export.weight_difference import find_worst_weight
from keras_nin.heads import Head, fitting_targets, make_heads, targets_of
from keras_nin.keras_graph import TensorSpec, input_specs, output_activations, output_specs, pack_inputs
from keras_nin.tflite import schema
from keras_nin.tflite.flatbuffer import FlatbufferReader
from keras_nin.tflite.records import TFLiteModel, TFLiteTensor

if TYPE_CHECKING:
    import keras

    from keras_nin.tflite.runner import IODetails, TFLiteRunner

    # Float32 images (N, H, W, C), for several inputs a dictionary of arrays by input name; and labels (N, ...), for
    # several outputs a dictionary of them by output name, or None.
    Batch = tuple[Any, Any]


def verify_files(
    model: "keras.Model",
    runners: "Sequence[TFLiteRunner]",
    batches: "Iterable[Batch]",
    *,
    source: str,
    random_weights: bool = False,
    limits: ParityLimits | None = None,
    task: str | None = None,
) -> list[Parity]:
    """Run a model and its exported files on the same images and compare the outputs.

    Args:
        model: keras.Model.
        runners: `keras_nin.tflite.runner.TFLiteRunner` of each file.
        batches: (float32 images (N, H, W, C), labels or None), as `Dataset.batches` gives them; for several inputs a
            dictionary of arrays by the names of `keras_nin.keras_graph.input_specs`. Labels (N, ...) are those of the
            only output, or a dictionary of them by the names of `output_specs`.
        source: name of the images' source, for the record.
        random_weights: whether top-1 match and accuracy mean nothing because the weights are random.
        limits: `ParityLimits`; None takes the defaults.
        task: what the outputs mean, as in `keras_nin.heads.make_heads`; None infers it.

    Returns:
        A `Parity` per runner; of several outputs that of the worst, with the checks of all.

    Raises:
        InputError: no images, files whose input or output does not have the model's shape, or labels beyond its
            classes.
    """
    limits = limits or ParityLimits()
    limits = limits.untrained() if random_weights else limits
    outputs = [[_FileOutput(runner, position) for position in _match_outputs(model, runner)] for runner in runners]
    references, labels = _run_model_and_files(model, [output for row in outputs for output in row], batches)
    names = [spec.name for spec in output_specs(model)]
    heads = model_heads(model, task, labels)
    targets = [fitting_targets(head, targets_of(labels, name, names)) for head, name in zip(heads, names, strict=True)]
    parities = []
    for runner, row in zip(runners, outputs, strict=True):
        compared = [
            output.compare(reference, target, source, limits, head)
            for output, reference, target, head in zip(row, references, targets, heads, strict=True)
        ]
        parity = worst_parity(compared)
        worst = find_worst_weight(model, runner.model)
        if worst is not None and limits.max_weight is not None:
            check = check_value("weight_diff_lsb", worst.lsb, limits.max_weight)
            parity = dataclasses.replace(parity, checks=(*parity.checks, check))
        parities.append(parity)
    return parities


def model_heads(model: "keras.Model", task: str | None = None, labels: Any = None) -> tuple[Head, ...]:
    """Return what the outputs of a model mean, in their order; `task` and `labels` as in `make_heads`."""
    specs = zip(output_specs(model), output_activations(model), strict=True)
    return make_heads([(spec.name, spec.shape, activation) for spec, activation in specs], task, labels)


def _match_outputs(model: "keras.Model", runner: "TFLiteRunner") -> list[int]:
    """Return for each output of the model the index of the file's output that computes it.

    Raises:
        InputError: the file's inputs or outputs have other shapes, or other names where there are several.
    """
    _check_shapes("input", model, runner, input_specs(model), runner.inputs)
    specs, positions = output_specs(model), [0]
    if len(specs) > 1 or len(runner.outputs) > 1:
        names = [details.signature for details in runner.outputs]
        expected = [spec.name for spec in specs]
        if sorted(names, key=str) != sorted(expected):
            problem = f"{runner.model.source} with {names}"
            raise input_error(f"a file with the outputs {expected} of {model.name!r} in its signature", problem)
        positions = [names.index(name) for name in expected]
    _check_shapes("output", model, runner, specs, [runner.outputs[position] for position in positions])
    return positions


def _check_shapes(
    kind: str, model: "keras.Model", runner: "TFLiteRunner", specs: Sequence[TensorSpec], details: "Sequence[IODetails]"
) -> None:
    if len(specs) > 1 and kind == "input":
        named = {entry.signature: entry for entry in details}
        details = [named[spec.name] for spec in specs] if set(named) == {spec.name for spec in specs} else []
    expected, received = [spec.shape for spec in specs], [entry.shape[1:] for entry in details]
    fits = (
        len(shape) == len(other) and all(size in (None, found) for size, found in zip(shape, other, strict=True))
        for shape, other in zip(expected, received, strict=False)
    )
    if len(expected) != len(received) or not all(fits):
        listed = [", ".join(map(str, shapes)) or "others" for shapes in (expected, received)]
        problem = f"{runner.model.source} with {listed[1]}"
        raise input_error(f"a file with the {kind} {listed[0]} of {model.name!r}", problem)


class _FileOutput:
    """One output of a file, and the values before its closing softmax or sigmoid."""

    def __init__(self, runner: "TFLiteRunner", position: int) -> None:
        open_runner, several = type(runner), len(runner.outputs) > 1
        self.compared = find_compared_tensor(runner.model, position)
        self.runner = open_runner(runner.model, runner.threads, position, runner.batch) if several else runner
        self.inner = None
        if self.compared is not None and self.compared.closing is not None:
            inner = with_first_output(runner.model, self.compared.tensor)
            self.inner = open_runner(inner, runner.threads, 0 if several else None, runner.batch)
        self.outputs: list[np.ndarray] = []
        self.values: list[np.ndarray] = []

    def run(self, images: Any) -> None:
        """Run the file and keep what it computes."""
        self.outputs.append(self.runner.predict(images))
        if self.inner:
            self.values.append(self.inner.predict(images))

    def compare(
        self, reference: np.ndarray, labels: np.ndarray | None, source: str, limits: ParityLimits, head: Head
    ) -> Parity:
        """Return the `Parity` with what the model computes."""
        values = np.concatenate(self.values) if self.inner else None
        options: dict[str, Any] = {"compared": self.compared, "values": values, "source": source, "limits": limits}
        return compare_outputs(reference, np.concatenate(self.outputs), labels, head=head, **options)


def with_first_output(tflite: TFLiteModel, tensor: TFLiteTensor) -> TFLiteModel:
    """Return the same file with `tensor` as its first output."""
    root = FlatbufferReader(tflite.content).root(schema.IDENTIFIER)
    span = root.tables(schema.ModelSlots.SUBGRAPHS)[0].span(schema.SubgraphSlots.OUTPUTS)
    assert span is not None  # a file that was read has outputs
    content = bytearray(tflite.content)
    struct.pack_into("<i", content, span[0], tensor.index)
    main = dataclasses.replace(tflite.main, outputs=(tensor.index, *tflite.main.outputs[1:]))
    return dataclasses.replace(tflite, content=bytes(content), subgraphs=(main, *tflite.subgraphs[1:]))


def _run_model_and_files(
    model: "keras.Model", outputs: Sequence[_FileOutput], batches: "Iterable[Batch]"
) -> tuple[list[np.ndarray], Any]:
    """Run the model and the files; return the model's outputs, in their order, and the labels or None."""
    import keras

    references, labels = [], []
    for images, batch_labels in batches:
        predicted: Any = model.predict_on_batch(pack_inputs(model, images))
        references.append([np.asarray(output) for output in keras.tree.flatten(predicted)])
        for output in outputs:
            output.run(images)
        labels.append(batch_labels)
    if not references:
        raise input_error("at least one image to verify on", "none")
    joined = [np.concatenate(parts) for parts in zip(*references, strict=True)]
    return joined, join_labels(labels)


def join_labels(batches: Sequence[Any]) -> Any:
    """Return the labels of all batches: an array, a dictionary of arrays by the name of the output, or None."""
    first = batches[0]
    if first is None or not isinstance(first, dict):
        return None if first is None else np.concatenate(batches)
    return {name: np.concatenate([labels[name] for labels in batches]) for name in first}
