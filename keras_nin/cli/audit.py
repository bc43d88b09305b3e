"""`keras-nin audit`: parameters and MACs, layer by layer."""

import click

from keras_nin.cli.options import json_option, model_options

FORMATS = ("text", "markdown", "csv", "json")


@click.command("audit", epilog="Example: keras-nin audit squeezenet_v1_1")
@click.argument("model")
@model_options
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="What to print.")
@json_option
def command(model, weights, input_shape, settings, seed, form, as_json):
    """Count parameters, MACs and activation memory of every layer of MODEL, and the share of 1x1 layers.

    1 MAC = one multiply and one add; batch 1; bias, activation, pooling and BatchNormalization count 0.
    """
    from keras_nin.audit import audit
    from keras_nin.cli.stages import load_model, print_json

    loaded = load_model(model, weights, input_shape, settings, seed)
    result = audit(loaded.model, name=loaded.name)
    if as_json or form == "json":
        print_json(result.to_json())
    elif form == "csv":
        click.echo(result.to_csv(), nl=False)
    else:
        click.echo(result.to_markdown().rstrip() if form == "markdown" else str(result))
