"""Is an exported file as good as its model? Both run on the same images, and their weights are compared."""

import concurrent.futures
import copy
import dataclasses
import functools
import os
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.errors import input_error
from keras_nin.export.parity import (
    Parity,
    ParityLimits,
    apply_closing,
    check_value,
    compare_outputs,
    find_compared_tensor,
    worst_parity,
)
from keras_nin.export.weight_comparison import find_worst_weight
from keras_nin.heads import Head, describe_guessing, fitting_targets, make_heads, targets_of
from keras_nin.keras_graph import (
    TensorSpec,
    closing_choices,
    describe_outputs,
    input_specs,
    is_quantize_aware,
    output_specs,
    pack_inputs,
)
from keras_nin.tflite import schema
from keras_nin.tflite.flatbuffer import FlatbufferReader
from keras_nin.tflite.reader import expose_tensors
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
    # The outputs of a quantize-aware network are rounded, and tell nothing of the values before a closing softmax.
    closes = not is_quantize_aware(model)
    outputs = [
        [_FileOutput(runner, position, closes) for position in _match_outputs(model, runner)] for runner in runners
    ]
    flat = [output for row in outputs for output in row]
    references, scores, labels = _run_model_and_files(model, flat, batches)
    activations = [choice and choice.activation for choice in closing_choices(model)]
    names = [spec.name for spec in output_specs(model)]
    heads = model_heads(model, task, labels)
    targets = [fitting_targets(head, targets_of(labels, name, names)) for head, name in zip(heads, names, strict=True)]
    guessing = [
        describe_guessing(head, reference, head.check_targets(target, source))
        if target is not None and not random_weights
        else None
        for head, reference, target in zip(heads, references, targets, strict=True)
    ]
    parities = []
    for runner, row in zip(runners, outputs, strict=True):
        compared = [
            dataclasses.replace(
                output.compare(reference, target, source, limits, head, scores=known, activation=activation),
                guessing=guess,
            )
            for output, reference, target, head, known, activation, guess in zip(
                row, references, targets, heads, scores, activations, guessing, strict=True
            )
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
    return make_heads(describe_outputs(model), task, labels)


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
    """One output of a file, the values before its closing softmax or sigmoid, and the scores before its argmax.

    Without `closes` the output itself is compared, and not the values before it.
    """

    def __init__(self, runner: "TFLiteRunner", position: int, closes: bool = True) -> None:
        open_runner, several = type(runner), len(runner.outputs) > 1
        self.position = position
        self.compared = find_compared_tensor(runner.model, position)
        if self.compared is not None and not closes:
            output = runner.model.main.tensors[runner.model.main.outputs[position]]
            self.compared = dataclasses.replace(self.compared, tensor=output, closing=None)
        self.inner: int | None = None
        self.scores, file = None, runner.model
        scores = file.scores_of(file.main.outputs[position])
        if scores is not None:
            inner = with_first_output(file, scores)
            self.scores = _FileOutput(open_runner(inner, runner.threads, 0 if several else None, runner.batch), 0)
        elif self.compared is not None and self.compared.closing is not None:
            file = expose_tensors(file, [self.compared.tensor.index])
            self.inner = file.main.outputs.index(self.compared.tensor.index)
        is_own = several or self.inner is not None
        self.runner = open_runner(file, runner.threads, position, runner.batch) if is_own else runner
        self.outputs: list[np.ndarray] = []
        self.values: list[np.ndarray] = []

    def run(self, images: Any) -> None:
        """Run the file and keep what it computes."""
        if self.inner is not None:
            outputs = self.runner.predict_outputs(images)
            self.outputs.append(outputs[self.position])
            self.values.append(outputs[self.inner])
        else:
            self.outputs.append(self.runner.predict(images))
        if self.scores:
            self.scores.run(images)

    def compare(
        self,
        reference: np.ndarray,
        labels: np.ndarray | None,
        source: str,
        limits: ParityLimits,
        head: Head,
        *,
        scores: np.ndarray | None = None,
        activation: str | None = None,
    ) -> Parity:
        """Return the `Parity` with what the model computes.

        Of an argmax the `scores` are compared, as if it were not there, where the model's are known; and the file's
        classes have to be those of its own scores. The converter drops a softmax or a sigmoid, the `activation` of the
        model's scores, before an argmax: then it is computed here.
        """
        options: dict[str, Any] = {"source": source, "limits": limits}
        if scores is not None and self.scores is not None and self.scores.runner.output.shape[1:] == scores.shape[1:]:
            by_score = dataclasses.replace(head, is_index=False)
            parity = self.scores.with_activation(activation, scores).compare(scores, labels, source, limits, by_score)
            chosen = head.decisions(np.concatenate(self.outputs))
            share = np.mean(chosen == by_score.decisions(np.concatenate(self.scores.outputs)))
            check = check_value("argmax_match", float(share), 1.0, at_least=True)
            checks = (*parity.checks, dataclasses.replace(check, output=head.name))
            return parity if parity.no_verdict else dataclasses.replace(parity, checks=checks)
        values = np.concatenate(self.values) if self.values else None
        outputs = np.concatenate(self.outputs)
        return compare_outputs(reference, outputs, labels, compared=self.compared, values=values, head=head, **options)

    def with_activation(self, activation: str | None, reference: np.ndarray) -> "_FileOutput":
        """Return the same output behind a softmax or a sigmoid of the model that the file does not compute."""
        main = self.runner.model.main
        closing = "LOGISTIC" if activation == "sigmoid" != main.activation_of(main.outputs[0]) else None
        if _are_shares(reference) and not _are_shares(np.concatenate(self.outputs)):
            closing = "SOFTMAX"
        if closing is None:
            return self
        behind = copy.copy(self)
        behind.compared = self.compared and dataclasses.replace(self.compared, closing=closing, lsb=None)
        behind.values, behind.outputs = self.outputs, [apply_closing(values, closing) for values in self.outputs]
        return behind


def _are_shares(values: np.ndarray) -> bool:
    """Whether values (N, ..., classes) are those of a softmax: they add up to 1, but for the rounding to 8 bits."""
    return bool(values.min() >= 0 and np.abs(values.sum(axis=-1) - 1).max() <= values.shape[-1] / 256)


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
) -> tuple[list[np.ndarray], list[np.ndarray | None], Any]:
    """Run the model and the files.

    Returns:
        The model's outputs, in their order; for each the scores behind it where it is an argmax over their last axis,
        else None; the labels or None.
    """
    import keras

    choices = [choice and choice.operation for choice in closing_choices(model)]
    references, scores, labels = [], [[] for _ in choices], []
    running: list[concurrent.futures.Future[None]] = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for images, batch_labels in batches:  # the next is read while the files run
            for run in running:
                run.result()
            running = [pool.submit(output.run, images) for output in outputs]
            if any(choices):
                predicted, inputs = _run_with_inputs(model, choices, images)
                for part, received in zip(scores, inputs, strict=True):
                    part.append(received)
            else:
                predicted = model.predict_on_batch(pack_inputs(model, images))
            references.append([np.asarray(output) for output in keras.tree.flatten(predicted)])
            labels.append(batch_labels)
        for run in running:
            run.result()
    if not references:
        raise input_error("at least one image to verify on", "none")
    joined = [np.concatenate(parts) for parts in zip(*references, strict=True)]
    known = [_scores_of_choice(part, chosen) for part, chosen in zip(scores, joined, strict=True)]
    return joined, known, join_labels(labels)


def _run_with_inputs(
    model: "keras.Model", operations: "Sequence[keras.Operation | None]", images: Any
) -> tuple[Any, list[np.ndarray | None]]:
    """Run a model; return what it computes, and what each of some operations got, None if that is not one array."""
    received: list[list[Any]] = [[] for _ in operations]

    def record(call: Any, inputs: list[Any], *arguments: Any, **options: Any) -> Any:
        inputs.append(arguments)
        return call(*arguments, **options)

    named: list[Any] = [operation for operation in operations if operation is not None]
    try:
        for operation, inputs in zip(operations, received, strict=True):
            if operation is not None:  # the instance gets its own `call`
                operation.__dict__["call"] = functools.partial(record, operation.call, inputs)
        predicted = model(pack_inputs(model, images), training=False)
    finally:
        for operation in named:
            operation.__dict__.pop("call", None)
    is_array = (len(inputs) == 1 and len(inputs[0]) == 1 and hasattr(inputs[0][0], "shape") for inputs in received)
    pairs = zip(received, is_array, strict=True)
    return predicted, [np.asarray(inputs[0][0]) if fits else None for inputs, fits in pairs]


def _scores_of_choice(parts: Sequence[np.ndarray | None], chosen: np.ndarray) -> np.ndarray | None:
    """Return the scores (N, ..., classes) of which the classes `chosen` (N, ...) are the argmax, else None."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    scores = np.concatenate(known)
    choice = scores.argmax(axis=-1)
    return scores if choice.size == chosen.size and np.array_equal(choice.reshape(chosen.shape), chosen) else None


def join_labels(batches: Sequence[Any]) -> Any:
    """Return the labels of all batches: an array, a dictionary of arrays by the name of the output, or None."""
    first = batches[0]
    if first is None or not isinstance(first, dict):
        return None if first is None else np.concatenate(batches)
    return {name: np.concatenate([labels[name] for labels in batches]) for name in first}
