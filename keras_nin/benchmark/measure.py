"""From .tflite files to a `Benchmark`: run them where asked, and join what ran to the layers."""

import dataclasses
import os

from keras_nin import files
from keras_nin.benchmark import child, join, single
from keras_nin.benchmark.records import PROFILER, Benchmark, Profile, Statistics
from keras_nin.errors import InputError, one_of
from keras_nin.tflite import graph

SECONDS = 5.0
METHODS = ("profiler", "single")
_BUSY = 0.1


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
    progress=None,
):
    """Return the `Benchmark` of .tflite files with each number of threads, file by file.

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
        progress: function of a line of text that says how far it is, called while it runs, or None.

    Raises:
        InputError: no file or number of threads, or a file is not valid or does not run.
    """
    one_of("method", method, METHODS)
    paths = [os.fspath(path) for path in paths]
    for name, values in (("paths", paths), ("threads", threads)):
        if not values:
            raise InputError(f"Expected `{name}` to name at least one. Received: none")
    graphs = {path: _checked(path) for path in dict.fromkeys(paths)}
    models = [{"file": path, "threads": count} for path in paths for count in threads]
    common = {"runs": runs, "seconds": seconds, "profile": layers and method == "profiler", "delegate": delegate}
    jobs = [models] if interleave else [[model] for model in models]
    answers = [_run(run, {"models": job, **common}, progress) for job in jobs]
    host = answers[0].host
    profiles = [
        _profile(graphs[model["file"]], model["file"], result, host)
        for job, answer in zip(jobs, answers, strict=True)
        for model, result in zip(job, answer.results, strict=True)
    ]
    if layers and not delegate:
        profiles = [
            single.with_layers(each, model["file"], seconds, run) if each.method is None else each
            for each, model in zip(profiles, models, strict=True)
        ]
    return Benchmark(host, tuple(profiles), tuple(_warnings(answers, profiles)))


def _checked(path):
    """Return the graph of a file; `InputError` where it is not valid, or where it is not said at what size it runs."""
    found = graph.read(path)
    for index in found.main.inputs:
        tensor = found.main.tensors[index]
        if -1 in (tensor.shape_signature or ())[1:]:
            raise InputError(
                f"Expected inputs whose shape is open in the batch alone. Received: {path!r}, whose input "
                f"{tensor.name!r} has the shape {tensor.shape_signature}. Export it with a fixed input shape"
            )
    return found


def _run(run, job, progress):
    if progress is None:
        return run(job)
    names = [_label(os.path.basename(model["file"]), model["threads"]) for model in job["models"]]

    def show(states):
        progress("; ".join(map(_so_far, names, states)))

    progress(", ".join(names))
    return run(job, progress=show)


def _label(file, threads):
    return f"{file} on {threads} {'thread' if threads == 1 else 'threads'}"


def _so_far(name, state):
    within = "" if state["within"] is None else f" ± {state['within']:.1%}"
    return f"{name}: {state['us']:,.1f} us{within} after {state['runs']:,} runs"


def _profile(network, path, result, host):
    measured = Profile(
        file=os.path.basename(path),
        sha256=files.sha256(network.content),
        file_bytes=network.size_bytes,
        host=host,
        total=Statistics(**result["us"]),
        rounds_us=tuple(result["rounds_us"]),
        notes=tuple(_notes(network, result)),
        **{
            name: result[name]
            for name in ("threads", "runs", "converged", "load_us", "first_us", "peak_bytes", "added_bytes", "api")
        },
    )
    if result["profile"] is None:
        return measured
    layers, overhead_us = join.layers(path, result["profile"]["kernels"], measured.total.median)
    return dataclasses.replace(
        measured,
        method=PROFILER,
        profiled_runs=result["profile"]["runs"],
        layers=layers,
        overhead_us=overhead_us,
    )


def _notes(network, result):
    if result.get("unavailable"):
        yield result["unavailable"]
    if len(network.signatures) > 1 and result["api"] == "compiled_model":
        first, *others = (repr(signature.key) for signature in network.signatures)
        yield f"the file's first signature ran, {first}; not {', '.join(others)}"


def _warnings(answers, profiles):
    host = answers[0].host
    load, governor = host["state"]["load_average"], host["state"]["governor"]
    others = max(result.get("others_share") or 0 for answer in answers for result in answer.results)
    if others > _BUSY:
        yield f"the machine is busy: others took {others:.0%} of its processors' time while this was measured"
    elif load is not None and load > host["cores"] / 2:
        yield f"the machine is busy: load average {load:.1f} on {host['cores']} cores when this began"
    if governor not in (None, "performance"):
        yield f"the processor's frequency governor is {governor!r}: times may change with its clock"
    for each in profiles:
        if not each.converged:
            name = _label(each.file, each.threads)
            yield f"{name}: the median is not known to 1 % after {each.runs:,} runs"
