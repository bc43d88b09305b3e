"""The records that describe a .tflite file."""

import dataclasses
import functools
import math
import pathlib
from typing import TYPE_CHECKING, Any

from keras_nin.errors import InputError
from keras_nin.tflite import schema

if TYPE_CHECKING:
    import numpy as np

FLOAT_DTYPES = frozenset(name for name, _ in schema.DTYPES if name.startswith(("float", "bfloat", "complex")))
# What `TFLiteModel.data` returns as arrays of the same type; int4 comes as int8. Strings and bfloat16 have no NumPy
# counterpart.
_NUMPY_DTYPES = frozenset(
    ["float16", "float32", "float64", "complex64", "complex128", "bool"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
# Operators behind an activation that leave its meaning, and activations by the names that Keras has for them.
_MOVING = frozenset(
    ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE")
    + ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
)
_ACTIVATIONS = {"SOFTMAX": "softmax", "LOGISTIC": "sigmoid"} | {
    op: op.lower() for op in ("TANH", "RELU", "RELU6", "ELU", "LEAKY_RELU", "PRELU", "HARD_SWISH")
}


@dataclasses.dataclass(frozen=True, slots=True)
class QuantizationParameters:
    """How integers stand for reals: ``real = scale * (integer - zero_point)``.

    One scale and zero point for the whole tensor, or one of each for every position along dimension `axis`; a
    third-party file may have another number of them (`TFLiteTensor.has_misfit_scales`).
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int


@dataclasses.dataclass(frozen=True, slots=True)
class TFLiteTensor:
    """One tensor of a subgraph.

    Attributes:
        shape_signature: the shape with -1 for a dynamic dimension; None where the file has none.
        buffer, buffer_bytes: number of the buffer with its values, and their size; 0 for a tensor that is computed.
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
    def is_constant(self) -> bool:
        """Whether the values are in the file."""
        return self.buffer_bytes > 0

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int | None:
        """Bytes the tensor takes in memory; None for strings, resources and variants."""
        bits = schema.BITS[self.dtype]
        return None if bits is None else -(-self.elements * bits // 8)

    @property
    def is_index(self) -> bool:
        """Whether it holds integers or booleans that stand for no real numbers, such as the numbers of classes."""
        return self.quantization is None and self.dtype not in FLOAT_DTYPES

    @property
    def has_misfit_scales(self) -> bool:
        """Whether LiteRT refuses the scales: not one, nor one for each position along their dimension, or no such."""
        if self.quantization is None or not self.shape:
            return self.quantization is not None and self.quantization.axis < 0
        axis, count = self.quantization.axis, len(self.quantization.scales)
        return not 0 <= axis < len(self.shape) or count not in (1, self.shape[axis])

    @property
    def scale(self) -> float | None:
        """Scale of integers, the first of several; None for other values."""
        return None if self.quantization is None or self.dtype in FLOAT_DTYPES else self.quantization.scales[0]


@dataclasses.dataclass(frozen=True, slots=True)
class TFLiteOperator:
    """One operator.

    Attributes:
        op: the builtin's name in capitals, or the custom code where `is_custom`.
        inputs: tensor indexes; -1 is an optional input left out.
        options: the builtin's options by name, as far as `schema.OPERATOR_OPTIONS` lists them.
        subgraph: number of its subgraph.
    """

    index: int
    op: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any] = dataclasses.field(hash=False)
    is_custom: bool = False
    subgraph: int = 0

    @property
    def called_subgraphs(self) -> tuple[int, ...]:
        """Numbers of the subgraphs that it runs: condition and body of a WHILE, branches of an IF."""
        called = [value for name, value in self.options.items() if name.endswith("subgraph_index")]
        return (*called, *(self.options.get("branch_subgraph_indices") or ()))


@dataclasses.dataclass(frozen=True)
class TFLiteSubgraph:
    """Tensors, operators in execution order, and the tensor indexes of inputs and outputs."""

    name: str
    tensors: tuple[TFLiteTensor, ...]
    operators: tuple[TFLiteOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @functools.cached_property
    def producers(self) -> dict[int, TFLiteOperator]:
        """The operator that computes each tensor, by the tensor's index."""
        return {tensor: operator for operator in self.operators for tensor in operator.outputs}

    def activation_of(self, index: int) -> str | None:
        """Return the activation behind which a tensor lies, in lower case such as "softmax"; None for none.

        Casts and operators that only move values, or resize a map, are passed over.
        """
        operator = self.producers.get(index)
        while operator is not None and operator.op in _MOVING:
            operator = self.producers.get(operator.inputs[0])
        if operator is None:
            return None
        if operator.op in _ACTIVATIONS:
            return _ACTIVATIONS[operator.op]
        fused = operator.options.get("fused_activation", "NONE")
        return None if fused == "NONE" else str(fused).lower()

    def stored_constant(self, index: int) -> TFLiteTensor | None:
        """Return the constant that an operator reads at a tensor index, as the file stores it; None for a computed one.

        Weights stored as float16, and some stored as int8, pass through a DEQUANTIZE first.
        """
        cast = self.producers.get(index)
        if cast is not None and cast.op == "DEQUANTIZE":
            index = cast.inputs[0]
        return self.tensors[index] if index >= 0 and self.tensors[index].is_constant else None


@dataclasses.dataclass(frozen=True, slots=True)
class TFLiteSignature:
    """A named way to call a subgraph: (name, tensor index) of every input and output."""

    key: str
    subgraph: int
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class TFLiteModel:
    """A whole .tflite file, parsed once by `keras_nin.tflite.reader.read_model`.

    Attributes:
        version: version of the schema.
        metadata: names of its metadata entries.
        buffer_spans: (first byte, number of bytes) of each buffer.
        path: where it was read from; None for bytes.
    """

    subgraphs: tuple[TFLiteSubgraph, ...]
    description: str
    version: int
    size_bytes: int
    signatures: tuple[TFLiteSignature, ...]
    metadata: tuple[str, ...]
    content: bytes = dataclasses.field(repr=False)
    buffer_spans: tuple[tuple[int, int], ...] = dataclasses.field(repr=False)
    path: pathlib.Path | None = dataclasses.field(default=None, compare=False)

    @property
    def main(self) -> TFLiteSubgraph:
        """The subgraph that a plain invocation runs."""
        return self.subgraphs[0]

    @property
    def variables(self) -> int:
        """Number of tensors that keep their values from run to run, as those of SVDF and LSTM do."""
        return sum(tensor.is_variable for subgraph in self.subgraphs for tensor in subgraph.tensors)

    @functools.cached_property
    def batch(self) -> int:
        """Samples that a run takes: the size of the first axis that all inputs and outputs share, otherwise 1."""
        shapes = [(self.main.tensors[index].shape, 2) for index in self.main.inputs]
        shapes += [(self.main.tensors[index].shape, 1) for index in self.main.outputs]
        sizes = {shape[0] if len(shape) >= rank else 1 for shape, rank in shapes}
        return max(sizes.pop(), 1) if len(sizes) == 1 else 1

    @property
    def source(self) -> str:
        """The file in messages: its path in quotes."""
        return "the bytes given" if self.path is None else repr(str(self.path))

    def scores_of(self, index: int) -> TFLiteTensor | None:
        """Return the tensor of scores from whose last axis the integers at a tensor index are chosen by an ARG_MAX.

        None for any other tensor. Casts and operators that only move values are passed over.
        """
        main, operator = self.main, self.main.producers.get(index)
        while operator is not None and operator.op in ("CAST", "EXPAND_DIMS", "RESHAPE", "SQUEEZE"):
            operator = main.producers.get(operator.inputs[0])
        if operator is None or operator.op != "ARG_MAX" or not main.tensors[operator.inputs[1]].is_constant:
            return None
        scores, axis = main.tensors[operator.inputs[0]], int(self.data(main.tensors[operator.inputs[1]]).flat[0])
        return scores if axis in (-1, len(scores.shape) - 1) else None

    def describe_output(self, index: int, shape: tuple[int, ...]) -> tuple[tuple[int | None, ...], str | None]:
        """Return (shape without the batch, activation) of an output of this shape, at a tensor index.

        Integers without a scale are "argmax", with the shape of the scores that they choose from: (..., classes), with
        None for an unknown number.
        """
        if not self.main.tensors[index].is_index:
            return shape, self.main.activation_of(index)
        scores = self.scores_of(index)
        shape = shape[:-1] if shape[-1:] == (1,) else shape
        return (*shape, None if scores is None else scores.shape[-1]), "argmax"

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the file as a hexadecimal string."""
        import hashlib

        return hashlib.sha256(self.content).hexdigest()

    def data(self, tensor: TFLiteTensor) -> "np.ndarray":
        """Return the values of a constant tensor, of any subgraph, as a read-only array of its dtype and shape.

        Raises:
            InputError: the tensor is computed, sparse, or of a dtype that NumPy has no counterpart for.
        """
        import numpy as np

        if tensor.dtype == "int4" and tensor.is_constant and not tensor.is_sparse:  # two in a byte, the first one low
            packed = np.frombuffer(self.content, np.int8, -(-tensor.elements // 2), self.buffer_spans[tensor.buffer][0])
            pairs = np.stack([np.left_shift(packed, 4) >> 4, packed >> 4], axis=1)
            return pairs.ravel()[: tensor.elements].reshape(tensor.shape)
        if tensor.dtype not in _NUMPY_DTYPES or tensor.is_sparse:
            kind = f"sparse {tensor.dtype}" if tensor.is_sparse else tensor.dtype
            raise InputError(f"Expected a dense tensor of a NumPy dtype. Received: {tensor.name!r}, which is {kind}")
        if tensor.elements and not tensor.is_constant:
            raise InputError(f"Expected a constant tensor. Received: {tensor.name!r}, which has no values in the file")
        first = self.buffer_spans[tensor.buffer][0] if tensor.elements else 0
        dtype = np.dtype(tensor.dtype).newbyteorder("<")
        return np.frombuffer(self.content, dtype, tensor.elements, first).reshape(tensor.shape)


def float_operators(model: TFLiteModel) -> tuple[TFLiteOperator, ...]:
    """Return the operators, of all subgraphs, that read or write a tensor of real or complex numbers.

    An integer network has none: QUANTIZE and DEQUANTIZE at a float input or output count, and so does the
    DEQUANTIZE of weights kept as float16.
    """
    return tuple(
        operator
        for subgraph in model.subgraphs
        for operator in subgraph.operators
        if any(
            subgraph.tensors[index].dtype in FLOAT_DTYPES for index in operator.inputs + operator.outputs if index >= 0
        )
    )
