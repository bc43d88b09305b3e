"""What every result of an entry point offers in a notebook."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_nin.errors import missing_package_error
from keras_nin.formatting import TEXT_LIMIT, format_count, printable
from keras_nin.limits import LimitCheck, all_passed

if TYPE_CHECKING:
    import pandas

_ROWS_SHOWN = 60


class Result:
    """Mixin of the records that entry points return: a short `repr`, an HTML table, JSON and a pandas data frame.

    A subclass defines `to_json`, `_summary` (one line) and `_rows` (one dictionary per row of its main table, all with
    the same keys). A dataclass is declared with ``@dataclass(frozen=True, repr=False)``, so that its own repr, which
    has every field, does not replace the short one.
    """

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON-ready dictionary, the document that ``--json`` prints."""
        raise NotImplementedError

    def _summary(self) -> str:
        raise NotImplementedError

    def _rows(self) -> Sequence[dict[str, Any]]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return printable(f"<{type(self).__name__}: {self._summary()}>", TEXT_LIMIT)

    def _repr_html_(self) -> str:
        import jinja2

        rows = self._rows()
        hidden = len(rows) - _ROWS_SHOWN
        text = pathlib.Path(__file__).with_name("result.html.j2").read_text()
        template = jinja2.Template(text, autoescape=True, finalize=lambda value: printable(value, TEXT_LIMIT))
        return template.render(
            caption=f"{type(self).__name__}: {self._summary()}",
            columns=list(rows[0]) if rows else [],
            rows=rows[:_ROWS_SHOWN],
            hidden=format_count(hidden, "more row") if hidden > 0 else "",
            format_cell=_format_cell,
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return the main table, one row per layer, operator, file or class; `InputError` where pandas is missing."""
        try:
            import pandas
        except ImportError:
            raise missing_package_error("to_dataframe()", "notebook") from None
        return pandas.DataFrame.from_records(list(self._rows()))


def _format_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    return " x ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class CheckedResult(Result):
    """A result with the limits that were checked on it, and notes, such as that the weights are random."""

    checks: tuple[LimitCheck, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every limit is known to be kept."""
        return all_passed(self.checks)

    def _fields_to_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(dataclasses.replace(self, checks=(), notes=()))
        return {name: value for name, value in fields.items() if name not in ("checks", "notes")}

    def _checks_to_json(self) -> dict[str, Any]:
        checks = {"checks": [check.to_json() for check in self.checks]} if self.checks else {}
        return checks | ({"notes": list(self.notes)} if self.notes else {})
