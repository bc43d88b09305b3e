"""The table of claims, by id."""

from keras_nin.claims import blocks, counts, equalities, extra_relu, heads, softconv, speed
from keras_nin.errors import unknown_name

_ROWS = [row for module in (counts, speed, extra_relu, heads, equalities, blocks, softconv) for row in module.CLAIMS]
_SOURCES = list(dict.fromkeys(row.source for row in _ROWS))
# The claims of one article stand together.
CLAIMS = {row.id: row for row in sorted(_ROWS, key=lambda row: _SOURCES.index(row.source))}


def list_claims():
    """Return the ids of the claims, in the table's order."""
    return list(CLAIMS)


def claim(id):
    """Return the `Claim` with this id; `InputError` with near ids where there is none."""
    if id not in CLAIMS:
        raise unknown_name("claim", id, CLAIMS)
    return CLAIMS[id]
