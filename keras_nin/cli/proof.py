"""Comparing files with their model, as `export` and `verify` both do it."""

import dataclasses

import click

from keras_nin.cli import stages
from keras_nin.errors import InputError


def runner(source, threads, batch=1):
    """Return a `Runner` for a file's path or bytes."""
    from keras_nin.tflite.run import Runner

    return Runner(source, threads, batch=batch)


def compare(given, loaded, runners, test):
    """Return the `Parity` of each runner with the loaded model on the test images, by the limits of the options."""
    from keras_nin.export import Limits, verify

    return verify(
        loaded.model,
        runners,
        test.batches("Comparing"),
        source=test.dataset.name,
        random_weights=loaded.random,
        limits=Limits(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Limits)}),
    )


def headline(loaded, preprocessing):
    """Return the line that says what is compared, and how its input is prepared."""
    prepared = f"; input prepared as {preprocessing.mode}" if preprocessing else ""
    return f"{loaded.name}, weights: {loaded.weights}{prepared}"


def per_layer(loaded, runner, test):
    """Return the `PerLayer` of a file's operators on the test images."""
    from keras_nin.export.per_layer import per_layer

    return per_layer(loaded.model, runner, test.batches("Comparing layers"))


def calibrated_on(sidecar, sources, shape):
    """Return the digests of the images that a file's record says it was calibrated on; none where they are not found.

    Args:
        sidecar: the record, as `keras_nin.cli.subject.read_sidecar` gives it.
        sources: `keras_nin.cli.images.Sources`.
        shape: the network's (H, W, C).
    """
    record = sidecar.get("calibration")
    if not isinstance(record, dict):
        return frozenset()
    try:
        dataset = sources.named(record["source"], shape)
        indices = dataset.select("calibration", record["count"], record["seed"])
        if dataset.digest(indices) == record["sha256"]:
            return dataset.image_digests(indices)
        problem = "it holds others now"
    except (InputError, KeyError) as error:
        problem = str(error)
    stages.note(f"Note: the images that calibrated the file are not found, so none is left out: {problem}")
    return frozenset()


def other_origin(given, loaded, sidecar, runner, test):
    """Return whether a file's record prepares images otherwise than the model; notes go to stderr.

    That is a fault of the record, and what shows a swapped channel order, unless somebody chose it by an option.
    """
    from keras_nin.files import sha256
    from keras_nin.models import weights_digest

    made_from, content = sidecar.get("weights_sha256"), sidecar.get("sha256")
    if made_from and made_from != weights_digest(loaded.model):
        stages.note(f"Note: the file was made from other weights ({sidecar.get('weights')}) than {loaded.weights}.")
    if content and content != sha256(runner.graph.content):
        stages.note("Note: the file is not the one that the JSON file beside it describes; it was changed since.")
    options = sidecar.get("options")
    chosen = (given.preprocessing, given.crop, *map((options if isinstance(options, dict) else {}).get, _PREPARATION))
    if loaded.preprocessing is None or not sidecar.get("preprocessing") or any(each is not None for each in chosen):
        return False
    own = stages.choose_preprocessing(loaded.preprocessing, test.dataset)
    if own == test.preprocessing:
        return False
    stages.note(
        f"Parity does not hold: the file's record prepares images as {_says(test.preprocessing)}, the model takes "
        f"{_says(own)}. Accept it with --preprocessing"
    )
    return True


_PREPARATION = ("preprocessing", "crop")


def _says(preprocessing):
    """Return a `Preprocessing` on one line, without what it does not set."""
    values = (f"{key} {value}" for key, value in preprocessing.to_json().items() if value is not None and key != "mode")
    return f"{preprocessing.mode} ({', '.join(values)})"


def print_details(parity, noise=None):
    """Print everything about one file: the lines of its `Parity`, and the table of its `PerLayer`."""
    from keras_nin.report import parity as report
    from keras_nin.report import per_layer as layers

    click.echo("\n".join(report.details(parity)))
    if noise is not None:
        click.echo(f"\n{layers.layer_table(noise)}\n{layers.conclusion(noise)}")


def layers_to_json(noise):
    """Return the keys of a JSON document that hold a `PerLayer`; none for None."""
    if noise is None:
        return {}
    worst = noise.worst
    return {
        "layers": noise.to_json(),
        "worst_layer": worst.layer if worst else None,
        "runtime_steps": float(f"{noise.runtime_steps:.5g}"),
    }


def print_table(rows, test, random_weights, latencies=None, **models):
    """Print the table, what it was measured on, and on what machine.

    Args:
        rows: tuples of (file name, bytes, `Parity`, median latency in microseconds or None).
        test: `keras_nin.cli.images.EvaluationImages`.
        random_weights: whether the weights are random.
        latencies: `Latency` of each file, where they were measured.
        **models: what `keras_nin.report.parity.parity_table` takes about the models.
    """
    from keras_nin.report import parity
    from keras_nin.tflite.run import host

    click.echo(parity.parity_table(rows, **models))
    dropped = f" ({test.dropped} more served to calibrate and were left out)" if test.dropped else ""
    click.echo(f"Compared on {len(test.indices):,} test images of {test.dataset.name}{dropped}.")
    if random_weights:
        click.echo("The weights are random: agreement and accuracy say nothing and are not judged.")
    if latencies:
        click.echo(parity.latency_line(host(), latencies))


def print_failures(rows):
    """Print a line on stderr for each check that does not hold."""
    from keras_nin.report.parity import failures

    for name, _, parity, _ in rows:
        for line in failures(name, parity):
            stages.note(f"Parity does not hold: {line}")
