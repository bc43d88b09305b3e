"""The registry: every model by name. Each paper's file declares its rows; this is the one table of them."""

import inspect

from keras_nin.errors import InputError, unknown_name
from keras_nin.models import articles, googlenet, inception_v3, nin, squeezenet

_ROWS = (*nin.SPECS, *squeezenet.SPECS, *googlenet.SPECS, *inception_v3.SPECS, *articles.SPECS)
REGISTRY = {row.name: row for row in _ROWS}


def list_models():
    """Return the names of the zoo's models, in the registry's order."""
    return list(REGISTRY)


def spec(name):
    """Return the `ModelSpec` of the model `name`; `InputError` with near names where there is none."""
    if name not in REGISTRY:
        raise unknown_name("model", name, REGISTRY)
    return REGISTRY[name]


def build(name, /, *, weights=None, **arguments):
    """Build the zoo's model `name`.

    Args:
        name: a name of `list_models()`.
        weights: None (random), the name of weights that ship, or a path; see `load_weights`.
        **arguments: the builder's own, e.g. ``input_shape=(H, W, C)``, ``classes``, ``include_top``.

    Returns:
        keras.Model, not compiled.

    Raises:
        InputError: unknown name, an argument that this model does not have, or one that does not fit.
    """
    row = spec(name)
    accepted = set(inspect.signature(row.builder).parameters) - {"variant", "head"}
    for argument in arguments:
        if argument not in accepted:
            raise InputError(f"Expected an argument of {name} ({', '.join(sorted(accepted))}). Received: {argument!r}")
    return row.builder(weights=weights, **arguments)
