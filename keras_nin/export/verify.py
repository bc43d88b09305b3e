"""Is the exported file as good as the model? Both run on the same images; differences are in quantisation steps."""

import numpy as np

from keras_nin.errors import InputError
from keras_nin.export import tolerance
from keras_nin.export.parity import Check, Limits, Parity, check_labels, compare, with_weights
from keras_nin.export.weights import worst_weight

__all__ = ["Check", "Limits", "Parity", "check_labels", "compare", "verify"]


def verify(model, runners, batches, *, source, random_weights=False, limits=None):
    """Run a model and its exported files on the same images and compare the outputs.

    Args:
        model: keras.Model.
        runners: `keras_nin.tflite.run.Runner` of each file.
        batches: iterable of (float32 images (N, H, W, C), labels (N,) or None), as `Dataset.batches` gives them.
        source: name of the images' source, for the record.
        random_weights: whether agreement and accuracy mean nothing because the weights are random.
        limits: `Limits`; None takes the defaults.

    Returns:
        List of `Parity`, one for each runner.

    Raises:
        InputError: no images, files whose input or output does not have the model's shape, or labels beyond its
            classes.
    """
    for runner in runners:
        _check_shapes(model, runner)
    limits = limits or Limits()
    limits = limits.untrained() if random_weights else limits
    places = [tolerance.judged(runner.graph) for runner in runners]
    inner = [_before_closing(runner, place) for runner, place in zip(runners, places, strict=True)]
    reference, outputs, values, labels = _run(model, runners, inner, batches)
    found = []
    for runner, output, place, value in zip(runners, outputs, places, values, strict=True):
        parity = compare(reference, output, labels, place=place, values=value, source=source, limits=limits)
        found.append(with_weights(parity, worst_weight(model, runner.graph), limits))
    return found


def _check_shapes(model, runner):
    pairs = (
        ("input", model.inputs[0].shape, runner.input.shape),
        ("output", model.outputs[0].shape, runner.output.shape),
    )
    for name, expected, received in pairs:
        expected, received = tuple(expected[1:]), tuple(received[1:])
        if len(expected) != len(received) or any(
            size not in (None, other) for size, other in zip(expected, received, strict=True)
        ):
            raise InputError(
                f"Expected a file with the {name} {expected} of {model.name!r}. "
                f"Received: {runner.source} with {received}"
            )


def _before_closing(runner, place):
    """Return a `Runner` of the same file up to its closing softmax or sigmoid, None where it has none."""
    if place is None or place.closing is None:
        return None
    return type(runner)(tolerance.ending_at(runner.graph, place.tensor), runner.threads)


def _run(model, runners, inner, batches):
    """Return (the model's outputs, each file's outputs, its values before the closing or None, the labels or None)."""
    active = [runner for runner in (*runners, *inner) if runner is not None]
    reference, outputs, labels = [], {id(runner): [] for runner in active}, []
    for images, batch_labels in batches:
        reference.append(np.asarray(model.predict_on_batch(images)))
        for runner in active:
            outputs[id(runner)].append(runner.predict(images))
        labels.append(batch_labels)
    if not reference:
        raise InputError("Expected at least one image to verify on. Received: none")
    joined = {key: np.concatenate(parts) for key, parts in outputs.items()}
    return (
        np.concatenate(reference),
        [joined[id(runner)] for runner in runners],
        [joined.get(id(runner)) for runner in inner],
        None if labels[0] is None else np.concatenate(labels),
    )
