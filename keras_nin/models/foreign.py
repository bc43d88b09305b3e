"""Weights of others by path: legacy Keras .h5, .safetensors and PyTorch state dictionaries into a built model."""

import dataclasses

import numpy as np

from keras_nin.models import foreign_files, foreign_graph, foreign_names, legacy_h5
from keras_nin.models.weight_files import Misfit

READERS = {
    ".h5": legacy_h5.open_h5,
    ".safetensors": foreign_files.open_safetensors,
    ".pt": foreign_files.open_pytorch,
    ".pth": foreign_files.open_pytorch,
}
# BatchNormalization's epsilon in PyTorch, where nobody chose another.
PYTORCH_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Import:
    """What became of a foreign file: whose convention it has, where each tensor went, and what to know about it."""

    convention: str
    rows: tuple[foreign_names.Placed, ...]
    notes: tuple[str, ...] = ()


def load(model, path, layer_names=None, partial=False):
    """Set every weight of `model` from a foreign file, all checked before any is changed.

    Args:
        model: a built keras.Model of plain layers.
        path: pathlib.Path of the file; its ending says how it is read.
        layer_names: the model's table of foreign layer names; see `foreign_names`.
        partial: let the file hold more than the model has, as for a network without its top.

    Returns:
        `Import`.

    Raises:
        InputError: an unreadable file. A file that does not fit is a `Misfit` whose message names everything: weights
            without a tensor, tensors without a place, and those of another shape.
    """
    network, table = foreign_graph.network(model), layer_names or {}
    with READERS[path.suffix](path) as source:
        readers, rows, problems = foreign_names.translate(source, network, table)
        if partial:
            problems.unplaced = []
        if problems:
            raise Misfit(
                f"Expected {path.name!r} ({source.convention}, {len(source.tensors)} tensors) to hold the weights of "
                f"{model.name}. Received: {problems}"
            )
        arrays = {name: np.ascontiguousarray(read()) for name, read in readers.items()}
    foreign_names.fold(arrays, network)
    for layer in model.layers:
        for weight in layer.weights:
            weight.assign(arrays[layer.name, weight.name])
    return Import(source.convention, tuple(rows), source.notes + _epsilon_note(source, rows, network))


def _epsilon_note(source, rows, network):
    """Return what to know where a PyTorch file of one's own has normalisations: their epsilon is not in it."""
    own = {row.layer for row in rows if row.layer and row.tensor.rpartition(".")[0].endswith(row.layer)}
    others = {network.epsilons[layer] for layer in own & set(network.epsilons)} - {PYTORCH_EPSILON}
    if source.convention != "PyTorch" or not others:
        return ()
    here = ", ".join(f"{epsilon:g}" for epsilon in sorted(others))
    return (f"the file does not hold BatchNormalization's epsilon: {here} here, by default {PYTORCH_EPSILON:g} there",)
