"""The operators that a program has to register with TFLite Micro, as the C++ that does it."""

import collections

from keras_nin.edge.micro.records import OperatorUse
from keras_nin.tables import printable

# Methods of tflite::MicroMutableOpResolver in tensorflow/lite/micro/micro_mutable_op_resolver.h, without "Add".
_BUILTINS = """
Abs Add AddN ArgMax ArgMin AssignVariable AveragePool2D BatchMatMul BatchToSpaceNd BroadcastArgs BroadcastTo CallOnce
Cast Ceil Concatenation Conv2D Cos CumSum DepthToSpace DepthwiseConv2D Dequantize Div DynamicUpdateSlice
Elu EmbeddingLookup Equal Exp ExpandDims Fill Floor FloorDiv FloorMod FullyConnected Gather GatherNd Greater
GreaterEqual HardSwish If L2Normalization L2Pool2D LeakyRelu Less LessEqual Log LogSoftmax LogicalAnd LogicalNot
LogicalOr Logistic MaxPool2D Maximum Mean Minimum MirrorPad Mul Neg NotEqual Pack Pad PadV2 Prelu Quantize ReadVariable
ReduceAll ReduceMax ReduceMin Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor ReverseV2 Round Rsqrt SelectV2
Shape Sin Slice Softmax SpaceToBatchNd SpaceToDepth Split SplitV Sqrt Square SquaredDifference Squeeze StridedSlice Sub
Sum Svdf Tanh Transpose TransposeConv UnidirectionalSequenceLSTM Unpack VarHandle While ZerosLike
"""
# The same of custom operators, by the code that is in the file.
_CUSTOM = {
    "CIRCULAR_BUFFER": "AddCircularBuffer",
    "TFLM_DECODE": "AddDecode",
    "TFLite_Detection_PostProcess": "AddDetectionPostprocess",
    "ethos-u": "AddEthosU",
    "SignalDelay": "AddDelay",
    "SignalEnergy": "AddEnergy",
    "SignalFftAutoScale": "AddFftAutoScale",
    "SignalFilterBank": "AddFilterBank",
    "SignalFilterBankLog": "AddFilterBankLog",
    "SignalFilterBankSpectralSubtraction": "AddFilterBankSpectralSubtraction",
    "SignalFilterBankSquareRoot": "AddFilterBankSquareRoot",
    "SignalFramer": "AddFramer",
    "SignalIrfft": "AddIrfft",
    "SignalOverlapAdd": "AddOverlapAdd",
    "SignalPCAN": "AddPCAN",
    "SignalRfft": "AddRfft",
    "SignalStacker": "AddStacker",
    "SignalWindow": "AddWindow",
}
_BY_LETTERS = {name.upper(): f"Add{name}" for name in _BUILTINS.split()}


def method(op, is_custom=False):
    """Return the name of the resolver's method for an operator ("CONV_2D": "AddConv2D"); None where it has none."""
    return _CUSTOM.get(op) if is_custom else _BY_LETTERS.get(op.replace("_", ""))


def operators(graph):
    """Return the `OperatorUse` of every operator type of a `keras_nin.tflite.graph.Graph`, sorted by name."""
    uses = collections.Counter(
        (operator.op, operator.is_custom) for subgraph in graph.subgraphs for operator in subgraph.operators
    )
    return tuple(
        OperatorUse(op, count, method(op, is_custom), is_custom) for (op, is_custom), count in sorted(uses.items())
    )


def declaration(uses):
    """Return C++ that declares a resolver for `OperatorUse` records; what it cannot register is named in comments."""
    known = sorted({use.method for use in uses if use.method})
    own = [use for use in uses if use.is_custom and not use.method]
    absent = [use for use in uses if not use.is_custom and not use.method]
    lines = [f"tflite::MicroMutableOpResolver<{max(len(known) + len(own), 1)}> resolver;"]
    lines += [f"resolver.{name}();" for name in known]
    lines += [f"// resolver.AddCustom(...) for the custom operator {_plain(use.op)}" for use in own]
    lines += [f"// TFLite Micro has no operator {_plain(use.op)}" for use in absent]
    return "\n".join(lines)


def _plain(name):
    """Return a name from a file as it can end a C++ comment, where a backslash would join the next line to it."""
    return printable(name).replace("\\", "?")
