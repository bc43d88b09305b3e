"""A network as plain records, whichever format it was read from."""

import functools
import math
from collections import defaultdict
from dataclasses import dataclass

from keras_nin.audit import operations as ops


@dataclass(frozen=True)
class ActivationTensor:
    """An activation tensor, channels last; elements of a Keras model have 32 bits, whatever its policy."""

    index: int
    shape: tuple[int, ...]
    bits: int = 32

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return -(-self.elements * self.bits // 8)

    @property
    def channels(self) -> int:
        """Size of the last axis; 1 for a scalar."""
        return self.shape[-1] if self.shape else 1

    @property
    def spatial(self) -> tuple[int, int] | None:
        """(height, width), with height 1 for a sequence; None for a vector."""
        return {4: self.shape[1:3], 3: (1, *self.shape[1:2])}.get(len(self.shape))

    @property
    def positions(self) -> int:
        """Number of positions of a map, a volume or a sequence; 1 for a vector."""
        return math.prod(self.shape[1:-1])


@dataclass(frozen=True)
class LayerInfo:
    """One call of one layer; a weight counts at its first call.

    Attributes:
        op: Keras name of the standard operation that the layer performs; None if the reader cannot vouch for one, such
            as for a user's own class that is called "Conv2D".
        scope: path of the nested models around the layer.
        kernel, strides, dilation: (height, width); (depth, height, width) of a volume.
        per_position: whether a normalization works on the channels of each position alone.
        own_macs: MACs of a layer of several products, such as a recurrent one, which its reader has counted.
        state_macs: those of them that multiply a recurrent layer's first state, zeros unless it is given another.
        batch: samples in its tensors; MACs are those of one.
    """

    name: str
    type: str
    op: str | None
    scope: str = ""
    inputs: tuple[ActivationTensor, ...] = ()
    outputs: tuple[ActivationTensor, ...] = ()
    kernel: tuple[int, ...] | None = None
    strides: tuple[int, ...] = (1, 1)
    dilation: tuple[int, ...] = (1, 1)
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
    own_macs: int | None = None
    state_macs: int = 0
    batch: int = 1

    @functools.cached_property
    def kind(self) -> str:
        """Kind of the layer; pointwise is a 1x1 kernel in one group, at any stride, and a Dense on a map (rank 4)."""
        if self.op in ops.DEPTHWISE:
            return "depthwise"
        if self.op in ops.TRANSPOSED or self.op == "Conv3DTranspose":
            return "spatial"
        if self.op == "Dense":
            return "pointwise" if len(self.inputs[0].shape) == 4 else "dense"
        if self.op == "EinsumDense":
            return "dense"
        if self.op in ops.CONVOLUTIONS or self.op == "Conv3D":
            if 1 < self.groups == self.input_channels:
                return "depthwise"
            # A 1x1 kernel in groups mixes only some of the channels: it is neither pointwise nor spatial.
            return "spatial" if self.kernel_size > 1 else "pointwise" if self.groups == 1 else "other"
        kind = ops.KINDS.get(self.op or "", "other")
        # `x + 3` leaves an Add with one tensor: nothing is merged there.
        return "other" if kind == "merge" and len(self.inputs) < 2 else kind

    @property
    def path(self) -> str:
        """Name of the layer after the path of its models: ``"outer/inner"``."""
        return f"{self.scope}/{self.name}" if self.scope else self.name

    @property
    def base_name(self) -> str:
        """Name without the half of a separable convolution and without the number of the call."""
        return self.name.split("/")[0].split(" (")[0]

    @property
    def is_linear(self) -> bool:
        """Whether no activation is fused into the layer."""
        return self.activation in (None, "linear")

    @property
    def is_identity(self) -> bool:
        """Whether the layer returns its input unchanged at inference."""
        return self.op in ops.PASS_THROUGH or (self.op == "Activation" and self.activation == "linear")

    @property
    def input_channels(self) -> int:
        return self.inputs[0].channels

    @property
    def output_channels(self) -> int:
        return self.outputs[0].channels

    @property
    def kernel_size(self) -> int:
        """Positions that the kernel covers; 1 if there is none."""
        return math.prod(self.kernel or ())

    @property
    def output_elements(self) -> int:
        return sum(tensor.elements for tensor in self.outputs)

    @property
    def moved_bytes(self) -> int:
        """Bytes of all inputs, outputs and weights, once each."""
        tensors = {tensor.index: tensor for tensor in (*self.inputs, *self.outputs)}
        return sum(tensor.nbytes for tensor in tensors.values()) + self.weight_bytes


@dataclass(frozen=True)
class LayerGraph:
    """A network: its layers in execution order, the tensors that enter and leave it, and the samples in these.

    Attributes:
        planned_bytes: memory for activations that a chip's compiler has laid out in the file; 0 where none has.
        notes: what a reader of the figures must know.
    """

    name: str
    inputs: tuple[ActivationTensor, ...]
    outputs: tuple[ActivationTensor, ...]
    layers: tuple[LayerInfo, ...]
    batch: int = 1
    planned_bytes: int = 0
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def consumers(self) -> dict[int, tuple[LayerInfo, ...]]:
        """Tensor index -> the layers that read the tensor, in execution order."""
        consumers = defaultdict(list)
        for layer in self.layers:
            for index in dict.fromkeys(tensor.index for tensor in layer.inputs):
                consumers[index].append(layer)
        return {index: tuple(layers) for index, layers in consumers.items()}

    @functools.cached_property
    def producers(self) -> dict[int, LayerInfo]:
        """Tensor index -> the layer that writes the tensor; inputs of the network have none."""
        return {tensor.index: layer for layer in self.layers for tensor in layer.outputs}

    @functools.cached_property
    def output_indices(self) -> frozenset[int]:
        """Indices of the tensors that leave the network."""
        return frozenset(tensor.index for tensor in self.outputs)

    def is_output(self, layer: LayerInfo) -> bool:
        return any(tensor.index in self.output_indices for tensor in layer.outputs)

    def readers(self, layer: LayerInfo) -> list[LayerInfo]:
        """Return the layers that read an output of `layer`."""
        return [reader for tensor in layer.outputs for reader in self.consumers.get(tensor.index, ())]
