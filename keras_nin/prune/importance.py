"""How much each channel matters, from activations and gradients on calibration images.

A removed channel is predicted from those that stay. What is left unexplained, E, changes the loss by g E to first
order, g being the gradient: the saliency of a channel is the mean of (g E)^2 over images and positions. A channel that
is always zero, one that nothing reads and a copy of another one have none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from keras_nin.errors import InputError
from keras_nin.keras_graph import TensorSlot, input_specs
from keras_nin.prune.channels import ChannelGraph, ChannelGroup

if TYPE_CHECKING:
    import keras

Matrix = npt.NDArray[np.float64]

# Of the mean energy of a channel: what rounds at float32, and what keeps few samples from explaining everything.
_RIDGE, _RIDGE_PER_CHANNEL = 1e-6, 0.05
_LARGEST_INPUT = 8192  # channels of an input whose moments are measured: a matrix of 512 MiB


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """What calibration images say of the inputs of a layer, C channels.

    Attributes:
        second: mean products of two channels over positions and images (C, C).
        sensitivity: squared gradients of the loss, summed over positions, a mean over images (C,).
        samples: number of positions of all images.
    """

    second: Matrix
    sensitivity: npt.NDArray[np.float64]
    samples: int

    def __add__(self, other: Moments) -> Moments:
        samples = self.samples + other.samples
        share = self.samples / samples
        second = share * self.second + (1 - share) * other.second
        return Moments(second, self.sensitivity + other.sensitivity, samples)

    def ridge(self, count: int) -> float:
        """Return what is added to the energy of each of `count` channels that predict others."""
        mean = float(np.mean(np.diag(self.second))) or 1.0
        return mean * (_RIDGE + _RIDGE_PER_CHANNEL * count / self.samples)

    def predict(self, kept: npt.NDArray[np.bool_]) -> Matrix:
        """Return the matrix (kept, removed) that predicts the removed channels from the others, by least squares."""
        square = self.second[np.ix_(kept, kept)]
        square = square + self.ridge(len(square)) * np.eye(len(square))
        return np.asarray(np.linalg.solve(square, self.second[np.ix_(kept, ~kept)]), np.float64)


def measure_moments(
    graph: ChannelGraph, batches: Iterable[tuple[Any, npt.NDArray[Any] | None]], seed: int = 0
) -> dict[TensorSlot, Moments]:
    """Return the moments of every input of a layer that mixes channels.

    The loss of a classifier is the cross-entropy with the labels, without labels with its own top-1 class. That of any
    other network is a projection of its outputs on random signs, which is a squared error to first order.

    Args:
        graph: of a network in TensorFlow.
        batches: (images, labels) with class indices (B,), or None for labels.
        seed: of the signs.

    Raises:
        InputError: another backend than TensorFlow, or labels that the network does not have.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        received = f"KERAS_BACKEND={keras.backend.backend()}, for which gradients of activations are not implemented"
        raise InputError(f"Expected Keras on TensorFlow to measure the importance of channels. Received: {received}")
    slots = {slot for entry in graph.layers.values() if entry.outputs is not None for slot in entry.slots}
    slots = {slot for slot in slots if len(graph.shapes[slot][0]) <= _LARGEST_INPUT}
    sums: dict[TensorSlot, list[Any]] = {}
    generator, images = np.random.default_rng(seed), 0
    for batch, labels in batches:
        values = _run_backwards(graph, slots, batch, labels, generator)
        for slot, (activations, gradients) in values.items():
            count, channels = len(activations), len(graph.shapes[slot][0])
            flat = activations.reshape(-1, channels)
            energy = np.square(gradients.reshape(count, -1, channels).astype(np.float64)).sum((0, 1))
            entry = sums.setdefault(slot, [np.zeros((channels, channels)), np.zeros(channels), 0])
            entry[0] += flat.T @ flat
            entry[1] += energy
            entry[2] += len(flat)
        images += len(next(iter(values.values()))[0]) if values else 0
    return {slot: Moments(second / count, energy / images, count) for slot, (second, energy, count) in sums.items()}


def _run_backwards(
    graph: ChannelGraph, slots: set[TensorSlot], batch: Any, labels: Any, generator: np.random.Generator
) -> dict[TensorSlot, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Return the activations at `slots` and the gradients of the loss with respect to them."""
    import keras
    import tensorflow as tf

    trace = graph.trace
    is_named = isinstance(batch, dict)
    arrays = [batch[spec.name] for spec in input_specs(trace.model)] if is_named else [batch]
    values: dict[TensorSlot, Any] = dict(zip(trace.inputs, map(tf.convert_to_tensor, arrays), strict=True))
    watched: dict[TensorSlot, Any] = {}
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        for slot in slots & values.keys():
            tape.watch(values[slot])
            watched[slot] = values[slot]
        for call in trace.calls:
            arguments: Any = keras.tree.map_structure(
                lambda value: values[value] if isinstance(value, TensorSlot) else value, (call.args, call.kwargs)
            )
            outputs = keras.tree.flatten(call.operation(*arguments[0], **arguments[1]))
            for slot, output in zip(call.outputs, outputs, strict=True):
                if slot in slots:
                    output = tf.identity(output)
                    tape.watch(output)
                    watched[slot] = output
                values[slot] = output
        loss = _loss(trace.model, [values[slot] for slot in trace.outputs], labels, generator)
    gradients = tape.gradient(loss, list(watched.values()), unconnected_gradients=tf.UnconnectedGradients.ZERO)
    pairs = zip(watched.values(), gradients, strict=True)
    return {
        slot: (np.asarray(value), np.asarray(tf.convert_to_tensor(gradient)))
        for slot, (value, gradient) in zip(watched, pairs, strict=True)
    }


def _loss(model: keras.Model, outputs: list[Any], labels: Any, generator: np.random.Generator) -> Any:
    import keras

    values = [np.asarray(output) for output in outputs]
    if is_classifier(values):
        targets = values[0].argmax(1) if labels is None else np.asarray(labels)
        if targets.min() < 0 or targets.max() >= values[0].shape[1]:
            received = f"{targets.min()} to {targets.max()}"
            raise InputError(f"Expected labels from 0 to {values[0].shape[1] - 1}. Received: {received}")
        from_logits = not is_softmax(values[0])
        losses = keras.losses.sparse_categorical_crossentropy(targets, outputs[0], from_logits=from_logits)
        return keras.ops.sum(losses)
    total: Any = 0.0
    for output in outputs:
        if "float" in str(output.dtype):
            signs = generator.choice((-1.0, 1.0), tuple(output.shape)).astype("float32")
            total = total + keras.ops.sum(keras.ops.cast(output, "float32") * signs)
    return total


def is_classifier(outputs: Sequence[npt.NDArray[Any]]) -> bool:
    """Whether the outputs of a network are one tensor of scores of classes (B, classes)."""
    (first, *others) = outputs
    return not others and first.ndim == 2 and first.shape[-1] > 1 and "float" in str(first.dtype)


def is_softmax(scores: npt.NDArray[Any]) -> bool:
    """Whether scores (B, classes) are probabilities."""
    return bool(scores.min() >= 0 and np.allclose(scores.sum(1), 1, atol=1e-2))


@dataclasses.dataclass(frozen=True, eq=False)
class RankedGroup:
    """A group with its channels in the order in which they are removed.

    Attributes:
        order: numbers of the channels, the least important one first.
        saliency: what the first n of them cost together, for n from 0 (len(order) + 1,).
    """

    group: ChannelGroup
    order: npt.NDArray[np.int64]
    saliency: npt.NDArray[np.float64]


def rank_channels(graph: ChannelGraph, group: ChannelGroup, moments: Mapping[TensorSlot, Moments]) -> RankedGroup:
    """Return the channels of a group in the order in which they are removed, all but one."""
    count = len(group.channels)
    parts = []  # of each input: its elimination, and the positions of the group's channels with their members
    for slot, moment in moments.items():
        channels, _ = graph.shapes[slot]
        positions, members = np.nonzero(channels[:, None] == group.channels[None, :])
        if len(positions):
            parts.append((_Elimination(moment), positions, members))
    left, order, saliency = np.ones(count, bool), [], [0.0]
    for _ in range(count - 1):
        scores, energies = np.zeros((2, count))
        for part, positions, members in parts:
            scores += np.bincount(members, part.unexplained[positions] * part.effect[positions], count)
            energies += np.bincount(members, part.energies[positions] * part.sensitivity[positions], count)
        member = next(member for member in np.lexsort((energies, scores)) if left[member])
        left[member] = False
        for part, positions, members in parts:
            part.remove(positions[members == member])
        order.append(int(group.channels[member]))
        saliency.append(saliency[-1] + float(scores[member]))
    order.append(int(group.channels[left][0]))
    saliency.append(np.inf)
    return RankedGroup(group, np.array(order, np.int64), np.array(saliency))


class _Elimination:
    """Removes inputs of a layer one by one, each predicted from those that are left.

    With the inverse of the second moments, 1 / inverse[c, c] is the energy of channel c that the others do not explain.
    A removed channel that was predicted from c gets that energy too, by the square of its coefficient.
    """

    def __init__(self, moments: Moments) -> None:
        second = moments.second
        self.ridge = moments.ridge(len(second))
        self.inverse = np.linalg.inv(second + self.ridge * np.eye(len(second)))
        self.energies, self.sensitivity = np.diag(second).copy(), moments.sensitivity
        self.effect = moments.sensitivity.copy()  # of an unexplained energy, on what is removed too
        self.coefficients = np.zeros_like(second)  # (left, removed)
        self.removed: list[int] = []
        self._unexplained: npt.NDArray[np.float64] | None = None

    @property
    def unexplained(self) -> npt.NDArray[np.float64]:
        """Energy of each channel that those left do not explain."""
        if self._unexplained is None:
            left = np.maximum(1 / np.maximum(np.diag(self.inverse), 1e-300) - self.ridge, 0)
            self._unexplained = np.minimum(left, self.energies)
        return self._unexplained

    def remove(self, members: npt.NDArray[np.int64]) -> None:
        """Remove some of the channels."""
        for member in members.tolist():
            column = self.inverse[:, member].copy()
            pivot = column[member]
            prediction = -column / pivot
            prediction[member] = 0
            prediction[self.removed] = 0
            if self.removed:
                weights = self.coefficients[member, self.removed]
                self.coefficients[:, self.removed] += np.outer(prediction, weights)
            self.coefficients[member] = 0
            self.coefficients[:, member] = prediction
            self.removed.append(member)
            self.inverse -= np.outer(column, column) / pivot
            self.inverse[member, member] = 1 / self.ridge
            squares = np.square(self.coefficients[:, self.removed])
            self.effect = self.sensitivity + squares @ self.sensitivity[self.removed]
            self._unexplained = None
