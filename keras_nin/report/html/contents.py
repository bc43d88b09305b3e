"""The sections of a page, from the records that it is about."""

from keras_nin.audit.render import size
from keras_nin.benchmark.comparison import RunComparison
from keras_nin.edge.fit.records import Fit
from keras_nin.report.conditions import machine
from keras_nin.report.documents import Interleaved, Sweep
from keras_nin.report.html import against, audited, compared, scored, swept, targets, timed
from keras_nin.report.html.parts import Section, table
from keras_nin.report.palette import LOOKS
from keras_nin.report.parity import microseconds, percent
from keras_nin.report.score_documents import ClaimsFound, Scores

__all__ = ["LOOKS", "machines", "of_others", "of_subjects", "overview"]

_OVERVIEW = ("file", "size", "params", "MACs", "MACs in 1x1", "parity", "latency")
_UNKNOWN = "-"
_OTHERS = {
    Fit: targets.targets,
    Interleaved: against.turns,
    RunComparison: against.runs,
    Sweep: swept.sweep,
    Scores: scored.evaluation,
    ClaimsFound: scored.claims,
}


def of_subjects(subjects):
    """Return a `Section` for each `Subject`, with a section inside it for each thing known of it."""
    return tuple(
        Section(f"file-{number}", subject.title, sections=_inside(subject, f"file-{number}"), labels=subject.labels)
        for number, subject in enumerate(subjects, 1)
    )


def _inside(subject, name):
    found = []
    if subject.audit is not None:
        found += [audited.audit(subject.audit, name), audited.findings(subject.audit, name)]
    if subject.sidecar is not None:
        found.append(compared.parity(subject.sidecar, name))
    for number, profile in enumerate(subject.profiles, 1):
        found.append(timed.latency(profile, f"{name}-run-{number}"))
    if subject.edgetpu is not None:
        found.append(targets.edgetpu(subject.edgetpu, name))
    for number, sweep in enumerate(subject.ethosu, 1):
        found.append(targets.ethosu(sweep, f"{name}-ethosu-{number}"))
    if subject.micro is not None:
        found.append(targets.micro(subject.micro, name))
    return tuple(found)


def of_others(others):
    """Return a `Section` for each record that is of no file alone, kind by kind; none for anything else."""
    found = [
        make(item, f"{make.__name__}-{number}")
        for kind, make in _OTHERS.items()
        for number, item in enumerate((each for each in others if isinstance(each, kind)), 1)
    ]
    return tuple(found)


def overview(subjects):
    """Return the `Table` of all subjects, a row each."""
    rows = [
        (
            subject.title,
            _UNKNOWN if subject.bytes is None else size(subject.bytes),
            *_counts(subject.audit),
            _parity(subject.sidecar),
            "; ".join(_latency(profile) for profile in subject.profiles) or _UNKNOWN,
        )
        for subject in subjects
    ]
    return table("All files", _OVERVIEW, rows, right=_OVERVIEW[1:5])


def machines(subjects):
    """Return each machine that a latency is of, in one line, in order of appearance."""
    return tuple(dict.fromkeys(machine(profile.host) for subject in subjects for profile in subject.profiles))


def _counts(audit):
    if audit is None:
        return (_UNKNOWN,) * 3
    total = audit.total
    share = total.pointwise_macs / total.macs if total.macs else None
    return f"{total.params:,}", f"{total.macs:,}", percent(share)


def _parity(sidecar):
    return _UNKNOWN if sidecar is None or sidecar.parity is None else compared.verdict(sidecar.parity)


def _latency(profile):
    threads = f"{profile.threads} thread{'' if profile.threads == 1 else 's'}"
    return f"{microseconds(profile.total.median)} ({threads}, {profile.runs:,} runs)"
