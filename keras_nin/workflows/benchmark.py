"""What `keras-nin benchmark` measures: files, and models that it exports for it."""

import contextlib
import dataclasses
import os
import pathlib
import platform
import re
from typing import Any

import click

from keras_nin import files
from keras_nin.cli.output import echo, waiting
from keras_nin.errors import InputError
from keras_nin.workflows import temporary_export


@dataclasses.dataclass(frozen=True)
class BenchmarkArgument:
    """An argument of the command: the path of a file, or a model."""

    text: str
    is_model: bool

    def schemes(self, text):
        """Return the names of the schemes that it is exported to; for a file one, that of its content, unnamed."""
        if not self.is_model:
            return (None,)
        from keras_nin.export.schemes import parse_schemes

        chosen = parse_schemes(text)
        trained = [scheme.name for scheme in chosen if scheme.trained]
        if trained:
            raise InputError(
                f"Expected schemes that train nothing. Received: {', '.join(trained)}. Export it, and measure the file"
            )
        return tuple(scheme.name for scheme in chosen)

    def stems(self, scheme):
        """Return the names of its files without their ending."""
        if not self.is_model:
            return (pathlib.Path(self.text).stem,)
        return tuple(f"{temporary_export.file_stem(self.text)}_{each}" for each in self.schemes(scheme))


@dataclasses.dataclass(frozen=True)
class BenchmarkFile:
    """A file to measure, and what a reader must know of it."""

    path: str
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What came out: a `Benchmark` or None, the files of its profiles, `Ratio` records, and what went wrong."""

    benchmark: Any
    paths: tuple[str, ...]
    ratios: tuple = ()
    failures: tuple[InputError, ...] = ()


def classify_arguments(words):
    """Return the `Word` of each argument.

    Raises:
        InputError: a file that is missing or a folder, or an unknown model.
    """
    return tuple(BenchmarkArgument(word, temporary_export.is_model(word)) for word in words)


@contextlib.contextmanager
def open_files(given, words):
    """Yield the `Subject` records of the words, models exported to a temporary folder, and a list of what failed."""
    with contextlib.ExitStack() as stack:
        subjects, failures = [], []
        for word in words:
            if not word.is_model:
                subjects.append(BenchmarkFile(word.text))
                continue
            from keras_nin.files import temporary_folder

            try:
                folder = stack.enter_context(temporary_folder())
                made = temporary_export.export_temporary(word.text, given, folder, word.schemes(given.scheme))
                subjects += [
                    BenchmarkFile(each.path, tuple(f"{note}, latency only" for note in each.notes)) for each in made
                ]
            except InputError as error:
                failures.append(error)
        yield subjects, failures


def measure_files(given, subjects, run):
    """Return what was `Measured` of the subjects: each alone, or with --compare all in turns."""
    from keras_nin.benchmark.records import BenchmarkResult

    groups = [subjects] if given.compare else [[subject] for subject in subjects]
    benchmarks, paths, failures = [], [], []
    for group in groups:
        made, of, failed = _measure_group(given, group, run)
        benchmarks += [made] if made else []
        paths += of
        failures += failed
    if not benchmarks:
        return Measurement(None, (), failures=tuple(failures))
    benchmark = BenchmarkResult(
        benchmarks[0].host,
        tuple(profile for each in benchmarks for profile in each.profiles),
        tuple({_topic(warning): warning for each in benchmarks for warning in each.warnings}.values()),
    )
    if given.roofline:
        with waiting("Measuring this machine's limits"):
            benchmark = _with_roofline(benchmark, run, failures)
    return Measurement(benchmark, tuple(paths), _ratios(given, benchmark), tuple(failures))


def _topic(warning):
    """Return what a warning is about: of the machine, the last one of each kind is enough."""
    return warning.split(":")[0] if warning.startswith("the machine") else warning


def _measure_group(given, group, run):
    """Return a `Benchmark` or None, the paths of its profiles, and errors; the others go on without a bad file."""
    try:
        return (*_measure_profiles(given, group, run), [])
    except InputError as error:
        if len(group) == 1:
            return None, [], [error]
    good, failures = [], []
    for subject in group:
        try:
            _run_once(given, subject, run)
            good.append(subject)
        except InputError as error:
            failures.append(error)
    try:
        return (*(_measure_profiles(given, good, run) if good else (None, [])), failures)
    except InputError as error:
        return None, [], [*failures, error]


def _run_once(given, subject, run):
    from keras_nin.benchmark import measure_files

    measure_files([subject.path], threads=given.threads[:1], runs=1, layers=False, delegate=given.delegate, run=run)


def _measure_profiles(given, group, run):
    """Return the `Benchmark` of a group, and the path of each of its profiles."""
    try:
        return _measure_all_profiles(given, group, run)
    except InputError as error:
        if given.delegate and given.delegate in str(error):
            reason = str(error)[str(error).index(given.delegate) :]
            raise InputError(
                f"Expected --delegate as a library that loads where it runs. Received: {reason}"
            ) from error
        raise


def _measure_all_profiles(given, group, run):
    from keras_nin.benchmark import measure_files

    paths = [subject.path for subject in group]
    with waiting(f"Measuring {', '.join(os.path.basename(path) for path in paths)}") as progress:
        made = measure_files(
            paths,
            threads=given.threads,
            runs=given.runs,
            seconds=given.seconds,
            layers=given.layers and not given.delegate,
            method=given.method,
            interleave=given.compare,
            delegate=given.delegate,
            run=run,
            progress=progress,
        )
    of = [subject for subject in group for _ in given.threads]
    whole = (f"delegate {given.delegate}: times of the whole model alone",) if given.delegate else ()
    profiles = (
        dataclasses.replace(profile, notes=(*subject.notes, *whole, *profile.notes))
        for profile, subject in zip(made.profiles, of, strict=True)
    )
    return dataclasses.replace(made, profiles=tuple(profiles)), [subject.path for subject in of]


def _with_roofline(benchmark, run, failures):
    from keras_nin.benchmark import roofline

    try:
        return roofline.add_peaks(benchmark, run)
    except InputError as error:
        failures.append(error)
        return benchmark


def _ratios(given, benchmark):
    if not given.compare or len(benchmark.profiles) < 2:
        return ()
    from keras_nin.benchmark import comparison

    return tuple(comparison.compute_ratios(benchmark.profiles))


# MERGED What becomes of a benchmark: printed, and written to files.


def check_outputs(given, words):
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
            files.needs_writing(path, b"")
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


def write_outputs(given, measured, targets):
    """Write the files that the options ask for, and return the errors where that does not work."""
    failures = []
    for stem, path in targets.items():
        try:
            document = _node_data(measured) if stem is None else _file_document(measured, stem)
            if document:
                files.write_files({path: files.dump_json(document).encode()}, given.force)
                click.echo(f"written: {path}", err=True)
        except InputError as error:
            failures.append(error)
    return failures


def _node_data(measured):
    from keras_nin.report import latency

    return latency.model_explorer_data(measured.benchmark.profiles[0], measured.paths[0])


def _file_document(measured, stem):
    """Return the JSON document of one file's profiles; None where it did not run."""
    from keras_nin.benchmark.records import BenchmarkResult

    pairs = zip(measured.benchmark.profiles, measured.paths, strict=True)
    profiles = tuple(profile for profile, path in pairs if pathlib.Path(path).stem == stem)
    return BenchmarkResult(profiles[0].host, profiles, measured.benchmark.warnings).to_json() if profiles else None


def print_benchmark(given, measured):
    """Print the results."""
    benchmark, ratios = measured.benchmark, measured.ratios
    if given.form == "json":
        click.echo(files.dump_json(benchmark_document(measured)), nl=False)
        return
    from keras_nin.formatting import format_markdown_table, format_table
    from keras_nin.report import latency

    view = latency.LayerView(given.sort, given.top, given.only)
    if given.form == "csv":
        click.echo(latency.format_benchmark_csv(benchmark, view), nl=False)
        return
    is_markdown = given.form == "markdown"
    _print_stripped((latency.format_benchmark_markdown if is_markdown else latency.format_benchmark)(benchmark, view))
    if ratios:
        _print_stripped(
            f"\n{latency.format_ratio_table(ratios, format_markdown_table if is_markdown else format_table)}"
        )
    if given.roofline and not is_markdown:
        from keras_nin.report import comparisons

        for profile in benchmark.profiles:
            _print_stripped(f"\n{comparisons.format_roofline(profile)}")


def benchmark_document(measured):
    """Return the JSON document: the benchmark's, with the ratios where files were compared."""
    import dataclasses

    made = measured.benchmark.to_json()
    return made | ({"ratios": [dataclasses.asdict(ratio) for ratio in measured.ratios]} if measured.ratios else {})


def _print_stripped(text):
    echo(text.rstrip("\n"))
