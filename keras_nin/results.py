"""What every result of an entry point offers in a notebook."""

import dataclasses
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_nin.errors import missing_package_error
from keras_nin.formatting import format_count
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
        """Return the result in one line, without its type's name."""
        raise NotImplementedError

    def _rows(self) -> Sequence[dict[str, Any]]:
        """Return the rows of the result's main table."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._summary()}>"

    def _repr_html_(self) -> str:
        rows = self._rows()
        columns = list(rows[0]) if rows else []
        head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
        body = "".join(
            f"<tr>{''.join(f'<td>{_format_cell(row[column])}</td>' for column in columns)}</tr>"
            for row in rows[:_ROWS_SHOWN]
        )
        hidden = len(rows) - _ROWS_SHOWN
        more = f"<p>and {format_count(hidden, 'more row')}: see to_dataframe()</p>" if hidden > 0 else ""
        caption = html.escape(f"{type(self).__name__}: {self._summary()}")
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if rows else ""
        return f"<p><b>{caption}</b></p>{table}{more}"

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return the result's main table as a pandas data frame, one row per layer, operator, file or class.

        Raises:
            InputError: pandas is not installed.
        """
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
    if isinstance(value, (tuple, list)):
        return html.escape(" x ".join(str(part) for part in value))
    return html.escape(str(value))


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class CheckedResult(Result):
    """A result with the limits that were checked on it, and remarks on how it came about.

    Attributes:
        checks: limits, each with the value it was compared with and the verdict.
        notes: remarks, such as that the weights are random.
    """

    checks: tuple[LimitCheck, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every limit is known to be kept."""
        return all_passed(self.checks)

    def _fields_to_json(self) -> dict[str, Any]:
        """Return the other fields as a JSON-ready dictionary."""
        fields = dataclasses.asdict(dataclasses.replace(self, checks=(), notes=()))
        return {name: value for name, value in fields.items() if name not in ("checks", "notes")}

    def _checks_to_json(self) -> dict[str, Any]:
        """Return the checks and the notes, where there are any, for `to_json`."""
        checks = {"checks": [check.to_json() for check in self.checks]} if self.checks else {}
        return checks | ({"notes": list(self.notes)} if self.notes else {})
