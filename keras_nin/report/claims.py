"""Reproduced claims as text, Markdown and JSON: pure functions of their records."""

import collections
import numbers
import textwrap

from keras_nin.claims.claim import VERDICTS, AtMost, Interval
from keras_nin.formatting import format_markdown_table, format_table

CLAIMS_SCHEMA = "keras_nin.claims/1"
_WIDTH = 100
_MARKDOWN_COLUMNS = ("id", "claim", "the article's figure", "our figure", "verdict", "why")
_FIGURE_COLUMNS = ("figure", "article", "ours")
_MISSING = "-"


def format_claims(results):
    """Return `results` (`Result`s) for the terminal: of each the claim, its figures side by side, and why."""
    return "\n\n".join([*map(_claim_block, results), claims_summary(results)])


def format_claims_markdown(results):
    """Return `results` as one Markdown table, a row a claim."""
    rows = [
        [
            result.id,
            result.text,
            "; ".join(f"{row.name}: {format_figure(row.article)}" for row in result.figures if row.article is not None),
            "; ".join(f"{row.name}: {format_measured_figure(row)}" for row in result.figures),
            result.verdict,
            result.why
            if result.conditions is None
            else f"{result.why} Measured: {claim_conditions_line(result.conditions)}",
        ]
        for result in results
    ]
    return f"{format_markdown_table(_MARKDOWN_COLUMNS, rows)}\n\n{claims_summary(results)}\n"


def claims_to_json(results):
    """Return `results` as a JSON-ready dict (schema ``keras_nin.claims/1``)."""
    return {
        "schema": CLAIMS_SCHEMA,
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


def claims_summary(results):
    """Return one line: how many claims have which verdict, and whether each reproduction gave what is declared."""
    counts = collections.Counter(result.verdict for result in results)
    verdicts = ", ".join(f"{verdict}: {counts[verdict]}" for verdict in VERDICTS if counts[verdict])
    missed = [result.id for result in results if not result.reproduced]
    state = f"Not reproduced: {', '.join(missed)}" if missed else "Every declared figure is reproduced"
    return f"{len(results)} claim{'' if len(results) == 1 else 's'} ({verdicts}). {state}."


def format_figure(given):
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


def format_measured_figure(figure):
    """Return our value of a figure as text, marked where it is not what is declared."""
    shown = "not measured" if figure.ours is None else format_figure(figure.ours)
    return shown if figure.reproduced else f"{shown} (declared: {format_figure(figure.declared)})"


def claim_conditions_line(given):
    """Return in one line how a claim's figures were timed; `given` is `Result.conditions`."""
    host = given["host"]
    load = host["state"]["load_average"]
    busy = "" if load is None else f", load average {load:.1f}"
    return (
        f"{host['cpu']}, {host['cores']} cores{busy}, LiteRT {host['litert']}; {given['processes']} processes, in each "
        f"{given['runs']} warm runs of every layer in turns; in brackets the 95 % interval of the median over them, of "
        "cold runs the smallest and the largest."
    )


def _claim_block(result):
    rows = [[figure.name, _format_article_figure(figure), format_measured_figure(figure)] for figure in result.figures]
    table = format_table(_FIGURE_COLUMNS, rows, right=_FIGURE_COLUMNS[1:])
    return "\n".join(
        [
            f"{result.id}: {result.verdict}",
            *_wrap(f"Claim: {result.text}"),
            *_wrap(f"Source: {result.source}"),
            *(f"  {line}" for line in table.splitlines()),
            *_wrap(f"Why: {result.why}"),
            *([] if result.conditions is None else _wrap(f"Measured: {claim_conditions_line(result.conditions)}")),
        ]
    )


def _format_article_figure(figure):
    return "equal" if isinstance(figure.article, AtMost) else format_figure(figure.article)


def _wrap(line):
    return textwrap.wrap(line, _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _figure_json(figure):
    return {
        "name": figure.name,
        "article": _plain_value(figure.article),
        "declared": _plain_value(figure.declared),
        "ours": _plain_value(figure.ours),
        "agrees": figure.agrees,
        "reproduced": figure.reproduced,
    }


def _plain_value(given):
    if isinstance(given, Interval):
        return given.to_json()
    if isinstance(given, tuple):
        return list(given)
    return given if given is None or isinstance(given, str | bool | int | float) else str(given)
