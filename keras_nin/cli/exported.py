"""What becomes of the files that `keras-nin export` made: compared with the model, timed, written, reported."""

import dataclasses
import pathlib

import click

from keras_nin.cli import proof, stages

SCHEMA = "keras_nin.export/1"


def finish(job, made, original=None):
    """Compare, time, write and report; return the exit status.

    Args:
        job: `keras_nin.cli.making.Job`.
        made: list of `keras_nin.cli.making.Made`.
        original: `keras_nin.cli.reproduce.Original` of an export that is made again, or None.
    """
    from keras_nin import files

    given = job.given
    outcome = _outcome(given, original, made[0].export) if original else None
    for each in made:
        files.refuse_other(pathlib.Path(given.out) / f"{each.export.stem}.tflite", each.export.data, given.force)
    runners = [proof.runner(each.export.data, given.threads, given.batch) for each in made]
    made = _compared(job, made, runners)
    latencies = [runner.latency(given.runs) for runner in runners]
    contents = [_contents(each, given.out) for each in made]
    written = files.save_all({path: data for each in contents for path, data in each.items()}, given.force)
    results = [
        Result(each, latency, tuple(paths), "written" if paths.keys() & set(written) else "up to date")
        for each, latency, paths in zip(made, latencies, contents, strict=True)
    ]
    (_print_json if given.as_json else _print)(job, results, outcome)
    proof.print_failures([result.row for result in results])
    holds = all(each.export.parity.holds for each in made) and (outcome is None or outcome.holds)
    return 0 if holds else 1


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """A file that was written or was there already.

    Attributes:
        made: `keras_nin.cli.making.Made`, compared.
        latency: `keras_nin.tflite.run.Latency`.
        paths: of the .tflite file and of what lies beside it.
        state: "written" or "up to date".
    """

    made: object
    latency: object
    paths: tuple[pathlib.Path, ...]
    state: str

    @property
    def path(self):
        """Path of the .tflite file."""
        return self.paths[0]

    @property
    def row(self):
        """The row of the table."""
        export = self.made.export
        return self.path.name, len(export.data), export.parity, self.latency.median_us


def _contents(made, folder):
    """Return what to write by its path: the files of the export, and the weights where they were trained for it."""
    from keras_nin import files

    contents = made.export.contents(folder)
    if made.trained:
        with files.temporary_folder() as temporary:
            made.loaded.model.save_weights(temporary / "trained.weights.h5")
            contents[next(iter(contents)).with_suffix(".weights.h5")] = (temporary / "trained.weights.h5").read_bytes()
    return contents


def _outcome(given, original, made):
    from keras_nin.cli import reproduce

    outcome = reproduce.compare(original, made)
    reproduce.report(original, outcome, f"{made.stem}.tflite", given.as_json)
    return outcome


def _compared(job, made, runners):
    """Return the same with the `Parity` of each file, those of one model in one pass over the images."""
    pairs = list(zip(made, runners, strict=True))
    plain = [runner for each, runner in pairs if not each.trained]
    parities = iter(proof.compare(job.given, job.loaded, plain, job.test) if plain else ())
    return [_trained(job, each, runner) if each.trained else _with(each, next(parities)) for each, runner in pairs]


def _with(made, parity):
    return dataclasses.replace(made, export=made.export.with_parity(parity))


def _trained(job, made, runner):
    """Return a trained file compared with the model that it was trained to, and in its accuracy with the original."""
    (parity,) = proof.compare(job.given, made.loaded, [runner], job.test)
    (before,) = proof.compare(job.given, job.loaded, [runner], job.test)
    checks = [check for check in parity.checks if check.name != "accuracy_drop_points"]
    checks += [check for check in before.checks if check.name == "accuracy_drop_points"]
    known = {"original_top1": before.model_top1, "agreement_with_original": before.agreement}
    export = dataclasses.replace(made.export, training=made.export.training | known)
    return _with(dataclasses.replace(made, export=export), dataclasses.replace(parity, checks=tuple(checks)))


def _original_top1(results):
    """Return the accuracy of the model before any training; None without labels."""
    first = results[0].made
    return first.export.training["original_top1"] if first.trained else first.export.parity.model_top1


def _print_json(job, results, outcome):
    from keras_nin.tflite.run import host

    documents = [
        result.made.export.sidecar()
        | {"path": str(result.path), "state": result.state, "latency": dataclasses.asdict(result.latency)}
        for result in results
    ]
    again = {} if outcome is None else {"reproduced": outcome.same}
    stages.print_json({"schema": SCHEMA, "files": documents, "host": host(), **again})


def _print(job, results, outcome):
    loaded, test = job.loaded, job.test
    click.echo(proof.headline(loaded, test.preprocessing))
    proof.print_table(
        [result.row for result in results],
        test,
        loaded.random,
        [result.latency for result in results],
        original_top1=_original_top1(results),
        trained={result.path.name: result.made.export.scheme.trained for result in results if result.made.trained},
    )
    _print_calibration(results)
    for made in (result.made.export for result in results):
        if made.float_operators:
            click.echo(f"In floating point in {made.stem}: {', '.join(made.float_operators)}")
        if made.flags.get("integer_form"):
            click.echo(f"In integer form in {made.stem}: {', '.join(made.flags['integer_form'])}")
    for result in results:
        _print_compression(result)
    for result in results:
        click.echo(f"{result.state}: {result.path}, {', '.join(path.name for path in result.paths[1:])}")


def _print_calibration(results):
    calibration = next((result.made.export.calibration for result in results if result.made.export.calibration), None)
    if calibration and calibration.noise:
        click.echo("Calibration: noise. What it calibrated is good to measure latency, and for nothing else.")
    elif calibration:
        click.echo(f"Calibration: {calibration.count} images of {calibration.source}, none of them among those.")


def _print_compression(result):
    from keras_nin.report.compression import compression_table

    measured = result.made.export.compression()
    if measured:
        click.echo(f"\n{compression_table(measured, result.path.name)}\n")
