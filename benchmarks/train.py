"""A training step with augmentation, averaged weights and clipping, against plain `model.fit` in the same run.

KERAS_BACKEND=tensorflow|jax|torch python benchmarks/train.py [MODEL] [--batch N] [--images N] [--rounds N]

Both train MODEL (default nin_cifar10) on the same noise with the same batch, an epoch in turns, after one epoch each
that compiles. Plain: float32 images prepared before, AdamW. Ours: what `keras-nin train MODEL` runs for each step, on
uint8 images, in the precision of plain (float32). Exit status 1 where ours takes more than 1.2 times as long.
"""

import argparse
import dataclasses
import os
import statistics
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

LIMIT = 1.2


def main():
    """Print the times and their ratio, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="nin_cifar10")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    import keras

    steps = {"plain": plain_epoch(options), "ours": our_epoch(options)}
    times = {name: [] for name in steps}
    for number in range(options.rounds + 1):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            if number:
                times[name].append(time.perf_counter() - start)
    count = options.images // options.batch
    medians = {name: 1000 * statistics.median(values) / count for name, values in times.items()}
    ratios = [ours / plain for ours, plain in zip(times["ours"], times["plain"], strict=True)]
    print(f"{options.model}, Keras {keras.__version__} on {keras.backend.backend()}, batch {options.batch}")
    for name, milliseconds in medians.items():
        print(f"{name:6}{milliseconds:9.1f} ms a step, median of {options.rounds} epochs of {count} steps")
    ratio = statistics.median(ratios)
    print(f"ratio {ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f}), limit {LIMIT}")
    return 0 if ratio <= LIMIT else 1


def build(options):
    """Return the network, and noise with labels to train it on."""
    import keras

    from keras_nin import data, models

    keras.utils.set_random_seed(0)
    network = models.build_model(options.model)
    spec = models.get_spec(options.model)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.images + options.batch, *network.input_shape[1:]), np.uint8)
    labels = rng.integers(0, network.output_shape[-1], len(images))
    preprocessing = data.get_preset(spec.preprocessing or "unit")
    return network, data.Dataset("noise", images, labels, (), preprocessing, {"train": np.arange(len(images))})


def plain_epoch(options):
    """Return a function that runs an epoch of `model.fit` on arrays."""
    network, dataset = build(options)
    images = dataset.preprocessing.normalize(dataset.images[: options.images])
    network.compile("adamw", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    labels = dataset.labels[: options.images]
    return lambda: network.fit(images, labels, batch_size=options.batch, verbose=0)


def our_epoch(options):
    """Return a function that runs an epoch of the model's recipe."""
    from keras_nin import train
    from keras_nin.train.training import compile_training, prepare_training

    network, dataset = build(options)
    recipe = train.get_recipe(options.model, "cifar10", batch_size=options.batch, precision="float32")
    recipe = dataclasses.replace(recipe, epochs=options.rounds + 1)
    parts = np.split(np.arange(len(dataset.images)), [options.images])
    training, batches, _ = prepare_training(network, dataset, parts, recipe, dataset.preprocessing, seed=0)
    compile_training(training, recipe, len(batches), from_logits=False)
    return lambda: training.fit(batches, shuffle=False, verbose=0)


if __name__ == "__main__":
    sys.exit(main())
