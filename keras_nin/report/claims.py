"""Reproduced claims as text and Markdown."""

import numbers
import textwrap
from collections.abc import Mapping
from typing import Any

from keras_nin.claims.claim import AtMost, ClaimFigure, ClaimResult, ClaimsResult, FigureValue
from keras_nin.formatting import format_host, format_markdown_table, format_table

_WIDTH = 100
_MARKDOWN_COLUMNS = ("id", "claim", "article's figures", "our figures", "verdict", "why")
_FIGURE_COLUMNS = ("figure", "article", "ours")


def format_claims(result: ClaimsResult) -> str:
    """Return reproduced claims for the terminal: each with its figures side by side, and where it holds."""
    return "\n\n".join([*map(_format_claim, result.claims), result.summary])


def format_claims_markdown(result: ClaimsResult) -> str:
    """Return reproduced claims as one Markdown table, a row per claim."""
    rows = [
        [
            claim.id,
            claim.text,
            "; ".join(
                f"{figure.name}: {format_figure(figure.article)}"
                for figure in claim.figures
                if figure.article is not None
            ),
            "; ".join(f"{figure.name}: {format_measured_figure(figure)}" for figure in claim.figures),
            claim.verdict,
            claim.why if claim.conditions is None else f"{claim.why} Measured: {conditions_line(claim.conditions)}",
        ]
        for claim in result.claims
    ]
    return f"{format_markdown_table(_MARKDOWN_COLUMNS, rows)}\n\n{result.summary}\n"


def format_figure(value: FigureValue) -> str:
    """Return a figure as text: 16,416; 12x12x32; yes; 2.4e-07; "-" where there is none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, numbers.Integral):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_measured_figure(figure: ClaimFigure) -> str:
    """Return our value of a figure as text, marked where it is not the declared one."""
    text = "not measured" if figure.ours is None else format_figure(figure.ours)
    return text if figure.reproduced else f"{text} (declared: {format_figure(figure.declared)})"


def conditions_line(conditions: Mapping[str, Any]) -> str:
    """Return how a claim's figures were timed in one line."""
    state = conditions["host"].get("state")
    load = state.get("load_average") if isinstance(state, Mapping) else None
    busy = f", load average {load:.1f}" if isinstance(load, int | float) else ""
    return (
        f"{format_host(conditions['host'])}{busy}; {conditions['processes']:,} processes with {conditions['runs']:,} "
        "warm, interleaved runs of every layer in each; in brackets, the 95% interval of the median over processes "
        "(cold runs: smallest and largest)."
    )


def _format_claim(claim: ClaimResult) -> str:
    rows = [[figure.name, _format_article_figure(figure), format_measured_figure(figure)] for figure in claim.figures]
    table = format_table(_FIGURE_COLUMNS, rows, right=_FIGURE_COLUMNS[1:])
    return "\n".join(
        [
            f"{claim.id}: {claim.verdict}",
            *_wrap(f"Claim: {claim.text}"),
            *_wrap(f"Source: {claim.source}"),
            *(f"  {line}" for line in table.splitlines()),
            *_wrap(f"Why: {claim.why}"),
            *([] if claim.conditions is None else _wrap(f"Measured: {conditions_line(claim.conditions)}")),
        ]
    )


def _format_article_figure(figure: ClaimFigure) -> str:
    return "equal" if isinstance(figure.article, AtMost) else format_figure(figure.article)


def _wrap(line: str) -> list[str]:
    return textwrap.wrap(line, _WIDTH, initial_indent="  ", subsequent_indent="    ")
