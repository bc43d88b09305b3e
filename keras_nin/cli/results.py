"""What becomes of a benchmark: printed, and written to files."""

import os
import pathlib
import platform
import re

import click

from keras_nin import files
from keras_nin.cli.printing import echo
from keras_nin.errors import InputError


def check(given, words):
    """Return the paths to write by what they hold, before the work starts: file stems, and None for Model Explorer.

    Raises:
        InputError: a path cannot be written to, or holds something and --force is not given.
    """
    stems = [stem for word in words for stem in word.stems(given.scheme)] if given.out else []
    repeated = sorted({stem for stem in stems if stems.count(stem) > 1})
    if repeated:
        raise InputError(
            f"Expected files of different names with --out. Received: {', '.join(repeated)} more than once"
        )
    targets = {stem: pathlib.Path(given.out) / f"{stem}_{host_name(given.place)}.json" for stem in stems}
    if given.model_explorer:
        targets[None] = pathlib.Path(given.model_explorer)
    for path in targets.values():
        _check_folder(path.parent)
        if path.is_dir() or (path.exists() and not given.force):
            files.refuse_other(path, b"")
    return targets


def _check_folder(folder):
    path = os.path.abspath(folder)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    if not os.path.isdir(path) or not os.access(path, os.W_OK):
        raise InputError(f"Expected a folder that can be written to. Received: {str(folder)!r}")


def host_name(place):
    """Return the name of the machine for a file's name: of the device, without user and port, or of this one."""
    text = platform.node() if place is None else place.split("://", 1)[-1].split("@")[-1].strip("/")
    if place and place.startswith("ssh://"):
        text = re.sub(r":\d+$", "", text)
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-") or "device"


def write(given, measured, targets):
    """Write the files that the options ask for, and return the errors where that does not work."""
    failures = []
    for stem, path in targets.items():
        try:
            document = _node_data(measured) if stem is None else _of_file(measured, stem)
            if document:
                files.save_all({path: files.to_json(document).encode()}, given.force)
                click.echo(f"written: {path}", err=True)
        except InputError as error:
            failures.append(error)
    return failures


def _node_data(measured):
    from keras_nin.report import model_explorer

    return model_explorer.node_data(measured.benchmark.profiles[0], measured.paths[0])


def _of_file(measured, stem):
    """Return the JSON document of one file's profiles; None where it did not run."""
    from keras_nin.benchmark.records import Benchmark

    pairs = zip(measured.benchmark.profiles, measured.paths, strict=True)
    profiles = tuple(profile for profile, path in pairs if pathlib.Path(path).stem == stem)
    return Benchmark(profiles[0].host, profiles, measured.benchmark.warnings).to_json() if profiles else None


def show(given, measured):
    """Print the results."""
    benchmark, ratios = measured.benchmark, measured.ratios
    if given.form == "json":
        click.echo(files.to_json(document(measured)), nl=False)
        return
    from keras_nin.report import latency
    from keras_nin.tables import markdown_table, text_table

    view = latency.View(given.sort, given.top, given.only)
    if given.form == "csv":
        click.echo(latency.csv_text(benchmark, view), nl=False)
        return
    is_markdown = given.form == "markdown"
    _echo((latency.markdown if is_markdown else latency.text)(benchmark, view))
    if ratios:
        _echo(f"\n{latency.ratios(ratios, markdown_table if is_markdown else text_table)}")
    if given.roofline and not is_markdown:
        from keras_nin.report import roofline

        for profile in benchmark.profiles:
            _echo(f"\n{roofline.text(profile)}")


def document(measured):
    """Return the JSON document: the benchmark's, with the ratios where files were compared."""
    import dataclasses

    made = measured.benchmark.to_json()
    return made | ({"ratios": [dataclasses.asdict(ratio) for ratio in measured.ratios]} if measured.ratios else {})


def _echo(text):
    echo(text.rstrip("\n"))
