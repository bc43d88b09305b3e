"""A converted model with everything that made it, and the export record that reproduces it."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
from typing import TYPE_CHECKING, Any

import keras_nin
from keras_nin import files, schemas
from keras_nin.export.calibration import Calibration
from keras_nin.export.companions import companion_files
from keras_nin.export.compression import Compression, measure_compression
from keras_nin.export.parity import Parity
from keras_nin.export.schemes import Scheme, Tuning
from keras_nin.tflite.records import TFLiteModel
from keras_nin.tflite.runner import IODetails

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGES = ("tensorflow", "keras", "numpy", "ai-edge-litert")


@dataclasses.dataclass(frozen=True)
class CalibrationRecord:
    """Where the calibration images came from; with `latency_only` they were noise."""

    source: str
    count: int
    sha256: str | None = None
    seed: int | None = None
    preprocessing: dict | None = None
    latency_only: bool = False
    images: tuple = ()


@dataclasses.dataclass(frozen=True)
class OperatorRecord:
    """An operator, the Keras layer that it computes, and the last layer that was fused into it."""

    index: int
    op: str
    layer: str | None
    output_layer: str | None = None


@dataclasses.dataclass(frozen=True)
class ExportRecord:
    """The JSON document beside a .tflite file: what made the file, and what was found about it.

    Attributes:
        file: name of the .tflite file.
        sha256, bytes: hash and size of the file.
        model, weights, weights_sha256, scheme, flags, float_operators, options, preprocessing, batch, training: as in
            `ConvertedModel`.
        calibration: None where the scheme is not calibrated.
        tuning: None where the scheme is not calibrated to 8 bits.
        versions: of this project, Python and the packages that convert and run a file.
        inputs, outputs: name, shape, type and quantization of each.
        parity: the comparison with the model; None where there was none.
        compression: of a file whose weights were pruned or clustered.
        operators: every operator with its layer.
    """

    file: str
    sha256: str
    bytes: int
    model: str
    weights: str
    weights_sha256: str
    scheme: str
    flags: dict
    float_operators: tuple[str, ...]
    options: dict | None
    preprocessing: dict | None
    calibration: CalibrationRecord | None
    batch: int
    tuning: Tuning | None
    training: dict | None
    versions: dict
    inputs: tuple[IODetails, ...]
    outputs: tuple[IODetails, ...]
    parity: Parity | None
    compression: dict | None
    operators: tuple[OperatorRecord, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the record as a dictionary."""
        document = {"schema": schemas.EXPORT_FILE, **dataclasses.asdict(self)}
        document |= {"input": document["inputs"][0], "output": document["outputs"][0]}
        return json.loads(json.dumps(document | {"parity": self.parity.to_json() if self.parity else None}))


@dataclasses.dataclass(frozen=True, eq=False)
class ConvertedModel:
    """A model that was converted to .tflite.

    Attributes:
        model: the model's name.
        scheme: `Scheme`.
        tflite: the file, parsed; `data` has its bytes.
        weights: what the weights are, as `keras_nin.models.LoadedModel` says it.
        weights_sha256: over the model's weights.
        calibration: `Calibration` or None.
        preprocessing: how pixels become the network's input, as a dictionary, or None where nothing says it.
        flags: what the converter was told.
        layers: for each operator of the file the Keras layer that it computes, or None.
        float_operators: what computes in floating point although the scheme is integer, as "OPERATOR of layer 'name'".
        batch: static batch size of the file.
        tuning: how ranges, weights and biases were chosen; None where the scheme is not calibrated to 8 bits.
        training: what was trained before the conversion, where the scheme trains.
        options: what else decided the content, such as the builder's arguments and the images; or None.
        classes: a name for each class of the output; empty where they are not known.
        parity: the comparison with the model; None before it was made.
        output_layers: for each operator the last Keras layer that was fused into it, whose output is its own, or None.
    """

    model: str
    scheme: Scheme
    tflite: TFLiteModel = dataclasses.field(repr=False)
    weights: str
    weights_sha256: str
    calibration: Calibration | None
    preprocessing: dict[str, Any] | None
    flags: dict[str, Any]
    layers: tuple[str | None, ...] = dataclasses.field(repr=False)
    float_operators: tuple[str, ...] = ()
    batch: int = 1
    tuning: Tuning | None = None
    training: dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    classes: tuple[str, ...] = ()
    parity: Parity | None = None
    output_layers: tuple[str | None, ...] = dataclasses.field(default=(), repr=False)

    @property
    def data(self) -> bytes:
        """The bytes of the .tflite file."""
        return self.tflite.content

    @property
    def stem(self) -> str:
        """The file's name without its ending: ``<model>_<scheme>``."""
        return f"{self.model}_{self.scheme.name}"

    def with_parity(self, parity: Parity) -> "ConvertedModel":
        """Return the same with its comparison; where noise set the ranges, without the scores."""
        if self.calibration is not None and self.calibration.noise:
            parity = dataclasses.replace(parity, top1_match=None, file_top1=None, file_top5=None, checks=())
        return dataclasses.replace(self, parity=parity)

    def compression(self) -> Compression | None:
        """Return the `Compression` of a file whose weights were pruned or clustered, else None."""
        is_compressed = self.scheme.trained in ("pruned", "clustered")
        return measure_compression(self.tflite, self.layers) if is_compressed else None

    def export_record(self) -> dict[str, Any]:
        """Return everything that made the file and what was found about it: an `ExportRecord` as a dictionary."""
        main, compression = self.tflite.main, self.compression()
        output_layers = self.output_layers or (None,) * len(self.layers)
        record = ExportRecord(
            file=f"{self.stem}.tflite",
            sha256=self.tflite.sha256,
            bytes=len(self.data),
            model=self.model,
            weights=self.weights,
            weights_sha256=self.weights_sha256,
            scheme=self.scheme.name,
            flags=self.flags,
            float_operators=self.float_operators,
            options=self.options,
            preprocessing=self.preprocessing,
            calibration=CalibrationRecord(**self.calibration.to_json()) if self.calibration else None,
            batch=self.batch,
            tuning=self.tuning,
            training=self.training,
            versions=package_versions(),
            inputs=_io_details(self.tflite, main.inputs),
            outputs=_io_details(self.tflite, main.outputs),
            parity=self.parity,
            compression=compression.to_json() if compression else None,
            operators=tuple(
                OperatorRecord(operator.index, operator.op, layer, output_layer)
                for operator, layer, output_layer in zip(main.operators, self.layers, output_layers, strict=True)
            ),
        )
        return record.to_json()

    def contents(self, path: str | os.PathLike[str]) -> dict[pathlib.Path, bytes]:
        """Return the bytes of the files that `save` writes, by their paths, the .tflite file first."""
        path = pathlib.Path(path)
        companions = {}
        if path.suffix != ".tflite":
            companions = {path / name: text.encode() for name, text in self.companion_files().items()}
            path = path / f"{self.stem}.tflite"
        record = files.dump_json(self.export_record()).encode()
        return {path: self.data, **companions, path.with_suffix(".json"): record}

    def companion_files(self) -> dict[str, str]:
        """Return the text of the files that go beside a classifier of images, by their names: classes and a script."""
        return companion_files(self.tflite, self.stem, self.classes, self.preprocessing)

    def save(self, path: str | os.PathLike[str], force: bool = False) -> pathlib.Path:
        """Write the file to `path` (a folder, or a name ending in .tflite) and the export record beside it.

        In a folder, where the names are ours, the names of the classes and a script that classifies an image are
        written too (see `keras_nin.export.companions`).

        Returns:
            The path of the .tflite file.

        Raises:
            InputError: another file is there and `force` is not set, or the folder cannot be written to.
        """
        contents = self.contents(path)
        files.write_files(contents, force)
        return next(iter(contents))


def package_versions() -> dict[str, str]:
    """Return the versions of this project, Python and the packages that convert and run a file."""
    versions = {"keras-nin": keras_nin.__version__, "python": platform.python_version()}
    return versions | {package: importlib.metadata.version(package) for package in PACKAGES}


def _io_details(tflite: TFLiteModel, indexes: "Iterable[int]") -> tuple[IODetails, ...]:
    names = {
        tensor: name for signature in tflite.signatures for name, tensor in (*signature.inputs, *signature.outputs)
    }
    details = []
    for index in indexes:
        tensor = tflite.main.tensors[index]
        scale, zero_point = None, None
        if tensor.quantization:
            scale, zero_point = tensor.quantization.scales[0], tensor.quantization.zero_points[0]
        details.append(IODetails(tensor.name, names.get(index), tensor.shape, tensor.dtype, scale, zero_point))
    return tuple(details)
