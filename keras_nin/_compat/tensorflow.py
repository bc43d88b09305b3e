"""Private parts of TensorFlow and its TFLite converter, of tf_keras and of tensorflow-model-optimization (tfmot).

Verified on TensorFlow 2.21.0, tf_keras 2.21.0 and tfmot 0.8.1.
"""

import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras


def saved_model_converter(folder: str) -> "tf.lite.TFLiteConverter":
    """Return the converter of a SavedModel with the signature "serving_default" and the tag "serve".

    It writes the bytes of `tf.lite.TFLiteConverter.from_saved_model`. That loads the SavedModel three times: for the
    names of its signatures, for a graph of which the definition is used alone, and for debug information, which a
    SavedModel has only on request. Here its file is parsed.
    """
    from tensorflow.core.framework import graph_debug_info_pb2
    from tensorflow.lite.python import lite

    debug_info: Any = graph_debug_info_pb2

    class SavedModelConverter(lite.TFLiteSavedModelConverterV2):
        @lite._export_metrics
        def convert(self) -> Any:
            loader: Any = lite._loader_impl.SavedModelLoader(self.saved_model_dir)
            meta_graph = loader.get_meta_graph_def_from_tags(self._saved_model_tags)
            self._debug_info = debug_info.GraphDebugInfo()
            return self._convert_from_saved_model(meta_graph.graph_def)

    lite.TFLiteConverterBase._set_original_model_type(lite.conversion_metadata_fb.ModelType.TF_SAVED_MODEL)
    return SavedModelConverter(folder, {"serve"}, ["serving_default"])


def replace_quantize_step(converter: "tf.lite.TFLiteConverter", quantize: Callable[..., bytes]) -> None:
    """Let `quantize` take the place of the converter's step from a float file to an integer one.

    What stands around that step (types of input and output, shared buffers, metadata) stays the converter's own.
    `quantize` takes (content, input_type, output_type, activations_type, bias_type, allow_float,
    enable_variable_quantization, debug_options), as `TFLiteConverter._quantize`.
    """
    converter._quantize = quantize


class Calibrator:
    """A float file that has seen calibration samples, as the converter's representative dataset yields them.

    `calibrated` is the file with the range of each tensor.
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


_JOB_FILES = "float.tflite", "sample.npz"


def write_calibration_job(folder: pathlib.Path, content: bytes, sample: Any) -> None:
    """Write what `run_calibration_job` calibrates: a float file and a sample, as `Calibrator` takes them."""
    file, arrays = (folder / name for name in _JOB_FILES)
    file.write_bytes(content)
    np.savez(arrays, **sample) if isinstance(sample, dict) else np.savez(arrays, *sample)


def run_calibration_job(folder: pathlib.Path) -> None:
    """Calibrate a file, in a process of its own because TensorFlow's calibrator may crash."""
    file, arrays = (folder / name for name in _JOB_FILES)
    with np.load(arrays) as stored:
        sample: Any = dict(stored)
    positions = [f"arr_{position}" for position in range(len(sample))]
    Calibrator(file.read_bytes(), [[sample[name] for name in positions] if set(positions) == set(sample) else sample])


def mlir_quantize(calibrated: bytes, **options: Any) -> bytes:
    """Return a calibrated float file as an integer one; options of `tensorflow.lite.python.convert.mlir_quantize`."""
    from tensorflow.lite.python import convert

    return convert.mlir_quantize(calibrated, **options)  # pyright: ignore[reportReturnType]


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


def is_graph_network(model: "tf_keras.Model") -> bool:
    """Whether a tf_keras model is a graph of layers."""
    return getattr(model, "_is_graph_network", False)


@contextlib.contextmanager
def renamed_layers(names: Mapping[str, str], network: "tf_keras.Model") -> Iterator[None]:
    """Give layers of a tf_keras network the names that `names` has by the old ones; `Layer.name` cannot be set."""
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
    """Return tfmot's 8-bit quantization scheme with a configuration for every layer, so that none is refused.

    `choose_config` takes a layer, the module of tfmot's configurations and whether tfmot's registry knows the layer. It
    returns a `QuantizeConfig`, or None for that of the registry.
    """
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_configs,
        default_8bit_quantize_registry,
        default_8bit_quantize_scheme,
    )

    class Registry(default_8bit_quantize_registry.Default8BitQuantizeRegistry):
        def supports(self, layer: Any) -> bool:
            return True

        def get_quantize_config(self, layer: Any) -> Any:
            config = choose_config(layer, default_8bit_quantize_configs, super().supports(layer))
            return super().get_quantize_config(layer) if config is None else config

    class Scheme(default_8bit_quantize_scheme.Default8BitQuantizeScheme):
        def get_quantize_registry(self) -> Registry:
            return Registry()

    return Scheme()


@contextlib.contextmanager
def replaced_quantizers(activation: Callable[..., Any], weight: Callable[..., Any]) -> Iterator[None]:
    """Let functions take the place of tfmot's quantizers, of activations (and the input) and of weights, in the block.

    Each takes ``(quantizer, inputs, training, weights, **kwargs)``.
    """
    import tensorflow_model_optimization as tfmot

    api = tfmot.quantization.keras.quantizers
    activations = dict.fromkeys((api.MovingAverageQuantizer, api.AllValuesQuantizer), activation)
    replaced = {**activations, api.LastValueQuantizer: weight}
    originals = {kind: kind.__call__ for kind in replaced}
    try:
        for kind, function in replaced.items():
            kind.__call__ = function
        yield
    finally:
        for kind, original in originals.items():
            kind.__call__ = original


if __name__ == "__main__":
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core file of a crash
    run_calibration_job(pathlib.Path(sys.argv[1]))
