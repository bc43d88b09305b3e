"""`keras-nin cards`: the shelf of model cards."""

import pathlib

import click

from keras_nin.cli import options


@click.command(
    "cards",
    short_help="Write the shelf: a card and an audit of every model.",
    epilog="Example: keras-nin cards --check",
)
@click.option("--out", default="models", show_default=True, metavar="DIR", help="Where the shelf is.")
@click.option("--check", is_flag=True, help="Write nothing; exit status 1 where the shelf is not up to date.")
@options.json_option
def command(out, check, as_json):
    """Write a card and an audit.json for every model of the zoo, and the index, from the package's own records."""
    from keras_nin import files
    from keras_nin.cli import stages

    folder = pathlib.Path(out)
    if not check:
        stages.check_output_folder(folder)
    contents = shelf()
    stale = [name for name, text in contents.items() if not _holds(folder / name, text)]
    if not check:
        for name in stale:
            files.write(folder / name, contents[name])
    if as_json:
        stages.print_json({"schema": "keras_nin.cards/1", "folder": out, "files": len(contents), "stale": stale})
    else:
        state = "not up to date" if check else "written"
        click.echo(f"{len(contents)} files of {out}: {len(stale)} {state}, {len(contents) - len(stale)} up to date")
        for name in stale if check else ():
            click.echo(f"not up to date: {folder / name}")
    return 1 if check and stale else 0


def shelf():
    """Return the text of every file of the shelf by its path within it."""
    from keras_nin import files, models
    from keras_nin.audit import audit
    from keras_nin.cli import stages
    from keras_nin.models import weight_files
    from keras_nin.report import cards

    stages.start_keras()
    entries, contents = [], {}
    names = models.list_models()
    for name in stages.track(names, "Auditing", len(names)):
        spec = models.spec(name)
        result = audit(models.build(name))
        metrics = {weights: weight_files.shipped_metrics(name, weights) for weights in spec.weights}
        contents[f"{name}/README.md"] = cards.card(spec, result, metrics)
        contents[f"{name}/audit.json"] = files.to_json(result.to_json())
        entries.append((spec, result))
    return {"README.md": cards.index(entries)} | contents


def _holds(path, text):
    return path.is_file() and path.read_bytes() == text.encode()
