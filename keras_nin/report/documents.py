"""Records from JSON that anyone may have written: every value has the type that the record declares."""

import csv
import dataclasses
import functools
import io
import math
import pathlib
import types
import typing
from dataclasses import dataclass

from keras_nin import files, schemas
from keras_nin.audit.api import Audit
from keras_nin.audit.records import AuditRow, AuditTotal, Finding
from keras_nin.benchmark.comparison import LatencyRatio, RunComparison
from keras_nin.benchmark.records import BenchmarkResult, Profile
from keras_nin.claims.claim import Interval
from keras_nin.edge.edgetpu.records import EdgeTPUResult
from keras_nin.edge.ethosu import records
from keras_nin.edge.ethosu.records import EthosUEstimate, EthosURefusal, EthosUResult
from keras_nin.edge.fit import TARGETS, FitResult
from keras_nin.edge.micro.records import MicroResult
from keras_nin.errors import InputError, check_choice
from keras_nin.report.claims import CLAIMS_SCHEMA
from keras_nin.report.claims import format_figure as shown

_INT_LIMIT = 2**63


def record_from_json(cls, document):
    """Return a dataclass `cls` of a JSON document (a dictionary); keys that it does not have are left out.

    Raises:
        InputError: a field is missing or is not what `cls` declares.
    """
    if not isinstance(document, dict):
        raise InputError(f"Expected {cls.__name__} as a JSON object. Received: {_shorten_repr(document)}")
    hints, values = _field_types(cls), {}
    for field in dataclasses.fields(cls):
        if field.name in document:
            values[field.name] = _typed_value(hints[field.name], document[field.name], f"{cls.__name__}.{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"Expected {cls.__name__} with {field.name!r}. Received: none")
    return cls(**values)


def base_name(path):
    """Return the last part of a path of any system: where a file lay is nobody's business but its author's."""
    return path.replace("\\", "/").rpartition("/")[2]


@functools.cache
def _field_types(cls):
    return typing.get_type_hints(cls)


def _typed_value(hint, value, where):
    """Return `value` as `hint` wants it: lists as tuples, dictionaries as records."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and types.NoneType in options:
        return None
    (kind,) = (option for option in options if option is not types.NoneType)
    if dataclasses.is_dataclass(kind):
        return record_from_json(kind, value)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        items = typing.get_args(kind)
        if items[-1] is Ellipsis:
            items = (items[0],) * len(value)
        if len(items) != len(value):
            raise InputError(f"Expected {len(items)} values of {where}. Received: {_shorten_repr(value)}")
        return tuple(_typed_value(item, each, where) for item, each in zip(items, value, strict=True))
    if kind is tuple and isinstance(value, list):
        return _nested_tuples(value, where)
    if typing.get_origin(kind) is dict:
        kind = dict
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < _INT_LIMIT else math.nan
    if not _is_instance(kind, value):
        raise InputError(f"Expected {getattr(kind, '__name__', kind)} for {where}. Received: {_shorten_repr(value)}")
    return value


def _is_instance(kind, value):
    if not isinstance(kind, type) or not isinstance(value, kind):
        return False
    if kind is int:
        return not isinstance(value, bool) and abs(value) < _INT_LIMIT
    return kind is not float or math.isfinite(value)


def _nested_tuples(value, where):
    """Return nested lists of integers, such as shapes, as tuples; None stands for an open side."""
    if isinstance(value, list):
        return tuple(_nested_tuples(item, where) for item in value)
    if value is not None and not _is_instance(int, value):
        raise InputError(f"Expected integers for {where}. Received: {_shorten_repr(value)}")
    return value


def _shorten_repr(value, length=60):
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."


# MERGED JSON of the commands for edge targets: `edgetpu`, `ethosu`, `micro` and `fit`, as the records that they are of.

_MAX_US = 1e15  # thirty years
_MAX_BYTES = 2**63


@dataclass(frozen=True)
class EdgeTPUPrediction:
    """The Edge TPU's `Verdict` on what is called `name`; None where there is nothing to judge, with the reason.

    `sha256` is of the file that was judged, None where it is not known.
    """

    name: str
    verdict: EdgeTPUResult | None
    sha256: str | None = None
    reason: str | None = None


def make_prediction(name, verdict, sha256=None):
    """Return the `Predicted` of a file by its name alone."""
    return EdgeTPUPrediction(name, dataclasses.replace(verdict, model=name), sha256)


def _read_edgetpu(document):
    total = document.get("total")
    if not isinstance(total, dict):
        raise InputError(f"Expected the total as a JSON object. Received: {type(total).__name__}")
    memory = {
        "parameter_bytes": total.get("parameter_bytes"),
        "state": total.get("parameters"),
        "streamed_bytes": total.get("streamed_bytes"),
    }
    fields = {"memory": memory, "subgraphs": total.get("subgraphs"), "checks": []}
    verdict = record_from_json(EdgeTPUResult, document | fields)
    return (make_prediction(base_name(verdict.model), verdict),)


def _read_ethosu(document):
    if not isinstance(document.get("results"), list) or not document["results"]:
        raise InputError("Expected results in a list, one at least. Received: none")
    estimates = tuple(map(_read_estimate, document["results"]))
    if not isinstance(document.get("refusals"), list):
        raise InputError(f"Expected a list of refusals. Received: {type(document.get('refusals')).__name__}")
    refusals = tuple(record_from_json(EthosURefusal, each) for each in document["refusals"])
    if len({each.sha256 for each in estimates}) > 1:
        raise InputError("Expected results of one file. Received: of several")
    return (EthosUResult(estimates[0].file, estimates, refusals),)


def _read_estimate(document):
    found = record_from_json(EthosUEstimate, document | {"compiled": b""} if isinstance(document, dict) else document)
    records.parse_accelerators([found.accelerator])
    if found.clock_hz < 1 or found.macs_per_cycle < 1 or not 0 <= found.us < _MAX_US:
        raise InputError(f"Expected a clock, MACs a cycle and a time above 0. Received: others, of {found.file!r:.80}")
    if any(layer.cycles < 0 for layer in found.layers) or found.cycles < 0:
        raise InputError(f"Expected no negative cycles. Received: some, of {found.file!r:.80}")
    moved = [count for layer in found.layers for each in (layer.read, layer.written) for count in each.values()]
    if not all(isinstance(count, int) and 0 <= count < _MAX_BYTES for count in moved):
        raise InputError(f"Expected numbers of bytes that are moved. Received: others, of {found.file!r:.80}")
    return found


def _read_micro(document):
    found = record_from_json(MicroResult, document | {"checks": []})
    if found.arena is None and found.finding is None:
        raise InputError("Expected an arena, or a finding why there is none. Received: neither")
    return (found,)


def _read_fit(document):
    found = record_from_json(FitResult, document | {"checks": []})
    for target in (*found.targets, *(each.target for result in found.results for each in result.missing)):
        check_choice("target", target, TARGETS)
    if any(result.macs and result.pointwise_macs is None for result in found.results):
        raise InputError("Expected the MACs in 1x1 layers with those of a file. Received: none")
    if any(each.edgetpu and not each.edgetpu.compiles and each.edgetpu.failure is None for each in found.results):
        raise InputError("Expected the failure of a file that does not compile. Received: none")
    return (found,)


_EDGE_READERS = {
    schemas.EDGETPU: _read_edgetpu,
    schemas.ETHOSU: _read_ethosu,
    schemas.MICRO: _read_micro,
    schemas.FIT: _read_fit,
}


# MERGED JSON of `evaluate` and `claims`, as records for a report.

EVALUATE_SCHEMA = "keras_nin.evaluate/1"


@dataclass(frozen=True)
class ClassScore:
    """A class: its name, how many images are of it, the shares that were found and that were right (None: of none)."""

    name: str
    images: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class ConfusionMatrix:
    """How many images of one class (row) were taken for another (column), over the numbers of the `classes`."""

    classes: tuple[int, ...]
    matrix: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class InferenceSpeed:
    """Images per second, inference alone, with what a speed is shown beside."""

    images_per_second: float
    batch: int
    threads: int
    runs: int
    host: dict


@dataclass(frozen=True)
class EvaluateDocument:
    """What `keras-nin evaluate` found of a file; see `keras_nin.report.accuracy.ClassificationScores`."""

    file: str
    images: int
    top1: float
    top5: float | None
    per_class: tuple[ClassScore, ...]
    confusion: ConfusionMatrix
    data: str
    preprocessing: dict
    weights: str | None = None
    speed: InferenceSpeed | None = None


@dataclass(frozen=True)
class FigureDocument:
    """A figure of a claim as text, whether it agrees with the article's (None: nothing to compare) and with ours."""

    name: str
    article: str
    ours: str
    agrees: bool | None
    reproduced: bool


@dataclass(frozen=True)
class TimingDocument:
    """How the figures of a claim were timed; their names say on how many threads."""

    host: dict
    processes: int
    runs: int


@dataclass(frozen=True)
class ClaimDocument:
    """A reproduced claim; see `keras_nin.claims.claim.ClaimResult`."""

    id: str
    source: str
    claim: str
    verdict: str
    reproduced: bool
    why: str
    figures: tuple[FigureDocument, ...]
    measured: TimingDocument | None = None


@dataclass(frozen=True)
class ClaimsDocument:
    """The claims of one run."""

    claims: tuple[ClaimDocument, ...]


def _read_evaluate(document):
    found = record_from_json(EvaluateDocument, document)
    count = len(found.confusion.classes)
    if any(len(line) != count for line in (found.confusion.matrix, found.per_class, *found.confusion.matrix)):
        raise InputError(f"Expected a score, a row and a column for each of {count} classes. Received: others")
    return (found,)


def _read_claims(document):
    claims = document.get("claims")
    if not isinstance(claims, list):
        raise InputError(f"Expected a list of claims. Received: {type(claims).__name__}")
    return (ClaimsDocument(tuple(map(_read_claim, claims))),)


def _read_claim(document):
    figures = document.get("figures") if isinstance(document, dict) else None
    if not isinstance(figures, list) or not all(isinstance(each, dict) for each in figures):
        raise InputError("Expected a claim as a JSON object with a list of figures. Received: another value")
    return record_from_json(ClaimDocument, document | {"figures": [_read_figure(each) for each in figures]})


def _read_figure(document):
    ours = "not measured" if document.get("ours") is None else _figure_text(document["ours"])
    if document.get("reproduced") is False:
        ours = f"{ours} (declared: {_figure_text(document.get('declared'))})"
    return document | {"article": _figure_text(document.get("article")), "ours": ours}


def _figure_text(given):
    """Return a figure as the terminal shows it: JSON has tuples as lists, and an interval as an object."""
    if isinstance(given, dict):
        return shown(record_from_json(Interval, given))
    return shown(tuple(given)) if isinstance(given, list) else shown(given)


_SCORE_READERS = {EVALUATE_SCHEMA: _read_evaluate, CLAIMS_SCHEMA: _read_claims}


# MERGED What a report is made of, read from files: .tflite files, and the JSON that the project's commands write.

FILE_SCHEMA, EXPORT_SCHEMA = "keras_nin.export_file/1", "keras_nin.export/1"


@dataclasses.dataclass(frozen=True)
class NamedAudit:
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
class CheckDocument:
    """One check of a parity: a number that is not finite is None."""

    name: str
    value: float | None
    limit: float
    passed: bool


@dataclasses.dataclass(frozen=True)
class ParityDocument:
    """What an export's record says of the comparison with its model; see `keras_nin.export.Parity`."""

    source: str
    images: int
    lsb: float | None
    max_abs_diff_lsb: float | None
    rms_diff_lsb: float | None
    top1_match: float | None
    model_top1: float | None
    file_top1: float | None
    checks: tuple[CheckDocument, ...]
    passed: bool
    cosine: float | None = None
    snr_db: float | None = None
    ties: int | None = None


@dataclasses.dataclass(frozen=True)
class ExportDocument:
    """What an export's record says of a file: how it was made, and how it compares with its model."""

    file: str
    sha256: str
    bytes: int
    model: str
    weights: str
    scheme: str
    calibration: CalibrationSource | None
    parity: ParityDocument | None


@dataclasses.dataclass(frozen=True)
class SweepDocument:
    """The rows of a sweep (`keras_nin.benchmark.sweep_results.SweepRow` by point), the file's name, and who measured."""

    name: str
    rows: dict
    who: dict


@dataclasses.dataclass(frozen=True)
class InterleavedRatios:
    """Files that took turns: the `Ratio`s of their times, and the `Benchmark` that they are of."""

    benchmark: BenchmarkResult
    ratios: tuple[LatencyRatio, ...]


def read_documents(path):
    """Return what the file at `path` holds, as a tuple of records.

    `Audited`, `Sidecar`, `Benchmark`, `Interleaved`, `RunComparison`, `Sweep`, and those of `edge_documents` and
    `score_documents`. A .tflite file is audited, and judged for the Edge TPU; the record that its export left beside it
    is read too, where it is of this file.

    Raises:
        InputError: it cannot be read, or is none of those.
    """
    path = pathlib.Path(path)
    by_ending = {".tflite": _read_tflite, ".csv": _read_sweep}
    return by_ending.get(path.suffix.lower(), _read_json)(path)


def _read_tflite(path):
    from keras_nin.audit import audit_model

    content = files.read_bytes(path)
    found = NamedAudit(path.name, audit_model(path), files.sha256(content), len(content))
    beside = path.with_suffix(".json")
    sidecars = _read_json(beside) if beside.is_file() and _schema_of(files.read_json(beside)) == FILE_SCHEMA else ()
    return (
        found,
        _predict_edgetpu(path, found.sha256),
        *(export_record for export_record in sidecars if export_record.sha256 == found.sha256),
    )


def _predict_edgetpu(path, sha256):
    from keras_nin.edge.edgetpu import check_edgetpu

    try:
        return make_prediction(path.name, check_edgetpu(path), sha256)
    except InputError as error:  # a valid file with nothing to judge: compiled already, or without operators
        return EdgeTPUPrediction(path.name, None, sha256, str(error).replace(str(path), path.name))


def _read_sweep(path):
    from keras_nin.benchmark import sweep_results

    try:
        text = files.read_bytes(path).decode(errors="replace")
        first = next(csv.DictReader(io.StringIO(text)), {})
        who = {
            name: first.get(name)
            for name in sweep_results.identify_machine(dict.fromkeys(("cpu", "cores", "litert"), ""))
        }
        rows = sweep_results.read_sweep(path, who)
    except csv.Error as error:
        raise InputError(f"Expected {str(path)!r} to be the CSV of a sweep. Received: {error}") from None
    if not rows:
        raise InputError(f"Expected the CSV of a sweep with rows. Received: {str(path)!r}, without one")
    times = [time for row in rows.values() for time in (row.us, row.low_us, row.high_us, row.kernel_us)]
    if not all(time is None or 0 < time < math.inf for time in times):
        raise InputError(f"Expected times above 0 in {str(path)!r}. Received: another")
    return (SweepDocument(path.name, rows, who),)


def _read_json(path):
    document = files.read_json(path)
    reader = _READERS.get(_schema_of(document))
    if reader is None:
        raise InputError(
            f"Expected a .tflite file, the .csv of a sweep, or JSON of the schemas {', '.join(_READERS)}. "
            f"Received: {str(path)!r}, {_describe_schema(document)}"
        )
    try:
        return reader(document)
    except InputError as error:
        raise InputError(
            f"Expected {str(path)!r} to hold {_schema_of(document)}. Received: a damaged one: {error}"
        ) from None


def _schema_of(document):
    schema = document.get("schema") if isinstance(document, dict) else None
    return schema if isinstance(schema, str) else None


def _describe_schema(document):
    schema = _schema_of(document)
    return "without a schema" if schema is None else f"of the schema {schema[:60]!r}"


def _read_audit(document):
    model = _text_field(document, "model")
    rows = tuple(record_from_json(AuditRow, row) for row in _list_field(document, "rows"))
    findings = tuple(_read_finding(each) for each in _list_field(document, "findings"))
    return (NamedAudit(model, Audit(model, rows, record_from_json(AuditTotal, document.get("total")), findings)),)


def _read_finding(document):
    if isinstance(document, dict) and "layers" not in document:
        document = document | {"layers": [document.get("layer")]}
    found = record_from_json(Finding, document)
    if not all(isinstance(value, int | float) for value in found.saves.values()):
        raise InputError(f"Expected numbers for what a finding saves. Received: {found.saves!r:.80}")
    return found


def _read_export_record(document):
    return (record_from_json(ExportDocument, document),)


def _read_export(document):
    return tuple(record_from_json(ExportDocument, each) for each in _list_field(document, "files"))


def _read_benchmark(document):
    host = document.get("host")
    if not isinstance(host, dict):
        raise InputError(f"Expected the host as a JSON object. Received: {type(host).__name__}")
    warnings = tuple(str(each) for each in _list_field(document, "warnings"))
    benchmark = BenchmarkResult(
        host, tuple(_read_profile(each, host) for each in _list_field(document, "results")), warnings
    )
    ratios = (
        tuple(record_from_json(LatencyRatio, each) for each in _list_field(document, "ratios"))
        if "ratios" in document
        else ()
    )
    return (benchmark, *([InterleavedRatios(benchmark, ratios)] if ratios else []))


def _read_run_comparison(document):
    return (record_from_json(RunComparison, document),)


def _read_profile(document, host):
    if isinstance(document, dict) and isinstance(document.get("total"), dict):
        document = document | {"total": document["total"].get("us"), "host": host}
    profile = record_from_json(Profile, document)
    numbers = [profile.total, *profile.layers, *(layer.us for layer in profile.layers if layer.us), *profile.peaks]
    if any(value < 0 for each in (profile, *numbers) for name, value in _number_fields(each) if name != "overhead_us"):
        raise InputError(f"Expected no negative times or counts. Received: one, of {profile.file!r:.80}")
    if not profile.total.median or not all(peak.gmacs_per_s and peak.gbytes_per_s for peak in profile.peaks):
        raise InputError(f"Expected a median and peaks above 0. Received: 0, of {profile.file!r:.80}")
    return profile


def _number_fields(made):
    return [(name, value) for name, value in vars(made).items() if isinstance(value, int | float)]


def _list_field(document, key):
    value = document.get(key)
    if not isinstance(value, list):
        raise InputError(f"Expected a list of {key}. Received: {type(value).__name__}")
    return value


def _text_field(document, key):
    value = document.get(key)
    if not isinstance(value, str):
        raise InputError(f"Expected {key} as text. Received: {type(value).__name__}")
    return value


_READERS = {
    schemas.AUDIT: _read_audit,
    FILE_SCHEMA: _read_export_record,
    EXPORT_SCHEMA: _read_export,
    schemas.BENCHMARK: _read_benchmark,
    schemas.COMPARE_RUNS: _read_run_comparison,
    **_EDGE_READERS,
    **_SCORE_READERS,
}
