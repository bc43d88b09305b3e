"""A network as plain records: what a reader hands to the counting, whatever format it read."""

import functools
import math
from collections import defaultdict
from dataclasses import dataclass


@dataclass(frozen=True)
class ActivationTensor:
    """One activation tensor: an index that is unique in its graph, and a fixed shape with batch 1, channels last.

    `bits` is the size of an element: of a file as it is stored, 32 for a Keras model (float32, whatever its policy).
    """

    index: int
    shape: tuple[int, ...]
    bits: int = 32

    @property
    def elements(self):
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self):
        """Bytes in memory."""
        return -(-self.elements * self.bits // 8)

    @property
    def channels(self):
        """Extent of the last axis; 1 for a scalar."""
        return self.shape[-1] if self.shape else 1

    @property
    def spatial(self):
        """(height, width), with height 1 for a sequence; None where there are no positions."""
        if len(self.shape) == 4:
            return self.shape[1:3]
        return (1, self.shape[1]) if len(self.shape) == 3 else None


@dataclass(frozen=True)
class LayerInfo:
    """One use of one layer.

    `op` is the Keras name of the standard operation that the layer performs, or None where the reader cannot vouch for
    one (a user's own class, even if it is called "Conv2D"): such a layer is never counted by guesswork. `type` is the
    name to show. `scope` is the path of the models that the layer lies in, empty at the top. Weights that an earlier
    use has brought already are not counted again. `kernel`, `strides` and `dilation` are (height, width). `padding` is
    "same" or "valid", None where the operation has none; `use_bias` says whether a bias is added. `equation` is that of
    an einsum. `per_position` says of a normalisation whether it works by or over the channels of one position alone.
    """

    name: str
    type: str
    op: str | None
    scope: str = ""
    inputs: tuple[ActivationTensor, ...] = ()
    outputs: tuple[ActivationTensor, ...] = ()
    kernel: tuple[int, int] | None = None
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    padding: str | None = None
    use_bias: bool = False
    interpolation: str | None = None
    activation: str | None = None
    equation: str | None = None
    per_position: bool = True
    params: int = 0
    trainable_params: int = 0
    weight_bytes: int = 0

    @property
    def path(self):
        """Name with the models it lies in: ``"outer/inner"``."""
        return f"{self.scope}/{self.name}" if self.scope else self.name

    @property
    def is_linear(self):
        """Whether no activation is fused into the layer."""
        return self.activation in (None, "linear")

    @property
    def output_elements(self):
        """Elements of all outputs together."""
        return sum(tensor.elements for tensor in self.outputs)

    @property
    def moved_bytes(self):
        """Bytes of all inputs, outputs and weights, once each."""
        tensors = {tensor.index: tensor for tensor in (*self.inputs, *self.outputs)}
        return sum(tensor.nbytes for tensor in tensors.values()) + self.weight_bytes


@dataclass(frozen=True)
class LayerGraph:
    """A network: its layers in execution order, and the tensors that enter and leave it."""

    name: str
    inputs: tuple[ActivationTensor, ...]
    outputs: tuple[ActivationTensor, ...]
    layers: tuple[LayerInfo, ...]

    @functools.cached_property
    def consumers(self):
        """Tensor index -> the layers that read that tensor, in execution order."""
        consumers = defaultdict(list)
        for layer in self.layers:
            for index in dict.fromkeys(tensor.index for tensor in layer.inputs):
                consumers[index].append(layer)
        return {index: tuple(layers) for index, layers in consumers.items()}

    @functools.cached_property
    def producers(self):
        """Tensor index -> the layer that gives that tensor; the network's inputs have none."""
        return {tensor.index: layer for layer in self.layers for tensor in layer.outputs}

    @functools.cached_property
    def output_indices(self):
        """Indices of the tensors that leave the network."""
        return frozenset(tensor.index for tensor in self.outputs)

    def readers(self, layer):
        """The layers that read any output of `layer`."""
        return [reader for tensor in layer.outputs for reader in self.consumers.get(tensor.index, ())]
