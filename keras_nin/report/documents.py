"""What a report is made of, read from files: .tflite files, and the documents that the project's commands write."""

import csv
import dataclasses
import io
import math
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from keras_nin import files, schemas
from keras_nin.audit.api import Audit
from keras_nin.benchmark.certification import CertifyResult, read_certify_result
from keras_nin.benchmark.comparison import LatencyRatio, RunComparison
from keras_nin.benchmark.records import BenchmarkResult
from keras_nin.benchmark.sweep import SweepPoint
from keras_nin.benchmark.sweep_results import SweepRow
from keras_nin.claims.claim import ClaimFigure, ClaimResult, ClaimsResult, value_from_json
from keras_nin.data import Preprocessing
from keras_nin.edge.edgetpu.records import EdgeTPUResult
from keras_nin.edge.ethosu.records import EthosUEstimate, EthosURefusal, EthosUResult, parse_accelerators
from keras_nin.edge.fit import TARGETS, FitResult
from keras_nin.edge.micro.records import MicroResult
from keras_nin.errors import InputError, check_choice
from keras_nin.export.parity import Parity
from keras_nin.report.accuracy import ClassificationScores, OutputScores
from keras_nin.schemas import record_from_json, typed_value

Json: TypeAlias = Mapping[str, Any]
_MAX_US = 1e15  # thirty years


@dataclass(frozen=True)
class NamedAudit:
    """An audit with the network's name; of a file, also its hash and its size."""

    name: str
    audit: Audit
    sha256: str | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class EdgeTPUPrediction:
    """The Edge TPU verdict on a file by its name, or the `reason` why there is none."""

    name: str
    result: EdgeTPUResult | None
    sha256: str | None = None
    reason: str | None = None

    @property
    def multiple_subgraphs(self) -> bool:
        """Whether the verdict allows several subgraphs on the Edge TPU."""
        return self.result is not None and self.result.multiple_subgraphs


@dataclass(frozen=True)
class CalibrationDocument:
    """The calibration of an export record; with `latency_only`, its images are noise."""

    source: str
    count: int
    latency_only: bool = False


@dataclass(frozen=True)
class ExportDocument:
    """The export record of a file: how it was made, and how it compares with its model."""

    file: str
    sha256: str
    bytes: int
    model: str
    weights: str
    scheme: str
    calibration: CalibrationDocument | None
    parity: Parity | None


@dataclass(frozen=True)
class SweepDocument:
    """A sweep over layer shapes: the name of its CSV file, its rows by point, and the machine."""

    name: str
    rows: Mapping[SweepPoint, SweepRow]
    host: Json


@dataclass(frozen=True)
class RatiosDocument:
    """Latencies of files relative to a baseline, measured interleaved, and the benchmark that they are from."""

    benchmark: BenchmarkResult
    ratios: tuple[LatencyRatio, ...]


@dataclass(frozen=True)
class SpeedDocument:
    """Images per second of an evaluation, with their conditions."""

    images_per_second: float
    batch: int
    threads: int
    runs: int
    host: dict[str, Any]
    workers: int = 1


@dataclass(frozen=True)
class EvaluateDocument(ClassificationScores):
    """The scores of a file on labeled images."""

    file: str
    data: str
    preprocessing: dict[str, Any] | None
    weights: str | None = None
    outputs: tuple[OutputScores, ...] = ()
    speed: SpeedDocument | None = None
    sha256: str | None = None

    @property
    def preprocessing_text(self) -> str:
        """The preset and its constants; "unknown" where the document does not say them."""
        if self.preprocessing is None:
            return "none"
        try:
            return str(Preprocessing.from_json(self.preprocessing))
        except InputError:
            return "unknown"


Document: TypeAlias = (
    NamedAudit
    | EdgeTPUPrediction
    | ExportDocument
    | SweepDocument
    | RatiosDocument
    | EvaluateDocument
    | BenchmarkResult
    | RunComparison
    | ClaimsResult
    | EthosUResult
    | MicroResult
    | FitResult
    | CertifyResult
)


def read_documents(path: str | pathlib.Path) -> tuple[Document, ...]:
    """Return what the file at `path` holds.

    A .tflite file is audited and checked for the Edge TPU; the export record beside it is read too, where it is of this
    file. A .csv file is that of a sweep. JSON is what the commands write.

    Raises:
        InputError: the file cannot be read, or is none of those.
    """
    path = pathlib.Path(path)
    readers = {".tflite": _read_tflite, ".csv": _read_sweep}
    return readers.get(path.suffix.lower(), _read_json)(path)


def base_name(path: str) -> str:
    """Return the last part of a path of any system: a report does not tell where a file was."""
    return path.replace("\\", "/").rpartition("/")[2]


def _read_tflite(path: pathlib.Path) -> tuple[Document, ...]:
    from keras_nin.audit.api import audit_model

    content = files.read_bytes(path)
    audit = NamedAudit(path.name, audit_model(path), files.sha256(content), len(content))
    record_path = path.with_suffix(".json")
    is_record = record_path.is_file() and _schema_of(files.read_json(record_path)) == schemas.EXPORT_FILE
    records = [
        record
        for record in (_read_json(record_path) if is_record else ())
        if isinstance(record, ExportDocument) and record.sha256 == audit.sha256
    ]
    return (audit, _predict_edgetpu(path, audit.sha256), *records)


def _predict_edgetpu(path: pathlib.Path, sha256: str | None) -> EdgeTPUPrediction:
    from keras_nin.edge.edgetpu.verdict import check_edgetpu

    try:
        result = check_edgetpu(path)
    except InputError as error:  # a valid file without a verdict: compiled already, or without operators
        return EdgeTPUPrediction(path.name, None, sha256, str(error).replace(str(path), path.name))
    return EdgeTPUPrediction(path.name, dataclasses.replace(result, model=path.name), sha256)


def _read_sweep(path: pathlib.Path) -> tuple[SweepDocument]:
    from keras_nin.benchmark import sweep_results

    try:
        text = files.read_bytes(path).decode(errors="replace")
        first = next(csv.DictReader(io.StringIO(text)), {})
        keys = sweep_results.identify_machine(dict.fromkeys(("cpu", "cores", "litert"), ""))
        host: dict[str, Any] = {key: first.get(key) for key in keys}
        rows = sweep_results.read_sweep(path, host)
    except csv.Error as error:
        raise InputError(f"Expected {str(path)!r} to be the CSV of a sweep. Received: {error}", path=path) from None
    if not rows:
        raise InputError(f"Expected the CSV of a sweep with rows. Received: {str(path)!r} without rows", path=path)
    times = [time for row in rows.values() for time in (row.us, row.low_us, row.high_us, row.kernel_us)]
    if not all(time is None or 0 < time < math.inf for time in times):
        raise InputError(f"Expected times above 0 in {str(path)!r}. Received: others", path=path)
    cores = host.get("cores") or ""
    return (SweepDocument(path.name, rows, host | {"cores": int(cores) if cores.isdecimal() else None}),)


def _read_json(path: pathlib.Path) -> tuple[Document, ...]:
    document = files.read_json(path)
    schema = _schema_of(document)
    reader = _READERS.get(schema or "")
    if reader is None:
        received = "without a schema" if schema is None else f"of the schema {schema[:60]!r}"
        raise InputError(
            f"Expected a .tflite file, the .csv of a sweep, or JSON of the schemas {', '.join(_READERS)}. Received: "
            f"{str(path)!r}, {received}",
            path=path,
        )
    try:
        documents = reader(document)
    except InputError as error:
        raise InputError(f"{str(path)!r} is a damaged document of {schema}: {error}", path=path) from None
    return documents if isinstance(documents, tuple) else (documents,)


def _schema_of(document: Any) -> str | None:
    schema = document.get("schema") if isinstance(document, dict) else None
    return schema if isinstance(schema, str) else None


def _read_audit(document: Json) -> NamedAudit:
    audit = record_from_json(Audit, document)
    return NamedAudit(audit.model, audit)


def _read_benchmark(document: Json) -> tuple[Document, ...]:
    benchmark = BenchmarkResult.from_json(dict(document))
    ratios = typed_value(tuple[LatencyRatio, ...], document.get("ratios", []), "ratios")
    return (benchmark, RatiosDocument(benchmark, ratios)) if ratios else (benchmark,)


def _read_device_benchmarks(document: Json) -> tuple[Document, ...]:
    benchmarks = typed_value(dict[str, dict[str, Any]], document.get("devices"), "devices")
    return tuple(part for benchmark in benchmarks.values() for part in _read_benchmark(benchmark))


def _read_edgetpu(document: Json) -> EdgeTPUPrediction:
    total = typed_value(dict[str, Any], document.get("total"), "total")
    memory = {"state": total.get("parameters")} | {key: total.get(key) for key in ("parameter_bytes", "streamed_bytes")}
    fields = {"memory": memory, "subgraphs": total.get("subgraphs")}
    result = record_from_json(EdgeTPUResult, _without_checks(document) | fields)
    name = base_name(result.model)
    return EdgeTPUPrediction(name, dataclasses.replace(result, model=name, notes=()), result.sha256)


def _without_checks(document: Json) -> dict[str, Any]:
    """Return a document without the limits of the command that wrote it."""
    return {key: value for key, value in document.items() if key not in ("checks", "compilation", "differences")}


def _read_ethosu(document: Json) -> EthosUResult:
    results = typed_value(tuple[dict[str, Any], ...], document.get("results"), "results")
    estimates = tuple(record_from_json(EthosUEstimate, result | {"compiled": b""}) for result in results)
    refusals = typed_value(tuple[EthosURefusal, ...], document.get("refusals"), "refusals")
    if len({estimate.sha256 for estimate in estimates}) != 1:
        raise InputError("Expected results of one file, at least one. Received: others")
    for estimate in estimates:
        _check_estimate(estimate)
    return EthosUResult(estimates[0].file, estimates, refusals)


def _check_estimate(estimate: EthosUEstimate) -> None:
    parse_accelerators([estimate.accelerator])
    if estimate.clock_hz < 1 or estimate.macs_per_cycle < 1 or not 0 <= estimate.us < _MAX_US:
        raise InputError(
            f"Expected a clock, MACs per cycle and a time above 0. Received: others, of {estimate.file!r:.80}"
        )
    moved = [count for layer in estimate.layers for counts in (layer.read, layer.written) for count in counts.values()]
    if any(count < 0 for count in (estimate.cycles, *(layer.cycles for layer in estimate.layers), *moved)):
        raise InputError(f"Expected no negative cycles or bytes. Received: some, of {estimate.file!r:.80}")


def _read_micro(document: Json) -> MicroResult:
    result = record_from_json(MicroResult, _without_checks(document))
    if result.arena is None and result.finding is None:
        raise InputError("Expected an arena, or a finding why there is none. Received: neither")
    return result


def _read_fit(document: Json) -> FitResult:
    fit = record_from_json(FitResult, _without_checks(document))
    for target in (*fit.targets, *(missing.target for result in fit.results for missing in result.missing)):
        check_choice("target", target, TARGETS)
    if any(result.macs and result.pointwise_macs is None for result in fit.results):
        raise InputError("Expected the MACs in 1x1 layers with those of a file. Received: none")
    verdicts = [result.edgetpu for result in fit.results if result.edgetpu]
    if any(verdict.failure is None for verdict in verdicts if not verdict.compiles):
        raise InputError("Expected the failure of a file that does not compile. Received: none")
    return fit


def _read_evaluate(document: Json) -> EvaluateDocument:
    evaluation = record_from_json(EvaluateDocument, document)
    count, matrix = len(evaluation.confusion.classes), evaluation.confusion.matrix
    if any(len(line) != count for line in (matrix, evaluation.per_class, *matrix)):
        raise InputError(f"Expected a score, a row and a column for each of {count} classes. Received: others")
    return evaluation


def _read_claims(document: Json) -> ClaimsResult:
    claims = typed_value(tuple[dict[str, Any], ...], document.get("claims"), "claims")
    return ClaimsResult(tuple(map(_read_claim, claims)))


def _read_claim(claim: Json) -> ClaimResult:
    id, source, text, why = (
        typed_value(str, claim.get(key), f"{key} of a claim") for key in ("id", "source", "claim", "why")
    )
    figures = typed_value(tuple[dict[str, Any], ...], claim.get("figures"), "figures of a claim")
    conditions = typed_value(dict[str, Any] | None, claim.get("measured"), "measured")
    if conditions is not None:
        for kind, key in ((dict[str, Any], "host"), (int, "processes"), (int, "runs")):
            typed_value(kind, conditions.get(key), key)
    url = typed_value(str | None, claim.get("url"), "the url of a claim")
    return ClaimResult(id, source, text, why, tuple(map(_read_figure, figures)), conditions, url)


def _read_figure(figure: Json) -> ClaimFigure:
    values = [value_from_json(figure.get(key)) for key in ("article", "declared", "ours")]
    return ClaimFigure(typed_value(str, figure.get("name"), "the name of a figure"), *values)


_READERS: dict[str, Callable[[Json], Document | tuple[Document, ...]]] = {
    schemas.AUDIT: _read_audit,
    schemas.EXPORT_FILE: lambda document: record_from_json(ExportDocument, document),
    schemas.EXPORT: lambda document: typed_value(tuple[ExportDocument, ...], document.get("files"), "files"),
    schemas.BENCHMARK: _read_benchmark,
    schemas.BENCHMARK_DEVICES: _read_device_benchmarks,
    schemas.COMPARE_RUNS: lambda document: record_from_json(RunComparison, document),
    schemas.EDGETPU: _read_edgetpu,
    schemas.ETHOSU: _read_ethosu,
    schemas.MICRO: _read_micro,
    schemas.FIT: _read_fit,
    schemas.EVALUATE: _read_evaluate,
    schemas.CLAIMS: _read_claims,
    schemas.CERTIFY: read_certify_result,
}
