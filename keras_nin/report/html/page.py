"""One self-contained HTML page of everything that is known of some files, and its figures as PNG files.

The page requests nothing from a network and runs no script, and says so in a Content-Security-Policy. Names from files
are escaped by Jinja; characters that would move a cursor or reverse text are shown as escapes. Pictures are data URIs.
"""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin import figures
from keras_nin.audit.api import Audit
from keras_nin.benchmark import sweep_results
from keras_nin.benchmark.comparison import RunComparison
from keras_nin.benchmark.layer_times import sum_by_role
from keras_nin.benchmark.records import BenchmarkResult, Profile
from keras_nin.benchmark.roofline import compute_efficiency
from keras_nin.claims.claim import ClaimsResult
from keras_nin.edge.ethosu.records import EthosUResult
from keras_nin.edge.fit import FitResult
from keras_nin.edge.micro.records import MicroResult
from keras_nin.formatting import (
    escape_unprintable,
    format_bytes,
    format_count,
    format_host,
    format_percent,
    format_us,
)
from keras_nin.plots import LAYER_STYLES, latency, sweeps
from keras_nin.report.accuracy import parity_verdict
from keras_nin.report.documents import (
    Document,
    EdgeTPUPrediction,
    EvaluateDocument,
    ExportDocument,
    NamedAudit,
    RatiosDocument,
    SweepDocument,
)
from keras_nin.report.html import HtmlTable, Section, file_sections, latency_sections, make_table

if TYPE_CHECKING:
    import jinja2

_TITLE = "keras-nin report"
_OVERVIEW_COLUMNS = ("file", "size", "params", "MACs", "MACs in 1x1", "parity", "latency")
_MISSING = "-"
_OTHER_SECTIONS: dict[type, tuple[str, Callable[[Any, str], Section]]] = {
    FitResult: ("targets", file_sections.fit_section),
    RatiosDocument: ("ratios", latency_sections.ratios_section),
    RunComparison: ("runs", latency_sections.run_comparison_section),
    SweepDocument: ("sweep", latency_sections.sweep_section),
    EvaluateDocument: ("accuracy", file_sections.evaluation_section),
    ClaimsResult: ("claims", file_sections.claims_section),
}


@dataclasses.dataclass(frozen=True)
class FileReport:
    """What is known of one file or network; the rest is None or empty.

    Attributes:
        title: name of the file or the model.
        sha256, bytes: of the file.
        audit: its audit.
        export: its export record.
        profiles: its measurements.
        edgetpu: its Edge TPU verdict.
        ethosu: its Ethos-U estimates, one for each run of Vela.
        micro: its memory on TFLite Micro.
    """

    title: str
    sha256: str | None = None
    bytes: int | None = None
    audit: Audit | None = None
    export: ExportDocument | None = None
    profiles: tuple[Profile, ...] = ()
    edgetpu: EdgeTPUPrediction | None = None
    ethosu: tuple[EthosUResult, ...] = ()
    micro: MicroResult | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """What a reader must know before any number: what was random, and the notes of the measurements."""
        labels = []
        if self.export is not None:
            if self.export.weights.startswith("random"):
                labels.append(f"weights: {self.export.weights}")
            calibration = self.export.calibration
            if calibration is not None and (calibration.latency_only or calibration.source == "random"):
                labels.append("random calibration: for latency only")
        return tuple(dict.fromkeys([*labels, *(note for profile in self.profiles for note in profile.notes)]))


def render_page(documents: Iterable[Document]) -> str:
    """Return the page as text, the same for the same documents: a section for each file, then for everything else."""
    documents = tuple(documents)
    reports = group_by_file(documents)
    warnings = [
        warning for document in documents if isinstance(document, BenchmarkResult) for warning in document.warnings
    ]
    hosts = (format_host(profile.host) for report in reports for profile in report.profiles)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=_TITLE if len(reports) != 1 else f"{reports[0].title} - {_TITLE}",
            overview=_overview_table(reports),
            machines=tuple(dict.fromkeys(hosts)),
            warnings=tuple(dict.fromkeys(warnings)),
            sections=(*_file_sections(reports), *_other_sections(documents)),
            styles=LAYER_STYLES,
        )
    )


@functools.cache
def _environment() -> "jinja2.Environment":
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("keras_nin.report.html", "templates"),
        autoescape=True,
        finalize=_escape_text,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _escape_text(value: object) -> object:
    """Return text without unprintable characters; what Jinja made, which is markup, stays."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else escape_unprintable(value)


def render_plots(documents: Iterable[Document]) -> dict[str, bytes]:
    """Return the figures of all profiles with layers and all sweeps as PNG files, by file name.

    Names are ``<number>_<file>_<threads>t_<layers|shares|roofline>.png`` and ``<number>_<file>_sweep.png``.
    """
    documents = tuple(documents)
    profiles = [profile for report in group_by_file(documents) for profile in report.profiles if profile.layers]
    contents = {}
    for number, profile in enumerate(profiles, 1):
        prefix = f"{number}_{_safe_stem(profile.file)}_{profile.threads}t"
        contents[f"{prefix}_layers.png"] = figures.render_png(latency.plot_layer_times(profile))
        contents[f"{prefix}_shares.png"] = figures.render_png(latency.plot_kind_shares(profile, sum_by_role(profile)))
        efficiencies = compute_efficiency(profile)
        if efficiencies:
            contents[f"{prefix}_roofline.png"] = figures.render_png(latency.plot_roofline(profile, efficiencies))
    sweep_documents = (document for document in documents if isinstance(document, SweepDocument))
    for number, sweep in enumerate(sweep_documents, 1):
        ratios = sweep_results.compute_kernel_ratios(sweep.rows)
        costs = sweep_results.compute_alignment_costs(sweep.rows)
        figure = sweeps.plot_layer_sweep(ratios, costs, sweep.host)
        contents[f"{number}_{_safe_stem(sweep.name)}_sweep.png"] = figures.render_png(figure)
    return contents


def _safe_stem(name: str) -> str:
    """Return a file name without its suffix and without characters that a file system refuses."""
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in pathlib.PurePath(name).stem)[:80]


def group_by_file(documents: Iterable[Document]) -> tuple[FileReport, ...]:
    """Return what is known of each file, in the order in which the documents mention them.

    Documents with the same hash are of the same file, whatever its name; an audit of a model stands alone.
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
            yield FileReport(profile.file, profile.sha256, profile.file_bytes, profiles=(profile,))
    elif isinstance(document, ExportDocument):
        yield FileReport(document.file, document.sha256, document.bytes, export=document)
    elif isinstance(document, NamedAudit):
        yield FileReport(document.name, document.sha256, document.bytes, audit=document.audit)
    elif isinstance(document, EdgeTPUPrediction):
        yield FileReport(document.name, document.sha256, edgetpu=document)
    elif isinstance(document, EthosUResult):
        estimate = document.estimates[0]
        yield FileReport(document.file, estimate.sha256, estimate.file_bytes, ethosu=(document,))
    elif isinstance(document, MicroResult):
        yield FileReport(document.file, document.sha256, document.file_bytes, micro=document)


def _merge(report: FileReport, other: FileReport) -> FileReport:
    """Return a report with what another adds: new items of tuples, and values that were missing."""
    changes = {}
    for field in dataclasses.fields(FileReport):
        old, new = getattr(report, field.name), getattr(other, field.name)
        if isinstance(old, tuple):
            changes[field.name] = (*old, *(item for item in new if item not in old))
        elif old is None:
            changes[field.name] = new
    return dataclasses.replace(report, **changes)


def _overview_table(reports: Sequence[FileReport]) -> HtmlTable:
    rows = [
        (
            report.title,
            _MISSING if report.bytes is None else format_bytes(report.bytes),
            *_audit_cells(report.audit),
            parity_verdict(report.export.parity) if report.export and report.export.parity else _MISSING,
            "; ".join(map(_latency_cell, report.profiles)) or _MISSING,
        )
        for report in reports
    ]
    return make_table("All files", _OVERVIEW_COLUMNS, rows, right=_OVERVIEW_COLUMNS[1:5])


def _audit_cells(audit: Audit | None) -> tuple[str, str, str]:
    if audit is None:
        return _MISSING, _MISSING, _MISSING
    total = audit.total
    share = total.pointwise_macs / total.macs if total.macs else None
    return f"{total.params:,}", f"{total.macs:,}", format_percent(share)


def _latency_cell(profile: Profile) -> str:
    conditions = f"{format_count(profile.threads, 'thread')}, {format_count(profile.runs, 'run')}"
    return f"{format_us(profile.total.median)} ({conditions})"


def _file_sections(reports: Iterable[FileReport]) -> Iterator[Section]:
    for number, report in enumerate(reports, 1):
        id = f"file-{number}"
        yield Section(id, report.title, sections=tuple(_inner_sections(report, id)), labels=report.labels)


def _inner_sections(report: FileReport, id: str) -> Iterator[Section]:
    if report.audit is not None:
        yield file_sections.audit_section(report.audit, id)
        yield file_sections.findings_section(report.audit, id)
    if report.export is not None:
        yield file_sections.parity_section(report.export, id)
    for number, profile in enumerate(report.profiles, 1):
        yield latency_sections.latency_section(profile, f"{id}-run-{number}")
    if report.edgetpu is not None:
        yield file_sections.edgetpu_section(report.edgetpu, id)
    for number, result in enumerate(report.ethosu, 1):
        yield file_sections.ethosu_section(result, f"{id}-ethosu-{number}")
    if report.micro is not None:
        yield file_sections.micro_section(report.micro, id)


def _other_sections(documents: Iterable[Document]) -> list[Section]:
    """Return the sections of documents that are not of one file alone, by kind."""
    by_kind = collections.defaultdict(list)
    for document in documents:
        by_kind[type(document)].append(document)
    return [
        make_section(document, f"{id}-{number}")
        for kind, (id, make_section) in _OTHER_SECTIONS.items()
        for number, document in enumerate(by_kind[kind], 1)
    ]
