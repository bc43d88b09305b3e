"""The accelerators that Vela compiles for."""

from keras_nin.errors import unknown_name

# Their names end in the MACs (8 by 8 bits) that all their cores do in a cycle.
ACCELERATORS = (
    "ethos-u55-32",
    "ethos-u55-64",
    "ethos-u55-128",
    "ethos-u55-256",
    "ethos-u65-256",
    "ethos-u65-512",
    "ethos-u85-128",
    "ethos-u85-256",
    "ethos-u85-512",
    "ethos-u85-1024",
    "ethos-u85-2048",
)
DEFAULT = "ethos-u55-128"
ALL = "all"


def macs_per_cycle(accelerator):
    """Return how many MACs an accelerator does in a cycle at most."""
    return int(accelerator.rpartition("-")[2])


def family(accelerator):
    """Return the part of the name that says the generation, such as ``"u55"``."""
    return accelerator.split("-")[1]


def chosen(words):
    """Return the accelerators that words such as ``"ethos-u55-128,ethos-u85-256"`` or ``"all"`` name, each once.

    Raises:
        InputError: an unknown name.
    """
    names = [name.strip() for word in words for name in word.split(",")]
    for name in names:
        if name not in (*ACCELERATORS, ALL):
            raise unknown_name("accelerator", name, (*ACCELERATORS, ALL))
    return ACCELERATORS if ALL in names else tuple(dict.fromkeys(names))
