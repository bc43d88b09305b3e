"""The records that describe a .tflite file."""

import dataclasses
import math

from keras_nin.errors import InputError
from keras_nin.tflite import schema

# What `Graph.data` turns into arrays. Values of less than a byte, strings and bfloat16 have no NumPy counterpart.
_NUMPY_DTYPES = frozenset(
    ["float16", "float32", "float64", "complex64", "complex128", "bool"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)


@dataclasses.dataclass(frozen=True, slots=True)
class QuantizationParameters:
    """How integers stand for reals: ``real = scale * (integer - zero_point)``.

    One scale and zero point for the whole tensor, or one of each for every position along dimension `axis`.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int


@dataclasses.dataclass(frozen=True, slots=True)
class TFLiteTensor:
    """One tensor of a subgraph.

    `shape_signature` has -1 where a dimension is open, and is None where the file has none. `buffer_bytes` is the
    size of the values in the file, 0 for a tensor that is computed.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...] | None
    dtype: str
    quantization: QuantizationParameters | None
    buffer: int
    buffer_bytes: int
    is_variable: bool
    is_sparse: bool

    @property
    def is_constant(self):
        """Whether the values are in the file."""
        return self.buffer_bytes > 0

    @property
    def elements(self):
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self):
        """Bytes the tensor takes in memory; None for strings, resources and variants."""
        bits = schema.BITS[self.dtype]
        return None if bits is None else -(-self.elements * bits // 8)


@dataclasses.dataclass(frozen=True, slots=True)
class TFLiteOperator:
    """One operator: `op` is the builtin's name in capitals, or the custom code where `is_custom`.

    `inputs` and `outputs` are tensor indexes of subgraph number `subgraph`; -1 is an optional input left out.
    """

    index: int
    op: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict = dataclasses.field(hash=False)
    is_custom: bool = False
    subgraph: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class TFLiteSubgraph:
    """Tensors, and operators in execution order."""

    name: str
    tensors: tuple[TFLiteTensor, ...]
    operators: tuple[TFLiteOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class TFLiteSignature:
    """A named way to call a subgraph: (name, tensor index) of every input and output."""

    key: str
    subgraph: int
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class TFLiteModel:
    """A whole file; `metadata` holds the names of its metadata entries."""

    subgraphs: tuple[TFLiteSubgraph, ...]
    description: str
    version: int
    size_bytes: int
    signatures: tuple[TFLiteSignature, ...]
    metadata: tuple[str, ...]
    content: bytes = dataclasses.field(repr=False)
    buffer_spans: tuple[tuple[int, int], ...] = dataclasses.field(repr=False)

    @property
    def main(self):
        """The subgraph that a plain invocation runs."""
        return self.subgraphs[0]

    def data(self, tensor):
        """Return the values of a constant tensor as a read-only NumPy array of its dtype and shape.

        Args:
            tensor: a `Tensor` of any subgraph of this graph.

        Raises:
            InputError: the tensor is computed, sparse, or of a dtype that NumPy has no counterpart for.
        """
        import numpy as np

        if tensor.dtype not in _NUMPY_DTYPES or tensor.is_sparse:
            kind = f"sparse {tensor.dtype}" if tensor.is_sparse else tensor.dtype
            raise InputError(f"Expected a dense tensor of a NumPy dtype. Received: {tensor.name!r}, which is {kind}")
        if tensor.elements and not tensor.is_constant:
            raise InputError(f"Expected a constant tensor. Received: {tensor.name!r}, which has no values in the file")
        first, _ = self.buffer_spans[tensor.buffer]
        dtype = np.dtype(tensor.dtype).newbyteorder("<")
        return np.frombuffer(self.content, dtype, tensor.elements, first if tensor.elements else 0).reshape(
            tensor.shape
        )
