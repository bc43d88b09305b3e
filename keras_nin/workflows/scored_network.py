"""The networks whose outputs are scored: .tflite files, here or on a device, and Keras models."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin.errors import InputError
from keras_nin.files import AnyPath
from keras_nin.workflows import Progress, inputs
from keras_nin.workflows.inputs import FileOrModel, is_tflite

if TYPE_CHECKING:
    from keras_nin.benchmark.devices import DeviceSession
    from keras_nin.keras_graph import InputScaling
    from keras_nin.tflite.records import TFLiteModel


@dataclasses.dataclass(frozen=True)
class ScoredNetwork:
    """A network whose outputs are scored, and what is known of its images and weights; a .tflite file has `threads`.

    `outputs` has (name, shape without the batch, activation) of each, in the order of what `predict` returns.
    """

    name: str
    predict: Callable[[Any], Sequence[Any]]
    shapes: inputs.Shapes
    outputs: tuple[tuple[str, tuple[int | None, ...], str | None], ...]
    preprocessing: str | dict[str, Any] | None
    dataset: str | None
    weights: str | None
    random_weights: bool = False
    threads: int | None = None
    tflite: TFLiteModel | None = None
    input_scaling: InputScaling | None = None

    @property
    def classes(self) -> int | None:
        """Number of values of the first output; None for indices of an unknown number of classes."""
        _, shape, activation = self.outputs[0]
        return None if activation == "argmax" and shape[-1] is None else math.prod(size or 1 for size in shape)


def open_network(
    stack: contextlib.ExitStack,
    model: FileOrModel,
    threads: int,
    seed: int,
    imports: Sequence[AnyPath],
    output: int | None,
    session: DeviceSession | None,
    progress: Progress,
) -> ScoredNetwork:
    """Open a .tflite file, whose runner the `stack` closes, or a Keras model; see `evaluate_model`."""
    if is_tflite(model):
        return open_file(stack, os.fspath(model), threads, output, session)
    if output is not None:
        raise InputError("`output` chooses one of the outputs of a .tflite file; pass such a file", argument="output")
    loaded = inputs.open_model(model, progress, seed=seed, imports=imports)
    from keras_nin import keras_graph

    network = loaded.model

    def predict(batch: Any) -> list[Any]:
        import keras

        return keras.tree.flatten(network.predict_on_batch(keras_graph.pack_inputs(network, batch)))

    return ScoredNetwork(
        os.fspath(model) if isinstance(model, str | os.PathLike) else loaded.name,
        predict,
        inputs.input_shapes(network),
        keras_graph.describe_outputs(network),
        loaded.preprocessing,
        loaded.dataset,
        loaded.weights,
        loaded.random,
        input_scaling=loaded.input_scaling,
    )


def open_file(
    stack: contextlib.ExitStack, path: str, threads: int, output: int | None, session: DeviceSession | None
) -> ScoredNetwork:
    """Open a .tflite file, `output` one of its outputs or None for all, on this machine or the device of a session."""
    from keras_nin.tflite.isolated import IsolatedRunner
    from keras_nin.tflite.reader import read_checked_model

    runner_class = session.runner_class() if session else IsolatedRunner
    runner = stack.enter_context(runner_class(read_checked_model(path), threads, output))
    record = inputs.read_export_record(path)
    outputs = runner.describe_outputs()
    return ScoredNetwork(
        path,
        runner.predict_outputs if output is None else lambda batch: [runner.predict(batch)],
        runner.sample_shapes(),
        outputs if output is None else outputs[output : output + 1],
        record.get("preprocessing"),
        inputs.recorded_test_source(record),
        record.get("weights"),
        threads=threads,
        tflite=runner.model,
    )
