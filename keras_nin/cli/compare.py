"""`keras-nin compare`: two networks side by side, or a model and the file that was made of it."""

import click

from keras_nin.cli.options import json_option, model_options


@click.command(
    "compare",
    short_help="Compare models, files, or a model and its file.",
    epilog="Example: keras-nin compare nin_digits exported/nin_digits_int8.tflite",
)
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@model_options
@json_option
def command(first, second, weights, input_shape, settings, seed, as_json):
    """Compare A with B: models, .tflite files, or a model and its file.

    A model and a file are reconciled: what became of every layer, why every operator is there, and whether the MACs
    agree exactly. Exit status 1 where they do not. Two models, or two files, are put side by side by the names of their
    rows. --weights, --input-shape and --set are for A, or for the only model.
    """
    from keras_nin.audit import compare
    from keras_nin.cli import stages

    sides = [first, second]
    are_files = [side.endswith(".tflite") for side in sides]
    for side, is_file in zip(sides, are_files, strict=True):
        if not is_file:
            stages.check_model(side)
    optioned = are_files.index(False) if False in are_files else None
    names = [None, None]
    for position, is_file in enumerate(are_files):
        if is_file:
            continue
        options = (weights, input_shape, settings) if position == optioned else ()
        loaded = stages.load_model(sides[position], *options, seed=seed)
        sides[position], names[position] = loaded.model, loaded.name
    result = compare(*sides, name_a=names[0], name_b=names[1])
    if as_json:
        stages.print_json(result.to_json())
    else:
        click.echo(str(result))
    for problem in result.problems:
        stages.note(f"Does not agree: {problem}")
    return 0 if result.holds else 1
