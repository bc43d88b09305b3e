"""The sections of scores: what a file recognises, and what became of articles' claims."""

from keras_nin.report.checked import base_name
from keras_nin.report.conditions import machine
from keras_nin.report.html.parts import Line, Section, table
from keras_nin.report.parity import percent

_CLASSES = ("class", "images", "recall", "precision")
_FIGURES = ("figure", "article", "ours", "agrees")
_CLAIMS = ("claim", "verdict", "reproduced")
_MOST_IN_A_MATRIX = 20


def evaluation(scores, name):
    """Return the `Section` of `keras_nin.report.score_documents.Scores`."""
    top5 = "" if scores.top5 is None else f", top-5 {percent(scores.top5)}"
    made = f" Weights: {scores.weights}." if scores.weights else ""
    rows = [(each.name, f"{each.images:,}", percent(each.recall), percent(each.precision)) for each in scores.per_class]
    folded = f"All {len(rows)} classes" if len(rows) > _MOST_IN_A_MATRIX else None
    parts = [
        Line(f"Top-1 {percent(scores.top1)}{top5} on {scores.images:,} images.", "plain"),
        Line(f"{scores.data}, prepared as {scores.preprocessing.get('mode', 'not said')}.{made}"),
        table("Every class", _CLASSES, rows, right=_CLASSES[1:], folded=folded),
        *([_matrix(scores)] if 0 < len(rows) <= _MOST_IN_A_MATRIX else []),
        *([_speed(scores.speed)] if scores.speed else []),
    ]
    return Section(name, f"Accuracy: {base_name(scores.file)}", tuple(parts))


def _matrix(scores):
    names = [each.name for each in scores.per_class]
    heads = ("class", *map(str, scores.confusion.classes))
    rows = [
        (label, *(f"{count:,}" if count else "." for count in line))
        for label, line in zip(names, scores.confusion.matrix, strict=True)
    ]
    return table("Images of a class by the answer", heads, rows, right=heads[1:], folded="What is taken for what")


def _speed(speed):
    threads = f"{speed.threads} thread{'' if speed.threads == 1 else 's'}"
    rate = f"{speed.images_per_second:,.0f}" if speed.images_per_second >= 100 else f"{speed.images_per_second:.4g}"
    return Line(
        f"{rate} images per second, inference alone: {speed.runs:,} runs on {threads}, batch "
        f"{speed.batch}; {machine(speed.host)}"
    )


def claims(found, name):
    """Return the `Section` of `keras_nin.report.score_documents.ClaimsFound`: the verdicts, and each claim."""
    rows = [(each.id, each.verdict, _yes(each.reproduced)) for each in found.claims]
    sections = [_claim(each, f"{name}-{number}") for number, each in enumerate(found.claims, 1)]
    return Section(name, "Claims", (table("All claims", _CLAIMS, rows),), tuple(sections))


def _claim(claim, name):
    rows = [(each.name, each.article, each.ours, _agreement(each.agrees)) for each in claim.figures]
    parts = [
        Line(claim.claim, "plain"),
        table("Figures", _FIGURES, rows, right=_FIGURES[1:3]),
        Line(claim.why, "plain"),
        Line(f"Source: {claim.source}"),
        *([_timed(claim.measured)] if claim.measured else []),
        *([] if claim.reproduced else [Line("A figure is not what the claim's definition declares.", "bad")]),
    ]
    return Section(name, f"{claim.id}: {claim.verdict}", tuple(parts))


def _timed(timed):
    return Line(
        f"Measured in {timed.processes:,} processes, in each {timed.runs:,} warm runs of every layer in turns; "
        f"{machine(timed.host)}. In brackets the 95 % interval of the median, of cold runs the smallest and largest."
    )


def _agreement(agrees):
    return "-" if agrees is None else _yes(agrees)


def _yes(holds):
    return "yes" if holds else "NO"
