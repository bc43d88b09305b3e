"""Private parts of TensorFlow and of its TFLite converter. Verified on TensorFlow 2.21.0."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf


def saved_model_converter(folder: str) -> "tf.lite.TFLiteConverter":
    """Return the converter of a SavedModel whose only signature is "serving_default", with the tag "serve".

    What `tf.lite.TFLiteConverter.from_saved_model` does, except for loading the model once more to find the signature.
    """
    from tensorflow.lite.python import lite

    lite.TFLiteConverterBase._set_original_model_type(lite.conversion_metadata_fb.ModelType.TF_SAVED_MODEL)
    return lite.TFLiteSavedModelConverterV2(folder, {"serve"}, ["serving_default"])


def replace_quantize_step(converter: "tf.lite.TFLiteConverter", quantize: Callable[..., bytes]) -> None:
    """Let `quantize` take the place of the converter's step from a float file to an integer one.

    What stands around that step (types of input and output, shared buffers, metadata) stays the converter's own.

    Args:
        converter: converter with a representative dataset.
        quantize: function of (content, input_type, output_type, activations_type, bias_type, allow_float,
            enable_variable_quantization, debug_options), as `TFLiteConverter._quantize`.
    """
    converter._quantize = quantize


class Calibrator:
    """A float file that has seen calibration samples.

    Args:
        content: the float file.
        samples: the samples, as the converter's representative dataset yields them.

    Attributes:
        calibrated: the float file, with the range of each tensor.
    """

    def __init__(self, content: bytes, samples: Iterable[Any]) -> None:
        from tensorflow.lite.python.optimize import calibrator

        self._calibrator = calibrator.Calibrator(calibrator.add_intermediate_tensors(content))
        self.calibrated: bytes = self._calibrator.calibrate(lambda: iter(samples))

    def quantize_to_int16(
        self, input_type: Any, output_type: Any, allow_float: bool, activations: Any, bias: Any
    ) -> bytes:
        """Return the file with 16-bit activations, which the MLIR quantizer does not know; types are `tf.DType`."""
        types = (input_type, output_type, allow_float, activations, bias)
        numbers = [kind if isinstance(kind, bool) else kind.as_numpy_dtype().dtype.num for kind in types]
        return self._calibrator._calibrator.QuantizeModel(*numbers, False, False)


def mlir_quantize(calibrated: bytes, **options: Any) -> bytes:
    """Return a calibrated float file as an integer one; options of `tensorflow.lite.python.convert.mlir_quantize`."""
    from tensorflow.lite.python import convert

    quantized: Any = convert.mlir_quantize(calibrated, **options)
    return quantized


@contextlib.contextmanager
def deterministic_ops() -> Iterator[None]:
    """Let TensorFlow compute the same sums in the same order while the block runs.

    `tf.config.experimental.enable_op_determinism` is public, but there is no public way back.
    """
    import tensorflow as tf
    from tensorflow.python.framework import config

    was_enabled = config.is_op_determinism_enabled()
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        if not was_enabled:
            config.disable_op_determinism()
