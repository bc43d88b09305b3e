"""The result of a comparison: two networks row by row, or a model and the file that was made of it."""

from dataclasses import asdict, dataclass

from keras_nin.audit import compare_render

SCHEMA = "keras_nin.compare/1"


@dataclass(frozen=True)
class ComparedRow:
    """A row on each side; (a, b) pairs hold None where that side has no such row, or MACs that are not known.

    `a` is a row of the first network, `b` the rows of the second that go with it. `status` of two networks: same,
    changed, only in a, only in b. Of a model and its file: matched; folded, fused, removed or absorbed, where the
    layer has no operator of its own; inserted, where the operator has no layer; unexplained. `note` says what changed
    and why, `operators` are the types of those of `b`, `into` is the operator that took a layer over.
    """

    a: str | None
    b: tuple[str, ...]
    status: str
    note: str
    params: tuple[int | None, int | None]
    weight_bytes: tuple[int | None, int | None]
    macs: tuple[int | None, int | None]
    block: str | None = None
    operators: tuple[str, ...] = ()
    into: str | None = None


@dataclass(frozen=True)
class Reason:
    """Why the numbers of parameters differ: a cause, in how many rows, and how many values more or less b has."""

    cause: str
    rows: int
    params: int


@dataclass(frozen=True)
class Comparison:
    """Two audits side by side. ``print(comparison)`` shows a table.

    `kind` is "networks", or "conversion" where `b` is a file that is reconciled with the Keras model `a`. `blocks` has
    the sums by block where both sides have blocks. `totals` are (a, b) pairs by name; the shares of 1x1 layers are
    fractions.
    `problems` says where a conversion does not add up; `stored` is the bytes of the file's weights by data type.
    """

    kind: str
    a: str
    b: str
    rows: tuple[ComparedRow, ...]
    blocks: tuple[ComparedRow, ...]
    totals: dict
    reasons: tuple[Reason, ...] = ()
    stored: dict | None = None
    problems: tuple[str, ...] = ()

    @property
    def holds(self):
        """Whether a model and its file agree in the MACs of every row and in total; True for two networks."""
        return not self.problems

    def to_json(self):
        """Return the comparison as a JSON-ready dict (schema ``keras_nin.compare/1``)."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "a": self.a,
            "b": self.b,
            "rows": [_plain(row) for row in self.rows],
            "blocks": [_plain(row) for row in self.blocks],
            "totals": {name: list(pair) for name, pair in self.totals.items()},
            "reasons": [asdict(reason) for reason in self.reasons],
            "stored": self.stored,
            "holds": self.holds,
            "problems": list(self.problems),
        }

    def to_markdown(self):
        """Return the comparison as Markdown."""
        return compare_render.markdown(self)

    def __str__(self):
        return compare_render.text(self)


def _plain(row):
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(row).items()}


def totals(a, b):
    """Return the totals of two `Audit`s as (a, b) pairs by name."""
    pairs = {
        name: (getattr(a.total, name), getattr(b.total, name))
        for name in ("params", "macs", "pointwise_params", "pointwise_macs", "peak_activation_bytes", "weight_bytes")
    }
    for what in ("params", "macs"):
        pairs[f"pointwise_{what}_share"] = tuple(
            part / whole if whole else None for part, whole in zip(pairs[f"pointwise_{what}"], pairs[what], strict=True)
        )
    return pairs
