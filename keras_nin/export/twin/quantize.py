"""Quantisation-aware training of a twin: tensorflow-model-optimization's own, and what it leaves out."""

from keras_nin.errors import InputError

# Activation functions whose output tensorflow-model-optimization quantises as the TFLite kernels do.
_KNOWN_ACTIVATIONS = ("relu", "relu6", "swish", "gelu", "linear", "softmax", "sigmoid", "tanh")


def quantize_model(twin):
    """Return a copy of a twin that computes as an int8 file will, to be trained.

    As tfmot's `quantize_model`, which refuses layers that it does not know (Multiply, Rescaling, a BatchNormalization
    that follows no convolution, ...): here the output of such a layer is quantised and the layer itself left alone.
    Layers are called ``quant_<name>``. Convolution, BatchNormalization and ReLU in a row count as one.
    Integer quantization: arXiv:1712.05877.

    Args:
        twin: tf_keras.Model as `keras_nin.export.to_tf_keras` makes it.

    Raises:
        InputError: no graph of tf_keras layers.
    """
    import tensorflow_model_optimization as tfmot
    import tf_keras

    if not isinstance(twin, tf_keras.Model) or not getattr(twin, "_is_graph_network", False):
        raise InputError(
            f"Expected a tf_keras model as keras_nin.export.to_tf_keras makes it. Received: {type(twin).__name__}"
        )
    keras_api = tfmot.quantization.keras
    with keras_api.quantize_scope():
        return keras_api.quantize_apply(keras_api.quantize_annotate_model(twin), _scheme())


def _scheme():
    """Return tfmot's 8-bit scheme with an answer for every layer."""
    from tensorflow_model_optimization.python.core.quantization.keras import default_8bit

    configs = default_8bit.default_8bit_quantize_configs

    class Registry(default_8bit.default_8bit_quantize_registry.Default8BitQuantizeRegistry):
        def supports(self, layer):
            return True

        def get_quantize_config(self, layer):
            name = getattr(getattr(layer, "activation", None), "__name__", None)
            other = type(layer).__name__ == "Activation" and name not in _KNOWN_ACTIVATIONS
            if super().supports(layer) and not other:
                return super().get_quantize_config(layer)
            if getattr(layer, "results", 1) > 1:  # of several outputs tfmot quantises none
                return configs.NoOpQuantizeConfig()
            return configs.Default8BitOutputQuantizeConfig()

    class Scheme(default_8bit.default_8bit_quantize_scheme.Default8BitQuantizeScheme):
        def get_quantize_registry(self):
            return Registry()

    return Scheme()
