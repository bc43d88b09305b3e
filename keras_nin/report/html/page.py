"""One self-contained HTML page of everything that is known of some files, and its figures as PNG files.

The page requests nothing from a network and runs no script, and says so in a Content-Security-Policy. Names from files
are escaped by Jinja; characters that would move a cursor or reverse text are shown as escapes.
"""

import functools
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from keras_nin import figures, files, plots
from keras_nin.audit import tables
from keras_nin.audit.api import Audit
from keras_nin.benchmark import layer_times, sweep_results
from keras_nin.benchmark.certification import CertifyResult
from keras_nin.benchmark.comparison import RunComparison
from keras_nin.benchmark.records import BenchmarkResult, Profile
from keras_nin.benchmark.roofline import LayerEfficiency, compute_efficiency
from keras_nin.claims.claim import ClaimsResult
from keras_nin.edge.fit import FitResult
from keras_nin.formatting import format_host
from keras_nin.plots import latency, sweeps
from keras_nin.report import accuracy, claims, comparisons, edge, fit
from keras_nin.report.documents import Document, EvaluateDocument, RatiosDocument, SweepDocument, base_name
from keras_nin.report.html import charts
from keras_nin.report.html.comparison import Comparison, compare_files, group_by_file
from keras_nin.report.rendering import Table, environment, make_table

if TYPE_CHECKING:
    import jinja2
    from matplotlib.figure import Figure

DEFAULT_TITLE = "keras-nin report"
# The macro in documents.html.j2 of each kind of document that is not of one file alone, in the order of the page.
_OTHER_KINDS: dict[type, str] = {
    FitResult: "targets",
    RatiosDocument: "ratios",
    RunComparison: "runs",
    SweepDocument: "sweep",
    EvaluateDocument: "accuracy",
    CertifyResult: "certified",
    ClaimsResult: "claims",
}


def render_page(
    documents: Iterable[Document], *, title: str = DEFAULT_TITLE, comparison: Comparison | None = None
) -> str:
    """Return the page as text, the same for the same documents: all files, a section for each, then everything else.

    Args:
        title: the heading.
        comparison: all files side by side; None compares them without limits.
    """
    documents = tuple(documents)
    reports = group_by_file(documents)
    comparison = comparison or compare_files(reports)
    others: list[tuple[str, str, Document]] = []
    for kind, macro in _OTHER_KINDS.items():
        of_kind = [document for document in documents if type(document) is kind and not _is_of_file(document)]
        others += [(macro, f"{macro}-{number}", document) for number, document in enumerate(of_kind, 1)]
    benchmarks = [document for document in documents if isinstance(document, BenchmarkResult)]
    profiles = [(report.name, profile) for report in reports for profile in report.profiles]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            reports=reports,
            others=others,
            comparison=comparison,
            times=charts.chart_times(profiles),
            machines=[f"batch {profile.batch}, on {format_host(profile.host)}" for _, profile in profiles],
            warnings=[warning for benchmark in benchmarks for warning in benchmark.warnings],
            styles=plots.LAYER_STYLES,
        )
    )


def _is_of_file(document: Document) -> bool:
    """Whether a document that can stand alone is shown with its file."""
    return isinstance(document, EvaluateDocument) and document.sha256 is not None


@functools.cache
def _environment() -> "jinja2.Environment":
    """Return the environment of the HTML templates, with the functions that they call."""
    env = environment(autoescape=True)
    env.filters |= {"ink": charts.ink, "output_scores": accuracy.format_output_scores}
    functions = (
        *(zip, base_name, compute_efficiency, plots.layer_style, plots.used_styles, latency.slowest_layers),
        *(layer_times.sum_by_role, layer_times.sum_by_block, layer_times.sum_pointwise),
        *(tables.list_totals, tables.list_conventions, accuracy.parity_verdict, accuracy.check_table),
        *(accuracy.confusion_table, edge.edgetpu_reason_lines, edge.edgetpu_summary_lines, edge.ethosu_layer_table),
        *(fit.fit_tables, fit.fit_reason_lines, fit.fit_note_lines, claims.figure_records, claims.conditions_line),
        *(_audit_table, _latency_layer_table, _layer_changes_table, _plot_sweep, sweep_results.format_findings),
        *(comparisons.certificate_heading, comparisons.certificate_table, comparisons.certificate_lines),
        comparisons.certified_device_lines,
        *(charts.chart_shares, charts.chart_accelerators, charts.plot_bare_roofline, charts.themed_svg),
    )
    env.globals |= {function.__name__.lstrip("_"): function for function in functions}
    env.globals |= {"overhead_style": plots.OVERHEAD_STYLE, "max_matrix_classes": accuracy.MAX_MATRIX_CLASSES}
    return env


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
    """Return a file name without its suffix, of letters, digits and ``._-``."""
    return files.safe_stem(re.sub(r"[^\w.-]", "_", pathlib.PurePath(name).stem))
