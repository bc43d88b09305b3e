"""The rules of the Edge TPU compiler: constraints with their sources, the compiler's status and a fix."""

import dataclasses
import enum
from collections.abc import Callable

from keras_nin.edge.edgetpu import operators as constraints
from keras_nin.edge.edgetpu.operators import BoundOperator
from keras_nin.edge.edgetpu.records import Status


class Origin(enum.StrEnum):
    """Kind of evidence: the vendor's documentation, its issue tracker, or files with the compiler's result."""

    DOCUMENT = "document"
    REPORT = "report"
    DATA = "data"


@dataclasses.dataclass(frozen=True)
class RuleSource:
    """The evidence for a rule.

    Attributes:
        kind: kind of evidence.
        text: the page, the report or a description of the data.
        learned_from: repositories whose files taught the rule, for `Origin.DATA`.
        refuted_by: repositories whose files show that a documented limit does not apply.
    """

    kind: Origin
    text: str
    learned_from: tuple[str, ...] = ()
    refuted_by: tuple[str, ...] = ()

    def applies(self, without: str | None = None) -> bool:
        """Return whether the rule applies, given the evidence without that of the repository `without`."""
        refuted = any(repository != without for repository in self.refuted_by)
        known = self.kind is not Origin.DATA or any(repository != without for repository in self.learned_from)
        return known and not refuted


@dataclasses.dataclass(frozen=True)
class OperatorRule:
    """A limit of some operators.

    Attributes:
        name: name of the rule.
        operators: operators that the rule is about; empty for all.
        violation: constraint: returns how an operator violates the limit, or None.
        limit: the limit as a sentence.
        status: status that the compiler gives.
        fix: how to get the operator mapped.
        source: the evidence.
    """

    name: str
    operators: tuple[str, ...]
    violation: Callable[[BoundOperator], str | None]
    limit: str
    status: Status
    fix: str
    source: RuleSource

    def explain_refusal(self, operator: BoundOperator) -> str | None:
        """Return why the rule refuses an operator, None where it does not."""
        if self.operators and operator.op not in self.operators:
            return None
        violation = self.violation(operator)
        return f"{violation}: {self.limit}" if violation else None


# Coral, TensorFlow models on the Edge TPU: supported operations, by their TensorFlow Lite names.
_SUPPORTED_NAMES = """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED L2_NORMALIZATION LOGISTIC
MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PACK PAD PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1 RESHAPE
RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE SQUEEZE
STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM
"""
SUPPORTED_OPERATORS = frozenset(_SUPPORTED_NAMES.split())

_REPLACEMENTS = {
    "LOCAL_RESPONSE_NORMALIZATION": "replace LRN with BatchNormalization, or export its integer form",
    "LEAKY_RELU": "use ReLU, or PReLU with shared_axes=[1, 2]",
    **dict.fromkeys(("ELU", "GELU"), "use ReLU"),
    "HARD_SWISH": "use ReLU6",
    "DEQUANTIZE": "export with int8 or uint8 output (io=int8)",
    **dict.fromkeys(("ARG_MAX", "ARG_MIN", "TOPK_V2"), "remove it and compute it on the host"),
    "BATCH_MATMUL": "use FULLY_CONNECTED or a 1x1 convolution with constant weights",
    "DIV": "multiply by the reciprocal",
    "SPLIT_V": "use SPLIT into equal parts, or slices",
    "PADV2": "use PAD, which pads with zeros",
    "DEPTH_TO_SPACE": "use a transposed convolution or a resize",
    **dict.fromkeys(("GATHER", "GATHER_ND"), "use slices and concatenations where the indexes are constant"),
}

_FORESTS, _CLASSIFIERS = "R-e-d-a-X/EdgeTPU-and-NCS", "ricardodeazambuja/LibrEdgeTPU"
_PAGE = RuleSource(Origin.DOCUMENT, "Coral, TensorFlow models on the Edge TPU: supported operations")
_MODEL_PAGE = RuleSource(Origin.DOCUMENT, "Coral, TensorFlow models on the Edge TPU: model requirements")
_POOLS = ("AVERAGE_POOL_2D", "MAX_POOL_2D")
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
_RESIZES = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")


def _report(number: int | str, text: str) -> RuleSource:
    return RuleSource(Origin.REPORT, f"google-coral/edgetpu issue {number}: {text}")


def _refuted(by: tuple[str, ...]) -> RuleSource:
    return RuleSource(Origin.DOCUMENT, _PAGE.text, refuted_by=by)


def _unknown_operation(operator: BoundOperator) -> str | None:
    return None if operator.op in SUPPORTED_OPERATORS else "it is not among the supported operations"


def _rule(
    name: str,
    operators: str | tuple[str, ...],
    violation: Callable[[BoundOperator], str | None],
    limit: str,
    fix: str,
    source: RuleSource = _PAGE,
    status: Status = Status.UNSPECIFIED,
) -> OperatorRule:
    operators = (operators,) if isinstance(operators, str) else operators
    return OperatorRule(name, operators, violation, limit, status, fix, source)


# The first rule that refuses an operator determines its status.
# fmt: off
RULES = (
    # all operators
    _rule("float-boundary", "QUANTIZE", constraints.reads_float,
          "the Edge TPU has no floating point; a float input is quantized on the CPU",
          "export with int8 or uint8 input (io=int8)",
          RuleSource(Origin.DATA, "every QUANTIZE of float32 stayed on the CPU with this status, every one of "
                     "8-bit integers was mapped", ("Jorgitou98/EdgeTPU-QuantRL-Evaluation", _FORESTS,
                     "system-software-lab/nrf20", "zye1996/facemesh_EdgeTPU"))),
    _rule("data-type", (), constraints.unsupported_dtype, "the Edge TPU computes only with int8 and uint8",
          "quantize it, or run it on the host", _MODEL_PAGE, Status.DATA_TYPE),
    _rule("unknown-operation", (), _unknown_operation, "the Edge TPU runs only those", "", _PAGE, Status.NOT_SUPPORTED),
    _rule("rank", (), constraints.unsupported_rank, "only the three innermost dimensions may be above 1",
          "export with batch 1, and fewer dimensions", _MODEL_PAGE, Status.RANK),
    # convolutions, fully-connected layers
    _rule("dilation", _CONVOLUTIONS, constraints.uneven_dilation, "dilation must be the same in x and y",
          "use the same dilation in both"),
    _rule("constant-weights", (*_CONVOLUTIONS, "TRANSPOSE_CONV"), constraints.computed_weights,
          "parameters must be constant", "make the weights constants", _MODEL_PAGE),
    _rule("constant-bias", ("FULLY_CONNECTED", *_CONVOLUTIONS), constraints.computed_bias, "biases must be constant",
          "make the bias a constant", _MODEL_PAGE),
    _rule("weights-format", "FULLY_CONNECTED", constraints.shuffled_weights, "only the default format is supported",
          "convert without shuffled weights"),
    _rule("vector-output", "FULLY_CONNECTED", constraints.matrix_output, "the output must be one-dimensional",
          "use a 1x1 convolution", _refuted((_FORESTS,)), Status.BATCH),
    # pooling, concatenation
    _rule("pool-activation", _POOLS, constraints.fused_activation, "pooling has no fused activation",
          "put the activation before the pool"),
    _rule("concatenation-activation", "CONCATENATION", constraints.fused_activation, "it has no fused activation",
          "put the activation before it"),
    _rule("concatenation-constant", "CONCATENATION", constraints.concatenated_constant,
          "with a constant input it takes two inputs, and the constant must be all zeros", "pad instead"),
    # reductions
    _rule("reduced-batch", _REDUCTIONS, constraints.reduced_batch, "the batch dimension cannot be reduced",
          "reduce on the host"),
    _rule("reduced-first", _REDUCTIONS, constraints.reduced_first, "the first dimension cannot be reduced",
          "reduce on the host", _refuted((_FORESTS,))),
    _rule("mean-channels", "MEAN", constraints.odd_channels, "channels must be a multiple of 4 to be averaged",
          "use a multiple of 4 channels"),
    _rule("mean-size", "MEAN", constraints.large_mean, "a 256x128 map was not mapped, a 64x128 map was",
          "pool before the mean, or split the map",
          _report(461, "MEAN of 1x256x128x3 on the CPU, of 1x64x128x3 mapped")),
    # packing, splitting: packing or padding the batch to more than 1 is an unsupported rank
    _rule("packed-first", "PACK", constraints.packed_first, "tensors cannot be packed along the first dimension",
          "concatenate instead", _refuted((_FORESTS,))),
    _rule("split-batch", "SPLIT", constraints.split_first, "the batch dimension cannot be split",
          "split another dimension, or slice", _PAGE, Status.BATCH),
    _rule("expanded-batch", "EXPAND_DIMS", constraints.expanded_batch, "no batch dimension can be added",
          "reshape instead"),
    _rule("prelu-alpha", "PRELU", constraints.wide_alpha, "slopes must be one-dimensional",
          "PReLU with shared_axes=[1, 2]"),
    # resizing
    _rule("resized-point", _RESIZES, constraints.resized_point, "input and output must be three-dimensional",
          "broadcast with a multiplication or a concatenation, or remove the branch",
          RuleSource(Origin.DATA, "RESIZE_BILINEAR of 1x1x1x256 on the CPU in both DeepLab files; documented: "
                     "\"input/output is a 3-dimensional tensor\"", ("google-coral/test_data", "google-coral/edgetpu"))),
    _rule("resized-size", _RESIZES, constraints.large_resize,
          "an output of 1024x1024x3 was not mapped, one of 128x128x32 was", "resize a smaller map, or on the host",
          _report("31 and 597", "to 512x512x32 (compiler 2) and 1024x1024x3 (16) on the CPU, to 128x128x32 mapped")),
    # softmax, squeeze, slices
    _rule("softmax-rows", "SOFTMAX", constraints.softmax_of_rows, "the input must be one-dimensional",
          "run it on the host", _PAGE, Status.BATCH),
    _rule("softmax-documented", "SOFTMAX", constraints.softmax_above_documented,
          f"at most {constraints.MAX_DOCUMENTED_SOFTMAX:,} elements", "run it on the host", _refuted((_CLASSIFIERS,))),
    _rule("softmax-mapped", "SOFTMAX", constraints.softmax_above_mapped,
          f"{constraints.MAX_MAPPED_SOFTMAX:,} elements are the most known to be mapped",
          "run it on the host",
          RuleSource(Origin.DATA, "softmax over 16,384 elements was mapped in five files, a larger one in none",
                     (_CLASSIFIERS,))),
    _rule("squeeze", "SQUEEZE", constraints.squeezed_inner, "only leading dimensions of 1 can be removed",
          "reshape instead"),
    _rule("stride", "STRIDED_SLICE", constraints.strided, "strides must be 1", "pool or convolve with a stride"),
    _rule("slice-mask", "STRIDED_SLICE", constraints.masked, "ellipsis and new axis are not supported",
          "slice all dimensions"),
)
# fmt: on


def find_refusal(operator: BoundOperator, without: str | None = None) -> tuple[OperatorRule, str] | None:
    """Return the first rule that refuses an operator, and why; None where the operator can be mapped.

    Args:
        operator: the operator.
        without: a repository whose evidence is ignored.
    """
    for rule in RULES:
        if rule.source.applies(without) and (why := rule.explain_refusal(operator)):
            return rule, why
    return None


def suggest_fix(rule: OperatorRule, operator: BoundOperator) -> str | None:
    """Return how to get a refused operator mapped, None where no way is known."""
    boundary = {"QUANTIZE": operator.data, "DEQUANTIZE": operator.output}.get(operator.op)
    main = operator.model.main
    if boundary is not None and boundary.index not in (*main.inputs, *main.outputs):
        return "quantize the floating-point operator beside it"
    replacement = None if operator.op in SUPPORTED_OPERATORS else _REPLACEMENTS.get(operator.op)
    return replacement or rule.fix or None
