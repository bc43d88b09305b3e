"""Comparing files with their model, as `export` and `verify` both do it."""

import dataclasses

import click

from keras_nin.cli import stages


def runner(source, threads):
    """Return a `Runner` for a file's path or bytes."""
    from keras_nin.tflite.run import Runner

    return Runner(source, threads)


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


def print_table(rows, test, random_weights, latencies=None):
    """Print the table, what it was measured on, and on what machine.

    Args:
        rows: tuples of (file name, bytes, `Parity`, median latency in microseconds or None).
        test: `keras_nin.cli.images.EvaluationImages`.
        random_weights: whether the weights are random.
        latencies: `Latency` of each file, where they were measured.
    """
    from keras_nin.report import parity
    from keras_nin.tflite.run import host

    click.echo(parity.parity_table(rows))
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
