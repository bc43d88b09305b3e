"""From .tflite files to a `Benchmark`: run them where asked, and join what ran to the layers."""

import dataclasses
import os
import pathlib

from keras_nin import files
from keras_nin.benchmark import child, join, single
from keras_nin.benchmark.records import PROFILER, Benchmark, Profile, Statistics
from keras_nin.errors import one_of
from keras_nin.tflite import graph

SECONDS = 5.0
METHODS = ("profiler", "single")


def profile(path, threads=1, **options):
    """Return the `Profile` of one .tflite file; arguments and errors as in `measure`."""
    return measure([path], threads=(threads,), **options).profiles[0]


def measure(
    paths,
    *,
    threads=(1,),
    runs=None,
    seconds=SECONDS,
    layers=True,
    method=METHODS[0],
    interleave=False,
    delegate=None,
    run=child.run,
):
    """Return the `Benchmark` of .tflite files with each number of threads.

    Args:
        paths: of the files.
        threads: numbers of threads.
        runs: exactly so many runs of each; None runs until the 95 % confidence interval of the median is within 1 %.
        seconds: the longest that one measurement (all of them together with `interleave`) may take then.
        layers: whether to take the time of every layer too.
        method: how: "profiler", or "single" for each operator alone, which is also the way where there is no profiler.
        interleave: let all files take turns, so that what changes on the machine meets all of them alike.
        delegate: path of an external delegate's library.
        run: what carries a job out: `child.run` here, or on a device.

    Raises:
        InputError: a file is not valid or does not run.
    """
    one_of("method", method, METHODS)
    for path in paths:
        graph.read(path)
    models = [{"file": os.fspath(path), "threads": count} for path in paths for count in threads]
    common = {"runs": runs, "seconds": seconds, "profile": layers and method == "profiler", "delegate": delegate}
    jobs = [models] if interleave else [[model] for model in models]
    answers = [run({"models": job, **common}) for job in jobs]
    profiles = [_profile(result, answer.host) for answer in answers for result in answer.results]
    if layers and not delegate:
        profiles = [
            single.with_layers(each, model["file"], seconds, run) if each.method is None else each
            for each, model in zip(profiles, models, strict=True)
        ]
    return Benchmark(answers[0].host, tuple(profiles), tuple(_warnings(answers[0].host, profiles)))


def _profile(result, host):
    content = pathlib.Path(result["file"]).read_bytes()
    measured = Profile(
        file=os.path.basename(result["file"]),
        sha256=files.sha256(content),
        file_bytes=len(content),
        host=host,
        total=Statistics(**result["us"]),
        rounds_us=tuple(result["rounds_us"]),
        **{
            name: result[name]
            for name in ("threads", "runs", "converged", "load_us", "first_us", "peak_bytes", "added_bytes", "api")
        },
    )
    if result["profile"] is None:
        return measured
    layers, overhead_us = join.layers(result["file"], result["profile"]["kernels"], measured.total.median)
    return dataclasses.replace(
        measured,
        method=PROFILER,
        profiled_runs=result["profile"]["runs"],
        layers=layers,
        overhead_us=overhead_us,
    )


def _warnings(host, profiles):
    load, cores = host["state"]["load_average"], host["cores"]
    if load is not None and load > cores / 2:
        yield f"the machine is busy: load average {load:.1f} on {cores} cores"
    if host["state"]["governor"] not in (None, "performance"):
        yield f"the processor's frequency governor is {host['state']['governor']!r}: times may change with its clock"
    for each in profiles:
        if not each.converged:
            yield f"{each.file} on {each.threads} threads: the median is not known to 1 % after {each.runs} runs"
