"""Which cases of a test run in which tier. `wide` cases repeat a test on more networks, before a release."""

import pytest

WIDE = (pytest.mark.slow, pytest.mark.wide)


def by_tier(cases, default=(), wide=()):
    """Return `cases` as parameters: those of neither list are slow."""
    marks = {True: (), False: pytest.mark.slow}
    return [pytest.param(case, marks=WIDE if case in wide else marks[case in default]) for case in cases]
