"""How each network is trained: one row a model or dataset."""

import dataclasses
import math
import numbers

from keras_nin.errors import InputError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of one training run.

    Attributes:
        epochs, batch_size: passes over the training images, and images a step.
        learning_rate: AdamW's (arXiv:1711.05101) at its highest; it falls to 0 along a cosine (arXiv:1608.03983).
        warmup: share of all steps over which it first rises from 0 (arXiv:1706.02677).
        weight_decay: AdamW's.
        shift: largest random shift in pixels, in each direction.
        flip: whether to mirror left and right at random.
        validation: share of the training images kept out to choose the best epoch.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 1e-4
    shift: int = 0
    flip: bool = False
    validation: float = 0.1

    def __post_init__(self):
        for field, smallest in (("epochs", 1), ("batch_size", 1), ("shift", 0)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise InputError(f"Expected `{field}` to be a whole number from {smallest}. Received: {value!r}")
        self._check("learning_rate", "above 0", lambda value: 0 < value < math.inf)
        self._check("weight_decay", "0 or above", lambda value: 0 <= value < math.inf)
        self._check("warmup", "0 or above and below 1", lambda value: 0 <= value < 1)
        self._check("validation", "above 0 and below 1", lambda value: 0 < value < 1)

    def _check(self, field, range_, fits):
        value = getattr(self, field)
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not fits(value):
            raise InputError(f"Expected `{field}` to be {range_}. Received: {value!r}")


MODELS = {
    "nin_digits": Recipe(epochs=80, batch_size=32, learning_rate=2e-3, weight_decay=1e-3, shift=1),
}
DATASETS = {
    "digits": Recipe(epochs=60, batch_size=32, learning_rate=2e-3, shift=1),
    "mnist": Recipe(epochs=12, batch_size=128, shift=2),
    "cifar10": Recipe(epochs=150, batch_size=128, weight_decay=1e-3, shift=4, flip=True),
}


def recipe_for(model, dataset, **changes):
    """Return the recipe of a model, else of a dataset, else the general one, with what `changes` gives replaced.

    Args:
        model, dataset: their names.
        **changes: fields of `Recipe`; None leaves a field as it is.

    Raises:
        InputError: a value that makes no sense.
    """
    recipe = MODELS.get(model) or DATASETS.get(dataset) or Recipe()
    return dataclasses.replace(recipe, **{field: value for field, value in changes.items() if value is not None})
