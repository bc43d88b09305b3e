"""From a file to its `Micro`: search the arena, run the inputs, compare."""

import dataclasses
import importlib.util
import os
import pathlib
import struct

import numpy as np

from keras_nin import files
from keras_nin.edge.micro import child, cpp, runtime
from keras_nin.edge.micro.records import Arena, MicroComparison, MicroFinding, MicroResult
from keras_nin.edge.micro.runtime import diagnose_outcome
from keras_nin.errors import InputError
from keras_nin.tflite.quantization import quantize
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.records import FLOAT_DTYPES, float_operators

MAX_ARENA = 2 * 2**20
COMPARISON_SECONDS = 20.0  # of comparing, for each runtime
_NOISE_SAMPLES = 4
_LARGEST_ARENA = 2**30


def measure_micro(path, *, max_arena=MAX_ARENA, inputs=None, seconds=COMPARISON_SECONDS, limit=300.0, run=child.run):
    """Return the `Micro` of a .tflite file.

    Args:
        path: of the file.
        max_arena: largest arena to try, in bytes.
        inputs: `keras_nin.edge.micro.measurement.MicroInputs` to run; None takes noise.
        seconds: after which each runtime starts no further sample.
        limit: seconds after which a runtime that has not ended is killed.
        run: what runs a job, as `child.run` does.

    Raises:
        InputError: not a valid .tflite file, an arena that is not 1 KiB to 1 GiB, inputs that are no numbers, or
            tflite-micro is not installed.
    """
    check_arena(max_arena)
    graph = read_model(path)
    inputs = make_noise(graph, _NOISE_SAMPLES) if inputs is None else inputs
    uses = cpp.list_operators(graph)
    with files.temporary_folder() as folder:
        store_inputs(inputs, folder)
        trial = _Trial(path, graph, folder, run, limit)
        arena, finding = _find_arena(trial, max_arena, seconds)
        compared = compare_outputs(run, path, inputs, folder, seconds, limit) if arena else None
    done = isinstance(compared, MicroComparison)
    return MicroResult(
        file=os.path.basename(path),
        sha256=files.sha256(graph.content),
        file_bytes=graph.size_bytes,
        weight_bytes=_weight_bytes(graph),
        operators=uses,
        resolver=cpp.format_resolver(uses),
        max_arena=max_arena,
        arena=arena,
        finding=finding,
        comparison=compared if done else None,
        comparison_finding=None if done else compared,
        peak_activation_bytes=_peak_activation_bytes(path),
        float_operators=len(float_operators(graph)),
        package=trial.package,
    )


def check_arena(max_arena):
    """Raise `InputError` where the largest arena to try is not 1 KiB to 1 GiB."""
    if not isinstance(max_arena, int) or not 2**10 <= max_arena <= _LARGEST_ARENA:
        raise InputError(f"Expected `max_arena` to be 1024 to {_LARGEST_ARENA:,} bytes. Received: {max_arena!r}")


def require_tflite_micro():
    """Raise `InputError` where tflite-micro is not installed."""
    if importlib.util.find_spec("tflite_micro") is None:
        raise _missing_package_error("none")


def _missing_package_error(reason):
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
        job = build_job(runtime.MICRO, self.path, self.folder, seconds, **more)
        outcome = self.run(job, self.limit)
        if "not_loaded" in outcome.answer:
            raise _missing_package_error(outcome.answer["not_loaded"])
        self.package = outcome.answer.get("package", "")
        return outcome

    def finding(self, outcome, arena):
        """Return the `Finding` in an `Outcome` that is not done."""
        return diagnose_outcome(outcome, self.limit, arena, self.graph)


def _find_arena(trial, max_arena, seconds):
    """Return (`Arena`, None), outputs left in the trial's folder, or (None, the `Finding` that ended the search)."""
    most = max_arena // ARENA_STEP * ARENA_STEP
    outcome = trial.at(most)
    if not outcome.done:
        return None, trial.finding(outcome, most)
    head, tail, _ = runtime.parse_allocations(outcome.log)
    size = find_smallest_size(lambda arena: trial.at(arena).done, most, head + tail)
    outcome = trial.at(size, seconds)
    if not outcome.done:
        return None, trial.finding(outcome, size)
    head, tail, parts = runtime.parse_allocations(outcome.log)
    return Arena(size, head, tail, parts, ARENA_STEP, trial.tries, 8 * struct.calcsize("P")), None


def _weight_bytes(graph):
    """Return the bytes of the values in the file, each buffer once."""
    buffers = {
        tensor.buffer: tensor.buffer_bytes
        for subgraph in graph.subgraphs
        for tensor in subgraph.tensors
        if tensor.is_constant
    }
    return sum(buffers.values())


def _peak_activation_bytes(path):
    """Return the audit's peak of activation memory in bytes; None for a file that it does not read."""
    from keras_nin.audit import api, tflite_reader

    try:
        return api.audit_graph(tflite_reader.read_tflite_graph(path)).total.peak_activation_bytes
    except InputError:
        return None


# MERGED The smallest size that works.

ARENA_STEP = 16  # bytes: what the runtime aligns tensors to


def find_smallest_size(works, most, guess):
    """Return the smallest multiple of `STEP` that works.

    A size that works makes every larger one work. From the guess it goes in doubling steps until the answer is between
    two sizes, and then halves what is between them: two tries where the guess is right, and few where it is near.

    Args:
        works: function of a size, whether it works.
        most: a multiple of `STEP` that is known to work.
        guess: where to begin.
    """
    low, high = 0, most  # `low` does not work, `high` does
    near, reach, grows = -(-guess // ARENA_STEP) * ARENA_STEP, ARENA_STEP, None
    while low < near < high:
        fits = works(near)
        low, high = (low, near) if fits else (near, high)
        if grows is None:
            grows = not fits
        elif fits == grows:
            break
        near += reach if grows else -reach
        reach *= 2
    while high - low > ARENA_STEP:
        middle = (low + high) // 2 // ARENA_STEP * ARENA_STEP
        low, high = (low, middle) if works(middle) else (middle, high)
    return high


# MERGED What both runtimes run on: raw arrays, as the file's inputs take them.

_MOST_NOISE_BYTES = 2**28  # of all samples of noise


@dataclasses.dataclass(frozen=True, eq=False)
class MicroInputs:
    """Samples for each input of a file.

    Attributes:
        source: what they are.
        noise: whether they are random numbers.
        arrays: for each input an array (samples, *shape in the file) of its dtype.
    """

    source: str
    noise: bool
    arrays: tuple[np.ndarray, ...]


def make_noise(graph, samples, seed=0):
    """Return `Inputs` of seeded noise: the whole range of quantised integers, reals from 0 to 1, else zeros.

    Raises:
        InputError: an input is not of numbers, or samples would fill the memory.
    """
    rng = np.random.default_rng(seed)
    tensors = _input_tensors(graph)
    size = samples * sum(tensor.nbytes or 0 for tensor in tensors)
    if size > _MOST_NOISE_BYTES:
        raise InputError(f"Expected inputs of at most {_MOST_NOISE_BYTES:,} bytes in all. Received: {size:,}")
    return MicroInputs("noise", True, tuple(_tensor_noise(tensor, samples, rng) for tensor in tensors))


def prepare_images(graph, images, source):
    """Return `Inputs` of preprocessed images.

    Args:
        graph: `keras_nin.tflite.reader.TFLiteModel` with one input, of shape (B, H, W, C).
        images: float32 (N, H, W, C), N a multiple of B.
        source: what they are.

    Raises:
        InputError: another number of inputs, or another shape.
    """
    tensors = _input_tensors(graph)
    if len(tensors) != 1 or tensors[0].shape[1:] != images.shape[1:] or len(images) % tensors[0].shape[0]:
        shapes = [tensor.shape for tensor in tensors]
        raise InputError(f"Expected images for inputs of shapes {shapes}. Received: {images.shape}")
    (tensor,) = tensors
    images = images.reshape(-1, *tensor.shape)
    if tensor.dtype in FLOAT_DTYPES:
        return MicroInputs(source, False, (images.astype(tensor.dtype),))
    if tensor.quantization is None:
        raise InputError(f"Expected a float or quantised input. Received: {tensor.dtype} without a scale")
    scale, zero_point = tensor.quantization.scales[0], tensor.quantization.zero_points[0]
    return MicroInputs(source, False, (quantize(images, scale, zero_point, tensor.dtype),))


def _input_tensors(graph):
    tensors = [graph.main.tensors[index] for index in graph.main.inputs]
    for tensor in tensors:
        if tensor.nbytes is None or tensor.dtype in ("int2", "int4", "uint4", "bfloat16"):
            raise InputError(f"Expected inputs of numbers. Received: {tensor.name!r} of type {tensor.dtype}")
    return tensors


def _tensor_noise(tensor, samples, rng):
    shape = (samples, *tensor.shape)
    if tensor.dtype in FLOAT_DTYPES:
        return rng.random(shape, np.float32).astype(tensor.dtype)
    if tensor.quantization is None:  # integers without a scale may be indexes
        return np.zeros(shape, tensor.dtype)
    limits = np.iinfo(tensor.dtype)
    return rng.integers(limits.min, limits.max, shape, tensor.dtype, endpoint=True)


# MERGED Whether TFLite Micro computes the same bits as LiteRT's reference kernels.

_INPUTS_FILE = "inputs.npz"


def store_inputs(inputs, folder):
    """Put `keras_nin.edge.micro.measurement.MicroInputs` into `folder`, a `pathlib.Path`, for the jobs."""
    np.savez(folder / _INPUTS_FILE, **{str(index): array for index, array in enumerate(inputs.arrays)})


def build_job(engine, path, folder, seconds, **more):
    """Return the job that runs what `store` put into `folder`, where its outputs will be too.

    Args:
        engine: `runtime.MICRO` or `runtime.REFERENCE`.
        path: of the file.
        folder: a `pathlib.Path`.
        seconds: after which no further sample is run.
        more: further keys.
    """
    return {
        "engine": engine,
        "file": str(path),
        "inputs": str(folder / _INPUTS_FILE),
        "outputs": str(folder / f"{engine}.npz"),
        "seconds": seconds,
        **more,
    }


def compare_outputs(run, path, inputs, folder, seconds, limit):
    """Return the `Comparison` of outputs that TFLite Micro left in `folder`, or the `Finding` why there is none.

    Args:
        run: `keras_nin.edge.micro.child.run`.
        path, folder, seconds: as `job` takes them.
        inputs: what `store` put there.
        limit: seconds that the reference may take.
    """
    outcome = run(build_job(runtime.REFERENCE, path, folder, seconds), limit)
    if not outcome.done:
        found = diagnose_outcome(outcome, limit)
        return MicroFinding(found.kind, f"LiteRT's reference kernels do not run it: {found.message}")
    micro, reference = (_load_outputs(folder / f"{engine}.npz") for engine in (runtime.MICRO, runtime.REFERENCE))
    samples = min((len(array) for array in (*micro, *reference)), default=0)
    pairs = [(one[:samples], other[:samples]) for one, other in zip(micro, reference, strict=True)]
    return MicroComparison(
        source=inputs.source,
        noise=inputs.noise,
        samples=samples,
        outputs=sum(one.size for one, _ in pairs),
        differing=sum(count_differing(one, other) for one, other in pairs),
        largest=max((_max_abs_diff(one, other) for one, other in pairs), default=0.0),
    )


def count_differing(one, other):
    """Return how many elements of two arrays of one shape and dtype differ in any bit; all where shape or dtype do."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return max(one.size, other.size)
    bits = [np.ascontiguousarray(each).view(np.uint8).reshape(each.size, each.itemsize) for each in (one, other)]
    return int((bits[0] != bits[1]).any(axis=1).sum())


def _max_abs_diff(one, other):
    if one.shape != other.shape or not one.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.abs(one.astype(np.float64) - other.astype(np.float64))).max())


def _load_outputs(path: pathlib.Path):
    with np.load(path) as stored:
        return [stored[str(index)] for index in range(len(stored.files))]
