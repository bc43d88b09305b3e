"""Is the exported file as good as the model? Both run on the same images; differences are in quantisation steps."""

import dataclasses
import math

import numpy as np

from keras_nin.errors import InputError
from keras_nin.metrics import top_k


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
        checks: what was judged, with its limits.
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
        InputError: no images, or files whose input or output does not have the model's shape.
    """
    reference, outputs, labels = _run(model, runners, batches)
    return [
        compare(
            reference,
            output,
            labels,
            scale=runner.output.scale,
            depth=_quantized_operators(runner.graph),
            source=source,
            limits=None if random_weights else (limits or Limits()),
        )
        for runner, output in zip(runners, outputs, strict=True)
    ]


def _quantized_operators(graph):
    """Return how many operators of a file give a quantised output: through how many the rounding may add up."""
    main = graph.main
    return sum(main.tensors[operator.outputs[0]].quantization is not None for operator in main.operators)


def _run(model, runners, batches):
    reference, outputs, labels = [], [[] for _ in runners], []
    for images, batch_labels in batches:
        reference.append(np.asarray(model.predict_on_batch(images)))
        for runner, collected in zip(runners, outputs, strict=True):
            collected.append(runner.predict(images))
        labels.append(batch_labels)
    if not reference:
        raise InputError("Expected at least one image to verify on. Received: none")
    labels = None if labels[0] is None else np.concatenate(labels)
    return np.concatenate(reference), [np.concatenate(output) for output in outputs], labels


def compare(reference, output, labels=None, *, scale=None, depth=1, source="", limits=None):
    """Compare the outputs of a file with those of the model.

    Args:
        reference: the model's outputs (N, ...), float.
        output: the file's outputs, same shape, dequantised.
        labels: (N,) true classes, or None.
        scale: the file's output scale; None for a float file.
        depth: number of quantised operators between input and output.
        source: name of the images' source.
        limits: `Limits` of agreement and accuracy; None does not judge them.

    Returns:
        `Parity`.

    Raises:
        InputError: the shapes differ.
    """
    if reference.shape != output.shape:
        raise InputError(f"Expected outputs of shape {reference.shape[1:]}. Received: a file with {output.shape[1:]}")
    step = scale or _nominal_step(reference)
    difference = (output.astype(np.float64) - reference) / step
    classes = reference.ndim == 2 and reference.shape[1] > 1
    scored = labels is not None and classes
    parity = Parity(
        source=source,
        images=len(reference),
        step=float(step),
        max_steps=float(np.abs(difference).max()),
        rms_steps=float(np.sqrt(np.mean(difference**2))),
        agreement=float(np.mean(reference.argmax(1) == output.argmax(1))) if classes else None,
        model_top1=top_k(reference, labels, 1) if scored else None,
        file_top1=top_k(output, labels, 1) if scored else None,
        model_top5=top_k(reference, labels, 5) if scored else None,
        file_top5=top_k(output, labels, 5) if scored else None,
        checks=(),
    )
    return dataclasses.replace(parity, checks=tuple(_checks(parity, scale is None, depth, limits)))


def _nominal_step(reference):
    """Return the scale that an 8-bit output over the range of `reference` would have."""
    spread = float(reference.max() - reference.min())
    return max(spread, 1e-6 * float(np.abs(reference).max()), float(np.finfo(np.float32).tiny)) / 255


def _checks(parity, is_float, depth, limits):
    if is_float:
        # The same float32 sums in another order: an error of about sqrt(terms) * 2**-24 of the value in each layer.
        # With 5,000 terms a sum and 26 layers that is 1e-4 of the range, which is 255 steps: 0.03. Twice that fails.
        yield _at_most("max_steps", parity.max_steps, 0.06)
    else:
        # Each quantised operator rounds its output (variance 1/12 step) and sees rounded weights (about as much
        # again), and later layers carry the error on at the scale of their own range: variance depth / 6 at the
        # output. Three times its root leaves room for ranges that are used unevenly.
        yield _at_most("rms_steps", parity.rms_steps, 3 * math.sqrt(max(depth, 1) / 6))
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
    """Return `value` with every float cut to five significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
