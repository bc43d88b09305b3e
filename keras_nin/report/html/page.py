"""One self-contained HTML page of everything that is known of some files, and its figures as PNG files.

The page requests nothing from a network and runs no script, and says so in a Content-Security-Policy. Names from files
are escaped by Jinja; characters that would move a cursor or reverse text are shown as escapes. Pictures are data URIs.
"""

import base64
import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin import figures, plots
from keras_nin.audit import tables
from keras_nin.audit.api import Audit
from keras_nin.benchmark import layer_times, sweep_results
from keras_nin.benchmark.comparison import RunComparison
from keras_nin.benchmark.records import BenchmarkResult, Profile
from keras_nin.benchmark.roofline import LayerEfficiency, compute_efficiency
from keras_nin.claims.claim import ClaimsResult
from keras_nin.edge.ethosu.records import EthosUResult
from keras_nin.edge.fit import FitResult
from keras_nin.edge.micro.records import MicroResult
from keras_nin.formatting import format_count, format_host, format_us
from keras_nin.plots import latency, sweeps
from keras_nin.report import accuracy, claims, edge, fit
from keras_nin.report.documents import (
    Document,
    EdgeTPUPrediction,
    EvaluateDocument,
    ExportDocument,
    NamedAudit,
    RatiosDocument,
    SweepDocument,
    base_name,
)
from keras_nin.report.rendering import Table, environment, make_table

if TYPE_CHECKING:
    import jinja2
    from matplotlib.figure import Figure

# The macro in documents.html.j2 of each kind of document that is not of one file alone, in the order of the page.
_OTHER_KINDS: dict[type, str] = {
    FitResult: "targets",
    RatiosDocument: "ratios",
    RunComparison: "runs",
    SweepDocument: "sweep",
    EvaluateDocument: "accuracy",
    ClaimsResult: "claims",
}


@dataclasses.dataclass(frozen=True)
class FileReport:
    """What is known of one file or network; the rest is None or empty.

    Attributes:
        title: name of the file or the model.
        ethosu: its Ethos-U estimates, one for each run of Vela.
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
            if self.export.weights.startswith(("random", "he (seed")):
                labels.append(f"weights: {self.export.weights}")
            calibration = self.export.calibration
            if calibration is not None and (calibration.latency_only or calibration.source == "random"):
                labels.append("random calibration: for latency only")
        return tuple(dict.fromkeys([*labels, *(note for profile in self.profiles for note in profile.notes)]))


def render_page(documents: Iterable[Document]) -> str:
    """Return the page as text, the same for the same documents: a section for each file, then for everything else."""
    documents = tuple(documents)
    reports = group_by_file(documents)
    benchmarks = [document for document in documents if isinstance(document, BenchmarkResult)]
    others = []
    for kind, macro in _OTHER_KINDS.items():
        of_kind = (document for document in documents if type(document) is kind)
        others += [(macro, f"{macro}-{number}", document) for number, document in enumerate(of_kind, 1)]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            reports=reports,
            others=others,
            overview=make_table("files_shown", map(_overview_record, reports)),
            machines=[format_host(profile.host) for report in reports for profile in report.profiles],
            warnings=[warning for benchmark in benchmarks for warning in benchmark.warnings],
            styles=plots.LAYER_STYLES,
        )
    )


@functools.cache
def _environment() -> "jinja2.Environment":
    """Return the environment of the HTML templates, with the functions that they call."""
    env = environment(autoescape=True)
    env.filters |= {
        "svg": lambda figure: _data_uri("svg+xml", figures.render_svg(figure)),
        "png": lambda figure: _data_uri("png", figures.render_png(figure)),
    }
    functions = (
        *(zip, base_name, compute_efficiency, plots.layer_style, plots.used_styles),
        *(layer_times.sum_by_role, layer_times.sum_by_block, layer_times.sum_pointwise),
        *(tables.list_totals, tables.list_conventions, accuracy.parity_verdict, accuracy.check_table),
        *(accuracy.confusion_table, edge.edgetpu_reason_lines, edge.edgetpu_summary_lines, edge.ethosu_layer_table),
        *(fit.fit_tables, fit.fit_reason_lines, fit.fit_note_lines, claims.figure_records, claims.conditions_line),
        *(_audit_table, _latency_layer_table, _layer_changes_table, _plot_sweep, sweep_results.format_findings),
        *(latency.plot_kind_shares, latency.plot_roofline, sweeps.plot_accelerators),
    )
    env.globals |= {function.__name__.lstrip("_"): function for function in functions}
    env.globals |= {"overhead_style": plots.OVERHEAD_STYLE, "max_matrix_classes": accuracy.MAX_MATRIX_CLASSES}
    return env


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _audit_table(audit: Audit, depth: int) -> Table:
    view = tables.AuditView(depth)
    columns = view.select_columns(tables.DEFAULT_COLUMNS[depth])
    rows = (tuple(column.text(record, audit.total) for column in columns) for record in view.select_records(audit))
    right = tuple(column.heading for column in columns if column.numeric)
    return Table(tuple(column.heading for column in columns), right, tuple(rows))


def _latency_layer_table(profile: Profile, efficiencies: Sequence[LayerEfficiency]) -> Table:
    by_layer = {id(efficiency.layer): efficiency for efficiency in efficiencies}
    records = [
        {"layer": layer, "efficiency": by_layer.get(id(layer))}
        | {"label": plots.layer_style(layer.kind, layer.role).label}
        for layer in profile.layers
    ]
    return make_table("latency_layers_shown", records)


def _layer_changes_table(comparison: RunComparison) -> Table:
    changes = ((change.file, layer) for change in comparison.changes for layer in change.layers)
    return make_table("layer_changes_shown", [{"file": file, "layer": layer} for file, layer in changes])


def _plot_sweep(sweep: SweepDocument) -> "Figure":
    ratios, costs = sweep_results.compute_kernel_ratios(sweep.rows), sweep_results.compute_alignment_costs(sweep.rows)
    return sweeps.plot_layer_sweep(ratios, costs, sweep.host)


def _overview_record(report: FileReport) -> dict[str, Any]:
    latencies = (
        f"{format_us(profile.total.median)} ({format_count(profile.threads, 'thread')}, "
        f"{format_count(profile.runs, 'run')})"
        for profile in report.profiles
    )
    parity = report.export.parity if report.export else None
    verdict = accuracy.parity_verdict(parity) if parity else "-"
    return {"row": report, "parity": verdict, "latencies": "; ".join(latencies)}


def render_plots(documents: Iterable[Document]) -> dict[str, bytes]:
    """Return the figures of all profiles with layers and all sweeps as PNG files, by file name.

    Names are ``<number>_<file>_<threads>t_<layers|shares|roofline>.png`` and ``<number>_<file>_sweep.png``.
    """
    documents = tuple(documents)
    profiles = [profile for report in group_by_file(documents) for profile in report.profiles if profile.layers]
    plotted = {}
    for number, profile in enumerate(profiles, 1):
        prefix = f"{number}_{_safe_stem(profile.file)}_{profile.threads}t"
        plotted[f"{prefix}_layers.png"] = latency.plot_layer_times(profile)
        plotted[f"{prefix}_shares.png"] = latency.plot_kind_shares(profile, layer_times.sum_by_role(profile))
        efficiencies = compute_efficiency(profile)
        if efficiencies:
            plotted[f"{prefix}_roofline.png"] = latency.plot_roofline(profile, efficiencies)
    sweep_documents = (document for document in documents if isinstance(document, SweepDocument))
    for number, sweep in enumerate(sweep_documents, 1):
        plotted[f"{number}_{_safe_stem(sweep.name)}_sweep.png"] = _plot_sweep(sweep)
    return {name: figures.render_png(figure) for name, figure in plotted.items()}


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
