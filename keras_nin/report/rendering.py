"""Templates of the reports, as text and as HTML, and the columns of their tables; both are in `templates/`."""

import functools
import math
import pathlib
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras_nin import formatting
from keras_nin.limits import Unit, format_value

if TYPE_CHECKING:
    import jinja2

_MISSING = "-"
_TEMPLATES = pathlib.Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Table:
    """A table: its headings, those of the right-aligned columns, and its cells as text."""

    columns: tuple[str, ...]
    right: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def format(self, build: Callable[..., str] = formatting.format_table) -> str:
        """Return the table as text; `build` takes the headings, the rows, and the right-aligned headings."""
        return build(self.columns, self.rows, right=self.right)

    __str__ = format

    def without_empty_columns(self) -> "Table":
        """Return the table without the columns that have no text in any row."""
        used = [index for index in range(len(self.columns)) if any(row[index] for row in self.rows)]
        columns, *rows = (tuple(line[index] for index in used) for line in (self.columns, *self.rows))
        return Table(columns, self.right, tuple(rows))


def make_table(
    name: str, records: Iterable[Any], *, first: str | None = None, last: Iterable[Sequence[str]] = ()
) -> Table:
    """Return a table of ``tables.toml`` with a row for each record.

    Args:
        name: of the table.
        records: each is `row` in the expressions of the cells; the items of a dictionary are names of their own.
        first: heading of the first column, where that differs from table to table.
        last: cells of further rows.
    """
    columns, right, format_cells = _read_table(name)
    contexts = (record if isinstance(record, dict) else {"row": record} for record in records)
    rows = [
        tuple(cell if isinstance(cell, str) else str(cell) for cell in format_cells(context)) for context in contexts
    ]
    return Table(columns if first is None else (first, *columns[1:]), right, (*rows, *map(tuple, last)))


@functools.cache
def _read_table(name: str) -> tuple[tuple[str, ...], tuple[str, ...], Callable[..., Any]]:
    """Return the headings of a table, those of its right-aligned columns, and the function that formats a row."""
    columns = _read_tables()[name]
    right = tuple(heading for heading, cell in columns.items() if "right" in cell)
    cells = ", ".join(f"({expression})" for cell in columns.values() for expression in cell.values())
    return tuple(columns), right, environment(autoescape=False).compile_expression(f"[{cells}]")


@functools.cache
def _read_tables() -> dict[str, dict[str, dict[str, str]]]:
    return tomllib.loads((_TEMPLATES / "tables.toml").read_text(encoding="utf-8"))


def render_text(template: str, macro: str, *arguments: Any) -> str:
    """Return what a macro of a text template makes of its arguments, without empty lines around it."""
    return str(getattr(environment(autoescape=False).get_template(template).module, macro)(*arguments)).strip("\n")


@functools.cache
def environment(*, autoescape: bool) -> "jinja2.Environment":
    """Return the environment of the templates; `autoescape` is for HTML.

    Text from files is shown without characters that would move a cursor or reverse text.
    """
    import jinja2

    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=autoescape,
        finalize=_escape_text,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals["table"] = make_table
    env.tests["finite"] = _is_finite
    env.filters |= {
        "bytes": _or_missing(formatting.format_bytes),
        "exact_bytes": functools.partial(format_value, Unit.BYTES),
        "mib": lambda count: f"{count / 2**20:.2f} MiB",
        "us": _or_missing(formatting.format_us),
        "number": _format_number,
        "finite": _format_finite,
        "to": _format_range,
        "lsb": _format_lsb,
        "db": _format_db,
        "percent": formatting.format_percent,
        "ratio_percent": formatting.format_ratio_percent,
        "count": formatting.format_count,
        "names": formatting.format_names,
        "indexes": formatting.format_indexes,
        "host": formatting.format_host,
        "conditions": lambda profile: formatting.format_conditions(
            profile.host, profile.threads, profile.runs, profile.batch
        ),
        "shorten": formatting.printable,
        "markdown": formatting.escape_markdown,
        "link": formatting.format_link,
    }
    return env


def _or_missing(format_function: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: _MISSING if value is None else format_function(value)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _format_number(value: float | None, spec: str = ",", missing: str = "") -> str:
    return missing if value is None else format(value, spec)


def _format_finite(value: float | None, spec: str = ".4g") -> str:
    return format(value, spec) if value is not None and math.isfinite(value) else "not finite"


def _format_range(low: float | None, high: float | None, spec: str, missing: str = "", unit: str = "") -> str:
    return missing if low is None or high is None else f"{low:{spec}} to {high:{spec}}{unit}"


def _format_lsb(steps: float | None) -> str:
    """Return a number of quantization steps."""
    return _format_finite(steps, ".4f" if (steps or 0.0) < 0.1 else ",.1f")


def _format_db(ratio: float | None, is_exact: bool = False) -> str:
    """Return a signal-to-noise ratio as "32.3 dB"; "exact" where there is no noise, "-" where there is no number."""
    if ratio is None or not math.isfinite(ratio):
        return "exact" if is_exact else _MISSING
    return f"{ratio:.1f} dB"


def _escape_text(value: object) -> object:
    """Return text as a printable line of limited length; what Jinja made, and text that is marked as safe, stays."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return formatting.printable(value, formatting.TEXT_LIMIT)
