"""What two .tflite files answer to the same images."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING, Any, Literal

from keras_nin.errors import InputError
from keras_nin.workflows import SILENT, Progress, inputs
from keras_nin.workflows.inputs import ImageSource, ImageSources
from keras_nin.workflows.scored_network import ScoredNetwork, open_file

if TYPE_CHECKING:
    import numpy as np

    from keras_nin.audit.comparison import OutputDifference
    from keras_nin.heads import Head


def compare_file_outputs(
    first: str,
    second: str,
    test: ImageSource,
    *,
    test_count: int | Literal["all"] | None = None,
    labels: str | None = None,
    preprocessing: Any = None,
    crop: float | None = None,
    task: str | None = None,
    seed: int = 0,
    threads: int = 1,
    progress: Progress = SILENT,
) -> tuple[OutputDifference, ...]:
    """Run two .tflite files on the same images and return how each of their outputs differs.

    Each file gets its own input size and the preprocessing of its record, unless one is chosen; where one was exported
    with arrays as they are, so does a file without a record. Outputs are paired by name, else in their order. Arguments
    are those of `keras_nin.compare_models`.

    Raises:
        InputError: images that do not fit, or outputs that cannot be compared.
    """
    import numpy as np

    from keras_nin.heads import fitting_targets, make_heads, targets_of

    records = [inputs.read_export_record(path) for path in (first, second)]
    recorded = [inputs.recorded_preprocessing(record) for record in records]
    if preprocessing is None and not all(records):  # arrays that are fed as they are can be fed in no other way
        preprocessing = next(filter(None, recorded), None)
    with contextlib.ExitStack() as stack:
        networks = [open_file(stack, path, threads, None, None) for path in (first, second)]
        order = _pair_outputs(*networks)
        images = []
        for network, own in zip(networks, recorded, strict=True):
            requested = own if preprocessing is None else preprocessing
            sources = ImageSources(None, test, labels, seed, preprocessing=requested, recorded=True)
            dataset = sources.dataset("test", None, network.shapes)
            chosen = inputs.choose_preprocessing(network.preprocessing, dataset, requested, crop)
            selected = inputs.select_test_images(dataset, network.shapes, chosen, count=test_count, seed=seed)
            selected = selected.fit_masks(network.outputs)
            images.append(selected.sample_for(network.tflite, test_count, seed) if network.tflite else selected)
        indices = min((selected.indices for selected in images), key=len)
        images = [dataclasses.replace(selected, indices=indices) for selected in images]
        received = []
        for network, selected in zip(networks, images, strict=True):
            message = f"Running {os.path.basename(network.name)}"
            parts = [network.predict(batch) for batch, _ in selected.batches(message, progress)]
            received.append([np.concatenate(values) for values in zip(*parts, strict=True)])
    answers = images[0].dataset.answers_of(indices)
    names = [name for name, _, _ in networks[0].outputs]
    differences = []
    for position, head in enumerate(make_heads(networks[0].outputs, task, answers)):
        a, b = received[0][position], received[1][order[position]].reshape(received[0][position].shape)
        targets = fitting_targets(head, targets_of(answers, names[position], names))
        targets = None if targets is None else head.check_targets(targets, images[0].dataset.name)
        differences.append(_compare_output(head, a, b, targets))
    return tuple(differences)


def _pair_outputs(first: ScoredNetwork, second: ScoredNetwork) -> list[int]:
    """Return for each output of the first network the position of the second's that it is compared with."""
    names, others = ([name for name, _, _ in network.outputs] for network in (first, second))
    order = list(range(len(names)))
    if len(names) > 1 and set(names) == set(others):
        order = [others.index(name) for name in names]
    shapes = [[[size for size in shape if size != 1] for _, shape, _ in network.outputs] for network in (first, second)]
    if len(names) != len(others) or shapes[0] != [shapes[1][position] for position in order]:
        listed = [", ".join(f"{name!r} {shape}" for name, shape, _ in network.outputs) for network in (first, second)]
        raise InputError(
            f"Expected files with the same outputs: {listed[0]}. Received: {second.name!r} with {listed[1]}"
        )
    return order


def _compare_output(head: Head, a: np.ndarray, b: np.ndarray, targets: np.ndarray | None) -> OutputDifference:
    import numpy as np

    from keras_nin.audit.comparison import OutputDifference
    from keras_nin.metrics import snr_db

    reasons = {"a": head.describe_missing_information(a), "b": head.describe_missing_information(b)}
    silent = [f"{side}: {reason}" for side, reason in reasons.items() if reason]
    decided = head.decisions(a), head.decisions(b)
    known = [decisions for decisions in decided if decisions is not None]
    with np.errstate(all="ignore"):
        difference = b.astype(np.float64) - a
        return OutputDifference(
            head.name,
            head.task,
            len(a),
            float(np.mean((known[0] == known[1]) & (known[0] >= 0))) if known and not silent else None,
            float(np.abs(difference).max()),
            float(np.sqrt(np.mean(difference**2))),
            snr_db(a, b),
            None if targets is None else {side: head.scores(values, targets) for side, values in (("a", a), ("b", b))},
            "; ".join(silent) or None,
        )
