"""What the tables of an audit can show: a column for every key of its records, and two shares."""

import dataclasses
import functools
import typing

_SHARES = {"share_of_params": "params", "share_of_macs": "macs"}
_SHAPES = frozenset({"input_shape", "output_shape"})
_NO_BLOCK = "(no block)"


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: the key of the JSON rows or of a share, and whether it holds numbers (which are set to the right)."""

    key: str
    numeric: bool

    @property
    def heading(self):
        """The key as words: ``"share of MACs"``."""
        return " ".join("MACs" if word == "macs" else word for word in self.key.split("_"))

    @property
    def is_share(self):
        """Whether this is a share of the whole network, a fraction of 1."""
        return self.key in _SHARES

    def value(self, record, total):
        """Return the value of `record`; None where it is not known, or a share of nothing."""
        if not self.is_share:
            return getattr(record, self.key)
        part, whole = getattr(record, _SHARES[self.key]), getattr(total, _SHARES[self.key])
        return part / whole if part is not None and whole else None

    def text(self, record, total):
        """Return the value for a reader: ``"1,792"``, ``"3x3"``, ``"5.1%"``, a shape without the batch."""
        value = self.value(record, total)
        if value is None:
            return {"macs": "unknown", "name": _NO_BLOCK}.get(self.key, "")
        if self.is_share:
            return f"{value:.1%}"
        if self.key in _SHAPES:
            return _shape(value)
        return _text(value)

    def raw(self, record, total):
        """Return the value for a machine: numbers as they are, shares to six places, pairs and shapes as in `text`."""
        value = self.value(record, total)
        if isinstance(value, tuple):
            return self.text(record, total)
        return round(value, 6) if self.is_share and value is not None else value


@functools.cache
def columns_of(record_class):
    """Return the columns of a record's class (`Row` or `Block`) by key, in the order of its fields, shares last."""
    fields = [Column(field.name, _is_number(field.type)) for field in dataclasses.fields(record_class)]
    return {column.key: column for column in (*fields, *(Column(key, True) for key in _SHARES))}


def _is_number(annotation):
    return (
        bool({int, float} & {annotation, *typing.get_args(annotation)}) and typing.get_origin(annotation) is not tuple
    )


def _text(value):
    if isinstance(value, tuple):
        return ("x" if all(isinstance(item, int) for item in value) else ", ").join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}" if isinstance(value, float) else str(value)


def _shape(shape):
    """A shape without the batch; several with ", " between them."""
    if shape and isinstance(shape[0], tuple):
        return ", ".join(map(_shape, shape))
    return "x".join(map(str, shape[1:]))
