"""The table of rules, in the order in which they are asked: the first that refuses an operator gives its status."""

from keras_nin.edge.edgetpu import operators as check
from keras_nin.edge.edgetpu import status
from keras_nin.edge.edgetpu.rules import DATA, DOCUMENT, REPORT, Rule, Source
from keras_nin.edge.edgetpu.supported import SUPPORTED, replacement

_FORESTS, _CLASSIFIERS = "R-e-d-a-X/EdgeTPU-and-NCS", "ricardodeazambuja/LibrEdgeTPU"
_PAGE = Source(DOCUMENT, "Coral, TensorFlow models on the Edge TPU: supported operations")
_MODEL_PAGE = Source(DOCUMENT, "Coral, TensorFlow models on the Edge TPU: model requirements")
_POOLS = ("AVERAGE_POOL_2D", "MAX_POOL_2D")
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_PRODUCTS = (*_CONVOLUTIONS, "FULLY_CONNECTED", "TRANSPOSE_CONV")
_REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
_RESIZES = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")


def _report(number, text):
    return Source(REPORT, f"google-coral/edgetpu issue {number}: {text}")


def _refuted(by):
    return Source(DOCUMENT, _PAGE.text, refuted_by=by)


def _unknown(use):
    return None if use.op in SUPPORTED else "it is not among the supported operations"


def _rule(name, operators, breaks, limit, fix, source=_PAGE, words=status.UNSPECIFIED):
    operators = (operators,) if isinstance(operators, str) else operators
    return Rule(name, operators, breaks, limit, words, fix, source)


# fmt: off
RULES = (
    # of all operators
    _rule("float-boundary", "QUANTIZE", check.reads_float,
          "the Edge TPU has no floating point, so a float input is quantised on the CPU",
          "export with int8 or uint8 input (--io int8)",
          Source(DATA, "every QUANTIZE of float32 stayed on the CPU with these words, everyone from 8-bit integers was "
                 "mapped", ("Jorgitou98/EdgeTPU-QuantRL-Evaluation", _FORESTS, "system-software-lab/nrf20",
                            "zye1996/facemesh_EdgeTPU"))),
    _rule("data-type", (), check.other_data_type, "the Edge TPU computes with int8 and uint8 alone",
          "quantise it, or leave it to the host", _MODEL_PAGE, status.DATA_TYPE),
    _rule("unknown-operation", (), _unknown, "the Edge TPU runs only those", "", _PAGE, status.NOT_SUPPORTED),
    _rule("rank", (), check.unsupported_rank, "only the three innermost dimensions may be above 1",
          "export with batch 1, and fewer dimensions", _MODEL_PAGE, status.RANK),
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
          "use a 1x1 convolution", _refuted((_FORESTS,)), status.BATCH),
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
          "split another dimension, or slice", _PAGE, status.BATCH),
    _rule("expanded-batch", "EXPAND_DIMS", check.expands_batch, "no batch dimension can be added", "reshape instead"),
    _rule("prelu-alpha", "PRELU", check.wide_alpha, "slopes must be one-dimensional",
          "PReLU with shared_axes=[1, 2]"),
    # resizing
    _rule("resized-point", _RESIZES, check.interpolates_point, "input and output must be three-dimensional",
          "broadcast by a multiplication or a concatenation, or leave the branch out",
          Source(DATA, "RESIZE_BILINEAR of 1x1x1x256 on the CPU in both DeepLab files; documented: \"input/output is a "
                 "3-dimensional tensor\"", ("google-coral/test_data", "google-coral/edgetpu"))),
    _rule("resized-size", _RESIZES, check.large_resize,
          "an output of 1024x1024x3 was not mapped, one of 128x128x32 was", "resize a smaller map, or on the host",
          _report("31 and 597", "to 512x512x32 (compiler 2) and 1024x1024x3 (16) on the CPU, to 128x128x32 mapped")),
    # the rest
    _rule("softmax-rows", "SOFTMAX", check.softmax_of_rows, "the input must be one-dimensional",
          "apply it on the host", _PAGE, status.BATCH),
    _rule("softmax-documented", "SOFTMAX", check.documented_softmax,
          f"at most {check.DOCUMENTED_SOFTMAX:,} elements", "leave it to the host", _refuted((_CLASSIFIERS,))),
    _rule("softmax-seen", "SOFTMAX", check.seen_softmax, f"{check.SEEN_SOFTMAX:,} elements are the most seen mapped",
          "leave it to the host",
          Source(DATA, "softmax over 16,384 elements was mapped in five files, more was in none", (_CLASSIFIERS,))),
    _rule("squeeze", "SQUEEZE", check.squeezes_inside, "only leading dimensions of 1 can be removed",
          "reshape instead"),
    _rule("stride", "STRIDED_SLICE", check.strided, "strides must be 1", "pool or convolve with a stride"),
    _rule("slice-mask", "STRIDED_SLICE", check.masked, "there is no ellipsis and no new axis", "slice all dimensions"),
)
# fmt: on


def first_refusal(use, without=None):
    """Return (rule, why) of the first rule that refuses an operator, None where it can be mapped.

    Args:
        use: `Use`.
        without: a repository whose files are taken as unseen.
    """
    for rule in RULES:
        if rule.source.holds(without) and (why := rule.why(use)):
            return rule, why
    return None


def fix_of(rule, use):
    """Return what to do about a refusal, None where nothing is known."""
    moves = {"QUANTIZE": use.data, "DEQUANTIZE": use.output}
    ends = (*use.graph.main.inputs, *use.graph.main.outputs)
    if use.op in moves and moves[use.op] is not None and moves[use.op].index not in ends:
        return "quantise the operator that computes in floating point beside it"
    return replacement(use.op) or rule.fix or None
