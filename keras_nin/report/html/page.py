"""What is known of each file or network, gathered: its audit, how it was made, how long it takes, where it fits."""

import dataclasses
import functools

from keras_nin.audit.api import Audit
from keras_nin.audit.tables import format_size
from keras_nin.benchmark.comparison import RunComparison
from keras_nin.benchmark.records import BenchmarkResult, Profile
from keras_nin.edge.ethosu.records import EthosUResult as EthosU
from keras_nin.edge.fit import FitResult
from keras_nin.edge.micro.records import MicroResult
from keras_nin.formatting import escape_unprintable
from keras_nin.plots import LAYER_STYLES
from keras_nin.report.accuracy import format_percent, format_time
from keras_nin.report.documents import (
    ClaimsDocument,
    EdgeTPUPrediction,
    EvaluateDocument,
    ExportDocument,
    InterleavedRatios,
    NamedAudit,
    SweepDocument,
)
from keras_nin.report.html import Section, file_sections, latency_sections, make_table
from keras_nin.report.latency import describe_machine


@dataclasses.dataclass(frozen=True)
class FileReport:
    """A file or network of a report; what is not known of it is None or empty.

    Attributes:
        title: the file's name, or the model's.
        sha256, bytes: of the file.
        audit: `keras_nin.audit.Audit`.
        sidecar: `keras_nin.report.documents.ExportDocument` of its export.
        profiles: `keras_nin.benchmark.Profile`s, one for each measurement.
        edgetpu: `keras_nin.report.documents.EdgeTPUPrediction`.
        ethosu: `keras_nin.edge.ethosu.EthosUResult`s, one for each run of Vela's command.
        micro: `keras_nin.edge.micro.MicroResult`.
    """

    title: str
    sha256: str | None = None
    bytes: int | None = None
    audit: Audit | None = None
    export_record: ExportDocument | None = None
    profiles: tuple[Profile, ...] = ()
    edgetpu: EdgeTPUPrediction | None = None
    ethosu: tuple[EthosU, ...] = ()
    micro: MicroResult | None = None

    @property
    def labels(self):
        """What a reader must know before any number: what was random, and what the measurement itself notes."""
        notes = []
        if self.export_record is not None:
            if self.export_record.weights.startswith("random"):
                notes.append(f"weights: {self.export_record.weights}")
            calibration = self.export_record.calibration
            if calibration is not None and (calibration.latency_only or calibration.source == "random"):
                notes.append("random calibration: good for latency, and nothing else")
        return tuple(dict.fromkeys([*notes, *(note for profile in self.profiles for note in profile.notes)]))


def group_by_file(found):
    """Return the `Subject`s of what `documents.read` found, in the order of their first mention.

    What has the hash of a file's content belongs to that file, whatever it is called; an audit of a model stands alone.
    """
    subjects = {}
    for number, item in enumerate(found):
        if isinstance(item, BenchmarkResult):
            for profile in item.profiles:
                _add_fields(subjects, profile.sha256, profile.file, bytes=profile.file_bytes, profiles=(profile,))
        elif isinstance(item, ExportDocument):
            _add_fields(subjects, item.sha256, item.file, bytes=item.bytes, export_record=item)
        elif isinstance(item, NamedAudit):
            key = (number, item.name) if item.sha256 is None else item.sha256
            _add_fields(subjects, key, item.name, bytes=item.bytes, audit=item.audit)
        elif isinstance(item, EdgeTPUPrediction):
            _add_fields(subjects, item.sha256 or (number, item.name), item.name, edgetpu=item)
        elif isinstance(item, EthosU):
            about = item.estimates[0]
            _add_fields(subjects, about.sha256, item.file, bytes=about.file_bytes, ethosu=(item,))
        elif isinstance(item, MicroResult):
            _add_fields(subjects, item.sha256, item.file, bytes=item.file_bytes, micro=item)
    return tuple(subjects.values())


def _add_fields(subjects, key, title, **known):
    """Add what is known to a subject: to a tuple what is not in it, of anything else the first that was found."""
    before = subjects.get(key) or FileReport(title, key if isinstance(key, str) else None)
    changes = {}
    for name, value in known.items():
        old = getattr(before, name)
        if isinstance(old, tuple):
            changes[name] = (*old, *(each for each in value if each not in old))
        elif old is None:
            changes[name] = value
    subjects[key] = dataclasses.replace(before, **changes)


# MERGED The sections of a page, from the records that it is about.

__all__ = ["LAYER_STYLES", "_machine_lines", "_other_sections", "_file_sections", "_overview_table"]

_OVERVIEW_COLUMNS = ("file", "size", "params", "MACs", "MACs in 1x1", "parity", "latency")
_UNKNOWN = "-"
_OTHER_SECTIONS = {
    FitResult: file_sections.fit_section,
    InterleavedRatios: latency_sections.ratio_section,
    RunComparison: latency_sections.run_comparison_section,
    SweepDocument: latency_sections.sweep_section,
    EvaluateDocument: file_sections.evaluation_section,
    ClaimsDocument: file_sections.claims_section,
}


def _file_sections(subjects):
    """Return a `Section` for each `Subject`, with a section inside it for each thing known of it."""
    return tuple(
        Section(
            f"file-{number}", subject.title, sections=_inner_sections(subject, f"file-{number}"), labels=subject.labels
        )
        for number, subject in enumerate(subjects, 1)
    )


def _inner_sections(subject, name):
    found = []
    if subject.audit is not None:
        found += [file_sections.audit_section(subject.audit, name), file_sections.findings_section(subject.audit, name)]
    if subject.export_record is not None:
        found.append(file_sections.parity_section(subject.export_record, name))
    for number, profile in enumerate(subject.profiles, 1):
        found.append(latency_sections.latency_section(profile, f"{name}-run-{number}"))
    if subject.edgetpu is not None:
        found.append(file_sections.edgetpu_section(subject.edgetpu, name))
    for number, sweep in enumerate(subject.ethosu, 1):
        found.append(file_sections.ethosu_section(sweep, f"{name}-ethosu-{number}"))
    if subject.micro is not None:
        found.append(file_sections.micro_section(subject.micro, name))
    return tuple(found)


def _other_sections(others):
    """Return a `Section` for each record that is of no file alone, kind by kind; none for anything else."""
    found = [
        make(item, f"{make.__name__}-{number}")
        for kind, make in _OTHER_SECTIONS.items()
        for number, item in enumerate((each for each in others if isinstance(each, kind)), 1)
    ]
    return tuple(found)


def _overview_table(subjects):
    """Return the `Table` of all subjects, a row each."""
    rows = [
        (
            subject.title,
            _UNKNOWN if subject.bytes is None else format_size(subject.bytes),
            *_audit_cells(subject.audit),
            _parity_cell(subject.export_record),
            "; ".join(_latency_cell(profile) for profile in subject.profiles) or _UNKNOWN,
        )
        for subject in subjects
    ]
    return make_table("All files", _OVERVIEW_COLUMNS, rows, right=_OVERVIEW_COLUMNS[1:5])


def _machine_lines(subjects):
    """Return each machine that a latency is of, in one line, in order of appearance."""
    return tuple(dict.fromkeys(describe_machine(profile.host) for subject in subjects for profile in subject.profiles))


def _audit_cells(audit):
    if audit is None:
        return (_UNKNOWN,) * 3
    total = audit.total
    share = total.pointwise_macs / total.macs if total.macs else None
    return f"{total.params:,}", f"{total.macs:,}", format_percent(share)


def _parity_cell(export_record):
    return (
        _UNKNOWN
        if export_record is None or export_record.parity is None
        else file_sections.parity_verdict(export_record.parity)
    )


def _latency_cell(profile):
    threads = f"{profile.threads} thread{'' if profile.threads == 1 else 's'}"
    return f"{format_time(profile.total.median)} ({threads}, {profile.runs:,} runs)"


# MERGED One self-contained HTML page of all that is known of some files: a pure function of records.
# MERGED
# MERGED The page asks nothing of a network and runs no script, and says so in a Content-Security-Policy. Names that come from
# MERGED files are escaped by Jinja; what would move a cursor or turn text around is shown as an escape. Pictures are data URIs.

_TITLE = "keras-nin report"


def render_page(subjects, *, others=(), warnings=()):
    """Return the page as text; the same text for the same records.

    Args:
        subjects: `keras_nin.report.html.page.FileReport`s, each a section.
        others: what is of no file alone (see `contents.of_others`), each a section after those.
        warnings: about the machine that measured, above everything.
    """
    sections = (*_file_sections(subjects), *_other_sections(others))
    template = _environment().get_template("page.html.j2")
    title = _TITLE if len(subjects) != 1 else f"{subjects[0].title} - {_TITLE}"
    return template.render(
        title=title,
        overview=_overview_table(subjects),
        machines=_machine_lines(subjects),
        warnings=tuple(dict.fromkeys(warnings)),
        sections=sections,
        looks=LAYER_STYLES,
    )


@functools.cache
def _environment():
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("keras_nin.report.html.page", "templates"),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value):
    """Return text as it can be shown; what is markup, because Jinja made it, stays."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else escape_unprintable(value)
