"""What decides a training before the conversion."""

import dataclasses
import numbers

from keras_nin.errors import InputError
from keras_nin.train.recipes import Recipe, recipe_for

EPOCHS = 20
# Of the learning rate that trained the network from random weights: these start from its trained ones.
_SHARE_OF_RATE = 0.2


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a scheme is trained.

    Attributes:
        recipe: `keras_nin.train.Recipe`; its warm-up and weight decay are not used.
        seed: of the held-out choice, the order, the random changes and whatever else is random.
        sparsity: share of the weights of each convolution and dense layer that "pruned" sets to zero.
        clusters: number of distinct weights that "clustered" leaves each convolution and dense layer.
    """

    recipe: Recipe
    seed: int = 0
    sparsity: float = 0.5
    clusters: int = 16

    def __post_init__(self):
        if not _is(self.sparsity, numbers.Real) or not 0 < self.sparsity < 1:
            raise InputError(f"Expected `sparsity` to be above 0 and below 1. Received: {self.sparsity!r}")
        if not _is(self.clusters, numbers.Integral) or not 2 <= self.clusters <= 256:
            raise InputError(f"Expected `clusters` to be a whole number from 2 to 256. Received: {self.clusters!r}")


def _is(value, kind):
    return isinstance(value, kind) and not isinstance(value, bool)


def settings_for(model, dataset, *, seed=0, sparsity=0.5, clusters=16, **changes):
    """Return the `Settings` of a model and a dataset by their names; `changes` replace fields of the recipe.

    Raises:
        InputError: a value that makes no sense.
    """
    rate = _SHARE_OF_RATE * recipe_for(model, dataset).learning_rate
    given = {key: value for key, value in changes.items() if value is not None}
    recipe = recipe_for(model, dataset, **{"epochs": EPOCHS, "learning_rate": rate} | given)
    return Settings(recipe, seed, sparsity, clusters)
