"""What is known of each file, joined by the file's hash, and all files side by side with their limits."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from keras_nin.audit.api import Audit
from keras_nin.benchmark.records import BenchmarkResult, Profile
from keras_nin.edge import fit
from keras_nin.edge.ethosu.records import EthosUResult
from keras_nin.edge.fit import (
    CPU,
    EDGETPU,
    ETHOSU,
    MICRO,
    CPUFigures,
    EdgeTPUFigures,
    EthosUFigures,
    FileFit,
    FitResult,
    MicroFigures,
    MissingFigures,
)
from keras_nin.edge.micro.records import MicroResult
from keras_nin.formatting import format_bytes, format_count, format_percent, format_us
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, format_value, parse_limits
from keras_nin.report.accuracy import format_score_values, parity_verdict
from keras_nin.report.documents import (
    Document,
    EdgeTPUPrediction,
    EvaluateDocument,
    ExportDocument,
    NamedAudit,
)

SIZE, TOP1 = "size", "top-1"
REPORT_LIMITS: dict[LimitItem, str] = {
    **{item: target or SIZE for item, target in fit.FIT_LIMITS.items()},
    LimitItem("top1", Unit.SHARE, at_least=True): TOP1,
}
_HEADINGS = {
    **{SIZE: "Size", TOP1: "Top-1", CPU: "Latency", EDGETPU: "Edge TPU", ETHOSU: "Ethos-U", MICRO: "Arena"},
}
_CONDITIONS = {EDGETPU: "operators, predicted", MICRO: "TFLite Micro"}
_NOT_GIVEN = "no document of the report has it"

Figures: TypeAlias = CPUFigures | EdgeTPUFigures | EthosUFigures | MicroFigures | MissingFigures
# A target, SIZE or TOP1; the condition: threads and machine, accelerator; the configuration of an Ethos-U, or "".
ColumnKey: TypeAlias = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class FileReport:
    """What is known of one file or network; the rest is None or empty.

    Attributes:
        title: name of the file or the model.
        edgetpu, ethosu: its verdicts, and its Ethos-U estimates, one for each run of Vela.
        targets, fit_targets: figures by column of the comparison, from the documents above and from those of `fit`.
    """

    title: str
    sha256: str | None = None
    bytes: int | None = None
    audit: Audit | None = None
    export: ExportDocument | None = None
    profiles: tuple[Profile, ...] = ()
    evaluations: tuple[EvaluateDocument, ...] = ()
    edgetpu: tuple[EdgeTPUPrediction, ...] = ()
    ethosu: tuple[EthosUResult, ...] = ()
    micro: MicroResult | None = None
    targets: tuple[tuple[ColumnKey, Figures], ...] = ()
    fit_targets: tuple[tuple[ColumnKey, Figures], ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """What a reader must know before any number: what was random, and the notes of the measurements."""
        labels = []
        if self.export is not None:
            if self.export.weights.startswith(("random", "he (seed")):
                labels.append(f"weights: {self.export.weights}")
            calibration = self.export.calibration
            if calibration is not None and (calibration.latency_only or calibration.source == "random"):
                labels.append("random calibration: for latency only")
        return tuple(dict.fromkeys([*labels, *(note for profile in self.profiles for note in profile.notes)]))

    @property
    def has_details(self) -> bool:
        """Whether anything but figures of `fit` is known."""
        parts = (self.audit, self.export, self.profiles, self.evaluations, self.edgetpu, self.ethosu, self.micro)
        return any(parts)

    @property
    def name(self) -> str:
        """The title without the suffix that all files have."""
        return self.title.removesuffix(".tflite")

    @property
    def top1(self) -> float | None:
        """Top-1 accuracy of the file, 0 to 1: of its evaluation, else of its export record."""
        if self.evaluations:
            return self.evaluations[0].top1
        return self.export.parity.file_top1 if self.export and self.export.parity else None

    @property
    def is_no_classifier(self) -> bool:
        """Whether it has scores of another task, such as the error of a regression."""
        return self.top1 is None and bool(self.scores()[0])

    def scores(self) -> tuple[str, str]:
        """Return what the file and its model score: top-1, or the first score of another task; "" where unknown."""
        parity = self.export.parity if self.export else None
        first = self.evaluations[0].outputs[:1] if self.evaluations else ()
        by_side = {} if parity is None or parity.task in (None, "classification") else parity.scores or {}
        of_file = format_score_values(first[0].scores if first else by_side.get("file", {}), 1)
        of_model = format_score_values(by_side.get("model", {}), 1)
        if parity is not None and parity.model_top1 is not None:
            of_model = format_percent(parity.model_top1)
        return of_file if self.top1 is None else format_percent(self.top1), of_model

    def figures(self) -> dict[ColumnKey, Figures]:
        """Return the figures by column; those of `fit` where no other document has any."""
        found: dict[ColumnKey, Figures] = {}
        for key, figures in (*self.targets, *self.fit_targets):
            if isinstance(found.get(key), MissingFigures | None):
                found[key] = figures
        return found


def group_by_file(documents: Iterable[Document]) -> tuple[FileReport, ...]:
    """Return what is known of each file, in the order in which the documents mention them.

    Documents with the same hash are of the same file, whatever its name; one without a hash stands alone.
    """
    reports: dict[object, FileReport] = {}
    for number, document in enumerate(documents):
        for report in _parts_of_reports(document):
            key = report.sha256 or (number, report.title)
            reports[key] = _merge(reports[key], report) if key in reports else report
    return tuple(reports.values())


def _parts_of_reports(document: Document) -> Iterator[FileReport]:
    """Yield what a document says of single files."""
    if isinstance(document, BenchmarkResult):
        for profile in document.profiles:
            key = (CPU, _cpu_condition(profile.threads, profile.host, profile.batch), "")
            targets = ((key, fit.cpu_figures(profile)),)
            yield FileReport(profile.file, profile.sha256, profile.file_bytes, profiles=(profile,), targets=targets)
    elif isinstance(document, ExportDocument):
        yield FileReport(document.file, document.sha256, document.bytes, export=document)
    elif isinstance(document, NamedAudit):
        yield FileReport(document.name, document.sha256, document.bytes, audit=document.audit)
    elif isinstance(document, EvaluateDocument) and document.sha256 is not None:
        yield FileReport(document.file, document.sha256, evaluations=(document,))
    elif isinstance(document, EdgeTPUPrediction):
        reason = document.reason or ""
        verdict = document.result and fit.edgetpu_figures(document.result)
        subgraphs = "several subgraphs" if document.multiple_subgraphs else ""
        targets = (((EDGETPU, subgraphs, ""), verdict or MissingFigures(EDGETPU, "no verdict", reason)),)
        yield FileReport(document.name, document.sha256, edgetpu=(document,), targets=targets)
    elif isinstance(document, EthosUResult):
        first = document.estimates[0]
        estimates = ((found.accelerator, fit.ethosu_figures(found)) for found in document.estimates)
        refusals = (
            (found.accelerator, MissingFigures(ETHOSU, "refused by Vela", found.message)) for found in document.refusals
        )
        targets = tuple(
            ((ETHOSU, _with_batch(accelerator, first.batch), _configuration(figures)), figures)
            for accelerator, figures in (*estimates, *refusals)
        )
        yield FileReport(document.file, first.sha256, first.file_bytes, ethosu=(document,), targets=targets)
    elif isinstance(document, MicroResult):
        targets = (((MICRO, "", ""), fit.micro_figures(document)),)
        yield FileReport(document.file, document.sha256, document.file_bytes, micro=document, targets=targets)
    elif isinstance(document, FitResult):
        for file in document.results:
            yield FileReport(file.file, file.sha256, file.file_bytes, fit_targets=_fit_targets(document, file))


def _cpu_condition(threads: int, host: Mapping[str, Any] | None, batch: int) -> str:
    cpu = (host or {}).get("cpu")
    return _with_batch(", ".join(filter(None, (format_count(threads, "thread"), str(cpu or "")))), batch)


def _with_batch(condition: str, batch: int) -> str:
    return condition if batch == 1 else f"{condition}, batch {batch}"


def _fit_targets(document: FitResult, file: FileFit) -> tuple[tuple[ColumnKey, Figures], ...]:
    settings = document.settings
    conditions = {
        CPU: _cpu_condition(settings.threads, document.host, file.batch),
        ETHOSU: _with_batch(settings.accelerator, file.batch),
    }
    found = ((target, getattr(file, target) or file.find_missing(target)) for target in document.targets)
    return tuple(
        ((target, conditions.get(target, ""), _configuration(figures)), figures) for target, figures in found if figures
    )


def _configuration(figures: Figures) -> str:
    """Return the names of an Ethos-U's clock and memories; "" for other figures, and where they are not known."""
    return f"{figures.system_config}, {figures.memory_mode}" if isinstance(figures, EthosUFigures) else ""


def _merge(report: FileReport, other: FileReport) -> FileReport:
    """Return a report with what another adds: new items of tuples, and values that were missing."""
    changes = {}
    for field in dataclasses.fields(FileReport):
        old, new = getattr(report, field.name), getattr(other, field.name)
        if field.name == "edgetpu":  # of one file and one setting there is one verdict, under whatever name
            known = {prediction.multiple_subgraphs for prediction in old}
            changes[field.name] = (*old, *(item for item in new if item.multiple_subgraphs not in known))
        elif isinstance(old, tuple):
            changes[field.name] = (*old, *(item for item in new if item not in old))
        elif old is None:
            changes[field.name] = new
    return dataclasses.replace(report, **changes)


@dataclasses.dataclass(frozen=True)
class CellLine:
    """A line of a cell; `passed` is the verdict on it, None without a limit."""

    text: str
    passed: bool | None = None


@dataclasses.dataclass(frozen=True)
class ComparisonColumn:
    """A column: its heading, how its figures were obtained, and the limits on them."""

    heading: str
    condition: str
    limits: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
    """A file: what it costs, in a cell of lines for each column, and the limits that were checked on it."""

    report: FileReport
    cells: tuple[tuple[CellLine, ...], ...]
    checks: tuple[LimitCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every limit is known to be kept."""
        return all(check.passed for check in self.checks)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All files side by side."""

    columns: tuple[ComparisonColumn, ...]
    rows: tuple[ComparisonRow, ...]

    @property
    def checks(self) -> tuple[LimitCheck, ...]:
        """The limits of all files."""
        return tuple(check for row in self.rows for check in row.checks)


def parse_report_limits(text: str, *, argument: str = "require") -> tuple[Limit, ...]:
    """Return limits on files, such as ``"cpu=5ms,edgetpu=full,arena=256KiB,top1=95%"``; see `keras_nin.limits`."""
    return parse_limits(text, REPORT_LIMITS, argument=argument)


def compare_files(reports: Iterable[FileReport], limits: Sequence[Limit] = ()) -> Comparison:
    """Return the files among `reports` side by side, each figure with the verdict on it.

    A latency limit applies to every machine and number of threads, and an Ethos-U limit to every accelerator that was
    measured; a file without the figure fails it.
    """
    files = [report for report in reports if report.sha256 is not None or report.targets]
    figures = [report.figures() for report in files]
    on_target: dict[str, list[Limit]] = collections.defaultdict(list)
    for limit in limits:
        on_target[REPORT_LIMITS[limit.item]].append(limit)
    keys = dict.fromkeys(key for found in figures for key in found)
    configurations: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for target, condition, configuration in keys:
        configurations[target, condition] += [configuration] if configuration else []
    columns: list[ColumnKey] = [(SIZE, "", ""), (TOP1, "", "")]
    for target in (CPU, EDGETPU, MICRO, ETHOSU):  # the accelerators, which may be many, come last
        # What is refused has no configuration: it goes to the columns of its accelerator that have one.
        measured = [key for key in keys if key[0] == target and (key[2] or not configurations[key[:2]])]
        columns += measured or [(target, "", "")] * bool(on_target[target])
    if not on_target[TOP1] and not any(report.scores()[0] for report in files):
        columns.remove((TOP1, "", ""))
    rows = []
    for report, found in zip(files, figures, strict=True):
        cells, checks = [], []
        for target, condition, configuration in columns:
            value = found.get((target, condition, configuration)) or found.get((target, condition, ""))
            shown = _shown_condition(condition, configuration, configurations[target, condition])
            checked = [_check_figure(report, target, shown, value, limit) for limit in on_target[target]]
            cells.append(tuple(_cell_lines(report, target, value, {check.limit.name: check for check in checked})))
            checks += checked
        rows.append(ComparisonRow(report, tuple(cells), tuple(checks)))
    heads = (
        ComparisonColumn(
            "Scores" if target == TOP1 and any(report.is_no_classifier for report in files) else _HEADINGS[target],
            _shown_condition(condition, configuration, configurations[target, condition])
            if target in (CPU, ETHOSU)
            else ", ".join(filter(None, (_CONDITIONS.get(target), condition))),
            tuple(map(_format_limit, on_target[target])),
        )
        for target, condition, configuration in columns
    )
    return Comparison(tuple(heads), tuple(rows))


def _shown_condition(condition: str, configuration: str, configurations: Sequence[str]) -> str:
    """Return the condition of a column, with the configuration where the accelerator has several."""
    return f"{condition}, {configuration}" if len(configurations) > 1 else condition


def _format_limit(limit: Limit) -> str:
    """Return a limit for a heading: ``"sram ≤ 64.0 KiB"``; the item's name only where its column has others too."""
    unit = limit.item.unit
    name = f"{limit.name} " if limit.name == "sram" else ""
    texts = (
        None if end is None else format_bytes(float(end)) if unit is Unit.BYTES else format_value(unit, end)
        for end in (limit.low, limit.high)
    )
    low, high = (text and re.sub(r"\.?0+(?= )", "", text) for text in texts)
    if low is not None and high is not None:
        return f"{name}{low} to {high}"
    return f"{name}≥ {low}" if high is None else f"{name}≤ {high}"


def _check_figure(report: FileReport, target: str, condition: str, figures: Figures | None, limit: Limit) -> LimitCheck:
    """Compare one figure of a file with a limit; the subject is the file and the condition."""
    if target == TOP1:
        reason = None if report.top1 is not None else f"not measured: {_NOT_GIVEN}"
        return check_limit(limit, report.top1, reason=reason, subject=report.title)
    file = FileFit(report.title, report.sha256 or "", report.bytes or 0, None, None, None, macs_known=False)
    if target != SIZE:
        figures = figures or MissingFigures(target, "not measured", _NOT_GIVEN)
        is_missing = isinstance(figures, MissingFigures)
        file = dataclasses.replace(file, **({"missing": (figures,)} if is_missing else {target: figures}))
    elif report.bytes is None:
        return check_limit(limit, None, reason=f"not measured: {_NOT_GIVEN}", subject=report.title)
    subject = f"{report.title} ({condition})" if condition else report.title
    return dataclasses.replace(fit.check_file(file, limit), subject=subject)


def _cell_lines(
    report: FileReport, target: str, figures: Figures | None, checks: dict[str, LimitCheck]
) -> Iterator[CellLine]:
    """Yield the lines of a cell: the figure with its verdict, then what belongs to it."""
    parity = report.export.parity if report.export else None
    verdicts = {name: check.passed for name, check in checks.items()}
    if target == SIZE:
        yield CellLine("-" if report.bytes is None else format_bytes(report.bytes), verdicts.get("flash"))
        if report.audit is not None:
            total = report.audit.total
            yield CellLine(f"{'>= ' if total.macs_unknown else ''}{total.macs:,} MACs")
    elif target == TOP1:
        of_file, of_model = report.scores()
        yield CellLine(of_file or ("not measured" if checks else "-"), verdicts.get("top1"))
        if parity is not None:
            verdict = parity_verdict(parity)
            is_plain = verdict not in ("pass", "FAIL")
            text = f"{f'model {of_model}, ' if of_model else ''}{verdict if is_plain else 'parity'}"
            yield CellLine(text, None if is_plain else parity.passed)
    elif figures is None:
        yield CellLine("not measured" if checks else "-", False if checks else None)
    elif isinstance(figures, MissingFigures):
        yield CellLine(figures.label, False if checks else None)
    elif isinstance(figures, CPUFigures):
        yield CellLine(format_us(figures.median_us), verdicts.get("cpu"))
        if figures.pointwise_share is not None:
            yield CellLine(f"{format_percent(figures.pointwise_share)} in 1x1")
    elif isinstance(figures, EdgeTPUFigures):
        if figures.compiles:
            yield CellLine(f"{figures.mapped:,} of {figures.operators:,}", verdicts.get("edgetpu"))
            yield CellLine(figures.parameters if figures.mapped else "nothing mapped")
        else:
            yield CellLine("does not compile", verdicts.get("edgetpu"))
            yield CellLine(figures.failure or "")
    elif isinstance(figures, EthosUFigures):
        time = f"{figures.us / 1000:,.3f} ms" if figures.on_npu else "nothing on the NPU"
        time += " + CPU" if figures.on_npu and figures.on_cpu else ""
        yield CellLine(time, verdicts.get("ethosu"))
        if figures.on_npu or "sram" in verdicts:
            yield CellLine(f"SRAM {format_bytes(figures.sram_bytes)}", verdicts.get("sram"))
    else:
        yield CellLine(format_bytes(figures.arena_bytes), verdicts.get("arena"))
        if figures.bit_exact is not None:
            differing = f"{figures.differing:,} of {figures.outputs:,} differ" if figures.outputs else "not bit-exact"
            yield CellLine("bit-exact" if figures.bit_exact else differing)
