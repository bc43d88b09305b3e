"""Is the exported file as good as the model? Both run on the same images; differences are in quantisation steps."""

import dataclasses
import math

import numpy as np

from keras_nin.errors import InputError
from keras_nin.export import tolerance
from keras_nin.metrics import top_k

# The same float32 sums in another order: an error of about sqrt(terms) * 2**-24 of the value in each layer. With 5,000
# terms a sum and 26 layers that is 1e-4 of the range, which is 255 steps: 0.03. Twice that fails.
FLOAT_LIMIT = 0.06
# The error is one of the values and not of what differs between them: below this share of their size no range counts.
_LEAST_RANGE = 0.1


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a file has to hold to pass.

    Attributes:
        min_agreement: smallest share of images on which the largest output is the same as the model's.
        max_drop: largest loss of top-1 accuracy against the model, in points.

    Both are judged only where the weights are trained: the outputs of random weights lie closer together than one step.
    """

    min_agreement: float = 0.90
    max_drop: float = 2.5


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison of a measured value with its limit; `holds` says whether it is on the right side."""

    name: str
    value: float
    limit: float
    holds: bool


@dataclasses.dataclass(frozen=True)
class Parity:
    """How an exported file compares with its model on the same images.

    Attributes:
        source: where the images come from.
        images: how many.
        step: one quantisation step of the output: the file's output scale, or for a float file what the scale of an
            8-bit output over the model's range would be.
        max_steps, rms_steps: largest and root mean square difference of the outputs, in steps.
        agreement: share of images with the same largest output; None where the output is no vector of classes.
        model_top1, file_top1, model_top5, file_top5: accuracies; None without labels (top 5: with 5 classes or fewer).
        checks: what was judged, with its limits. Of a float file "max_steps". Of a quantised file
            "channel_rms_steps", the worst channel of the output or of what goes into a closing softmax or sigmoid, in
            steps of that tensor, and "closing_steps", the error of the closing function itself. With trained weights
            also "agreement" and "accuracy_drop_points".
    """

    source: str
    images: int
    step: float
    max_steps: float
    rms_steps: float
    agreement: float | None
    model_top1: float | None
    file_top1: float | None
    model_top5: float | None
    file_top5: float | None
    checks: tuple[Check, ...]

    @property
    def holds(self):
        """Whether every check holds."""
        return all(check.holds for check in self.checks)

    def to_json(self):
        """Return the record as a dictionary; rounded, so that the same command writes the same bytes again."""
        return _rounded({**dataclasses.asdict(self), "holds": self.holds})


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
    places = [tolerance.judged(runner.graph) for runner in runners]
    inner = [_before_closing(runner, place) for runner, place in zip(runners, places, strict=True)]
    reference, outputs, values, labels = _run(model, runners, inner, batches)
    return [
        compare(
            reference,
            output,
            labels,
            place=place,
            values=value,
            source=source,
            limits=None if random_weights else (limits or Limits()),
        )
        for output, place, value in zip(outputs, places, values, strict=True)
    ]


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


def compare(reference, output, labels=None, *, place=None, values=None, source="", limits=None):
    """Compare the outputs of a file with those of the model.

    Args:
        reference: the model's outputs (N, ...), float.
        output: the file's outputs, same shape, dequantised.
        labels: (N,) true classes, or None.
        place: the `keras_nin.export.tolerance.Judged` tensor of a quantised file; None for a float file.
        values: the file's values there, same shape; None where `place` is the output.
        source: name of the images' source.
        limits: `Limits` of agreement and accuracy; None does not judge them.

    Returns:
        `Parity`.

    Raises:
        InputError: the shapes differ, or a label is beyond the classes.
    """
    if reference.shape != output.shape:
        raise InputError(f"Expected outputs of shape {reference.shape[1:]}. Received: a file with {output.shape[1:]}")
    classes = reference.ndim == 2 and reference.shape[1] > 1
    scored = labels is not None and classes
    if scored:
        check_labels(labels, reference.shape[1], source)
    with np.errstate(all="ignore"):  # NaN and infinity are found by the checks
        step = place.step if place else _nominal_step(reference)
        difference = (output.astype(np.float64) - reference) / step
        parity = Parity(
            source=source,
            images=len(reference),
            step=float(step),
            max_steps=float(np.abs(difference).max()),
            rms_steps=float(np.sqrt(np.mean(difference**2))),
            agreement=_agreement(reference, output) if classes else None,
            model_top1=top_k(reference, labels, 1) if scored else None,
            file_top1=top_k(output, labels, 1) if scored else None,
            model_top5=top_k(reference, labels, 5) if scored else None,
            file_top5=top_k(output, labels, 5) if scored else None,
            checks=(),
        )
        checks = [*_difference_checks(parity, reference, output, place, values), *_limit_checks(parity, limits)]
    return dataclasses.replace(parity, checks=tuple(checks))


def check_labels(labels, classes, source):
    """Raise `InputError` where one of `labels` is none of the `classes` (a number) of a network."""
    largest = int(np.max(labels))
    if largest >= classes:
        raise InputError(
            f"Expected labels from 0 to {classes - 1}, one for each output of the network. "
            f"Received: {largest} in {source!r}"
        )


def _nominal_step(reference):
    """Return the scale that an 8-bit output over the range of `reference` would have."""
    spread = float(reference.max()) - float(reference.min())
    size = float(np.abs(reference).max())
    return float(np.maximum(np.maximum(spread, _LEAST_RANGE * size), np.finfo(np.float32).tiny)) / 255


def _agreement(reference, output):
    """Return the share of rows with the same largest output; a row with NaN agrees with nothing."""
    finite = np.isfinite(reference).all(1) & np.isfinite(output).all(1)
    return float(np.mean(finite & (reference.argmax(1) == output.argmax(1))))


def _difference_checks(parity, reference, output, place, values):
    if place is None:
        yield _at_most("max_steps", parity.max_steps, FLOAT_LIMIT)
        return
    values = output if values is None else values
    yield _at_most("channel_rms_steps", tolerance.worst_channel(reference, values, place), place.limit)
    if place.closing:
        error = tolerance.closing_error(output, values, place)
        yield _at_most("closing_steps", error, tolerance.CLOSING_LIMIT)


def _limit_checks(parity, limits):
    if limits is None:
        return
    if parity.agreement is not None:
        holds = parity.agreement >= limits.min_agreement
        yield Check("agreement", parity.agreement, limits.min_agreement, holds)
    if parity.file_top1 is not None:
        drop = round(100 * (parity.model_top1 - parity.file_top1), 6)
        yield _at_most("accuracy_drop_points", drop, limits.max_drop)


def _at_most(name, value, limit):
    return Check(name, float(value), float(limit), bool(value <= limit))


def _rounded(value):
    """Return `value` with every float cut to five significant digits; JSON has no NaN or infinity, they become None."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
