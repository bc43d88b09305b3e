"""Which part of an audit to show: how deep, which layers, which columns, in which order."""

import functools
from dataclasses import dataclass

from keras_nin.audit.records import Block, Row, by_block
from keras_nin.audit.render.columns import columns_of
from keras_nin.errors import InputError, one_of, unknown_name

KINDS = ("pointwise", "spatial", "depthwise", "dense", "pool", "norm", "activation", "merge", "reshape", "other")
ROLES = ("head", "projection", "reduce", "expand", "mix")
TOTALS, BLOCKS, LAYERS = 0, 1, 2


@dataclass(frozen=True)
class View:
    """What to show of an audit.

    `depth` is 0 (totals), 1 (a line for each block) or 2 (for each layer). `columns` are keys of the JSON rows, or
    share_of_params and share_of_macs; None takes what suits the format. `sort` is such a key: numbers fall, words
    rise, what is not known comes last. `only` are kinds and roles: a layer of any of them is shown, and a block is
    summed over such layers alone. `columns` and `only` may be one string with commas.

    Raises:
        InputError: an unknown depth, column, kind or role; a column twice; columns or an order without a table.
    """

    depth: int = LAYERS
    columns: tuple[str, ...] | None = None
    sort: str | None = None
    only: tuple[str, ...] = ()

    def __post_init__(self):
        one_of("depth", self.depth, (TOTALS, BLOCKS, LAYERS))
        if self.columns is not None:
            object.__setattr__(self, "columns", _words("columns", self.columns))
        object.__setattr__(self, "only", _words("only", self.only))
        if self.depth == TOTALS and (self.columns is not None or self.sort is not None):
            raise InputError(
                "Expected no `columns` and no `sort` with depth 0, which shows totals alone. Use depth 1 or 2"
            )
        for key in self.columns or ():
            self._check("columns", key, self.known)
        if self.columns is not None and len(set(self.columns)) < max(len(self.columns), 1):
            raise InputError(f"Expected `columns` to name each column once. Received: {', '.join(self.columns)!r}")
        if self.sort is not None:
            self._check("sort", self.sort, self.known)
        for word in self.only:
            self._check("only", word, (*KINDS, *ROLES))

    @staticmethod
    def _check(what, word, known):
        if word not in known:
            raise unknown_name(what, word, known)

    @property
    def known(self):
        """The columns that there are at this depth, by key."""
        return columns_of(Block if self.depth == BLOCKS else Row)

    def chosen(self, default):
        """Return the `Column`s to show; the keys `default` where the user chose none."""
        return [self.known[key] for key in (default if self.columns is None else self.columns)]

    def rows(self, audit):
        """Return the rows of `audit` whose kind or role is asked for: all where none is."""
        return [row for row in audit.rows if not self.only or {row.kind, row.role} & {*self.only}]

    def records(self, audit):
        """Return what the table lists, in its order: rows, blocks, or nothing at depth 0."""
        if self.depth == TOTALS:
            return []
        rows = self.rows(audit)
        records = by_block(rows) if self.depth == BLOCKS else rows
        return records if self.sort is None else _sorted(records, self.known[self.sort], audit.total)


def _words(what, given):
    given = (given,) if isinstance(given, str) else given
    if not all(isinstance(words, str) for words in given):
        raise InputError(f"Expected `{what}` to be names. Received: {given!r}")
    return tuple(word.strip() for words in given for word in words.split(","))


def _sorted(records, column, total):
    value = functools.partial(column.value, total=total)
    known = [record for record in records if value(record) is not None]
    unknown = [record for record in records if value(record) is None]
    falling = any(not isinstance(value(record), str) for record in known)
    return sorted(known, key=lambda record: _rank(value(record)), reverse=falling) + unknown


def _rank(value):
    """A value to compare by: shapes of one tensor and of several side by side."""
    if not isinstance(value, tuple):
        return value
    return tuple(number for item in value for number in (item if isinstance(item, tuple) else (item,)))
