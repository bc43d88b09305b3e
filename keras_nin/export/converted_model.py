"""A converted model with everything that made it: its export record, and what else is written beside it."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import keras_nin
from keras_nin import files, schemas
from keras_nin.data import Preprocessing
from keras_nin.data.image_folder import FORMATS
from keras_nin.errors import input_error
from keras_nin.export.compression import Compression, measure_compression
from keras_nin.export.mixed_precision import MixedSearch
from keras_nin.export.parity import CAST_OPERATORS, Parity
from keras_nin.export.schemes import CONVERTERS, Scheme, Tuning
from keras_nin.formatting import escape_unprintable, format_names
from keras_nin.tflite.records import TFLiteModel, float_operators
from keras_nin.tflite.runner import IODetails, io_details

if TYPE_CHECKING:
    import keras

_PACKAGES = ("keras", "numpy", "ai-edge-litert")


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """The samples that set the ranges of a quantized network.

    Attributes:
        images: float32 (N, H, W, C), as the network takes them; for several inputs a dictionary of arrays (N, ...).
        preprocessing: how they were made from pixels, as a dictionary; None for arrays taken as they are.
        seed: of the choice among the images of the calibration split.
        sha256: over the original pixels, in order.
        names: what each image is called in its source: a path, or its number.
        noise: whether they are random numbers, which are only good for measuring latency.
    """

    source: str
    images: Any = dataclasses.field(repr=False)
    preprocessing: dict[str, Any] | None
    seed: int
    sha256: str
    names: tuple[str | int, ...] = dataclasses.field(default=(), repr=False)
    noise: bool = False

    @property
    def count(self) -> int:
        """How many samples."""
        return len(next(iter(self.images.values())) if isinstance(self.images, dict) else self.images)

    def to_json(self) -> dict[str, Any]:
        """Return the record without the images."""
        names = ("source", "count", "sha256", "seed", "preprocessing")
        return {name: getattr(self, name) for name in names} | {"latency_only": self.noise, "images": list(self.names)}


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
        sha256, bytes: hash and size of the file.
        model, weights, weights_sha256, scheme, flags, float_operators, options, preprocessing, batch, training: as in
            `ConvertedModel`.
        calibration, tuning: None where the scheme is not calibrated, or not to 8 bits.
        converter: "tensorflow", or "litert" for litert-converter.
        versions: of this project, Python and the packages that convert and run a file.
        parity: the comparison with the model; None where there was none.
        compression: of a file whose weights were pruned or clustered.
        mixed: the search of the scheme mixed; None where the operators in float were named.
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
    mixed: MixedSearch | None = None
    converter: str = "tensorflow"

    def to_json(self) -> dict[str, Any]:
        """Return the record as a dictionary."""
        document = {"schema": schemas.EXPORT_FILE, **dataclasses.asdict(self)}
        document |= {"input": document["inputs"][0], "output": document["outputs"][0]}
        if self.mixed is None:
            del document["mixed"]
        return json.loads(json.dumps(document | {"parity": self.parity.to_json() if self.parity else None}))


@dataclasses.dataclass(frozen=True, eq=False)
class ConvertedModel:
    """A model that was converted to .tflite.

    Attributes:
        tflite: the file, parsed; `data` has its bytes.
        weights: what the weights are, as `keras_nin.models.LoadedModel` says it.
        preprocessing: how pixels become the network's input, as a dictionary, or None where nothing says it.
        flags: what the converter was told.
        layers: for each operator of the file the Keras layer that it computes, or None.
        float_operators: what computes in floating point although the scheme is integer, as "OPERATOR of layer 'name'".
        tuning: how ranges, weights and biases were chosen; None where the scheme is not calibrated to 8 bits.
        training: what was trained before the conversion, where the scheme trains.
        options: what else decided the content, such as the builder's arguments and the images; or None.
        classes: a name for each class of the output; empty where they are not known.
        parity: the comparison with the model; None before it was made.
        output_layers: for each operator the last Keras layer that was fused into it, whose output is its own, or None.
        mixed: how the operators in float of the scheme mixed were chosen; None where they were named.
        converter: what wrote the file, a name of `schemes.CONVERTERS`.
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
    mixed: MixedSearch | None = dataclasses.field(default=None, repr=False)
    converter: str = "tensorflow"

    @property
    def data(self) -> bytes:
        """The bytes of the .tflite file."""
        return self.tflite.content

    @property
    def stem(self) -> str:
        """The file's name without its ending: ``<model>_<scheme>``; see `files.safe_stem`."""
        return f"{files.safe_stem(self.model)}_{self.scheme.name}"

    def with_parity(self, parity: Parity) -> "ConvertedModel":
        """Return the same with its comparison; where noise set the ranges, without the scores."""
        if self.calibration is not None and self.calibration.noise:
            unknown = dict.fromkeys(("top1_match", "match", "file_top1", "file_top5", "scores", "no_verdict"))
            parity = dataclasses.replace(parity, **unknown, checks=(), outputs=())
        return dataclasses.replace(self, parity=parity)

    def compression(self) -> Compression | None:
        """Return the `Compression` of a file whose weights were pruned or clustered, else None."""
        is_compressed = self.scheme.trained in ("pruned", "clustered")
        return measure_compression(self.tflite, self.layers) if is_compressed else None

    def export_record(self) -> dict[str, Any]:
        """Return everything that made the file and what was found about it: an `ExportRecord` as a dictionary."""
        main, compression = self.tflite.main, self.compression()
        names = {field.name for field in dataclasses.fields(ExportRecord)} - {"scheme", "calibration"}
        output_layers = self.output_layers or (None,) * len(self.layers)
        record = ExportRecord(
            **{name: value for name, value in vars(self).items() if name in names},
            scheme=self.scheme.name,
            calibration=CalibrationRecord(**self.calibration.to_json()) if self.calibration else None,
            file=f"{self.stem}.tflite",
            sha256=self.tflite.sha256,
            bytes=len(self.data),
            versions=package_versions(self.converter),
            inputs=self._io_details(main.inputs),
            outputs=self._io_details(main.outputs),
            compression=compression.to_json() if compression else None,
            operators=tuple(
                OperatorRecord(operator.index, operator.op, layer, output_layer)
                for operator, layer, output_layer in zip(main.operators, self.layers, output_layers, strict=True)
            ),
        )
        return record.to_json()

    def _io_details(self, indexes: Iterable[int]) -> tuple[IODetails, ...]:
        pairs = (pair for signature in self.tflite.signatures for pair in signature.inputs + signature.outputs)
        names = {index: name for name, index in pairs}
        tensors = self.tflite.main.tensors
        return tuple(io_details(tensors[index], names.get(index), tensors[index].shape) for index in indexes)

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
        """Return the text of the files that go beside a classifier, by their names.

        ``<stem>_labels.txt`` has the name of class i in line i, counted from 0; ``<stem>.py`` prints the likeliest
        classes of an image. Both belong to one file, as its export record does: what else lies in the folder may be of
        another network, or of the same one with other classes. A network whose output is no vector of classes gets
        neither; one whose input is no image of 1 or 3 channels, or whose preprocessing is unknown, gets no script.
        """
        main = self.tflite.main
        source, target = main.tensors[main.inputs[0]], main.tensors[main.outputs[0]]
        if len(main.outputs) != 1 or len(target.shape) != 2 or target.shape[1] < 2 or target.is_index:
            return {}
        names = self.classes or tuple(f"class {index}" for index in range(target.shape[1]))
        texts = {f"{self.stem}_labels.txt": "".join(f"{escape_unprintable(name)}\n" for name in names)}
        is_image = len(main.inputs) == 1 and len(source.shape) == 4 and source.shape[3] in (1, 3)
        if is_image and self.preprocessing:
            texts[f"{self.stem}.py"] = self._classification_script(Preprocessing.from_json(self.preprocessing))
        return texts

    def _classification_script(self, preprocessing: Preprocessing) -> str:
        import jinja2

        main = self.tflite.main
        source, target = main.tensors[main.inputs[0]], main.tensors[main.outputs[0]]
        batch, height, width, channels = source.shape
        command = shlex.quote(f"{self.stem}.py").replace("\\", "\\\\").replace('"', '\\"')
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("keras_nin.export", "."),
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        return environment.get_template("classify.py.j2").render(
            {"command": command, "preprocessing": preprocessing, "target": target, "batch": batch},
            formats=FORMATS,
            height=height,
            width=width,
            channels=channels,
            high=round(height / preprocessing.crop_fraction),
            wide=round(width / preprocessing.crop_fraction),
            limits=None if source.dtype == "float32" else np.iinfo(source.dtype),
        )

    def save(self, path: str | os.PathLike[str], force: bool = False) -> pathlib.Path:
        """Write the file to `path` (a folder, or a name ending in .tflite) and the export record beside it.

        In a folder, where the names are ours, the `companion_files` are written too.

        Returns:
            The path of the .tflite file.

        Raises:
            InputError: another file is there and `force` is not set, or the folder cannot be written to.
        """
        contents = self.contents(path)
        files.write_files(contents, force)
        return next(iter(contents))


def package_versions(converter: str = "tensorflow") -> dict[str, str]:
    """Return the versions of this project, Python and the packages that convert and run a file."""
    packages = (*CONVERTERS[converter], *_PACKAGES)
    versions = {"keras-nin": keras_nin.__version__, "python": platform.python_version()}
    return versions | {package: importlib.metadata.version(package) for package in packages}


def describe_conversion(
    model: "keras.Model", scheme: Scheme, tflite: TFLiteModel, flags: dict[str, Any], layers: tuple[str | None, ...],
    *, batch: int = 1, allow_float: bool = False, weights: str | None = None,
    preprocessing: Preprocessing | None = None, name: str | None = None, options: dict[str, Any] | None = None,
    classes: Sequence[str] = ()
) -> ConvertedModel:  # fmt: skip
    """Check a converted file and return its `ConvertedModel`.

    `flags` is how it was converted, `layers` has for each operator the Keras layer that it computes, or None; the other
    arguments and errors are those of `keras_nin.export.convert_schemes`.
    """
    from keras_nin.models import hash_weights

    return ConvertedModel(
        model=name or model.name,
        scheme=scheme,
        tflite=tflite,
        weights=weights or "as given",
        weights_sha256=hash_weights(model),
        calibration=None,
        preprocessing=preprocessing.to_json() if preprocessing else None,
        flags=flags,
        layers=layers,
        float_operators=_check_integer_only(tflite, layers, scheme, allow_float) if scheme.integer_only else (),
        batch=batch,
        options=options,
        classes=tuple(classes),
    )


def _check_integer_only(
    tflite: TFLiteModel, layers: Sequence[str | None], scheme: Scheme, allow_float: bool
) -> tuple[str, ...]:
    """Return the operators that compute in floating point, as `check_integer_operators`.

    Raises:
        InputError: as `check_integer_operators`, or the input or output has another type.
    """
    main, blocking = tflite.main, check_integer_operators(tflite, layers, scheme, allow_float)
    for tensor in (main.tensors[index] for index in (*main.inputs, *main.outputs)):
        if tensor.dtype != scheme.io_type and not tensor.is_index:  # the class indices of an argmax
            expected = f"a network that computes something, so that its input and output become {scheme.io_type}"
            raise input_error(expected, f"{tensor.dtype} and {len(main.operators)} operators")
    return blocking


def check_integer_operators(
    tflite: TFLiteModel, layers: Sequence[str | None], scheme: Scheme, allow_float: bool = False
) -> tuple[str, ...]:
    """Return the operators that compute in floating point although `scheme` is integer, each type once per layer.

    Raises:
        InputError: there are such operators and `allow_float` is not set.
    """
    main, operators = tflite.main, float_operators(tflite)
    # The casts around an operator that stays float say nothing about it, and a float32 input or output needs casts.
    computing = tuple(operator for operator in operators if operator.op not in CAST_OPERATORS)
    operators = computing if computing or scheme.io_type == "float32" else operators
    operator_layers = {(0, operator.index): layer for operator, layer in zip(main.operators, layers, strict=True)}
    named = ((operator.op, operator_layers.get((operator.subgraph, operator.index))) for operator in operators)
    blocking = tuple(describe_operator(op, layer) for op, layer in dict.fromkeys(named))
    if blocking and not allow_float:
        received = f"operators that compute in floating point ({format_names(blocking)}). Allow them with `allow_float`"
        raise input_error(f"a network whose operators all exist in {scheme.name}", received, argument="allow_float")
    return blocking


def describe_operator(op: str, layer: str | None) -> str:
    """Return an operator with its layer, where that is known."""
    return f"{op} of layer {layer!r}" if layer else op
