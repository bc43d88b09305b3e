"""How each network is trained: one row a model or dataset."""

import dataclasses

from keras_nin.errors import InputError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of one training run.

    Attributes:
        epochs, batch_size: passes over the training images, and images a step.
        learning_rate: AdamW's (arXiv:1711.05101), after a cosine decay to 0 over all steps (arXiv:1608.03983).
        weight_decay: AdamW's.
        shift: largest random shift in pixels, in each direction.
        flip: whether to mirror left and right at random.
        validation: share of the training images kept out to choose the best epoch.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    shift: int = 0
    flip: bool = False
    validation: float = 0.1

    def __post_init__(self):
        for field in ("epochs", "batch_size"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"Expected `{field}` to be a positive integer. Received: {value!r}")
        if not self.learning_rate > 0:
            raise InputError(f"Expected `learning_rate` to be above 0. Received: {self.learning_rate!r}")


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
