"""Train what `quantize_aware.py start` made, on Keras with JAX; needs no TensorFlow, so that any accelerator will do.

KERAS_BACKEND=jax python benchmarks/quantize_aware_train.py FOLDER [--network NAME] [--bits N] [--budget NAME] ...

Reads FOLDER/<network>-<bits>.keras and the training images as `quantize_aware.py` does. Writes to --output, for each
network and budget, an .npz with the trained weights (float16, vectors and scalars float32), and training.json with what
it cost and the accuracy on the held-out training images. `quantize_aware.py make` makes files of the weights.

All take the learning rate that is better for the fewest bits and the first seed.

--ranges averaged trains the weights alone: the ranges of the activations are the averages, over the batches of an
epoch, of the smallest and the largest value in the float network, as tfmot has them after a long training.
--targets labels trains on the labels; the default is the answers of the float network to mixed images, as in the scheme
qat_keras, but all steps are kept.
"""

import concurrent.futures
import itertools
import json
import os
import pathlib
import statistics
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import click
import jax
import jax.numpy as jnp
import keras
import numpy as np
from quantize_aware import BUDGETS, LEVELS, NETWORKS, load_network

_ROUNDS, _HELD_OUT_BATCH = 7, 200


class Trainer:
    """A network with a compiled step of Adam, the state of which is (weights, other variables, optimizer)."""

    def __init__(self, model, batch_size, teacher=None):
        self.model, self.batch_size, self.teacher = model, batch_size, teacher
        self.answers = None if teacher is None else self._answer
        self.optimizer = keras.optimizers.Adam()
        self.optimizer.build(model.trainable_variables)
        names = [variable.path.rpartition("/")[2] for variable in self.optimizer.variables]
        self._rate = names.index("learning_rate")
        groups = model.trainable_variables, model.non_trainable_variables, self.optimizer.variables
        self.start = tuple([jnp.asarray(variable.value) for variable in group] for group in groups)

    def lower(self, tests):
        """Return the training step, and with `tests` that on held-out images, ready to be compiled."""
        images, held_out = (
            jax.ShapeDtypeStruct((count, *self.model.input_shape[1:]), jnp.float32)
            for count in (self.batch_size, _HELD_OUT_BATCH)
        )
        targets = jax.ShapeDtypeStruct((self.batch_size, *self.model.output_shape[1:]), jnp.float32)
        if self.teacher is None:
            targets = jax.ShapeDtypeStruct((self.batch_size,), jnp.int32)
        weights, rate = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((self.batch_size,), ()))
        programs = {"step": jax.jit(self._step, donate_argnums=0).lower(self.start, images, targets, weights, rate)}
        if self.teacher is not None:
            programs["teach"] = jax.jit(lambda x: self.teacher(x, training=False)).lower(images)
        return programs | ({"predict": jax.jit(self._predict).lower(self.start[:2], held_out)} if tests else {})

    def _answer(self, images):
        """Return the probabilities that the float network gives for at most a batch of images."""
        missing = self.batch_size - len(images)
        return np.asarray(self.teach(np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])))[: len(images)]

    def _loss(self, trained, others, images, targets, weights):
        outputs, others = self.model.stateless_call(trained, others, images, training=True)
        if self.teacher is None:
            losses = keras.losses.sparse_categorical_crossentropy(targets, outputs)
        else:
            losses = keras.losses.categorical_crossentropy(targets, outputs)
        return (losses * weights).sum() / weights.sum(), others

    def _step(self, state, images, targets, weights, rate):
        trained, others, optimizer = state
        gradient = jax.value_and_grad(self._loss, has_aux=True)
        (loss, others), gradients = gradient(trained, others, images, targets, weights)
        optimizer[self._rate] = rate
        trained, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trained)
        return (trained, others, optimizer), loss

    def _predict(self, state, images):
        return self.model.stateless_call(*state, images, training=False)[0]

    def fresh_state(self):
        """Return a copy of the state at the start."""
        return jax.tree.map(jnp.copy, self.start)

    def train(self, batches, epochs, rate):
        """Return the state after `epochs` of `TrainingBatches`; the learning rate falls along a cosine."""
        state, steps = self.fresh_state(), epochs * len(batches)
        for epoch in range(epochs):
            batches.start_epoch(epoch)
            for index in range(len(batches)):
                images, targets = batches[index]
                done = (epoch * len(batches) + index) / steps
                missing = self.batch_size - len(images)
                weights = np.pad(np.ones(len(images), np.float32), (0, missing))
                images = np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
                targets = np.pad(targets, [(0, missing), *[(0, 0)] * (targets.ndim - 1)])
                targets = targets.astype(np.int32 if targets.ndim == 1 else np.float32)
                state, loss = self.step(
                    state, images, targets, weights, np.float32(rate * (1 + np.cos(np.pi * done)) / 2)
                )
        if not np.isfinite(loss):
            raise ValueError(f"the loss is {loss}")
        return state

    def measure(self, state, images, labels):
        """Return top-1 in percent, and the cross-entropy, on images."""
        padded = np.pad(images, [(0, -len(images) % _HELD_OUT_BATCH), (0, 0), (0, 0), (0, 0)])
        batches = np.split(padded, len(padded) // _HELD_OUT_BATCH)
        outputs = np.concatenate([self.predict(state[:2], batch) for batch in batches])[: len(images)]
        entropy = -np.log(np.maximum(outputs[np.arange(len(labels)), labels], 1e-3)).mean()
        return 100 * float((outputs.argmax(axis=1) == labels).mean()), float(entropy)


def average_ranges(network, images, batch_size):
    """Set the ranges of a network to the averages over batches of its smallest and largest values, and freeze them."""
    from keras_nin._compat import litert
    from keras_nin.export.quantize_aware_file import _float_content
    from keras_nin.tflite.reader import expose_tensors, read_model

    layer = network.get_layer("activation_ranges")
    groups = [list(indexes) for indexes in layer.source["ranges"]]
    interpreter = litert.interpreter(expose_tensors(read_model(_float_content(network)), sum(groups, [])).content)
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    limits = np.zeros((len(images), 2, len(groups)))
    for image, (minimum, maximum) in zip(images, limits, strict=True):
        interpreter.set_tensor(entry["index"], image[None])
        interpreter.invoke()
        for number, indexes in enumerate(groups):
            tensors = [interpreter.get_tensor(index) for index in indexes]
            minimum[number] = min(0, *(tensor.min() for tensor in tensors))
            maximum[number] = max(0, *(tensor.max() for tensor in tensors))
    batches = np.split(limits, range(batch_size, len(images), batch_size))
    layer.minimum.assign(np.mean([batch[:, 0].min(axis=0) for batch in batches], axis=0))
    layer.maximum.assign(np.mean([batch[:, 1].max(axis=0) for batch in batches], axis=0))
    layer.trainable = False


def compile_all(trainers, tests):
    """Compile the steps of several `Trainer` objects side by side."""
    programs = [(trainer, *item) for trainer in trainers for item in trainer.lower(tests).items()]
    with concurrent.futures.ThreadPoolExecutor() as threads:
        compiled = threads.map(lambda program: program[2].compile(), programs)
        for (trainer, name, _), program in zip(programs, compiled, strict=True):
            setattr(trainer, name, program)


def measure_steps(trainers, steps):
    """Return the median seconds of a training step of each `Trainer`, measured in turns of `steps`."""
    seconds = {name: [] for name in trainers}
    for _ in range(_ROUNDS):
        for name, trainer in trainers.items():
            shape = (trainer.batch_size, *trainer.model.input_shape[1:])
            images = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
            labels = jnp.zeros(trainer.batch_size, jnp.int32)
            weights, rate = jnp.ones(trainer.batch_size, jnp.float32), jnp.float32(1e-4)
            state = trainer.fresh_state()
            state, loss = jax.block_until_ready(trainer.step(state, images, labels, weights, rate))
            start = time.perf_counter()
            for _ in range(steps):
                state, loss = trainer.step(state, images, labels, weights, rate)
            jax.block_until_ready((state, loss))
            seconds[name].append((time.perf_counter() - start) / steps)
    return {name: statistics.median(values) for name, values in seconds.items()}


def pack_weights(state, prefix):
    """Return the trained and other floating-point variables of a state as arrays to store, by name."""
    arrays = {}
    for group, values in zip(("trained", "other"), state[:2], strict=True):
        for index, value in enumerate(map(np.asarray, values)):
            if value.dtype == np.float32:
                arrays[f"{prefix}/{group}/{index}"] = value.astype(np.float16) if value.ndim > 1 else value
    return arrays


def train_network(network, budget_name, trainers, seeds, deadline, output):
    """Train the `Trainer` of each bit width from each seed, write the weights and return what each training cost."""
    from keras_nin.train.batches import TrainingBatches
    from keras_nin.train.training import get_recipe, split_validation

    budget = BUDGETS[budget_name][network]
    loaded, dataset = load_network(network, budget_name)
    *size, channels = loaded.model.input_shape[1:]
    recipe = get_recipe(network, dataset.name, epochs=budget.epochs, batch_size=budget.batch_size)
    held_out = dataset.select("calibration")
    test_images, test_labels = dataset.load(held_out, size, channels), dataset.labels_of(held_out)
    arrays, records, best, measures = {}, [], None, ("held_out", "held_out_loss")
    for bits, trainer in sorted(trainers.items()):
        before = dict(zip(measures, trainer.measure(trainer.start, test_images, test_labels), strict=True))
        for seed in seeds:
            part, _ = split_validation(dataset, recipe, seed)
            images, labels = dataset.load(part, size, channels), dataset.labels_of(part)
            runs = []
            for rate in budget.rates if best is None else (best,):
                if time.monotonic() > deadline:
                    click.echo(f"no time left for {network} {bits} {seed} {rate}")
                    continue
                start = time.perf_counter()
                batches = TrainingBatches(images, labels, recipe, seed, trainer.answers)
                state = trainer.train(batches, budget.epochs, rate)
                seconds = time.perf_counter() - start
                after = dict(zip(measures, trainer.measure(state, test_images, test_labels), strict=True))
                record = {"network": network, "budget": budget_name, "bits": bits, "seed": seed, "rate": rate}
                record |= {"images": len(part), "steps": budget.epochs * len(batches), "seconds": seconds}
                record |= after | {f"{name}_before": value for name, value in before.items()}
                click.echo(json.dumps(record))
                runs.append((record, state))
            if runs:
                record, state = max(runs, key=lambda run: run[0]["held_out"])
                best = record["rate"]
                records.append(record)
                arrays |= pack_weights(state, f"{bits}/{seed}")
                np.savez_compressed(output / f"{network}-{budget_name}.npz", **arrays)
    return records


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, path_type=pathlib.Path))
@click.option("--network", "networks", type=click.Choice(NETWORKS), multiple=True, default=NETWORKS)
@click.option("--bits", "widths", type=click.Choice(tuple(LEVELS)), multiple=True, default=tuple(LEVELS))
@click.option("--budget", "budgets", type=click.Choice(tuple(BUDGETS)), multiple=True, default=tuple(BUDGETS))
@click.option("--seed", "seeds", type=int, multiple=True, default=(0, 1, 2))
@click.option("--steps/--no-steps", default=True, help="Whether to time a step and that of the float network.")
@click.option("--timed-batch", type=int, default=256, help="Images of a step that is timed.")
@click.option("--timed-steps", type=int, default=20, help="How many are timed at once.")
@click.option("--ranges", type=click.Choice(("learned", "averaged")), default="learned", help="Of the activations.")
@click.option("--targets", type=click.Choice(("labels", "float")), default="float", help="What is trained for.")
@click.option("--seconds", type=float, default=3600, help="No training starts later than this.")
@click.option("--output", type=click.Path(path_type=pathlib.Path), help="Where to write; the default is FOLDER.")
def main(folder, networks, widths, budgets, seeds, steps, timed_batch, timed_steps, ranges, targets, seconds, output):
    """Train, and write what came out."""
    from keras_nin import models

    output, start = output or folder, time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    trainers, timed, record = {}, {}, {"device": jax.devices()[0].device_kind, "steps": {}, "runs": []}
    for network in networks:
        for bits in widths:
            path, batch_size = folder / f"{network}-{bits}.keras", BUDGETS["same"][network].batch_size
            model = models.load_model(path).model
            if ranges == "averaged":
                _, dataset = load_network(network)
                *size, channels = model.input_shape[1:]
                average_ranges(model, dataset.load(dataset.select("train"), size, channels), batch_size)
            teacher = load_network(network)[0].model if targets == "float" else None
            trainers[network, bits] = Trainer(model, batch_size, teacher)
            if steps:
                timed[network, bits] = Trainer(models.load_model(path).model, timed_batch)
        if steps:
            timed[network, "float"] = Trainer(load_network(network)[0].model, timed_batch)
    compile_all(trainers.values(), tests=True)
    compile_all(timed.values(), tests=False)
    click.echo(f"compiled after {time.monotonic() - start:.1f} s on {jax.devices()[0]}")
    if steps:
        for network in networks:
            group = {name[1]: trainer for name, trainer in timed.items() if name[0] == network}
            record["steps"][network] = {
                str(name): 1000 * seconds for name, seconds in measure_steps(group, timed_steps).items()
            }
        record["timed_batch"] = timed_batch
        click.echo(json.dumps(record))
    for budget, network in itertools.product(budgets, networks):
        group = {bits: trainers[network, bits] for bits in widths}
        record["runs"] += train_network(network, budget, group, seeds, start + seconds, output)
        (output / "training.json").write_text(json.dumps(record, indent=1))
    click.echo(f"done after {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
