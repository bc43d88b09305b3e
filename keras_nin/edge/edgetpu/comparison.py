"""A verdict against what the compiler made of the same file."""

import dataclasses
from collections import Counter

from keras_nin.edge.edgetpu.status import MAPPED, SECOND_SUBGRAPH, plain


@dataclasses.dataclass(frozen=True)
class Difference:
    """Operators of one type and status whose number differs: `predicted` by the rules, `found` by the compiler."""

    op: str
    status: str
    predicted: int
    found: int


def table(rows):
    """Return the compiler's rows (operator, count, status) as a Counter of (operator, status)."""
    found = Counter()
    for op, count, status in rows:
        found[op, plain(status)] += count
    return found


def differences(verdict, rows):
    """Return a `Difference` for each row of the compiler's table that the verdict has otherwise.

    Args:
        verdict: `Verdict`.
        rows: the compiler's rows, (operator, count, status).
    """
    predicted, found = verdict.rows(), table(rows)
    keys = sorted(set(predicted) | set(found))
    return tuple(Difference(*key, predicted[key], found[key]) for key in keys if predicted[key] != found[key])


def on_cpu(rows):
    """Return a Counter of the operators that the compiler's rows leave on the CPU."""
    found = Counter()
    for (op, status), count in table(rows).items():
        if status != MAPPED:
            found[op] += count
    return found


def allowed_several(rows):
    """Return whether the compiler's rows are those of several subgraphs allowed: none came after the cut."""
    return all(status != SECOND_SUBGRAPH for _, status in table(rows))


def agreeing(predicted, found, operators):
    """Return how many operators two Counters of those on the CPU agree on.

    Args:
        predicted, found: Counters by operator type.
        operators: Counter of all of them.
    """
    agreed = 0
    for op, count in operators.items():
        agreed += count - abs(predicted[op] - found[op])
    return agreed
