"""From a Keras model to .tflite without TensorFlow: JAX's StableHLO through litert-converter, where that is exact.

A file is accepted where each operator is the one that TensorFlow's converter writes for a layer: the same operator,
shapes and strides, as often as the model has the layer. What is folded or fused (BatchNormalization, activations) may
have no operator. Anything else, such as a PAD before a convolution, is refused. How the file computes is verified
against the model as that of every export.
"""

import dataclasses
import importlib.util
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_nin.errors import check_whole_number, input_error, missing_package_error
from keras_nin.export.conversion import check_finite_weights, failure_reason
from keras_nin.export.converted_model import ConvertedModel, describe_conversion
from keras_nin.export.operator_layers import absorbs_scale, layer_marks, mark_layers
from keras_nin.export.schemes import Scheme, get_scheme
from keras_nin.export.weight_comparison import map_fused_layers
from keras_nin.keras_graph import (
    GraphCall,
    GraphTrace,
    TensorSlot,
    input_specs,
    output_specs,
    pack_inputs,
    trace_functional,
)
from keras_nin.output_capture import capture_output
from keras_nin.tflite.reader import read_model

if TYPE_CHECKING:
    import keras

    from keras_nin.errors import InputError
    from keras_nin.tflite.records import TFLiteModel, TFLiteOperator

SCHEMES = ("float32",)
_EXTRA, _PACKAGES = "litert", ("jax", "litert_converter")

# Layers, and activations in them, by the operator that TensorFlow's converter writes for each call.
_OPERATORS = {
    "Add": "ADD",
    "AveragePooling2D": "AVERAGE_POOL_2D",
    "Concatenate": "CONCATENATION",
    "Conv2D": "CONV_2D",
    "Dense": "FULLY_CONNECTED",
    "DepthwiseConv2D": "DEPTHWISE_CONV_2D",
    "GlobalAveragePooling2D": "MEAN",
    "MaxPooling2D": "MAX_POOL_2D",
    "Multiply": "MUL",
    "LocalResponseNormalization": "LOCAL_RESPONSE_NORMALIZATION",
}
_ACTIVATIONS = {"sigmoid": "LOGISTIC", "softmax": "SOFTMAX", "tanh": "TANH"}
# Layers and activations that the converter fuses, folds or drops where it can, with the operators of where it cannot.
_OPTIONAL = {
    "BatchNormalization": ("MUL", "ADD"),
    "Dropout": (),
    "Flatten": ("RESHAPE",),
    "InputLayer": (),
    "Rescaling": ("MUL", "ADD"),
    "Reshape": ("RESHAPE",),
    "ZeroPadding2D": ("PAD",),
}
_FUSED_ACTIVATIONS = {"linear": (), "relu": ("RELU",), "relu6": ("RELU6",)}
_WINDOWED = frozenset(("AVERAGE_POOL_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D"))


class Signature(NamedTuple):
    """What decides an operator; with a window also its input and strides, from which its padding follows."""

    op: str
    output_shape: tuple[int | None, ...]
    input_shape: tuple[int | None, ...] = ()
    strides: tuple[int, ...] = ()

    def __str__(self) -> str:
        shapes = (shape for shape in (self.input_shape, self.output_shape) if shape)
        return f"{self.op} ({' -> '.join('x'.join(map(str, shape)) for shape in shapes)})"


def check_litert_converter(schemes: Sequence[Scheme]) -> None:
    """Raise `InputError` for another scheme than float32, a missing package, or Keras on another backend."""
    others = [scheme.name for scheme in schemes if scheme.name not in SCHEMES]
    if others:
        received = f"{', '.join(others)}, for which the converter tensorflow is needed"
        raise input_error("scheme float32 for the converter litert", received, argument="scheme")
    if any(importlib.util.find_spec(package) is None for package in _PACKAGES):
        raise missing_package_error("The converter litert", _EXTRA)
    if "keras" in sys.modules:
        import keras

        if keras.backend.backend() != "jax":
            received = f"{keras.backend.backend()!r}. Set KERAS_BACKEND=jax before keras is imported"
            raise input_error("Keras on the jax backend for the converter litert", received)


def convert_with_litert(
    model: "keras.Model", schemes: Sequence[str | Scheme] = SCHEMES, *, batch: int = 1, **details: Any
) -> list[ConvertedModel]:
    """Convert a Keras model on JAX to float32 by litert-converter, without TensorFlow.

    Args:
        model: Functional keras.Model, or Sequential with an Input.
        schemes: float32 alone.
        batch: the static batch size of the file.
        details: for the record, as those of `keras_nin.export.convert_schemes`.

    Raises:
        InputError: a missing package, another scheme or backend, weights that are not finite, or a network whose file
            has another operator than that of TensorFlow's converter, the first of which is named.
    """
    chosen = [get_scheme(scheme) for scheme in schemes]
    check_litert_converter(chosen)
    check_whole_number("batch", batch)
    check_finite_weights(model)
    tflite = read_model(convert_unchecked(model, batch))
    layers = map_fused_layers(model, tflite)
    check_operators(model, tflite, layers.layers, batch)
    return [
        dataclasses.replace(
            describe_conversion(model, scheme, tflite, {}, layers.layers, batch=batch, **details),
            output_layers=layers.output_layers,
            converter="litert",
        )
        for scheme in chosen
    ]


def convert_unchecked(model: "keras.Model", batch: int = 1) -> bytes:
    """Return the .tflite file that litert-converter writes for a model on JAX; `InputError` where it writes none."""
    import jax  # pyright: ignore[reportMissingImports]
    import keras

    from keras_nin._compat.litert_converter import convert_stablehlo

    inputs, outputs = input_specs(model), output_specs(model)

    def main(*arrays: Any) -> tuple[Any, ...]:
        return tuple(keras.tree.flatten(model(pack_inputs(model, list(arrays)), training=False)))

    tensors = [jax.ShapeDtypeStruct((batch, *spec.shape), "float32") for spec in inputs]
    failure = None
    with capture_output() as output:
        try:
            with mark_layers(model):
                lowered: Any = jax.jit(main).lower(*tensors).compiler_ir("stablehlo")
            module = lowered.operation.get_asm(enable_debug_info=True)  # with the names of the layers
            return convert_stablehlo(module, [spec.name for spec in inputs], [spec.name for spec in outputs])
        except Exception as error:  # many types, from Keras, JAX, MLIR and the network's own layers
            failure = error
    reason = failure_reason(failure, output.text, layer_marks(model))
    raise input_error("a network that litert-converter converts", reason) from failure


# Which operators are exact


def check_operators(model: "keras.Model", tflite: "TFLiteModel", layers: Sequence[str | None], batch: int = 1) -> None:
    """Raise `InputError` where an operator of a float file is not the one that TensorFlow's converter writes.

    Args:
        model: the network; `layers` has for each operator of its file the layer that it computes, or None.
        tflite: the file, whose static batch size is `batch`.
    """
    trace = trace_functional(model)
    shapes = {slot: tuple(tensor.shape) for slot, tensor in zip(trace.inputs, model.inputs, strict=True)}
    for call in trace.calls:
        shapes |= zip(call.outputs, call.shapes, strict=True)
    shapes = {slot: (batch, *shape[1:]) for slot, shape in shapes.items()}
    needed, optional, paths = Counter[Signature](), Counter[Signature](), dict[Signature, str]()
    for call in trace.calls:
        signature, others = _signatures_of_call(call, trace, shapes)
        optional.update(others)
        if signature is not None:
            needed[signature] += 1
            paths[signature] = "/".join(call.path)
    remaining = needed + optional
    for operator, layer in zip(tflite.main.operators, layers, strict=True):
        signature = _signature_of_operator(tflite, operator)
        if not remaining[signature]:
            raise _refusal(f"{signature}{f' of layer {layer!r}' if layer else ''}")
        remaining[signature] -= 1
    missing = next((signature for signature in needed if remaining[signature] > optional[signature]), None)
    if missing is not None:
        raise _refusal(f"no {missing} for layer {paths[missing]!r}")


def _refusal(received: str) -> "InputError":
    return input_error(
        "operators as TensorFlow's converter writes them",
        f"{received} from litert-converter. Use the converter tensorflow",
        argument="converter",
    )


def _signatures_of_call(
    call: GraphCall, trace: GraphTrace, shapes: Mapping[TensorSlot, tuple[int | None, ...]]
) -> tuple[Signature | None, list[Signature]]:
    """Return the operator of a call, None for none, and those that may compute what else it does."""
    layer, kind = call.operation, type(call.operation).__name__
    shape, source = shapes[call.outputs[0]], shapes[call.inputs[0]]
    activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
    if kind == "ReLU":
        activation = "relu6" if layer.max_value == 6 else "relu"  # pyright: ignore[reportAttributeAccessIssue]
    elif kind == "Softmax":
        activation = "softmax"
    optional = [*_FUSED_ACTIVATIONS.get(activation, ()), *_OPTIONAL.get(kind, ())]
    if kind == "BatchNormalization":
        producer = trace.producers.get(call.inputs[0])
        alone = len(trace.consumers[call.inputs[0]]) == 1
        if producer is not None and alone and absorbs_scale(producer.operation):  # pyright: ignore[reportArgumentType]
            optional = []  # it is folded into the weights
    main = _OPERATORS.get(kind)
    if main is None and activation in _ACTIVATIONS:
        main = _ACTIVATIONS[activation]
    elif activation in _ACTIVATIONS:
        optional.append(_ACTIVATIONS[activation])
    if kind == "ZeroPadding2D":
        readers = trace.consumers[call.outputs[0]]
        if len(readers) == 1 and _is_fused_padding(call, readers[0], shapes):
            optional.remove("PAD")
    signatures = [Signature(op, shape) for op in optional]
    if main is None:
        return None, signatures
    if main not in _WINDOWED:
        return Signature(main, shape), signatures
    padding = trace.producers.get(call.inputs[0])
    if padding is not None and len(trace.consumers[call.inputs[0]]) == 1 and _is_fused_padding(padding, call, shapes):
        source = shapes[padding.inputs[0]]
    strides: Any = layer.strides  # pyright: ignore[reportAttributeAccessIssue]
    return Signature(main, shape, source, tuple(strides)), signatures


def _is_fused_padding(
    padding: GraphCall, reader: GraphCall, shapes: Mapping[TensorSlot, tuple[int | None, ...]]
) -> bool:
    """Whether the converter fuses a ZeroPadding2D into the convolution behind it, whose padding SAME it is."""
    from keras_nin.layers.quantized_operators import same_padding

    convolution: Any = reader.operation
    kinds = type(padding.operation).__name__, type(convolution).__name__
    if kinds[0] != "ZeroPadding2D" or kinds[1] not in ("Conv2D", "DepthwiseConv2D") or convolution.padding != "valid":
        return False
    zeros: Any = padding.operation.padding  # pyright: ignore[reportAttributeAccessIssue]
    sizes: Any = shapes[padding.inputs[0]][1:3]
    windows = zip(sizes, convolution.kernel_size, convolution.strides, convolution.dilation_rate, zeros, strict=True)
    return all(
        tuple(added) == same_padding(size, (kernel - 1) * dilation + 1, stride)
        for size, kernel, stride, dilation, added in windows
    )


def _signature_of_operator(tflite: "TFLiteModel", operator: "TFLiteOperator") -> Signature:
    tensors, options = tflite.main.tensors, operator.options
    shape = tensors[operator.outputs[0]].shape
    if operator.op not in _WINDOWED:
        return Signature(operator.op, shape)
    strides = options["stride_h"], options["stride_w"]
    return Signature(operator.op, shape, tensors[operator.inputs[0]].shape, strides)
