"""An export with everything that made it: the file's bytes, and the sidecar that reproduces it."""

import dataclasses
import importlib.metadata
import pathlib
import platform
from typing import Any

import keras_nin
from keras_nin import files
from keras_nin.export import compression
from keras_nin.export.calibration import Calibration
from keras_nin.export.companions import companion_files
from keras_nin.export.parity import Parity
from keras_nin.export.schemes import Scheme
from keras_nin.schemas import EXPORT_FILE as SCHEMA
from keras_nin.tflite import reader as tflite_graph

RECORDED_PACKAGES = ("tensorflow", "keras", "numpy", "ai-edge-litert")


@dataclasses.dataclass(frozen=True, eq=False)
class ConvertedModel:
    """A converted network.

    Attributes:
        model: the model's name.
        scheme: `Scheme`.
        data: the .tflite file's bytes.
        weights: what the weights are, as `keras_nin.models.LoadedModel` says it.
        weights_sha256: over the model's weights.
        calibration: `Calibration` or None.
        preprocessing: how pixels become the network's input, as a dictionary, or None where nothing says it.
        flags: what the converter was told.
        layers: for each operator of the file the Keras layer that it computes, or None.
        float_operators: what computes in floating point although the scheme is integer, as "OPERATOR of layer 'name'".
        batch: static batch size of the file.
        tuning: how ranges and weights were chosen, where the scheme is calibrated.
        training: what was trained before the conversion, where the scheme trains.
        options: what else decided the content, such as the builder's arguments and the images; or None.
        classes: a name for each class of the output; none where they are not known.
        parity: the comparison with the model, once made.
        output_layers: for each operator the last Keras layer that was fused into it, whose output is its own, or None.
    """

    model: str
    scheme: Scheme
    data: bytes = dataclasses.field(repr=False)
    weights: str
    weights_sha256: str
    calibration: Calibration | None
    preprocessing: dict | None
    flags: dict
    layers: tuple[str | None, ...] = dataclasses.field(repr=False)
    float_operators: tuple[str, ...] = ()
    batch: int = 1
    tuning: dict | None = None
    training: dict | None = None
    options: dict | None = None
    classes: tuple[str, ...] = ()
    parity: Parity | None = None
    output_layers: tuple[str | None, ...] = dataclasses.field(default=(), repr=False)

    @property
    def stem(self):
        """The file's name without its ending: ``<model>_<scheme>``."""
        return f"{self.model}_{self.scheme.name}"

    def with_parity(self, parity):
        """Return the export with its comparison; where noise set the ranges, without what that says nothing about."""
        if self.calibration is not None and self.calibration.noise:
            parity = dataclasses.replace(parity, top1_match=None, file_top1=None, file_top5=None, checks=())
        return dataclasses.replace(self, parity=parity)

    def graph(self) -> Any:
        """Return the file as plain records (`keras_nin.tflite.reader.TFLiteModel`)."""
        return tflite_graph.read_model(self.data)

    def export_record(self):
        """Return everything that made the file and what was found about it, as a dictionary."""
        graph = self.graph()
        main = graph.main
        inputs, outputs = _io_records(graph, main.inputs), _io_records(graph, main.outputs)
        return {
            "schema": SCHEMA,
            "file": f"{self.stem}.tflite",
            "sha256": files.sha256(self.data),
            "bytes": len(self.data),
            "model": self.model,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "scheme": self.scheme.name,
            "flags": self.flags,
            "float_operators": list(self.float_operators),
            "options": self.options,
            "preprocessing": self.preprocessing,
            "calibration": self.calibration.to_json() if self.calibration else None,
            "batch": self.batch,
            "tuning": self.tuning,
            "training": self.training,
            "versions": package_versions(),
            "input": inputs[0],
            "output": outputs[0],
            "inputs": inputs,
            "outputs": outputs,
            "parity": self.parity.to_json() if self.parity else None,
            "compression": packed.to_json() if (packed := self.compression()) else None,
            "operators": [
                {"index": operator.index, "op": operator.op, "layer": layer, "output_layer": last}
                for operator, layer, last in zip(main.operators, self.layers, self._output_layers(), strict=True)
            ],
        }

    def compression(self):
        """Return the `keras_nin.export.Compression` of a file whose weights were pruned or clustered, else None."""
        packed = self.scheme.trained in ("pruned", "clustered")
        return compression.measure_compression(self.data, self.layers) if packed else None

    def _output_layers(self):
        return self.output_layers or (None,) * len(self.layers)

    def contents(self, path):
        """Return the bytes of the files that `save` writes by their paths, the .tflite file first; `path` as there."""
        path = pathlib.Path(path)
        beside = {}
        if path.suffix != ".tflite":
            beside = {path / name: text.encode() for name, text in companion_files(self).items()}
            path = path / f"{self.stem}.tflite"
        return {path: self.data, **beside, path.with_suffix(".json"): files.dump_json(self.export_record()).encode()}

    def save(self, path, force=False):
        """Write the file to `path` (a folder, or a name ending in .tflite) and the sidecar beside it.

        In a folder, where the names are ours, the names of the classes and a script that classifies an image go beside
        it too (see `keras_nin.export.companions`).

        Returns:
            The path of the .tflite file.

        Raises:
            InputError: another file is there and `force` is not set, or the folder cannot be written to.
        """
        contents = self.contents(path)
        files.write_files(contents, force)
        return next(iter(contents))


def package_versions():
    """Return the versions of this project, Python and the packages that make and run a file."""
    found = {"keras-nin": keras_nin.__version__, "python": platform.python_version()}
    return found | {package: importlib.metadata.version(package) for package in RECORDED_PACKAGES}


def _io_records(graph, indexes):
    """Return what a sidecar says of the inputs or outputs of a file."""
    names = {tensor: name for each in graph.signatures for name, tensor in (*each.inputs, *each.outputs)}
    found = []
    for index in indexes:
        tensor = graph.main.tensors[index]
        quantization = tensor.quantization
        found.append(
            {
                "name": tensor.name,
                "signature": names.get(index),
                "shape": list(tensor.shape),
                "dtype": tensor.dtype,
                "scale": quantization.scales[0] if quantization else None,
                "zero_point": quantization.zero_points[0] if quantization else None,
            }
        )
    return found
