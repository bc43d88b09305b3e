"""What every operator of a .tflite file computes."""

import numpy as np

from keras_nin.tflite.graph import FLOAT_DTYPES
from keras_nin.tflite.quantization import dequantize
from keras_nin.tflite.run import Runner


class Tap(Runner):
    """A `Runner` that keeps the values of all tensors; it runs without the delegate, which keeps none."""

    def _interpreter_options(self):
        from ai_edge_litert.interpreter import OpResolverType

        return {
            "experimental_preserve_all_tensors": True,
            "experimental_op_resolver_type": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        }

    def values(self, image, tensors):
        """Run one image and return what some tensors then hold.

        Args:
            image: preprocessed, of shape ``input.shape[1:]``.
            tensors: `keras_nin.tflite.records.Tensor` records of the main subgraph.

        Returns:
            List of float32 arrays, integers dequantised.

        Raises:
            InputError: as `predict`.
        """
        self._invoke(self._encode_all(np.asarray(image)[None]), 0)
        return [self._value(tensor) for tensor in tensors]

    def _value(self, tensor):
        value = self._interpreter.get_tensor(tensor.index)
        if tensor.dtype in FLOAT_DTYPES or tensor.quantization is None:
            return value.astype(np.float32)
        return dequantize(value, tensor.quantization.scales[0], tensor.quantization.zero_points[0])
