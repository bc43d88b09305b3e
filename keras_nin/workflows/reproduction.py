"""Reproducing an export from the record that it wrote beside its file."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin import data, files, models
from keras_nin.errors import InputError
from keras_nin.export.converted_model import package_versions
from keras_nin.export.mixed_precision import MixedSearch
from keras_nin.export.parity import ParityLimits
from keras_nin.export.schemes import SCHEMES, Tuning
from keras_nin.files import AnyPath
from keras_nin.formatting import format_value
from keras_nin.schemas import EXPORT_FILE, record_from_json
from keras_nin.workflows import SILENT, Progress
from keras_nin.workflows.conversion import ExportOptions
from keras_nin.workflows.export import ExportResult, run_export

if TYPE_CHECKING:
    from keras_nin.workflows.conversion import ConversionInputs

_FIELDS = {"scheme": str, "sha256": str, "weights_sha256": str, "options": dict, "versions": dict}
_NUMBER, _TEXT = (int, float), (str,)
# What each option of a record may be; all but the first may be null.
_OPTION_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("model", "weights", "test", "calibration", "labels", "io"), _TEXT),
    "preprocessing": (str, dict),
    **dict.fromkeys(("ranges", "rounding", "task", "target", "converter"), _TEXT),
    **dict.fromkeys(("seed", "calibration_count", "batch", "epochs", "clusters", "weight_bits"), (int,)),
    "test_count": (int, str),  # or "all"
    **dict.fromkeys(("crop", "learning_rate", "sparsity"), _NUMBER),
    **dict.fromkeys((field.name for field in dataclasses.fields(ParityLimits)), _NUMBER),
    **dict.fromkeys(("allow_float", "bias_correction"), (bool,)),
    "input_shape": (list,),
    "imports": (list,),
    "float_operators": (list,),
    "builder_arguments": (dict,),
}
_REQUIRED = ("model", "weights", "input_shape", "builder_arguments", "seed", "test", "labels", "test_count",
             "preprocessing", "crop", "min_top1_match", "max_drop")  # fmt: skip
_REQUIRED_CALIBRATED = ("calibration", "calibration_count", "allow_float")


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """Whether a reproduced file has the bytes of the original, and versions that changed since its record."""

    path: str
    same: bool
    version_changes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the bytes are the same, or other versions may explain that they are not."""
        return self.same or bool(self.version_changes)


@dataclasses.dataclass(frozen=True)
class OriginalExport:
    """What an export record says of the export that wrote it: hashes are of the file, its weights and its images."""

    path: str
    scheme: str
    options: dict[str, Any]
    sha256: str
    weights_sha256: str
    calibration_sha256: str | None
    versions: dict[str, str]
    mixed: MixedSearch | None = None

    @property
    def converter(self) -> str:
        """Name of the converter that wrote the file."""
        return self.options.get("converter", "tensorflow")

    def export_options(self) -> ExportOptions:
        """Return the options as `run_export` takes them."""
        values = {name: value for name, value in self.options.items() if name != "model"}
        for name in ("imports", "float_operators"):
            if values.get(name) is not None:
                values[name] = tuple(map(str, values[name]))
        if values.get("input_shape") is not None:
            values["input_shape"] = tuple(values["input_shape"])
        for name, record in {"limits": ParityLimits, "tuning": Tuning}.items():
            names = [field.name for field in dataclasses.fields(record)]
            values[name] = record(**{key: values.pop(key) for key in names if key in values})
        return ExportOptions(**values)

    def check_inputs(self, source: ConversionInputs) -> None:
        """Raise `InputError` where a model or calibration images are not those of the record."""
        if not SCHEMES[self.scheme].trained:
            self._check_same(
                "weights", self.weights_sha256, models.hash_weights(source.loaded.model), source.loaded.weights
            )
        if source.calibration:
            calibration = source.calibration
            self._check_same("calibration images", self.calibration_sha256, calibration.sha256, calibration.source)

    def compare(self, content: bytes) -> Reproduction:
        """Return how a file compares with the original."""
        now = package_versions(self.converter)
        changes = [
            f"{name} {self.versions.get(name, 'unknown')} then, {now.get(name, 'unknown')} now"
            for name in dict.fromkeys([*self.versions, *now])
            if self.versions.get(name) != now.get(name)
        ]
        return Reproduction(self.path, files.sha256(content) == self.sha256, tuple(changes))

    def _check_same(self, what: str, then: str | None, now: str, source: str) -> None:
        if then != now:
            raise InputError(
                f"Expected the {what} that {self.path!r} records (sha256 {str(then)[:12]}...). Received: others from "
                f"{source!r} (sha256 {now[:12]}...)",
                path=self.path,
            )


def reproduce_export(
    record: AnyPath,
    *,
    model: AnyPath | None = None,
    weights: AnyPath | None = None,
    calibration: AnyPath | None = None,
    test: AnyPath | None = None,
    labels: AnyPath | None = None,
    imports: Sequence[AnyPath] = (),
    threads: int = 1,
    runs: int | None = None,
    out: AnyPath | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> ExportResult:
    """Repeat an export from its record: same model, images and options.

    Args:
        record: path of the JSON file beside the .tflite file. Paths in it are relative to the working directory, and
            have to stay in it.
        model, weights, calibration, test, labels: where a file or folder is now, instead of the path in
            the record. A path that leads out of the working directory is taken from nowhere else.
        imports: the code that the record names, if any: a record alone runs none.
        threads, runs, out, force, progress: as in `export_model`.

    Returns:
        `ExportResult`; its `reproduction` says whether the bytes are the same.

    Raises:
        InputError: not such a record, or the weights or calibration images are no longer the same.
    """
    original = read_original(record)
    paths = {"model": model, "weights": weights, "calibration": calibration, "test": test, "labels": labels}
    chosen = {name: os.fspath(path) for name, path in paths.items() if path is not None}
    original = dataclasses.replace(original, options=original.options | chosen)
    _check_imports(original, imports)
    _check_paths(original, chosen)
    try:
        options = original.export_options()
    except InputError as error:
        raise _bad_record(original.path, str(error)) from None
    return run_export(
        original.options["model"],
        original.scheme,
        options,
        threads=threads,
        runs=runs,
        out=out,
        force=force,
        original=original,
        progress=progress,
    )


def read_original(path: AnyPath) -> OriginalExport:
    """Return what an export record says; `InputError` where it is not the record of an export that can be repeated."""
    document = files.read_json(path)
    if not isinstance(document, dict) or document.get("schema") != EXPORT_FILE:
        found = document.get("schema") if isinstance(document, dict) else f"a {type(document).__name__}"
        raise _bad_record(path, f"schema {found!r} instead of {EXPORT_FILE!r}")
    if document.get("options", 0) is None:
        raise _bad_record(path, "an export of a model or images in memory, which cannot be repeated")
    for name, kind in _FIELDS.items():
        if not isinstance(document.get(name), kind):
            raise _bad_record(path, f"{_show(document, name)} as `{name}`")
    if document["scheme"] not in SCHEMES:
        raise _bad_record(path, f"{_show(document, 'scheme')} as `scheme`")
    calibration, calibration_sha256 = document.get("calibration"), None
    if calibration is not None or SCHEMES[document["scheme"]].calibrated:
        calibration_sha256 = calibration.get("sha256") if isinstance(calibration, dict) else None
        if not isinstance(calibration_sha256, str):
            raise _bad_record(path, f"{_show(document, 'calibration')} as `calibration`")
    _check_options(path, document["options"], calibration_sha256 is not None)
    is_choice = isinstance(document["options"].get("float_operators"), list)
    if SCHEMES[document["scheme"]].mixed and not is_choice:
        raise _bad_record(path, f"{_show(document['options'], 'float_operators')} as option `float_operators`")
    try:
        mixed = record_from_json(MixedSearch, document["mixed"]) if document.get("mixed") is not None else None
    except InputError as error:
        raise _bad_record(path, f"{error} in `mixed`") from None
    return OriginalExport(
        path=os.fspath(path),
        calibration_sha256=calibration_sha256,
        mixed=mixed,
        **{name: document[name] for name in _FIELDS},
    )


def _check_options(path: AnyPath, options: dict[str, Any], calibrated: bool) -> None:
    for name in (*_REQUIRED, *(_REQUIRED_CALIBRATED if calibrated else ())):
        if name not in options:
            raise _bad_record(path, f"options without `{name}`")
    for name, value in options.items():
        types = _OPTION_TYPES.get(name, ())
        fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if not fits and not (value is None and types and name != "model"):
            raise _bad_record(path, f"{_show(options, name)} as option `{name}`")
    preprocessing = options["preprocessing"]
    if isinstance(preprocessing, str) and preprocessing not in (*data.PRESETS, data.AS_ARRAYS):  # the path of a file
        raise _bad_record(path, f"{_show(options, 'preprocessing')} as option `preprocessing`")
    shape = options["input_shape"]
    if shape is not None and not (len(shape) == 3 and all(isinstance(side, int) and side > 0 for side in shape)):
        raise _bad_record(path, f"{_show(options, 'input_shape')} as option `input_shape`")


def _check_imports(original: OriginalExport, imports: Sequence[AnyPath]) -> None:
    recorded = list(map(str, original.options.get("imports") or ()))
    if recorded != [os.fspath(source) for source in imports]:
        received = ", ".join(map(repr, imports)) or "none"
        raise InputError(
            f"{original.path!r} names Python code to run: {', '.join(map(repr, recorded)) or 'none'}. A record alone "
            f"runs none. Expected `imports` to name the same. Received: {received}",
            argument="imports",
        )


def _check_paths(original: OriginalExport, chosen: Collection[str]) -> None:
    """Raise `InputError` where a file or folder that the options name does not exist, or may not be taken from there.

    `chosen` are the options that the caller gave, instead of the record.
    """
    datasets = set(data.list_datasets())
    zoo = models.list_models()
    known: dict[str, set[str]] = {
        "model": set(zoo),
        "weights": {
            *("random", "he"),
            *(name for spec in map(models.get_spec, zoo) for name in (*spec.bundled_weights, *spec.downloads)),
        },
        "test": datasets,
        "calibration": datasets,
        "labels": set(),
    }
    for option, names in known.items():
        value = original.options.get(option)
        if value is None or value in names or (option == "model" and value.startswith("keras:")):
            continue
        if option not in chosen and files.leads_elsewhere(value):
            raise InputError(
                f"{original.path!r} names {value!r} as `{option}`, which leads out of the working directory. Pass "
                f"`{option}` too, so that it is not the record that decides",
                argument=option,
                path=value,
            )
        if os.path.exists(value):
            continue
        raise InputError(
            f"{original.path!r} names {value!r} as `{option}`, relative to the folder in which the export ran. "
            f"There is no such file or folder in {str(pathlib.Path.cwd())!r}",
            path=value,
        )


def _bad_record(path: AnyPath, received: str) -> InputError:
    return InputError(
        f"Expected the JSON file that `keras-nin export` wrote beside a .tflite file. Received: {os.fspath(path)!r} "
        f"with {received}",
        path=path,
    )


def _show(document: dict[str, Any], name: str) -> str:
    return format_value(document[name]) if name in document else "nothing"
