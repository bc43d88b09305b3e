"""What a rule is: a limit, where it comes from, what the compiler says of it, and what to do."""

import dataclasses
from collections.abc import Callable

from keras_nin.edge.edgetpu import operators as check
from keras_nin.edge.edgetpu import records

DOCUMENT, REPORT, DATA = "document", "report", "data"


@dataclasses.dataclass(frozen=True)
class RuleSource:
    """Where a rule comes from.

    Attributes:
        kind: "document" (the vendor's documentation), "report" (the vendor's issue tracker), or "data" (learned from
            files with the compiler's result).
        text: which page, report or evidence.
        learned_from: for data, the repositories whose files taught the rule.
        refuted_by: repositories whose files show that a documented limit does not hold.
    """

    kind: str
    text: str
    learned_from: tuple[str, ...] = ()
    refuted_by: tuple[str, ...] = ()

    def passed(self, without=None):
        """Return whether the rule applies for one who has not seen the files of the repository `without`."""
        refuted = any(repository != without for repository in self.refuted_by)
        known = self.kind != DATA or any(repository != without for repository in self.learned_from)
        return known and not refuted


@dataclasses.dataclass(frozen=True)
class OperatorRule:
    """A limit of some operators.

    Attributes:
        name: of the rule.
        operators: names of the operators; empty for all.
        breaks: from a `Use` to what breaks the limit, or None.
        limit: the limit as a sentence.
        status: the compiler's words.
        fix: what to do.
        source: `Source`.
    """

    name: str
    operators: tuple[str, ...]
    breaks: Callable
    limit: str
    status: str
    fix: str
    source: RuleSource

    def why(self, use):
        """Return why the rule refuses an operator, None where it does not."""
        if self.operators and use.op not in self.operators:
            return None
        broken = self.breaks(use)
        return f"{broken}: {self.limit}" if broken else None


# MERGED The operations that the Edge TPU knows, and what may stand for others.

# Coral, TensorFlow models on the Edge TPU: supported operations, by TensorFlow Lite's names.
_SUPPORTED_NAMES = """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED L2_NORMALIZATION LOGISTIC
MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PACK PAD PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1 RESHAPE
RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE SQUEEZE
STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM
"""
SUPPORTED_OPERATORS = frozenset(_SUPPORTED_NAMES.split())

_REPLACEMENTS = {
    "LOCAL_RESPONSE_NORMALIZATION": "replace LRN by BatchNormalization, or export its integer form",
    "LEAKY_RELU": "use ReLU, or PReLU with shared_axes=[1, 2]",
    **dict.fromkeys(("ELU", "GELU"), "use ReLU"),
    "HARD_SWISH": "use ReLU6",
    "DEQUANTIZE": "export with int8 or uint8 output (--io int8)",
    **dict.fromkeys(("ARG_MAX", "ARG_MIN", "TOPK_V2"), "leave it out and do it on the host"),
    "BATCH_MATMUL": "use FULLY_CONNECTED or a 1x1 convolution with constant weights",
    "DIV": "multiply by the reciprocal",
    "SPLIT_V": "use SPLIT into equal parts, or slices",
    "PADV2": "use PAD, which pads with zeros",
    "DEPTH_TO_SPACE": "use a transposed convolution or a resize",
    **dict.fromkeys(("GATHER", "GATHER_ND"), "use slices and concatenations where the indexes are constant"),
}


def suggest_replacement(op):
    """Return what may stand for an operation that is not supported, None where nothing is known."""
    return None if op in SUPPORTED_OPERATORS else _REPLACEMENTS.get(op)


# MERGED The table of rules, in the order in which they are asked: the first that refuses an operator gives its status.

_FORESTS, _CLASSIFIERS = "R-e-d-a-X/EdgeTPU-and-NCS", "ricardodeazambuja/LibrEdgeTPU"
_PAGE = RuleSource(DOCUMENT, "Coral, TensorFlow models on the Edge TPU: supported operations")
_MODEL_PAGE = RuleSource(DOCUMENT, "Coral, TensorFlow models on the Edge TPU: model requirements")
_POOLS = ("AVERAGE_POOL_2D", "MAX_POOL_2D")
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_PRODUCTS = (*_CONVOLUTIONS, "FULLY_CONNECTED", "TRANSPOSE_CONV")
_REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
_RESIZES = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")


def _report(number, text):
    return RuleSource(REPORT, f"google-coral/edgetpu issue {number}: {text}")


def _refuted(by):
    return RuleSource(DOCUMENT, _PAGE.text, refuted_by=by)


def _unknown_operation(use):
    return None if use.op in SUPPORTED_OPERATORS else "it is not among the supported operations"


def _rule(name, operators, breaks, limit, fix, source=_PAGE, words=records.UNSPECIFIED):
    operators = (operators,) if isinstance(operators, str) else operators
    return OperatorRule(name, operators, breaks, limit, words, fix, source)


# fmt: off
RULES = (
    # of all operators
    _rule("float-boundary", "QUANTIZE", check.reads_float,
          "the Edge TPU has no floating point, so a float input is quantised on the CPU",
          "export with int8 or uint8 input (--io int8)",
          RuleSource(DATA, "every QUANTIZE of float32 stayed on the CPU with these words, everyone from 8-bit integers was "
                 "mapped", ("Jorgitou98/EdgeTPU-QuantRL-Evaluation", _FORESTS, "system-software-lab/nrf20",
                            "zye1996/facemesh_EdgeTPU"))),
    _rule("data-type", (), check.other_data_type, "the Edge TPU computes with int8 and uint8 alone",
          "quantise it, or leave it to the host", _MODEL_PAGE, records.DATA_TYPE),
    _rule("unknown-operation", (), _unknown_operation, "the Edge TPU runs only those", "", _PAGE, records.NOT_SUPPORTED),
    _rule("rank", (), check.unsupported_rank, "only the three innermost dimensions may be above 1",
          "export with batch 1, and fewer dimensions", _MODEL_PAGE, records.RANK),
    # products
    _rule("dilation", _CONVOLUTIONS, check.uneven_dilation, "dilation must be the same in x and y",
          "use the same dilation in both"),
    _rule("constant-weights", (*_CONVOLUTIONS, "TRANSPOSE_CONV"), check.computed_weights,
          "parameters must be constant", "make the weights constants", _MODEL_PAGE),
    _rule("constant-bias", ("FULLY_CONNECTED", *_CONVOLUTIONS), check.computed_bias, "biases must be constant",
          "make the bias a constant", _MODEL_PAGE),
    _rule("weights-format", "FULLY_CONNECTED", check.shuffled_weights, "only the default format is supported",
          "convert without shuffled weights"),
    _rule("vector-output", "FULLY_CONNECTED", check.matrix_output, "the output must be one-dimensional",
          "use a 1x1 convolution", _refuted((_FORESTS,)), records.BATCH),
    # pools, joins
    _rule("pool-activation", _POOLS, check.fused_activation, "pooling has no fused activation",
          "put the activation before the pool"),
    _rule("concatenation-activation", "CONCATENATION", check.fused_activation, "it has no fused activation",
          "put the activation before it"),
    _rule("concatenation-constant", "CONCATENATION", check.constant_concatenated,
          "with a constant it takes two inputs, the constant all zeros", "pad instead"),
    # reductions
    _rule("reduced-batch", _REDUCTIONS, check.reduces_batch, "the batch cannot be reduced", "reduce on the host"),
    _rule("reduced-first", _REDUCTIONS, check.reduces_first, "the first dimension cannot be reduced",
          "reduce on the host", _refuted((_FORESTS,))),
    _rule("mean-channels", "MEAN", check.odd_channels, "channels must be a multiple of 4 to be averaged",
          "use a multiple of 4 channels"),
    _rule("mean-size", "MEAN", check.large_mean, "a map of 256x128 was not mapped, one of 64x128 was",
          "pool before the mean, or split the map",
          _report(461, "MEAN of 1x256x128x3 on the CPU, of 1x64x128x3 mapped")),
    # packing, splitting: padding or packing a batch, which makes it more than 1, is an unsupported rank
    _rule("packed-first", "PACK", check.packs_first, "nothing can be packed along the first dimension",
          "concatenate instead", _refuted((_FORESTS,))),
    _rule("split-batch", "SPLIT", check.splits_first, "the batch cannot be split",
          "split another dimension, or slice", _PAGE, records.BATCH),
    _rule("expanded-batch", "EXPAND_DIMS", check.expands_batch, "no batch dimension can be added", "reshape instead"),
    _rule("prelu-alpha", "PRELU", check.wide_alpha, "slopes must be one-dimensional",
          "PReLU with shared_axes=[1, 2]"),
    # resizing
    _rule("resized-point", _RESIZES, check.interpolates_point, "input and output must be three-dimensional",
          "broadcast by a multiplication or a concatenation, or leave the branch out",
          RuleSource(DATA, "RESIZE_BILINEAR of 1x1x1x256 on the CPU in both DeepLab files; documented: \"input/output is a "
                 "3-dimensional tensor\"", ("google-coral/test_data", "google-coral/edgetpu"))),
    _rule("resized-size", _RESIZES, check.large_resize,
          "an output of 1024x1024x3 was not mapped, one of 128x128x32 was", "resize a smaller map, or on the host",
          _report("31 and 597", "to 512x512x32 (compiler 2) and 1024x1024x3 (16) on the CPU, to 128x128x32 mapped")),
    # the rest
    _rule("softmax-rows", "SOFTMAX", check.softmax_of_rows, "the input must be one-dimensional",
          "apply it on the host", _PAGE, records.BATCH),
    _rule("softmax-documented", "SOFTMAX", check.documented_softmax,
          f"at most {check.DOCUMENTED_SOFTMAX:,} elements", "leave it to the host", _refuted((_CLASSIFIERS,))),
    _rule("softmax-seen", "SOFTMAX", check.seen_softmax, f"{check.SEEN_SOFTMAX:,} elements are the most seen mapped",
          "leave it to the host",
          RuleSource(DATA, "softmax over 16,384 elements was mapped in five files, more was in none", (_CLASSIFIERS,))),
    _rule("squeeze", "SQUEEZE", check.squeezes_inside, "only leading dimensions of 1 can be removed",
          "reshape instead"),
    _rule("stride", "STRIDED_SLICE", check.strided, "strides must be 1", "pool or convolve with a stride"),
    _rule("slice-mask", "STRIDED_SLICE", check.masked, "there is no ellipsis and no new axis", "slice all dimensions"),
)
# fmt: on


def find_refusal(use, without=None):
    """Return (rule, why) of the first rule that refuses an operator, None where it can be mapped.

    Args:
        use: `Use`.
        without: a repository whose files are taken as unseen.
    """
    for rule in RULES:
        if rule.source.passed(without) and (why := rule.why(use)):
            return rule, why
    return None


def suggest_fix(rule, use):
    """Return what to do about a refusal, None where nothing is known."""
    moves = {"QUANTIZE": use.data, "DEQUANTIZE": use.output}
    ends = (*use.graph.main.inputs, *use.graph.main.outputs)
    if use.op in moves and moves[use.op] is not None and moves[use.op].index not in ends:
        return "quantise the operator that computes in floating point beside it"
    return suggest_replacement(use.op) or rule.fix or None
