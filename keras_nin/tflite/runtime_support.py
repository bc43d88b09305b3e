"""What a valid .tflite file may have that the LiteRT runtime does not run, though another target may.

Operators of a chip's compiler hold layers in the chip's own code: https://developer.arm.com/documentation/109267 and
https://coral.ai/docs/edgetpu/compiler. Scales are refused by `ParseQuantization` of LiteRT's `interpreter_builder.cc`
where they are not as many as the dimension that they are along is long; TFLite Micro and Vela take them.
"""

from collections import Counter

from keras_nin.errors import input_error
from keras_nin.formatting import format_count
from keras_nin.tflite.records import TFLiteModel, TFLiteOperator, TFLiteTensor

# The chip by the code of the custom operator that its compiler writes.
_CHIPS = {"ethos-u": "Ethos-U", "edgetpu-custom-op": "the Edge TPU"}


def is_compiled(operator: TFLiteOperator) -> bool:
    """Return whether an operator is what the compiler of a chip made of layers."""
    return operator.is_custom and operator.op in _CHIPS


def describe_compilation(model: TFLiteModel) -> str | None:
    """Return ``"compiled for Ethos-U: 1 custom operator"``; None for a file that is not compiled for a chip."""
    operators = (operator for subgraph in model.subgraphs for operator in subgraph.operators)
    counts = Counter(_CHIPS[operator.op] for operator in operators if is_compiled(operator))
    parts = (f"compiled for {chip}: {format_count(count, 'custom operator')}" for chip, count in counts.items())
    return ", ".join(parts) or None


def describe_misfit_scales(model: TFLiteModel) -> str | None:
    """Return in one sentence which tensors have scales that do not fit their dimension; None for none."""
    misfits = [tensor for subgraph in model.subgraphs for tensor in subgraph.tensors if tensor.has_misfit_scales]
    if not misfits:
        return None
    more = len(misfits) - 1
    return describe_scales(misfits[0]) + (f" (and {format_count(more, 'other tensor')})" if more else "")


def describe_scales(tensor: TFLiteTensor) -> str:
    """Return ``"tensor 1 (1x3x3x8) has 8 scales along dimension 3"``."""
    count, axis = (len(tensor.quantization.scales), tensor.quantization.axis) if tensor.quantization else (0, 0)
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return f"tensor {tensor.index} ({shape}) has {format_count(count, 'scale')} along dimension {axis}"


def misfit_notes(model: TFLiteModel) -> tuple[str, ...]:
    """Return a note on misfit scales for a target that may take them; () for any other file."""
    misfit = describe_misfit_scales(model)
    return () if misfit is None else (f"{misfit}: LiteRT refuses such a file, TFLite Micro and Vela may take it",)


def check_not_compiled(model: TFLiteModel, advice: str = "Use the file from before the compilation") -> None:
    """Raise `InputError` where a file is compiled for a chip."""
    if (compilation := describe_compilation(model)) is not None:
        received = f"{model.source}, which is {compilation}. {advice}"
        raise input_error("a .tflite file that is not compiled for a chip", received, path=model.path)


def check_scales(model: TFLiteModel) -> None:
    """Raise `InputError` where scales do not fit their dimension, which LiteRT requires to load a file."""
    if (misfit := describe_misfit_scales(model)) is not None:
        received = f"{model.source}, whose {misfit}, which do not fit. TFLite Micro and Vela may take it"
        raise input_error("a file that the LiteRT runtime runs", received, path=model.path)
