"""`keras-nin list`: the zoo."""

import click

from keras_nin.cli.options import json_option

SCHEMA = "keras_nin.list/1"
COLUMNS = ("model", "input", "params", "MACs", "weights", "dataset", "what it is")


@click.command("list", epilog="Example: keras-nin list")
@json_option
def command(as_json):
    """List the models of the zoo with their parameters and MACs.

    1 MAC = one multiply and one add, for one image of the default size.
    """
    from keras_nin import models
    from keras_nin.cli.stages import print_json
    from keras_nin.tables import text_table

    rows = [models.spec(name) for name in models.list_models()]
    if as_json:
        print_json({"schema": SCHEMA, "models": [_record(row) for row in rows]})
        return
    cells = [
        [
            row.name,
            "x".join(map(str, row.input_shape)),
            f"{row.params:,}",
            f"{row.macs:,}",
            ", ".join(row.weights) or "none ship",
            row.dataset or "-",
            row.title,
        ]
        for row in rows
    ]
    click.echo(text_table(COLUMNS, cells, right=("params", "MACs")))


def _record(row):
    return {
        "name": row.name,
        "title": row.title,
        "paper": row.paper,
        "input_shape": list(row.input_shape),
        "classes": row.classes,
        "params": row.params,
        "macs": row.macs,
        "weights": list(row.weights),
        "dataset": row.dataset,
        "preprocessing": row.preprocessing,
    }
