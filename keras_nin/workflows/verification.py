"""Comparing files with their model, as `export` and `verify` both do it."""

import dataclasses

import click

from keras_nin.errors import InputError
from keras_nin.workflows import models as models_module


def open_runner(source, threads, batch=1):
    """Return a `Runner` for a file's path or bytes."""
    from keras_nin.tflite.runner import TFLiteRunner

    return TFLiteRunner(source, threads, batch=batch)


def compare_outputs(given, loaded, runners, test):
    """Return the `Parity` of each runner with the loaded model on the test images, by the limits of the options."""
    from keras_nin.export import ParityLimits, verify_files

    return verify_files(
        loaded.model,
        runners,
        test.batches("Comparing"),
        source=test.dataset.name,
        random_weights=loaded.random,
        limits=ParityLimits(**{field.name: getattr(given, field.name) for field in dataclasses.fields(ParityLimits)}),
    )


def format_headline(loaded, preprocessing):
    """Return the line that says what is compared, and how its input is prepared."""
    prepared = f"; input prepared as {preprocessing.mode}" if preprocessing else ""
    return f"{loaded.name}, weights: {loaded.weights}{prepared}"


def compare_layers(loaded, runner, test):
    """Return the `PerLayer` of a file's operators on the test images."""
    from keras_nin.export.layer_noise import measure_layer_noise

    return measure_layer_noise(loaded.model, runner, test.batches("Comparing layers"))


def calibration_digests(export_record, sources, shape):
    """Return the digests of the images that a file's record says it was calibrated on; none where they are not found.

    Args:
        sidecar: the record, as `keras_nin.workflows.evaluation.read_export_record` gives it.
        sources: `keras_nin.workflows.images.ImageSources`.
        shape: the network's (H, W, C).
    """
    record = export_record.get("calibration")
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
    models_module.note(f"Note: the images that calibrated the file are not found, so none is left out: {problem}")
    return frozenset()


def has_other_preprocessing(given, loaded, export_record, runner, test):
    """Return whether a file's record prepares images otherwise than the model; notes go to stderr.

    That is a fault of the record, and what shows a swapped channel order, unless somebody chose it by an option.
    """
    from keras_nin.files import sha256
    from keras_nin.models import hash_weights

    made_from, content = export_record.get("weights_sha256"), export_record.get("sha256")
    if made_from and made_from != hash_weights(loaded.model):
        models_module.note(
            f"Note: the file was made from other weights ({export_record.get('weights')}) than {loaded.weights}."
        )
    if content and content != sha256(runner.model.content):
        models_module.note(
            "Note: the file is not the one that the JSON file beside it describes; it was changed since."
        )
    options = export_record.get("options")
    chosen = (given.preprocessing, given.crop, *map((options if isinstance(options, dict) else {}).get, _PREPARATION))
    if (
        loaded.preprocessing is None
        or not export_record.get("preprocessing")
        or any(each is not None for each in chosen)
    ):
        return False
    own = models_module.choose_preprocessing(loaded.preprocessing, test.dataset)
    if own == test.preprocessing:
        return False
    models_module.note(
        f"Parity does not hold: the file's record prepares images as {_describe_preprocessing(test.preprocessing)}, the model takes "
        f"{_describe_preprocessing(own)}. Accept it with --preprocessing"
    )
    return True


_PREPARATION = ("preprocessing", "crop")


def _describe_preprocessing(preprocessing):
    """Return a `Preprocessing` on one line, without what it does not set."""
    values = (f"{key} {value}" for key, value in preprocessing.to_json().items() if value is not None and key != "mode")
    return f"{preprocessing.mode} ({', '.join(values)})"


def print_details(parity, noise=None):
    """Print everything about one file: the lines of its `Parity`, and the table of its `PerLayer`."""
    from keras_nin.report import accuracy as layers
    from keras_nin.report import accuracy as report

    click.echo("\n".join(report.parity_lines(parity)))
    if noise is not None:
        click.echo(f"\n{layers.format_noise_table(noise)}\n{layers.noise_conclusion(noise)}")


def layers_to_json(noise):
    """Return the keys of a JSON document that hold a `PerLayer`; none for None."""
    if noise is None:
        return {}
    worst = noise.worst
    return {
        "layers": noise.to_json(),
        "worst_layer": worst.layer if worst else None,
        "delegate_diff_lsb": float(f"{noise.delegate_diff_lsb:.5g}"),
    }


def print_table(rows, test, random_weights, latencies=None, **models):
    """Print the table, what it was measured on, and on what machine.

    Args:
        rows: tuples of (file name, bytes, `Parity`, median latency in microseconds or None).
        test: `keras_nin.workflows.images.EvaluationImages`.
        random_weights: whether the weights are random.
        latencies: `Latency` of each file, where they were measured.
        **models: what `keras_nin.report.accuracy.format_parity_table` takes about the models.
    """
    from keras_nin.report import accuracy
    from keras_nin.tflite.host import describe_host

    click.echo(accuracy.format_parity_table(rows, **models))
    dropped = f" ({test.dropped} more served to calibrate and were left out)" if test.dropped else ""
    click.echo(f"Compared on {len(test.indices):,} test images of {test.dataset.name}{dropped}.")
    if random_weights:
        click.echo("The weights are random: agreement and accuracy say nothing and are not judged.")
    if latencies:
        click.echo(accuracy.latency_line(describe_host(), latencies))


def print_failures(rows):
    """Print a line on stderr for each check that does not hold."""
    from keras_nin.report.accuracy import failed_checks

    for name, _, parity, _ in rows:
        for line in failed_checks(name, parity):
            models_module.note(f"Parity does not hold: {line}")
