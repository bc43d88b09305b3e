"""How far the answers of a network without some channels are from those of the original one, measured.

The saliency of channels adds up what values change one by one. Together they change more: errors at many positions of
an early layer average out, those of a late layer do not. Each group is therefore narrowed alone, and its saliency is
scaled to what that changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from keras_nin.keras_graph import TensorSlot
from keras_nin.prune.channels import ChannelGraph
from keras_nin.prune.importance import Moments, RankedGroup, is_classifier, is_softmax
from keras_nin.prune.selection import narrower_widths
from keras_nin.prune.surgery import remove_channels

if TYPE_CHECKING:
    import keras

Answers = Sequence[npt.NDArray[Any]]
_TEMPERATURE = 2.0  # that of the fine-tuning
_LEAST = 1e-4  # of the largest saliency of the groups: less has no ratio


def scale_saliency(
    graph: ChannelGraph,
    groups: Sequence[RankedGroup],
    moments: Mapping[TensorSlot, Moments],
    samples: tuple[Any, Any],
    multiple: int,
    update: Callable[[str], object] | None = None,
) -> list[RankedGroup]:
    """Return the groups with their saliency as a divergence of the answers, measured with half of the channels.

    A group whose first half changes nothing gets the scale that is in the middle of the others.

    Args:
        graph, groups, moments: of the network, as `rank_channels` gives them.
        samples: images, or arrays by the name of the input, on which the layers of the narrowed network are fitted,
            and others on which its answers are compared.
        multiple: the numbers of channels that are tried are multiples of that.
        update: called with a line of text for each group.
    """
    fitted, compared = samples
    expected = find_answers(graph.trace.model, compared)
    predicted, measured = np.zeros((2, len(groups)))
    for number, entry in enumerate(groups):
        size = len(entry.order)
        count = size - min(narrower_widths(size, multiple), key=lambda width: abs(width - size / 2))
        predicted[number] = entry.saliency[count]
        if not count or not np.isfinite(predicted[number]):
            continue
        if update is not None:
            update(f"{number + 1} of {len(groups)}: {entry.group}")
        narrowed = remove_channels(graph, entry.order[:count], moments, fitted)
        measured[number] = measure_divergence(expected, find_answers(narrowed, compared))
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = measured / predicted
    is_known = np.isfinite(scales) & (predicted > _LEAST * predicted[np.isfinite(predicted)].max(initial=0))
    if not is_known.any():
        return list(groups)
    scales = np.where(is_known, scales, np.median(scales[is_known]))
    return [
        dataclasses.replace(entry, saliency=entry.saliency * max(float(scale), 1e-12))
        for entry, scale in zip(groups, scales, strict=True)
    ]


def find_answers(model: keras.Model, samples: Any) -> list[npt.NDArray[Any]]:
    """Return the outputs of a network on images, or on arrays by the name of the input."""
    import keras

    return [np.asarray(output) for output in keras.tree.flatten(model(samples, training=False))]


def measure_divergence(expected: Answers, answers: Answers) -> float:
    """Return how far answers are from the expected ones, both lists of outputs (B, ...).

    For a classifier this is the Kullback-Leibler divergence at a temperature of 2, which the fine-tuning minimizes too;
    for other outputs it is the sum of their mean squared differences, each as a share of its expected mean square.
    """
    if is_classifier(expected):
        first, second = (_soften(outputs[0], is_softmax(expected[0])) for outputs in (expected, answers))
        return float(_TEMPERATURE**2 * (np.exp(first) * (first - second)).sum(1).mean())
    total = 0.0
    for first, second in zip(expected, answers, strict=True):
        if first.dtype.kind == "f":
            first, second = first.astype(np.float64), second.astype(np.float64)
            total += float(np.square(second - first).mean() / max(np.square(first).mean(), 1e-30))
    return total


def _soften(outputs: npt.NDArray[Any], is_probability: bool) -> npt.NDArray[np.float64]:
    """Return the logarithms of the probabilities at the temperature, (B, classes) as the scores `outputs`."""
    from scipy.special import log_softmax

    logits = outputs.astype(np.float64)
    logits = np.log(np.maximum(logits, 1e-7)) if is_probability else logits
    return np.asarray(log_softmax(logits / _TEMPERATURE, axis=1))
