"""`keras-nin export --from SIDECAR`: an export again, from the JSON file that it wrote beside its file."""

import dataclasses
import os
import pathlib
import types

import click
from click.core import ParameterSource

from keras_nin import data, files, models
from keras_nin.errors import InputError
from keras_nin.export.converted_model import package_versions
from keras_nin.export.schemes import SCHEMES
from keras_nin.schemas import EXPORT_FILE as EXPORT_FILE_SCHEMA
from keras_nin.workflows import models as models_module

# What may go along with --from: it says where the files go and how they are timed, not what they hold.
ALONGSIDE = {"sidecar": "--from", "out": "--out", "force": "--force", "threads": "--threads", "runs": "--runs",
             "as_json": "--json"}  # fmt: skip
_ENTRIES = {"scheme": str, "sha256": str, "weights_sha256": str, "options": dict, "versions": dict}
_OPTIONS = ("model", "weights", "input_shape", "set", "seed", "data", "labels", "test_count", "preprocessing", "crop",
            "min_top1_match", "max_drop")  # fmt: skip
_CALIBRATION_OPTIONS = ("calibration", "calibration_count", "allow_float")


@dataclasses.dataclass(frozen=True)
class OriginalExport:
    """What the sidecar at `path` says: the export's scheme and options, and what came out of it.

    Attributes:
        path: of the sidecar.
        scheme: name of the scheme.
        options: the options of the command by their names.
        sha256, weights_sha256: of the file, of the weights.
        calibration_sha256: of the calibration images, or None.
        versions: of the packages, by their names.
    """

    path: str
    scheme: str
    options: dict
    sha256: str
    weights_sha256: str
    calibration_sha256: str | None
    versions: dict


def read_original(path):
    """Return the `Original` that the sidecar at `path` holds.

    Raises:
        InputError: the file cannot be read or is no sidecar of the command.
    """
    document = files.read_json(path)
    if not isinstance(document, dict) or document.get("schema") != EXPORT_FILE_SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else f"a {type(document).__name__}"
        raise _no_sidecar(path, f"schema {found!r} instead of {EXPORT_FILE_SCHEMA!r}")
    if document.get("options", 0) is None:
        raise _no_sidecar(path, "an export from Python, which no command repeats (its `options` are null)")
    for key, kind in _ENTRIES.items():
        if not isinstance(document.get(key), kind):
            raise _no_sidecar(path, f"{_shown(document, key)} as `{key}`")
    if document["scheme"] not in SCHEMES:
        raise _no_sidecar(path, f"{_shown(document, 'scheme')} as `scheme`")
    calibrated_on = _calibrated_on(path, document)
    for key in (*_OPTIONS, *(_CALIBRATION_OPTIONS if calibrated_on else ())):
        if key not in document["options"]:
            raise _no_sidecar(path, f"options without `{key}`")
    return OriginalExport(path=str(path), calibration_sha256=calibrated_on, **{key: document[key] for key in _ENTRIES})


def _calibrated_on(path, document):
    calibration = document.get("calibration")
    if calibration is None and not SCHEMES[document["scheme"]].calibrated:
        return None
    if not isinstance(calibration, dict) or not isinstance(calibration.get("sha256"), str):
        raise _no_sidecar(path, f"{_shown(document, 'calibration')} as `calibration`")
    return calibration["sha256"]


def original_arguments(context, original):
    """Return the arguments of the command that made the original, with those of now that go along.

    Args:
        context: click's, of the command with --from.
        original: `Original`.

    Raises:
        InputError: other options beside --from, or options in the sidecar that the command does not take.
    """
    for name in context.params:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE and name not in ALONGSIDE:
            option = next(each for each in context.command.params if each.name == name)
            raise InputError(
                f"Expected beside --from only {', '.join(list(ALONGSIDE.values())[1:])}. "
                f"Received: {option.opts[-1] if isinstance(option, click.Option) else 'MODEL'}"
            )
    _check_paths(original)
    words = [*_words(original, context.command), f"--scheme={original.scheme}", "--", original.options["model"]]
    try:
        again = context.command.make_context(context.info_name, words)
    except click.UsageError as error:
        raise _no_sidecar(original.path, error.format_message()) from None
    return types.SimpleNamespace(**again.params | {name: context.params[name] for name in ALONGSIDE})


def _words(original, command):
    """Yield the options of the sidecar as words of the command line."""
    known = {name: each for each in command.params for name in each.opts if each.name not in ALONGSIDE}
    for key, value in original.options.items():
        name = f"--{key.replace('_', '-')}"
        if key == "model" and isinstance(value, str):
            continue
        if name not in known or not _fits(value, known[name]):
            raise _no_sidecar(original.path, f"{_shown(original.options, key)} as option `{key}`")
        if known[name].is_flag:
            yield from [name] if value else []
        elif isinstance(value, list) and known[name].multiple:
            yield from (f"{name}={each}" for each in value)
        elif value is not None:
            yield f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"


def _fits(value, option):
    if option.is_flag or isinstance(value, bool):
        return option.is_flag and isinstance(value, bool)
    if isinstance(value, list):
        return all(isinstance(each, str | int) for each in value)
    return value is None or isinstance(value, str | int | float)


def _check_paths(original):
    """Raise `InputError` where a file or folder that the options name is not there."""
    options = original.options
    names = {
        "model": set(models.list_models()),
        "weights": {"random", *(name for model in models.list_models() for name in models.get_spec(model).weights)},
        "data": set(data.list_datasets()),
        "calibration": set(data.list_datasets()),
        "labels": set(),
    }
    for key, known in names.items():
        value = options.get(key)
        if not isinstance(value, str) or value in known or value.startswith("keras:") or os.path.exists(value):
            continue
        raise InputError(
            f"Expected {value!r}, which {original.path!r} names as `{key}`, as seen from the folder in which the "
            f"export ran. Received: no such file or folder in {str(pathlib.Path.cwd())!r}"
        )


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """Whether the bytes are those of the original, and which versions are others, as text."""

    same: bool
    versions: tuple[str, ...]

    @property
    def passed(self):
        """Whether it is as it should be: the same versions must give the same bytes."""
        return self.same or bool(self.versions)


def compare_with_original(original, made):
    """Return the `Outcome` of an export that should be that of the original.

    Raises:
        InputError: it was made from other weights or calibration images.
    """
    if not made.scheme.trained:
        _check_same("weights", original.path, original.weights_sha256, made.weights_sha256, made.weights)
    if made.calibration:
        calibration = made.calibration
        _check_same("calibration images", original.path, original.calibration_sha256, calibration.sha256,
                    calibration.source)  # fmt: skip
    now = package_versions()
    names = dict.fromkeys([*original.versions, *now])
    others = [
        f"{name} {original.versions.get(name, 'unknown')} then, {now.get(name, 'unknown')} now"
        for name in names
        if original.versions.get(name) != now.get(name)
    ]
    return Reproduction(files.sha256(made.data) == original.sha256, tuple(others))


def _check_same(what, path, then, now, source):
    if then != now:
        raise InputError(
            f"Expected the {what} that {path!r} records (sha256 {str(then)[:12]}...). Received: others from "
            f"{source!r} (sha256 {now[:12]}...)"
        )


def print_outcome(original, outcome, name, as_json):
    """Print what became of it; on stderr what is no result."""
    others = f" ({'; '.join(outcome.versions)})" if outcome.versions else ""
    if outcome.same:
        note = f", with other versions{others}" if others else ""
        click.echo(f"Reproduced: {name} has the bytes that {original.path} records{note}.", err=as_json)
    elif others:
        models_module.note(
            f"Note: {name} has other bytes than {original.path} records; other versions may give those{others}."
        )
    else:
        models_module.note(
            f"Not reproduced: {name} has other bytes than {original.path} records, although all versions are the same. "
            "Was it made on another kind of processor?"
        )


def _no_sidecar(path, received):
    return InputError(
        f"Expected the JSON file that `keras-nin export` wrote beside a .tflite file. Received: {str(path)!r} with "
        f"{received}"
    )


def _shown(document, key):
    if key not in document:
        return "nothing"
    text = repr(document[key])
    return text if len(text) <= 60 else f"{text[:60]}..."
