"""What a report is made of, read from files: .tflite files, and the JSON that the project's commands write."""

import csv
import dataclasses
import io
import math
import pathlib

from keras_nin import files
from keras_nin.audit.records import SCHEMA as AUDIT_SCHEMA
from keras_nin.audit.records import Audit, Finding, Row, Total
from keras_nin.benchmark.comparison import COMPARISON_SCHEMA, Ratio, RunComparison
from keras_nin.benchmark.records import SCHEMA as BENCHMARK_SCHEMA
from keras_nin.benchmark.records import Benchmark, Profile
from keras_nin.errors import InputError
from keras_nin.report import edge_documents, score_documents
from keras_nin.report.checked import record
from keras_nin.report.edge_documents import Predicted

FILE_SCHEMA, EXPORT_SCHEMA = "keras_nin.export_file/1", "keras_nin.export/1"


@dataclasses.dataclass(frozen=True)
class Audited:
    """An `Audit`, by what the network is called; `sha256` and `bytes` of the file where it is one."""

    name: str
    audit: Audit
    sha256: str | None = None
    bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class CalibrationSource:
    """Where the images that set the ranges came from; with `latency_only` they were noise."""

    source: str
    count: int
    latency_only: bool = False


@dataclasses.dataclass(frozen=True)
class Judged:
    """One check of a parity: a number that is not finite is None."""

    name: str
    value: float | None
    limit: float
    holds: bool


@dataclasses.dataclass(frozen=True)
class ParityFound:
    """What an export's record says of the comparison with its model; see `keras_nin.export.Parity`."""

    source: str
    images: int
    step: float | None
    max_steps: float | None
    rms_steps: float | None
    agreement: float | None
    model_top1: float | None
    file_top1: float | None
    checks: tuple[Judged, ...]
    holds: bool
    cosine: float | None = None
    snr_db: float | None = None
    ties: int | None = None


@dataclasses.dataclass(frozen=True)
class Sidecar:
    """What an export's record says of a file: how it was made, and how it compares with its model."""

    file: str
    sha256: str
    bytes: int
    model: str
    weights: str
    scheme: str
    calibration: CalibrationSource | None
    parity: ParityFound | None


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The rows of a sweep (`keras_nin.benchmark.sweep_rows.Row` by point), the file's name, and who measured."""

    name: str
    rows: dict
    who: dict


@dataclasses.dataclass(frozen=True)
class Interleaved:
    """Files that took turns: the `Ratio`s of their times, and the `Benchmark` that they are of."""

    benchmark: Benchmark
    ratios: tuple[Ratio, ...]


def read(path):
    """Return what the file at `path` holds, as a tuple of records.

    `Audited`, `Sidecar`, `Benchmark`, `Interleaved`, `RunComparison`, `Sweep`, and those of `edge_documents` and
    `score_documents`. A .tflite file is audited, and judged for the Edge TPU; the record that its export left beside it
    is read too, where it is of this file.

    Raises:
        InputError: it cannot be read, or is none of those.
    """
    path = pathlib.Path(path)
    by_ending = {".tflite": _tflite, ".csv": _sweep}
    return by_ending.get(path.suffix.lower(), _json)(path)


def _tflite(path):
    from keras_nin.audit import audit

    content = files.read_bytes(path)
    found = Audited(path.name, audit(path), files.sha256(content), len(content))
    beside = path.with_suffix(".json")
    sidecars = _json(beside) if beside.is_file() and _schema(files.read_json(beside)) == FILE_SCHEMA else ()
    return (found, _predicted(path, found.sha256), *(sidecar for sidecar in sidecars if sidecar.sha256 == found.sha256))


def _predicted(path, sha256):
    from keras_nin.edge.edgetpu import judge

    try:
        return edge_documents.predicted(path.name, judge(path), sha256)
    except InputError as error:  # a valid file with nothing to judge: compiled already, or without operators
        return Predicted(path.name, None, sha256, str(error).replace(str(path), path.name))


def _sweep(path):
    from keras_nin.benchmark import sweep_rows

    try:
        text = files.read_bytes(path).decode(errors="replace")
        first = next(csv.DictReader(io.StringIO(text)), {})
        who = {name: first.get(name) for name in sweep_rows.identity(dict.fromkeys(("cpu", "cores", "litert"), ""))}
        rows = sweep_rows.read(path, who)
    except csv.Error as error:
        raise InputError(f"Expected {str(path)!r} to be the CSV of a sweep. Received: {error}") from None
    if not rows:
        raise InputError(f"Expected the CSV of a sweep with rows. Received: {str(path)!r}, without one")
    times = [time for row in rows.values() for time in (row.us, row.low_us, row.high_us, row.kernel_us)]
    if not all(time is None or 0 < time < math.inf for time in times):
        raise InputError(f"Expected times above 0 in {str(path)!r}. Received: another")
    return (Sweep(path.name, rows, who),)


def _json(path):
    document = files.read_json(path)
    reader = _READERS.get(_schema(document))
    if reader is None:
        raise InputError(
            f"Expected a .tflite file, the .csv of a sweep, or JSON of the schemas {', '.join(_READERS)}. "
            f"Received: {str(path)!r}, {_described(document)}"
        )
    try:
        return reader(document)
    except InputError as error:
        raise InputError(
            f"Expected {str(path)!r} to hold {_schema(document)}. Received: a damaged one: {error}"
        ) from None


def _schema(document):
    schema = document.get("schema") if isinstance(document, dict) else None
    return schema if isinstance(schema, str) else None


def _described(document):
    schema = _schema(document)
    return "without a schema" if schema is None else f"of the schema {schema[:60]!r}"


def _audit(document):
    model = _text(document, "model")
    rows = tuple(record(Row, row) for row in _list(document, "rows"))
    findings = tuple(_finding(each) for each in _list(document, "findings"))
    return (Audited(model, Audit(model, rows, record(Total, document.get("total")), findings)),)


def _finding(document):
    if isinstance(document, dict) and "layers" not in document:
        document = document | {"layers": [document.get("layer")]}
    found = record(Finding, document)
    if not all(isinstance(value, int | float) for value in found.saves.values()):
        raise InputError(f"Expected numbers for what a finding saves. Received: {found.saves!r:.80}")
    return found


def _sidecar(document):
    return (record(Sidecar, document),)


def _sidecars(document):
    return tuple(record(Sidecar, each) for each in _list(document, "files"))


def _benchmark(document):
    host = document.get("host")
    if not isinstance(host, dict):
        raise InputError(f"Expected the host as a JSON object. Received: {type(host).__name__}")
    warnings = tuple(str(each) for each in _list(document, "warnings"))
    benchmark = Benchmark(host, tuple(_profile(each, host) for each in _list(document, "results")), warnings)
    ratios = tuple(record(Ratio, each) for each in _list(document, "ratios")) if "ratios" in document else ()
    return (benchmark, *([Interleaved(benchmark, ratios)] if ratios else []))


def _runs(document):
    return (record(RunComparison, document),)


def _profile(document, host):
    if isinstance(document, dict) and isinstance(document.get("total"), dict):
        document = document | {"total": document["total"].get("us"), "host": host}
    profile = record(Profile, document)
    numbers = [profile.total, *profile.layers, *(layer.us for layer in profile.layers if layer.us), *profile.peaks]
    if any(value < 0 for each in (profile, *numbers) for name, value in _numbers(each) if name != "overhead_us"):
        raise InputError(f"Expected no negative times or counts. Received: one, of {profile.file!r:.80}")
    if not profile.total.median or not all(peak.gmacs_per_s and peak.gbytes_per_s for peak in profile.peaks):
        raise InputError(f"Expected a median and peaks above 0. Received: 0, of {profile.file!r:.80}")
    return profile


def _numbers(made):
    return [(name, value) for name, value in vars(made).items() if isinstance(value, int | float)]


def _list(document, key):
    value = document.get(key)
    if not isinstance(value, list):
        raise InputError(f"Expected a list of {key}. Received: {type(value).__name__}")
    return value


def _text(document, key):
    value = document.get(key)
    if not isinstance(value, str):
        raise InputError(f"Expected {key} as text. Received: {type(value).__name__}")
    return value


_READERS = {
    AUDIT_SCHEMA: _audit,
    FILE_SCHEMA: _sidecar,
    EXPORT_SCHEMA: _sidecars,
    BENCHMARK_SCHEMA: _benchmark,
    COMPARISON_SCHEMA: _runs,
    **edge_documents.READERS,
    **score_documents.READERS,
}
