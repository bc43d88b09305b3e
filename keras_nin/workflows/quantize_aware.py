"""A quantize-aware copy of a model: images calibrate it, and its int8 file becomes a Keras model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_nin.files import AnyPath
from keras_nin.workflows import SILENT, Progress, backends, inputs
from keras_nin.workflows.conversion import ConversionInputs, ExportOptions
from keras_nin.workflows.inputs import ImageSource, ImageSources, ModelLike, PreprocessingLike

if TYPE_CHECKING:
    import keras

    from keras_nin.export import Tuning


def quantize_aware(
    model: ModelLike,
    calibration: ImageSource = None,
    *,
    weight_bits: int = 8,
    weights: AnyPath | None = None,
    calibration_count: int | None = None,
    seed: int = 0,
    labels: str | None = None,
    preprocessing: PreprocessingLike | None = None,
    tuning: Tuning | None = None,
    imports: Sequence[AnyPath] = (),
    progress: Progress = SILENT,
) -> keras.Model:
    """Return a quantize-aware copy of a model: its outputs are those of the model's int8 file, and it can be trained.

    It is a Functional model with the inputs and outputs of the model, in real numbers, one layer for each operator of
    the file. Compile it, train it with `fit` on any backend of Keras, save it as a .keras file, and give it to
    `export_model` with the scheme int8. Untrained it gives the bytes of the post-training export.

    BatchNormalization is folded with the statistics that it has, and Dropout is left out. Layers that were not
    trainable stay so. On JAX and PyTorch the model is converted in a process of its own, with Keras on TensorFlow.

    Args:
        model: zoo name, ``keras:NAME``, path of a .keras or .h5 file, or a Functional or Sequential keras.Model.
        calibration: representative images, as in `export_model`; None takes the calibration split of the model's own
            dataset.
        weight_bits: bits of the weights, 2 to 8, symmetric with one scale per output channel. The int8 file holds fewer
            than 8 as small integers: -7 to 7 for 4 bits.
        weights, seed, labels, preprocessing, calibration_count, imports: as in `export_model`.
        tuning: how the first ranges, weights and biases are chosen; None takes `Tuning()`.
        progress: what reports the progress.

    Raises:
        InputError: an unknown model, images that are missing or do not fit, a network that does not convert to int8, or
            operators without a rule, which are named.
    """
    from keras_nin.export.quantize_aware_file import quantize_network

    backends.start_keras(progress, backends.find_backend())
    options = ExportOptions(
        weights=weights,
        seed=seed,
        imports=imports,
        calibration=calibration,
        calibration_count=calibration_count,
        labels=labels,
        preprocessing=preprocessing,
    )
    loaded = options.load(model, progress)
    shapes = inputs.input_shapes(loaded.model)
    sources = ImageSources(calibration, None, labels, seed, preprocessing=options.preprocessing)
    dataset = sources.dataset("calibration", loaded.dataset, shapes)
    job = ConversionInputs(loaded, dataset, options.choose_preprocessing(loaded, dataset))
    job = job.calibrate(dataset, shapes, options)
    with progress.task(f"Converting {loaded.name} to int8"):
        return quantize_network(
            loaded.model, job.calibration, weight_bits=weight_bits, tuning=tuning, imports=list(imports)
        )
