"""The converter's step from a float file to integers, with one calibration for all schemes and a place to tune it."""

import functools

from keras_nin.export.tuning import Tuning


class Quantizer:
    """Calibrates a float file once and quantises it as often as asked.

    It takes the place of one step inside TensorFlow's converter, so that everything around that step (types of input
    and output, shared buffers, metadata) stays the converter's own: without tuning the bytes are the bare converter's.

    Args:
        samples: iterable, again and again, of lists of float32 inputs, each with its batch, in the file's order; or of
            dictionaries by the names of the signature's inputs.
        tuning: `keras_nin.export.tuning.Tuning`; None is the converter's own least and largest values.
    """

    def __init__(self, samples, tuning=None):
        self.samples = samples
        self.tuning = tuning or Tuning()
        self._calibrators = {}

    def attach(self, converter, per_channel=True):
        """Quantise in the place of `converter` (tf.lite.TFLiteConverter), 8-bit weights with a scale a channel or one.

        Args:
            converter: tf.lite.TFLiteConverter.
            per_channel: whether each output channel of a weight tensor has a scale of its own.
        """
        converter.representative_dataset = lambda: iter(self.samples)
        converter._quantize = functools.partial(self._quantize, converter, per_channel)

    def _quantize(
        self, converter, per_channel, content, input_type, output_type, activations, bias, allow_float, variables, debug
    ):
        """Return the quantised file; the arguments from `content` on are those of TFLiteConverter._quantize."""
        import tensorflow as tf
        from tensorflow.lite.python.convert import mlir_quantize

        calibrator, calibrated = self._calibrate(bytes(content))
        if activations == tf.int16:  # which the new quantiser does not know
            types = (input_type, output_type, allow_float, activations, bias)
            numbers = [kind if isinstance(kind, bool) else kind.as_numpy_dtype().dtype.num for kind in types]
            return calibrator._calibrator.QuantizeModel(*numbers, False, False)
        return mlir_quantize(
            self.tuning.apply(calibrated, self.samples),
            disable_per_channel=not per_channel,
            input_data_type=input_type,
            output_data_type=output_type,
            enable_variable_quantization=variables,
            debug_options_str=debug.SerializeToString(),
        )

    def _calibrate(self, content):
        """Return the calibrator that has seen all samples, and the float file with the ranges that it saw."""
        from tensorflow.lite.python.optimize import calibrator

        if content not in self._calibrators:
            tool = calibrator.Calibrator(calibrator.add_intermediate_tensors(content))
            calibrated = tool.calibrate(lambda: iter(self.samples))
            self._calibrators[content] = tool, calibrated
        return self._calibrators[content]
