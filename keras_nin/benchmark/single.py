"""The time of every layer without a profiler: each operator of a file alone, as a file of its own."""

import dataclasses
import os
import pathlib

from keras_nin import files
from keras_nin.benchmark import assignment, child, cutting, join
from keras_nin.benchmark.records import SINGLE_OPERATORS, KernelTime
from keras_nin.errors import InputError
from keras_nin.tflite import graph


def time_operators(path, threads, seconds, run=child.run, median_us=None):
    """Return `LayerTime` records of a file's operators, one each in the file's order, each measured alone.

    They all take turns in one process (see `runner.alone`), beside a file that does nothing, whose time is taken off
    theirs. A kernel is not known by name; an operator that does not run alone has no `us`, and `note` says why. What
    the runtime fuses in the whole file is not fused here.

    Args:
        path: the .tflite file.
        threads: number of threads.
        seconds: how long the measurement takes, beside loading and ten turns of each operator.
        run: what carries a job out, such as `child.run`.
        median_us: of a run of the whole file, of which `share` is a part; None takes the sum of the operators' times.

    Raises:
        InputError: the file is not valid.
    """
    return _measure(path, threads, seconds, run, median_us)[0]


def with_layers(profile, path, seconds, run=child.run):
    """Return a `Profile` of the file at `path` with the layers that `time_operators` gives."""
    rows, turns = _measure(path, profile.threads, seconds, run, profile.total.median)
    spent = sum(row.us.typical for row in rows if row.us)
    return dataclasses.replace(
        profile,
        method=SINGLE_OPERATORS,
        profiled_runs=turns,
        layers=rows,
        overhead_us=profile.total.median - spent,
    )


def _measure(path, threads, seconds, run, median_us):
    """Return the rows, and how many turns they are over."""
    cuts = cutting.cut(path)
    with files.temporary_folder() as folder:
        named = {pathlib.Path(folder) / f"operator_{each.index}.tflite": each for each in cuts if each.content}
        for file, each in named.items():
            file.write_bytes(each.content)
        empty, primer = (pathlib.Path(folder) / f"{name}.tflite" for name in ("nothing", "product"))
        empty.write_bytes(cutting.nothing())
        primer.write_bytes(cutting.product())
        results, refused = _run([primer, empty, *named], threads, seconds, run)
    base = results[os.fspath(empty)]["us"]
    times = {each.index: _without(base, results.get(os.fspath(file))) for file, each in named.items()}
    notes = {each.index: each.reason for each in cuts} | {
        each.index: refused[os.fspath(file)] for file, each in named.items() if os.fspath(file) in refused
    }
    return _rows(path, times, notes, median_us), results[os.fspath(empty)]["runs"]


def _run(paths, threads, seconds, run):
    """Return the runner's results by file, and for each file that it refuses why.

    The first two of `paths` are the product that keeps the processor at work, and the file that does nothing.
    """
    left, refused = [os.fspath(path) for path in paths], {}
    while True:
        models = [{"file": path, "threads": threads} for path in left]
        try:
            answer = run({"models": models, "seconds": seconds, "alone": True})
            return {result["file"]: result for result in answer.results}, refused
        except InputError as error:
            at_fault = [path for path in left[2:] if repr(path) in str(error)]
            if not at_fault:
                raise
            refused |= dict.fromkeys(at_fault, "it does not run alone")
            left = [path for path in left if path not in at_fault]


def _without(base, result):
    """Return the `KernelTime` of an operator from the runner's result; None without one."""
    if result is None:
        return None
    us = result["us"]
    median, mean, p90 = (max(0.0, us[key] - base["median"]) for key in ("median", "mean", "p90"))
    return KernelTime(median, mean, p90, typical=median)


def _rows(path, times, notes, median_us):
    main = graph.read(path).main
    whole = median_us or sum(us.typical for us in times.values() if us) or None
    rows = join.Rows(main, join.facts(path, main), whole)
    for operator in main.operators:
        us = times.get(operator.index)
        what = assignment.NO_KERNEL if us is None else assignment.COMPUTES
        rows.add(assignment.Executed(what, None, operator.index, (operator.index,), notes[operator.index]), None, us)
    return tuple(rows.found)
