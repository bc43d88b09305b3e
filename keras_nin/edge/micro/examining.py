"""From a file to its `Micro`: search the arena, run the inputs, compare."""

import dataclasses
import importlib.util
import os
import struct

from keras_nin import files
from keras_nin.edge.micro import allocations, child, comparing, resolver, runtime, search
from keras_nin.edge.micro.inputs import noise
from keras_nin.edge.micro.judging import judge
from keras_nin.edge.micro.records import Arena, Comparison, Micro
from keras_nin.errors import InputError
from keras_nin.tflite.graph import float_operators, read

MAX_ARENA = 2 * 2**20
SECONDS = 20.0  # of comparing, for each runtime
_NOISE_SAMPLES = 4
_LARGEST_ARENA = 2**30


def examine(path, *, max_arena=MAX_ARENA, inputs=None, seconds=SECONDS, limit=300.0, run=child.run):
    """Return the `Micro` of a .tflite file.

    Args:
        path: of the file.
        max_arena: largest arena to try, in bytes.
        inputs: `keras_nin.edge.micro.inputs.Inputs` to run; None takes noise.
        seconds: after which each runtime starts no further sample.
        limit: seconds after which a runtime that has not ended is killed.
        run: what runs a job, as `child.run` does.

    Raises:
        InputError: not a valid .tflite file, an arena that is not 1 KiB to 1 GiB, inputs that are no numbers, or
            tflite-micro is not installed.
    """
    check_arena(max_arena)
    graph = read(path)
    inputs = noise(graph, _NOISE_SAMPLES) if inputs is None else inputs
    uses = resolver.operators(graph)
    with files.temporary_folder() as folder:
        comparing.store(inputs, folder)
        trial = _Trial(path, graph, folder, run, limit)
        arena, finding = _search(trial, max_arena, seconds)
        compared = comparing.compare(run, path, inputs, folder, seconds, limit) if arena else None
    done = isinstance(compared, Comparison)
    return Micro(
        file=os.path.basename(path),
        sha256=files.sha256(graph.content),
        file_bytes=graph.size_bytes,
        weight_bytes=_weight_bytes(graph),
        operators=uses,
        resolver=resolver.declaration(uses),
        max_arena=max_arena,
        arena=arena,
        finding=finding,
        comparison=compared if done else None,
        comparison_finding=None if done else compared,
        peak_activation_bytes=_peak(path),
        float_operators=len(float_operators(graph)),
        package=trial.package,
    )


def check_arena(max_arena):
    """Raise `InputError` where the largest arena to try is not 1 KiB to 1 GiB."""
    if not isinstance(max_arena, int) or not 2**10 <= max_arena <= _LARGEST_ARENA:
        raise InputError(f"Expected `max_arena` to be 1024 to {_LARGEST_ARENA:,} bytes. Received: {max_arena!r}")


def require_package():
    """Raise `InputError` where tflite-micro is not installed."""
    if importlib.util.find_spec("tflite_micro") is None:
        raise _not_loaded("none")


def _not_loaded(reason):
    return InputError(
        f"Expected the package tflite-micro to be installed. Received: {reason}. Install it, on Linux on x86-64, with "
        "pip install 'keras-nin[micro]'"
    )


@dataclasses.dataclass
class _Trial:
    """Tries of one file, each in a process of its own."""

    path: str
    graph: object
    folder: object
    run: object
    limit: float
    tries: int = 0
    package: str = ""

    def at(self, arena, seconds=0):
        """Return the `Outcome` of setting up in `arena` bytes and running samples for so many seconds, one at least."""
        self.tries += 1
        more = {"arena": arena, "output_count": len(self.graph.main.outputs)}
        job = comparing.job(runtime.MICRO, self.path, self.folder, seconds, **more)
        outcome = self.run(job, self.limit)
        if "not_loaded" in outcome.answer:
            raise _not_loaded(outcome.answer["not_loaded"])
        self.package = outcome.answer.get("package", "")
        return outcome

    def finding(self, outcome, arena):
        """Return the `Finding` in an `Outcome` that is not done."""
        return judge(outcome, self.limit, arena, self.graph)


def _search(trial, max_arena, seconds):
    """Return (`Arena`, None), outputs left in the trial's folder, or (None, the `Finding` that ended the search)."""
    most = max_arena // search.STEP * search.STEP
    outcome = trial.at(most)
    if not outcome.done:
        return None, trial.finding(outcome, most)
    head, tail, _ = allocations.parse(outcome.log)
    size = search.smallest(lambda arena: trial.at(arena).done, most, head + tail)
    outcome = trial.at(size, seconds)
    if not outcome.done:
        return None, trial.finding(outcome, size)
    head, tail, parts = allocations.parse(outcome.log)
    return Arena(size, head, tail, parts, search.STEP, trial.tries, 8 * struct.calcsize("P")), None


def _weight_bytes(graph):
    """Return the bytes of the values in the file, each buffer once."""
    buffers = {
        tensor.buffer: tensor.buffer_bytes
        for subgraph in graph.subgraphs
        for tensor in subgraph.tensors
        if tensor.is_constant
    }
    return sum(buffers.values())


def _peak(path):
    """Return the audit's peak of activation memory in bytes; None for a file that it does not read."""
    from keras_nin.audit import build, tflite_reader

    try:
        return build.audit_graph(tflite_reader.read(path)).total.peak_activation_bytes
    except InputError:
        return None
