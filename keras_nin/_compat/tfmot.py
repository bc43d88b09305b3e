"""Private parts of tf_keras and tensorflow-model-optimization. Verified on tf_keras 2.21.0 with tfmot 0.8.1."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tf_keras


def is_graph_network(model: "tf_keras.Model") -> bool:
    """Whether a tf_keras model is a graph of layers."""
    return getattr(model, "_is_graph_network", False)


@contextlib.contextmanager
def renamed_layers(names: Mapping[str, str], network: "tf_keras.Model") -> Iterator[None]:
    """Give layers of a tf_keras network other names while the block runs; `Layer.name` cannot be set.

    Args:
        names: new names by the old ones.
        network: the network.
    """
    layers = network.layers
    before = [layer.name for layer in layers]
    try:
        for layer, name in zip(layers, before, strict=True):
            layer._name = names.get(name, name)
        yield
    finally:
        for layer, name in zip(layers, before, strict=True):
            layer._name = name


def default_8bit_scheme(choose_config: Callable[[Any, Any, bool], Any]) -> Any:
    """Return tfmot's 8-bit quantization scheme with a configuration for every layer.

    Args:
        choose_config: function of a layer, the module of tfmot's configurations and whether tfmot's registry knows the
            layer; returns a `QuantizeConfig`, or None for that of the registry.
    """
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_configs as configs,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_registry as registry,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_scheme as scheme,
    )

    class Registry(registry.Default8BitQuantizeRegistry):
        """Answers for every layer, so that `quantize_apply` refuses none."""

        def supports(self, layer: Any) -> bool:
            return True

        def get_quantize_config(self, layer: Any) -> Any:
            is_known = super().supports(layer)
            config = choose_config(layer, configs, is_known)
            return super().get_quantize_config(layer) if config is None else config

    class Scheme(scheme.Default8BitQuantizeScheme):
        """tfmot's 8-bit scheme with the registry above."""

        def get_quantize_registry(self) -> Registry:
            return Registry()

    return Scheme()


@contextlib.contextmanager
def replaced_quantizers(activation: Callable[..., Any], weight: Callable[..., Any]) -> Iterator[None]:
    """Let functions take the place of tfmot's quantizers while the block runs.

    Args:
        activation: ``(quantizer, inputs, training, weights, **kwargs)`` of activations and of the network's input.
        weight: the same, of weights.
    """
    import tensorflow_model_optimization as tfmot

    api = tfmot.quantization.keras.quantizers
    replaced = {
        api.MovingAverageQuantizer: activation,
        api.AllValuesQuantizer: activation,
        api.LastValueQuantizer: weight,
    }
    originals = {kind: kind.__call__ for kind in replaced}
    try:
        for kind, function in replaced.items():
            kind.__call__ = function
        yield
    finally:
        for kind, original in originals.items():
            kind.__call__ = original
