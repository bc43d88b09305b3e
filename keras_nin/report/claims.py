"""Reproduced claims as text and Markdown."""

import numbers
import textwrap
from collections.abc import Mapping
from typing import Any

from keras_nin.claims.claim import AtMost, ClaimFigure, ClaimResult, ClaimsResult, FigureValue
from keras_nin.formatting import format_markdown_table
from keras_nin.report.rendering import make_table, render_text

_WIDTH = 100


def format_claims(result: ClaimsResult) -> str:
    """Return reproduced claims for the terminal: each with its figures side by side, and where it holds."""
    return "\n\n".join([*map(_format_claim, result.claims), result.summary])


def format_claims_markdown(result: ClaimsResult) -> str:
    """Return reproduced claims as one Markdown table, a row per claim."""
    records = []
    for claim in result.claims:
        article = {figure.name: format_figure(figure.article) for figure in claim.figures if figure.article is not None}
        ours = {figure.name: format_measured_figure(figure) for figure in claim.figures}
        texts = ("; ".join(f"{name}: {value}" for name, value in figures.items()) for figures in (article, ours))
        measured = "" if claim.conditions is None else f" Measured: {conditions_line(claim.conditions)}"
        records.append(dict(zip(("article", "ours"), texts, strict=True), row=claim, why=f"{claim.why}{measured}"))
    return f"{make_table('claims', records).format(format_markdown_table)}\n\n{result.summary}\n"


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
    return render_text("claims.j2", "conditions", conditions)


def figure_records(claim: ClaimResult) -> list[dict[str, Any]]:
    """Return the rows of the table of a claim's figures."""
    return [
        {"row": figure, "article": format_figure(figure.article), "ours": format_measured_figure(figure)}
        | {"is_limit": isinstance(figure.article, AtMost)}
        for figure in claim.figures
    ]


def _format_claim(claim: ClaimResult) -> str:
    paragraphs = [f"Why: {claim.why}"]
    if claim.conditions is not None:
        paragraphs.append(f"Measured: {conditions_line(claim.conditions)}")
    return "\n".join(
        [
            f"{claim.id}: {claim.verdict}",
            *_wrap(f"Claim: {claim.text}", f"Source: {claim.source}"),
            *([f"    {claim.url}"] if claim.url else []),
            *(f"  {line}" for line in make_table("claim_figures", figure_records(claim)).format().splitlines()),
            *_wrap(*paragraphs),
        ]
    )


def _wrap(*paragraphs: str) -> list[str]:
    return [
        line
        for paragraph in paragraphs
        for line in textwrap.wrap(paragraph, _WIDTH, initial_indent="  ", subsequent_indent="    ")
    ]
