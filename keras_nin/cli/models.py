"""`keras-nin list`, `train`, `import-weights` and `cards`: the zoo and its weights."""

from __future__ import annotations

from typing import Any

from keras_nin.cli.output import TerminalProgress, echo, print_json, print_notes, print_result


def list_command(as_json: bool) -> None:
    """Run `keras-nin list`."""
    from keras_nin import models, schemas
    from keras_nin.formatting import format_table

    specs = [models.get_spec(name) for name in models.list_models()]
    if as_json:
        fields = ("name", "title", "paper", "classes", "params", "macs", "dataset", "preprocessing")
        documents = [
            {name: getattr(spec, name) for name in fields}
            | {"input_shape": list(spec.input_shape), "weights": list(spec.bundled_weights)}
            for spec in specs
        ]
        print_json({"schema": schemas.LIST, "models": documents})
        return
    cells = [
        [
            spec.name,
            "x".join(map(str, spec.input_shape)),
            f"{spec.params:,}",
            f"{spec.macs:,}",
            ", ".join(spec.bundled_weights) or "not bundled",
            spec.dataset or "-",
            spec.title,
        ]
        for spec in specs
    ]
    columns = ("model", "input", "params", "MACs", "weights", "dataset", "description")
    echo(format_table(columns, cells, right=("params", "MACs")))


def train_command(as_json: bool, **arguments: Any) -> None:
    """Run `keras-nin train`."""
    from keras_nin.workflows.training import train_model

    result = train_model(**arguments, progress=TerminalProgress())
    record = result.record
    if as_json:
        print_json(record | {"folder": str(result.folder), "history": result.history})
        return
    from keras_nin.formatting import format_percent

    resumed = f" (resumed after epoch {result.resumed_epochs})" if result.resumed_epochs else ""
    test = "not tested" if record["test_top1"] is None else f"test {format_percent(record['test_top1'])}"
    echo(
        f"{record['model']} on {record['dataset']}: {len(result.history)} epochs{resumed}, best {record['best_epoch']} "
        f"with {format_percent(record['val_accuracy'])} on validation images; {test} on {record['test_images']} images"
    )
    echo(f"written: {result.folder / record['model']}.weights.h5, .keras and .json, and history.json")


def import_weights_command(as_json: bool, **arguments: Any) -> None:
    """Run `keras-nin import-weights`."""
    from keras_nin.formatting import format_table
    from keras_nin.workflows.training import import_weights

    result = import_weights(**arguments, progress=TerminalProgress())
    print_notes(result.imported.notes)
    cells = [
        [row.tensor, "x".join(map(str, row.shape)) or "scalar", row.layer or "-", row.variable or "-", row.change]
        for row in result.imported.rows
    ]
    table = format_table(("tensor", "shape", "layer", "variable", "change"), cells)
    print_result(result, as_json, lambda: f"{result.summary()}\n{table}\n{result.state}: {result.path}")


def cards_command(out: str, check: bool, as_json: bool) -> int:
    """Run `keras-nin cards`."""
    from keras_nin.workflows.reports import build_cards

    result = build_cards(out, check=check, progress=TerminalProgress())
    stale = [f"out of date: {result.folder / name}" for name in result.stale if check]
    print_result(result, as_json, lambda: "\n".join([result.summary(), *stale]))
    return 0 if result.passed else 1
