"""The section of an export: how the file was made, and how it compares with its model."""

from keras_nin.report.html.parts import Line, Section, table
from keras_nin.report.parity import CHECK_NAMES, decibels, percent

_NOT_FINITE = "not a finite number"
_CHECKS = ("check", "value", "limit", "holds")


def parity(sidecar, name):
    """Return the `Section` of a `Sidecar`."""
    made = f"Made of {sidecar.model} as {sidecar.scheme}; weights: {sidecar.weights}. {_calibration(sidecar)}"
    found = sidecar.parity
    if found is None:
        return Section(f"{name}-parity", "Parity", (Line(made), Line("It was not compared with its model.", "plain")))
    tone = "plain" if not found.checks else "good" if found.holds else "bad"
    lines = [Line(f"Parity {verdict(found)}.", tone), Line(made), Line(_outputs(found)), *_answers(found)]
    if found.checks:
        lines.insert(1, _checks(found))
    return Section(f"{name}-parity", "Parity", tuple(lines))


def verdict(parity):
    """Return what the checks of a parity come to, in a word or two."""
    if not parity.checks:
        return "not judged"
    return "holds" if parity.holds else "FAILS"


def _checks(found):
    rows = [
        (CHECK_NAMES.get(check.name, check.name), _number(check.value), _number(check.limit), _yes(check.holds))
        for check in found.checks
    ]
    return table("What was judged", _CHECKS, rows, right=_CHECKS[1:3])


def _outputs(found):
    return (
        f"Compared on {found.images:,} images ({found.source}). Outputs: largest difference {_number(found.max_steps)} "
        f"steps of {_number(found.step)}, rms {_number(found.rms_steps)} steps, signal to noise "
        f"{decibels(found.snr_db, found.max_steps == 0)}."
    )


def _answers(found):
    if found.agreement is None:
        return []
    top1 = f" Top-1: model {percent(found.model_top1)}, file {percent(found.file_top1)}."
    scored = "" if found.model_top1 is None else top1
    return [Line(f"The same answer on {percent(found.agreement)} of the images.{scored}")]


def _calibration(sidecar):
    source = sidecar.calibration
    return "" if source is None else f"Calibrated on {source.count:,} images ({source.source})."


def _number(value):
    return _NOT_FINITE if value is None else f"{value:.4g}"


def _yes(holds):
    return "yes" if holds else "NO"
