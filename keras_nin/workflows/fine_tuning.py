"""Fine-tuning of a pruned network: on the answers and the features of the original one, or on labels."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from keras_nin import files
from keras_nin.workflows import Progress
from keras_nin.workflows.pruning_images import PruningImages

if TYPE_CHECKING:
    import keras

    from keras_nin.models import LoadedModel
    from keras_nin.train import Recipe

DEFAULT_EPOCHS, BATCH_SIZE = 2, 32
_RATE_SHARE = 0.1  # of the rate that trained the network
_MIXUP = 0.3  # about half of the images stay nearly as they are


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """How a pruned network is fine-tuned.

    Attributes:
        epochs: passes over the images.
        batch_size: images in a step.
        learning_rate: the highest one; None is a tenth of the recipe's.
        train_count: number of images; None is all.
        distill: whether the targets are the answers and features of the original network, not the labels.
    """

    epochs: int = DEFAULT_EPOCHS
    batch_size: int = BATCH_SIZE
    learning_rate: float | None = None
    train_count: int | None = None
    distill: bool = True


def make_recipe(network: str, dataset: str, tuning: FineTuning) -> Recipe:
    """Return the recipe for a pruned network: that of the original, at a lower rate.

    Targets are the original's answers, to mixed images too (Beyer et al., arXiv:2106.05237): most networks answer
    nearly all of their training images as the labels do, so that labels have little left to teach.
    """
    from keras_nin.train import get_recipe

    recipe = get_recipe(network, dataset)
    recipe = dataclasses.replace(
        recipe,
        epochs=tuning.epochs,
        batch_size=tuning.batch_size,
        learning_rate=tuning.learning_rate or _RATE_SHARE * recipe.learning_rate,
        ema=0.0,
        precision="float32",
        keep="last",
    )
    return dataclasses.replace(recipe, mixup=_MIXUP, cutout=0, weight_decay=0.0) if tuning.distill else recipe


def fine_tune(
    pruned: keras.Model,
    loaded: LoadedModel,
    images: PruningImages,
    tuning: FineTuning,
    pair: tuple[keras.Model | None, keras.Model | None],
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Train a pruned network in place and return the record of the training.

    `pair` is what `keras_nin.prune.pair_features` returns, or two times None to train on labels.
    """
    import tensorflow as tf

    from keras_nin.train import fit_model
    from keras_nin.train.devices import prepared_backend

    dataset = images.train
    assert dataset is not None
    recipe = make_recipe(loaded.name, loaded.dataset or dataset.name, tuning)
    with files.temporary_folder() as folder, prepared_backend():
        result = fit_model(
            pruned,
            dataset,
            recipe,
            folder,
            name=loaded.name,
            preprocessing=images.preprocessing,
            seed=seed,
            teacher=pair[0],
            features=pair[1],
            # XLA's convolutions take 2.5 times as long as TensorFlow's own on a CPU.
            jit_compile="auto" if tf.config.list_physical_devices("GPU") else False,
            on_epoch=progress.epochs(f"{loaded.name}, pruned", recipe.epochs),
        )
    return result.record | {"train_images": len(dataset.splits["train"]), "history": result.history}
