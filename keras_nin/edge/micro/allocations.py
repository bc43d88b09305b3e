"""What the runtime prints about its memory: `print_allocations` of tflite-micro, and messages of its allocators."""

import re

from keras_nin.edge.micro.records import Part
from keras_nin.errors import InputError

_TOTAL = re.compile(r"Arena allocation (total|head|tail) (\d+) bytes")
_PART = re.compile(r"\] '([^']+)' used (\d+) bytes")
# "Failed to allocate tail memory. Requested: 104, available 16, missing: 88", and the same of a buffer to resize.
_MISSING = re.compile(r"Failed to (?:allocate|resize)[^\n]*missing: (\d+)")


def parse(log):
    """Return (bytes of head, bytes of tail, `Part` records) of what `print_allocations` printed.

    Raises:
        InputError: the totals are not there; the package prints them in another way.
    """
    totals = {name: int(count) for name, count in _TOTAL.findall(log)}
    if set(totals) != {"total", "head", "tail"} or totals["total"] != totals["head"] + totals["tail"]:
        raise InputError(
            "Expected tflite-micro to print its allocations as total, head and tail. Received: "
            f"{totals or 'none of them'}. Use the version of the extra: pip install 'keras-nin[micro]'"
        )
    return totals["head"], totals["tail"], tuple(Part(name, int(count)) for name, count in _PART.findall(log))


def missing_bytes(log):
    """Return how many bytes the arena lacked at least, by the runtime's last message; None where none says so."""
    found = _MISSING.findall(log)
    return int(found[-1]) if found else None
