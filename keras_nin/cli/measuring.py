"""What `keras-nin benchmark` measures: files, and models that it exports for it."""

import contextlib
import dataclasses
import os
import pathlib
from typing import Any

from keras_nin.cli import on_the_fly
from keras_nin.cli.waiting import waiting
from keras_nin.errors import InputError


@dataclasses.dataclass(frozen=True)
class Word:
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
        return tuple(f"{on_the_fly.stem(self.text)}_{each}" for each in self.schemes(scheme))


@dataclasses.dataclass(frozen=True)
class Subject:
    """A file to measure, and what a reader must know of it."""

    path: str
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out: a `Benchmark` or None, the files of its profiles, `Ratio` records, and what went wrong."""

    benchmark: Any
    paths: tuple[str, ...]
    ratios: tuple = ()
    failures: tuple[InputError, ...] = ()


def sort_words(words):
    """Return the `Word` of each argument.

    Raises:
        InputError: a file that is missing or a folder, or an unknown model.
    """
    return tuple(Word(word, on_the_fly.is_model(word)) for word in words)


@contextlib.contextmanager
def opened(given, words):
    """Yield the `Subject` records of the words, models exported to a temporary folder, and a list of what failed."""
    with contextlib.ExitStack() as stack:
        subjects, failures = [], []
        for word in words:
            if not word.is_model:
                subjects.append(Subject(word.text))
                continue
            from keras_nin.files import temporary_folder

            try:
                folder = stack.enter_context(temporary_folder())
                made = on_the_fly.export(word.text, given, folder, word.schemes(given.scheme))
                subjects += [Subject(each.path, tuple(f"{note}, latency only" for note in each.notes)) for each in made]
            except InputError as error:
                failures.append(error)
        yield subjects, failures


def measure(given, subjects, run):
    """Return what was `Measured` of the subjects: each alone, or with --compare all in turns."""
    from keras_nin.benchmark.records import Benchmark

    groups = [subjects] if given.compare else [[subject] for subject in subjects]
    benchmarks, paths, failures = [], [], []
    for group in groups:
        made, of, failed = _measure_group(given, group, run)
        benchmarks += [made] if made else []
        paths += of
        failures += failed
    if not benchmarks:
        return Measured(None, (), failures=tuple(failures))
    benchmark = Benchmark(
        benchmarks[0].host,
        tuple(profile for each in benchmarks for profile in each.profiles),
        tuple({_topic(warning): warning for each in benchmarks for warning in each.warnings}.values()),
    )
    if given.roofline:
        with waiting("Measuring this machine's limits"):
            benchmark = _with_peaks(benchmark, run, failures)
    return Measured(benchmark, tuple(paths), _ratios(given, benchmark), tuple(failures))


def _topic(warning):
    """Return what a warning is about: of the machine, the last one of each kind is enough."""
    return warning.split(":")[0] if warning.startswith("the machine") else warning


def _measure_group(given, group, run):
    """Return a `Benchmark` or None, the paths of its profiles, and errors; the others go on without a bad file."""
    try:
        return (*_profiles(given, group, run), [])
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
        return (*(_profiles(given, good, run) if good else (None, [])), failures)
    except InputError as error:
        return None, [], [*failures, error]


def _run_once(given, subject, run):
    from keras_nin.benchmark import measure

    measure([subject.path], threads=given.threads[:1], runs=1, layers=False, delegate=given.delegate, run=run)


def _profiles(given, group, run):
    """Return the `Benchmark` of a group, and the path of each of its profiles."""
    try:
        return _all_profiles(given, group, run)
    except InputError as error:
        if given.delegate and given.delegate in str(error):
            reason = str(error)[str(error).index(given.delegate) :]
            raise InputError(
                f"Expected --delegate as a library that loads where it runs. Received: {reason}"
            ) from error
        raise


def _all_profiles(given, group, run):
    from keras_nin.benchmark import measure

    paths = [subject.path for subject in group]
    with waiting(f"Measuring {', '.join(os.path.basename(path) for path in paths)}") as progress:
        made = measure(
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


def _with_peaks(benchmark, run, failures):
    from keras_nin.benchmark import roofline

    try:
        return roofline.with_peaks(benchmark, run)
    except InputError as error:
        failures.append(error)
        return benchmark


def _ratios(given, benchmark):
    if not given.compare or len(benchmark.profiles) < 2:
        return ()
    from keras_nin.benchmark import comparison

    return tuple(comparison.ratios(benchmark.profiles))
