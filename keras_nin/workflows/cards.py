"""Model cards: what the cards of the zoo say is measured, compared with earlier measurements, and written."""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin import files, schemas
from keras_nin._compat.keras import variables_without_values
from keras_nin.errors import InputError
from keras_nin.files import AnyPath
from keras_nin.formatting import format_count
from keras_nin.results import Result
from keras_nin.workflows import SILENT, Progress
from keras_nin.workflows.backends import keras_for_structure, start_keras
from keras_nin.workflows.inputs import ImageSource

if TYPE_CHECKING:
    from keras_nin.audit import Audit
    from keras_nin.benchmark.records import Profile
    from keras_nin.edge.fit import FileFit
    from keras_nin.export import Parity
    from keras_nin.models.model_spec import ModelSpec
    from keras_nin.report.card_records import (
        Accuracy,
        CardDifference,
        CardRecord,
        FileMeasurement,
        LatencyRow,
        Measurement,
        TargetFigures,
    )
    from keras_nin.workflows.export import ExportedFile, ExportResult

INDEX = "README.md"
DEFAULT_SCHEMES = "float32,dynamic,int8,int16x8"  # those that train a network take `scheme`
_TARGETS = ("edgetpu", "ethosu", "micro")
_HOST = ("cpu", "cores", "system", "python", "litert")  # of `describe_host`, without what changes from run to run
_EXPORT_RUNS = 20  # the latency of a card is measured after the export, for longer


@dataclasses.dataclass(frozen=True, repr=False)
class CardsResult(Result):
    """The model cards of the zoo.

    Attributes:
        contents: text of every file, by its path in the folder.
        stale: paths in the folder of the files that were out of date.
        checked: whether they were only checked, not written.
        differences: figures that were measured again and left their tolerances.
        notes: networks that were not measured, and why.
    """

    folder: pathlib.Path
    contents: Mapping[str, str]
    stale: tuple[str, ...]
    checked: bool
    differences: tuple[CardDifference, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the folder is up to date now, and what was measured again agrees with it."""
        return not (self.checked and (self.stale or self.differences))

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON-ready dictionary (schema ``keras_nin.cards/1``)."""
        return {
            "schema": schemas.CARDS,
            "folder": str(self.folder),
            "files": len(self.contents),
            "stale": list(self.stale),
            "differences": list(map(dataclasses.asdict, self.differences)),
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """Return the result in one line."""
        state = "out of date" if self.checked else "written"
        count = format_count(len(self.contents), "file")
        return f"{self.folder}: {count}, {len(self.stale)} {state}, {len(self.contents) - len(self.stale)} up to date"

    _summary = summary

    def _rows(self) -> list[dict[str, Any]]:
        return [{"file": name, "stale": name in self.stale} for name in self.contents]


def build_cards(
    models: Sequence[str] = (),
    *,
    folder: AnyPath = "models",
    measure: bool = False,
    check: bool = False,
    test: ImageSource = None,
    calibration: ImageSource = None,
    weights: AnyPath | None = None,
    scheme: str | None = None,
    threads: int = 1,
    device: str | None = None,
    python: str | None = None,
    progress: Progress = SILENT,
) -> CardsResult:
    """Write the cards of networks of the zoo, their audits and records, and the table of all networks.

    A card shows the record ``card.json`` beside it. Counts, license and texts of the record are made anew; what was
    measured stays, unless `measure` is set.

    Args:
        models: their names; none takes all.
        folder: where the cards are.
        measure: whether to measure the networks too, see `measure_card`, and to extend their records. Networks
            without trained weights are only counted.
        check: whether to write nothing, measure what the records hold again, and return the differences.
        test, calibration, weights, scheme, threads, device, python: of the measurement, as in `measure_card`; a
            check without `scheme` measures the schemes of the record.
        progress: what reports the progress.

    Raises:
        InputError: an unknown network, arguments that do not go together, images that are not at hand or have no
            labels, or a folder that is not writable.
    """
    from keras_nin.models import get_spec, list_models
    from keras_nin.report import card_records

    specs = [get_spec(name) for name in dict.fromkeys(models or list_models())]
    options: dict[str, Any] = {"test": test, "calibration": calibration, "weights": weights, "scheme": scheme}
    options |= {"device": device, "python": python}
    _check_arguments(models, measure, check, options)
    options |= {"threads": threads, "progress": progress}
    folder = pathlib.Path(folder)
    if not check:
        files.check_output_folder(folder)
    if measure or check:
        start_keras(progress)
    contents: dict[str, str] = {}
    differences: list[CardDifference] = []
    notes: list[str] = []
    records: dict[str, CardRecord] = {}
    for spec in progress.track(specs, "Making cards", len(specs)):
        stored = card_records.read_card(folder / spec.name / card_records.CARD_FILE)
        audit = _audit(spec.name, progress)
        record = describe_network(spec, audit, stored)
        if measure and (weights is not None or spec.bundled_weights):
            new = measure_card(spec.name, **options)
            old = record.measurement
            record = dataclasses.replace(record, measurement=old.extend(new) if old else new)
        elif check and stored is not None:
            again, reasons = _measure_again(record, options, is_chosen=bool(models))
            notes += reasons
            differences += card_records.compare_cards(stored, again)
        if record.outdated:
            notes.append(f"{spec.name}: other weights were measured. Run: keras-nin cards --measure {spec.name}")
        records[spec.name] = record
        contents |= format_card(spec, record, audit)
    for name in list_models():  # those that were not chosen keep their rows of the table
        stored = None if name in records else card_records.read_card(folder / name / card_records.CARD_FILE)
        records |= {name: stored} if stored else {}
    contents = {INDEX: _format_index(records)} | contents
    paths = {name: folder / name for name in contents}
    stale = [name for name, path in paths.items() if not path.is_file() or path.read_bytes() != contents[name].encode()]
    if not check:
        files.write_files({paths[name]: contents[name].encode() for name in stale}, force=True)
    return CardsResult(folder, contents, tuple(stale), check, tuple(differences), tuple(notes))


def _check_arguments(models: Sequence[str], measure: bool, check: bool, options: Mapping[str, Any]) -> None:
    """Raise `InputError` for arguments that do not go together."""
    given = next((name for name, value in options.items() if value is not None), None)
    if measure and check:
        raise InputError("`measure` writes and `check` does not; choose one of them", argument="check")
    if measure and not models:
        raise InputError("`measure` needs the names of the networks to measure", argument="models")
    if given and not (measure or check):
        raise InputError(f"`{given}` is for a measurement; add `measure` or `check`", argument=given)
    if given and not models:
        raise InputError(f"`{given}` is for single networks; name them", argument=given)


def _measure_again(record: CardRecord, options: dict[str, Any], *, is_chosen: bool) -> tuple[CardRecord, list[str]]:
    """Return a record with its measurement made anew, and notes on what could not be measured.

    A network that was not chosen keeps its measurement where its images or weights are not at hand.
    """
    old = record.measurement
    if old is None:
        return record, []
    schemes = options["scheme"] or ",".join(file.scheme for file in old.files)
    options = options | {"scheme": schemes, "weights": options["weights"] or old.weights}
    try:
        new = measure_card(record.model, **options)
    except InputError as error:
        if is_chosen:
            raise
        return record, [f"{record.model}: not measured again: {error}"]
    notes = []
    if old.targets is not None and new.targets is not None:
        missing = [entry for entry in new.targets.missing if getattr(old.targets, entry.target) is not None]
        notes = [f"{record.model}: {entry.target} not measured again: {entry.reason}" for entry in missing]
    return dataclasses.replace(record, measurement=new), notes


def _audit(name: str, progress: Progress) -> Audit:
    from keras_nin.audit.api import audit_model
    from keras_nin.models import build_model

    with keras_for_structure(progress), variables_without_values():
        return audit_model(build_model(name))


def describe_network(spec: ModelSpec, audit: Audit, stored: CardRecord | None = None) -> CardRecord:
    """Return the record of a network: counts, texts, bundled weights, and the measurement of the stored one."""
    from keras_nin.models import weight_files
    from keras_nin.report.card_records import BundledWeights, CardRecord
    from keras_nin.report.cards import describe_use, read_texts

    bundled = []
    for name in spec.bundled_weights:
        data = files.read_bytes(weight_files.find_weights(spec.name, name))
        training = weight_files.read_bundled_metrics(spec.name, name)
        # Lists are histories, with an entry for each epoch.
        training = {
            key: value
            for key, value in training.items()
            if key not in ("schema", "model") and not isinstance(value, list)
        }
        bundled.append(BundledWeights(name, files.sha256(data), len(data), training))
    measurement = stored.measurement if stored else None
    intended_use, limitations = describe_use(spec, trained=bool(bundled or measurement))
    download = spec.downloads.get(measurement.weights) if measurement else None
    if download is not None:
        limitations += (f"The weights are those of {download.publisher}. {download.license}.",)
    license = "other" if download else read_texts()["license"]
    return CardRecord(spec.name, license, intended_use, limitations, audit.total, tuple(bundled), measurement)


def measure_card(
    model: str,
    *,
    test: ImageSource = None,
    calibration: ImageSource = None,
    weights: AnyPath | None = None,
    scheme: str | None = None,
    threads: int = 1,
    device: str | None = None,
    python: str | None = None,
    progress: Progress = SILENT,
) -> Measurement:
    """Export a network with trained weights, and measure its files: accuracy, latency, and the int8 file on targets.

    Args:
        model: name of a network of the zoo.
        test, calibration, weights: as in `export_model`; all test images are used.
        scheme: schemes, comma-separated; None takes float32, dynamic, int8 and int16x8.
        threads: of the runtime that the latency is measured with.
        device, python: as in `benchmark_models`: where the latency is measured instead of this machine.
        progress: what reports the progress.

    Raises:
        InputError: no trained weights, images without labels, or as `export_model`.
    """
    from keras_nin.export.schemes import parse_schemes
    from keras_nin.models import downloads, get_spec, weight_files
    from keras_nin.report.card_records import ImageSet, Measurement
    from keras_nin.workflows.edge import check_fit
    from keras_nin.workflows.export import export_model

    spec = get_spec(model)
    name = weights if weights is not None else next(iter(spec.bundled_weights), None)
    if name is None:
        raise InputError(f"{model} has no trained weights to measure. Pass `weights`", argument="weights")
    schemes = parse_schemes(scheme or DEFAULT_SCHEMES)
    if any(entry.mixed for entry in schemes):
        raise InputError(
            "Expected schemes without a target. Received: mixed, which depends on a target and on the latencies of a "
            "machine. Export the model first; keras-nin report shows the file",
            argument="scheme",
        )
    if all(entry.trained for entry in schemes):  # they are compared with the network as trained for them
        schemes = parse_schemes(f"float32,{','.join(entry.name for entry in schemes)}")
    download = downloads.find_download(model, name)
    weight_file = downloads.fetch_weights(download) if download else weight_files.find_weights(model, name)
    with files.temporary_folder() as folder:
        result = export_model(
            model, schemes, calibration, test, weights=name, runs=_EXPORT_RUNS, out=folder, progress=progress
        )
        silent = next((file.parity for file in result if file.parity.file_top1 is None), None)
        if silent is not None:
            received = silent.no_verdict or f"{silent.images} images of {silent.source} without labels"
            raise InputError(f"Expected labeled test images of {model}. Received: {received}", argument="test")
        latencies = _measure_latencies(result, threads, device, python, progress)
        int8 = next((file for file in result if file.converted.scheme.name == "int8"), None)
        targets = int8 and check_fit([str(int8.path)], _TARGETS, progress=progress)
    original = max((file.parity for file in result if not file.converted.scheme.trained), key=lambda part: part.images)
    images, dataset = result.test.indices, result.test.dataset
    calibrated = next((file.converted.calibration for file in result if file.converted.calibration), None)
    return Measurement(
        weights=os.path.basename(name),
        weights_file_sha256=files.sha256(files.read_bytes(weight_file)),
        weights_sha256=result.files[0].converted.weights_sha256,
        preprocessing=str(result.test.preprocessing) if result.test.preprocessing else None,
        test=ImageSet(dataset.name, len(images), dataset.digest(images)),
        calibration=ImageSet(calibrated.source, calibrated.count, calibrated.sha256) if calibrated else None,
        model=_accuracy(original, "model"),
        files=tuple(_file_measurement(file) for file in result),
        latencies=latencies,
        targets=_target_figures(targets.results[0]) if targets else None,
    )


def _measure_latencies(
    result: ExportResult, threads: int, device: str | None, python: str | None, progress: Progress
) -> tuple[LatencyRow, ...]:
    from keras_nin.report.card_records import LatencyRow
    from keras_nin.workflows.benchmark import benchmark_models

    paths = [str(file.path) for file in result]
    run = benchmark_models(paths, threads=(threads,), layers=False, device=device, python=python, progress=progress)
    if run.failures:
        raise run.failures[0]
    by_hash = {file.converted.tflite.sha256: file.converted.scheme.name for file in result}

    def row(profile: Profile) -> LatencyRow:
        return LatencyRow(
            by_hash[profile.sha256],
            profile.sha256,
            round(profile.total.median, 2),
            None if profile.total.p90 is None else round(profile.total.p90, 2),
            profile.runs,
            profile.threads,
            {name: profile.host[name] for name in _HOST if name in profile.host},
            _today(),
            _versions("keras-nin"),
            profile.converged,
            None if profile.others_share is None else round(profile.others_share, 3),
        )

    return tuple(map(row, run.benchmark.profiles))


def _file_measurement(file: ExportedFile) -> FileMeasurement:
    from keras_nin.export.parity import round_floats
    from keras_nin.report.card_records import FileMeasurement

    parity, converted = file.parity, file.converted
    return FileMeasurement(
        converted.scheme.name,
        converted.tflite.sha256,
        len(file.data),
        _accuracy(parity, "file"),
        round_floats(parity.top1_match),
        round_floats(parity.snr_db),
        parity.passed,
        round_floats(converted.training) if converted.training else None,
        _today(),
        _versions(),
    )


def _accuracy(parity: Parity, side: str) -> Accuracy:
    from keras_nin.report.card_records import Accuracy, Score

    top1, top5 = (getattr(parity, f"{side}_{name}") for name in ("top1", "top5"))
    scores = [None if share is None else Score(round(share * parity.images), parity.images) for share in (top1, top5)]
    assert scores[0] is not None
    return Accuracy(scores[0], scores[1])


def _target_figures(fit: FileFit) -> TargetFigures:
    from keras_nin.report.card_records import TargetFigures

    return TargetFigures(fit.sha256, _today(), fit.edgetpu, fit.ethosu, fit.micro, fit.missing)


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _versions(*names: str) -> dict[str, str]:
    from keras_nin.export.converted_model import package_versions

    versions = package_versions()
    return {name: versions[name] for name in names or versions}


def format_card(spec: ModelSpec, record: CardRecord, audit: Audit) -> dict[str, str]:
    """Return the text of a network's card, of its record and of its audit, by path in the folder of the cards."""
    from keras_nin.report import card_records, cards

    return {
        f"{spec.name}/README.md": cards.format_card(spec, record, audit),
        f"{spec.name}/{card_records.CARD_FILE}": files.dump_json(record.to_json()),
        f"{spec.name}/{card_records.AUDIT_FILE}": files.dump_json(audit.to_json()),
    }


def read_cards(folder: AnyPath = "models") -> dict[str, str]:
    """Return the text that every file of a folder of cards has to have, from the records in it alone.

    Raises:
        InputError: a network of the zoo without a record, or a damaged one.
    """
    from keras_nin.audit.api import Audit
    from keras_nin.models import get_spec, list_models
    from keras_nin.report import card_records

    folder = pathlib.Path(folder)
    contents, records = {}, {}
    for name in list_models():
        record = card_records.read_card(folder / name / card_records.CARD_FILE)
        if record is None:
            raise InputError(f"Expected a record of {name} in {str(folder)!r}. Received: none", path=folder)
        audit = schemas.record_from_json(Audit, files.read_json(folder / name / card_records.AUDIT_FILE))
        records[name] = record
        contents |= format_card(get_spec(name), record, audit)
    return {INDEX: _format_index(records)} | contents


def _format_index(records: Mapping[str, CardRecord]) -> str:
    from keras_nin.models import get_spec, list_models
    from keras_nin.report import cards

    return cards.format_card_index([(get_spec(name), records[name]) for name in list_models() if name in records])
