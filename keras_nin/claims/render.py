"""Reproduced claims as text, Markdown and JSON: pure functions of their records."""

import collections
import numbers
import textwrap

from keras_nin.claims.records import VERDICTS, AtMost, Interval
from keras_nin.tables import markdown_table, text_table

SCHEMA = "keras_nin.claims/1"
_WIDTH = 100
_MARKDOWN = ("id", "claim", "the article's figure", "our figure", "verdict", "why")
_FIGURES = ("figure", "article", "ours")
_MISSING = "-"


def text(results):
    """Return `results` (`Result`s) for the terminal: of each the claim, its figures side by side, and why."""
    return "\n\n".join([*map(_block, results), summary(results)])


def markdown(results):
    """Return `results` as one Markdown table, a row a claim."""
    rows = [
        [
            result.id,
            result.text,
            "; ".join(f"{row.name}: {value(row.article)}" for row in result.figures if row.article is not None),
            "; ".join(f"{row.name}: {ours(row)}" for row in result.figures),
            result.verdict,
            result.why if result.conditions is None else f"{result.why} Measured: {conditions(result.conditions)}",
        ]
        for result in results
    ]
    return f"{markdown_table(_MARKDOWN, rows)}\n\n{summary(results)}\n"


def to_json(results):
    """Return `results` as a JSON-ready dict (schema ``keras_nin.claims/1``)."""
    return {
        "schema": SCHEMA,
        "claims": [
            {
                "id": result.id,
                "source": result.source,
                "claim": result.text,
                "verdict": result.verdict,
                "reproduced": result.reproduced,
                "why": result.why,
                "figures": [_figure_json(figure) for figure in result.figures],
                **({} if result.conditions is None else {"measured": dict(result.conditions)}),
            }
            for result in results
        ],
    }


def summary(results):
    """Return one line: how many claims have which verdict, and whether each reproduction gave what is declared."""
    counts = collections.Counter(result.verdict for result in results)
    verdicts = ", ".join(f"{verdict}: {counts[verdict]}" for verdict in VERDICTS if counts[verdict])
    missed = [result.id for result in results if not result.reproduced]
    state = f"Not reproduced: {', '.join(missed)}" if missed else "Every declared figure is reproduced"
    return f"{len(results)} claim{'' if len(results) == 1 else 's'} ({verdicts}). {state}."


def value(given):
    """Return a figure as text: 16,416; 12x12x32; yes; 2.4e-07; "-" where there is none."""
    if given is None:
        return _MISSING
    if isinstance(given, bool):
        return "yes" if given else "no"
    if isinstance(given, tuple):
        return "x".join(map(str, given))
    if isinstance(given, numbers.Integral):
        return f"{given:,}"
    return f"{given:.4g}" if isinstance(given, float) else str(given)


def ours(figure):
    """Return our value of a figure as text, marked where it is not what is declared."""
    shown = "not measured" if figure.ours is None else value(figure.ours)
    return shown if figure.reproduced else f"{shown} (declared: {value(figure.declared)})"


def conditions(given):
    """Return in one line how a claim's figures were timed; `given` is `Result.conditions`."""
    host = given["host"]
    load = host["state"]["load_average"]
    busy = "" if load is None else f", load average {load:.1f}"
    return (
        f"{host['cpu']}, {host['cores']} cores{busy}, LiteRT {host['litert']}; {given['processes']} processes, in each "
        f"{given['runs']} warm runs of every layer in turns; in brackets the 95 % interval of the median over them, of "
        "cold runs the smallest and the largest."
    )


def _block(result):
    rows = [[figure.name, _article(figure), ours(figure)] for figure in result.figures]
    table = text_table(_FIGURES, rows, right=_FIGURES[1:])
    return "\n".join(
        [
            f"{result.id}: {result.verdict}",
            *_wrapped(f"Claim: {result.text}"),
            *_wrapped(f"Source: {result.source}"),
            *(f"  {line}" for line in table.splitlines()),
            *_wrapped(f"Why: {result.why}"),
            *([] if result.conditions is None else _wrapped(f"Measured: {conditions(result.conditions)}")),
        ]
    )


def _article(figure):
    return "equal" if isinstance(figure.article, AtMost) else value(figure.article)


def _wrapped(line):
    return textwrap.wrap(line, _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _figure_json(figure):
    return {
        "name": figure.name,
        "article": _plain(figure.article),
        "declared": _plain(figure.declared),
        "ours": _plain(figure.ours),
        "agrees": figure.agrees,
        "reproduced": figure.reproduced,
    }


def _plain(given):
    if isinstance(given, Interval):
        return given.to_json()
    if isinstance(given, tuple):
        return list(given)
    return given if given is None or isinstance(given, str | bool | int | float) else str(given)
