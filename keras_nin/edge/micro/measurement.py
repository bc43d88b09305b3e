"""The measurement of a file on TFLite Micro: its smallest arena, and its outputs against LiteRT's reference kernels."""

import bisect
import dataclasses
import importlib.util
import pathlib
import struct
from collections.abc import Callable, Sequence

import numpy as np

from keras_nin import files
from keras_nin.edge.micro import runtime
from keras_nin.edge.micro.cpp import format_resolver, list_operators
from keras_nin.edge.micro.records import Arena, MicroComparison, MicroFinding, MicroResult
from keras_nin.edge.micro.runtime import MICRO, REFERENCE, RuntimeJob, RuntimeOutcome
from keras_nin.errors import InputError, expected_error
from keras_nin.tflite.quantization import quantize
from keras_nin.tflite.reader import ModelSource, read_model
from keras_nin.tflite.records import FLOAT_DTYPES, TFLiteModel, TFLiteTensor, float_operators
from keras_nin.tflite.runtime_support import misfit_notes

MAX_ARENA = 2 * 2**20
COMPARISON_SECONDS = 20.0
ARENA_STEP = 16  # bytes: the runtime's alignment of tensors
_ARENA_RANGE = (2**10, 2**30)
_NOISE_SAMPLES = 4
_MAX_NOISE_BYTES = 2**28  # of all samples
_INPUTS_FILE = "inputs.npz"


@dataclasses.dataclass(frozen=True, eq=False)
class MicroInputs:
    """Samples: what they are, whether they are noise, and an array of shape (samples, *shape) for each input."""

    source: str
    noise: bool
    arrays: tuple[np.ndarray, ...]


def measure_micro(
    file: ModelSource,
    *,
    max_arena: int = MAX_ARENA,
    inputs: MicroInputs | None = None,
    seconds: float = COMPARISON_SECONDS,
    timeout: float = 300.0,
    run: Callable[[RuntimeJob, float], RuntimeOutcome] = runtime.run_job,
) -> MicroResult:
    """Find the smallest arena in which TFLite Micro runs a .tflite file, and compare its outputs with LiteRT's.

    Args:
        file: path or record of the .tflite file.
        max_arena: largest arena to try, in bytes.
        inputs: samples to run; None takes noise.
        seconds, timeout: seconds after which a runtime starts no further sample, and is killed.
        run: runs a job.

    Raises:
        InputError: an invalid file, `max_arena` not 1 KiB to 1 GiB, an input that is not numeric, or no tflite-micro.
    """
    check_arena(max_arena)
    model = read_model(file)
    inputs = make_noise(model, _NOISE_SAMPLES) if inputs is None else inputs
    operators = list_operators(model)
    weight_bytes, other_bytes = _count_constants(model)
    with files.temporary_folder() as folder:
        np.savez(folder / _INPUTS_FILE, *inputs.arrays)
        path = model.path or folder / "model.tflite"
        if model.path is None:
            path.write_bytes(model.content)
        trial = _Trial(str(path), model, folder, run, timeout)
        arena, finding = _find_arena(trial, max_arena, seconds)
        comparison = _compare_outputs(trial, inputs, seconds) if arena else None
    compared = isinstance(comparison, MicroComparison)
    return MicroResult(
        file=model.path.name if model.path else "model",
        sha256=model.sha256,
        file_bytes=model.size_bytes,
        weight_bytes=weight_bytes,
        operators=operators,
        resolver=format_resolver(operators),
        max_arena=max_arena,
        arena=arena,
        finding=finding,
        comparison=comparison if compared else None,
        comparison_finding=None if compared else comparison,
        peak_activation_bytes=_peak_activation_bytes(model),
        float_operators=len(float_operators(model)),
        package=trial.package,
        batch=model.batch,
        other_constant_bytes=other_bytes,
        notes=misfit_notes(model),
    )


def _count_constants(model: TFLiteModel) -> tuple[int, int]:
    """Return the bytes of the weights, as the audit counts them, and of the other constants, such as shapes."""
    from keras_nin.audit.tflite_operators import WeightConstants

    weights, constants = (
        WeightConstants(model),
        (tensor for subgraph in model.subgraphs for tensor in subgraph.tensors if tensor.is_constant),
    )
    weight_bytes = sum(weights.take(operator).weight_bytes for operator in model.main.operators)
    return weight_bytes, sum({tensor.buffer: tensor.buffer_bytes for tensor in constants}.values()) - weight_bytes


def check_arena(max_arena: int) -> None:
    """Raise `InputError` where the largest arena to try is not 1 KiB to 1 GiB."""
    smallest, largest = _ARENA_RANGE
    if not isinstance(max_arena, int) or not smallest <= max_arena <= largest:
        raise expected_error("max_arena", f"to be {smallest} to {largest:,} bytes", max_arena)


def require_tflite_micro() -> None:
    """Raise `InputError` where tflite-micro is not installed."""
    if importlib.util.find_spec("tflite_micro") is None:
        raise _missing_package_error("is not installed")


def _missing_package_error(problem: str) -> InputError:
    return InputError(
        f"The package tflite-micro {problem}. Install it, on Linux on x86-64, with pip install 'keras-nin[micro]'"
    )


@dataclasses.dataclass
class _Trial:
    """Runs of one file, each in a process of its own; the samples lie in the folder."""

    path: str
    model: TFLiteModel
    folder: pathlib.Path
    process: Callable[[RuntimeJob, float], RuntimeOutcome]
    timeout: float
    tries: int = 0
    package: str = ""

    def run(self, engine: str, seconds: float = 0, arena: int = 0) -> RuntimeOutcome:
        """Set the network up, in an arena of so many bytes with TFLite Micro, and run samples, one at least."""
        inputs, outputs = str(self.folder / _INPUTS_FILE), str(self.folder / f"{engine}.npz")
        job = RuntimeJob(engine, self.path, inputs, outputs, seconds, arena, len(self.model.main.outputs))
        outcome = self.process(job, self.timeout)
        if engine == MICRO:
            self.tries += 1
            if "not_loaded" in outcome.answer:
                raise _missing_package_error(f"does not load ({outcome.answer['not_loaded']})")
            self.package = outcome.answer.get("package", "")
        return outcome


def _find_arena(trial: _Trial, max_arena: int, seconds: float) -> tuple[Arena | None, MicroFinding | None]:
    """Return the smallest arena, whose outputs are left in the trial's folder, or the finding that ended the search."""
    size = max_arena // ARENA_STEP * ARENA_STEP
    outcome = trial.run(MICRO, arena=size)
    if outcome.done:
        head, tail, _ = runtime.parse_allocations(outcome.log)
        size = find_smallest_size(lambda arena: trial.run(MICRO, arena=arena).done, size, head + tail)
        outcome = trial.run(MICRO, seconds, size)
    if not outcome.done:
        return None, runtime.diagnose_outcome(outcome, trial.timeout, size, trial.model)
    head, tail, sections = runtime.parse_allocations(outcome.log)
    host_bits = 8 * struct.calcsize("P")
    return Arena(size, head, tail, sections, ARENA_STEP, trial.tries, host_bits, size - head - tail), None


def find_smallest_size(works: Callable[[int], bool], largest: int, guess: int) -> int:
    """Return the smallest multiple of `ARENA_STEP` that works, given that every larger one works too.

    From the guess the search goes in doubling steps until the answer lies between two sizes, and then halves the
    interval: two tries where the guess is right, and few where it is near."""
    low, high = 0, largest  # `low` does not work, `high` does
    size, reach, grows = -(-guess // ARENA_STEP) * ARENA_STEP, ARENA_STEP, None
    while low < size < high:
        fits = works(size)
        low, high = (low, size) if fits else (size, high)
        if grows is None:
            grows = not fits
        elif fits == grows:
            break
        size += reach if grows else -reach
        reach *= 2
    between = range(low + ARENA_STEP, high, ARENA_STEP)
    return low + ARENA_STEP * (1 + bisect.bisect_left(between, True, key=works))


def _peak_activation_bytes(model: TFLiteModel) -> int | None:
    """Return the audit's peak of activation memory in bytes; None for a file that the audit does not read."""
    from keras_nin.audit.api import audit_graph
    from keras_nin.audit.tflite_reader import read_tflite_graph

    try:
        return audit_graph(read_tflite_graph(model)).total.peak_activation_bytes
    except InputError:
        return None


def make_noise(model: TFLiteModel, samples: int, seed: int = 0) -> MicroInputs:
    """Return seeded noise: the whole range of quantized integers, reals from 0 to 1, otherwise zeros.

    Raises:
        InputError: an input is not numeric, or the samples would fill the memory.
    """
    rng = np.random.default_rng(seed)
    tensors = _input_tensors(model)
    size = samples * sum(tensor.nbytes or 0 for tensor in tensors)
    if size > _MAX_NOISE_BYTES:
        raise InputError(f"Expected inputs of at most {_MAX_NOISE_BYTES:,} bytes in total. Received: {size:,}")
    arrays = []
    for tensor in tensors:
        shape = (samples, *tensor.shape)
        if tensor.dtype in FLOAT_DTYPES:
            arrays.append(rng.random(shape, np.float32).astype(tensor.dtype))
        elif tensor.quantization is None:  # integers without a scale may be indexes
            arrays.append(np.zeros(shape, tensor.dtype))
        else:
            limits = np.iinfo(tensor.dtype)
            arrays.append(rng.integers(limits.min, limits.max, shape, tensor.dtype, endpoint=True))
    return MicroInputs("noise", True, tuple(arrays))


def prepare_samples(model: TFLiteModel, samples: Sequence[np.ndarray], source: str) -> MicroInputs:
    """Return test samples, a float32 array (N, ...) for each input in the file's order, as the inputs take them.

    Raises:
        InputError: another number of inputs, or an input of another shape or dtype; N is no multiple of the batch.
    """
    tensors = _input_tensors(model)
    shapes, received = [tensor.shape for tensor in tensors], [array.shape for array in samples]
    if [shape[1:] for shape in shapes] != [shape[1:] for shape in received] or any(
        shape[0] % tensor.shape[0] for shape, tensor in zip(received, tensors, strict=True)
    ):
        raise InputError(f"Expected samples for inputs of shapes {shapes}. Received: {received}")
    arrays = tuple(_quantize_samples(tensor, array) for tensor, array in zip(tensors, samples, strict=True))
    return MicroInputs(source, False, arrays)


def _quantize_samples(tensor: TFLiteTensor, samples: np.ndarray) -> np.ndarray:
    samples = samples.reshape(-1, *tensor.shape)
    if tensor.dtype in FLOAT_DTYPES:
        return samples.astype(tensor.dtype)
    if tensor.quantization is None:
        raise InputError(f"Expected a float or quantized input. Received: {tensor.dtype} without a scale")
    return quantize(samples, tensor.quantization.scales[0], tensor.quantization.zero_points[0], tensor.dtype)


def _input_tensors(model: TFLiteModel) -> list[TFLiteTensor]:
    tensors = [model.main.tensors[index] for index in model.main.inputs]
    for tensor in tensors:
        if tensor.nbytes is None or tensor.dtype in ("int2", "int4", "uint4", "bfloat16"):
            raise InputError(f"Expected numeric inputs. Received: {tensor.name!r} of type {tensor.dtype}")
    return tensors


def _compare_outputs(trial: _Trial, inputs: MicroInputs, seconds: float) -> MicroComparison | MicroFinding:
    """Return the comparison with the outputs of TFLite Micro in the trial's folder, or why there is none."""
    outcome = trial.run(REFERENCE, seconds)
    if not outcome.done:
        finding = runtime.diagnose_outcome(outcome, trial.timeout)
        return MicroFinding(finding.kind, f"LiteRT's reference kernels do not run it: {finding.message}")
    micro, reference = (runtime.load_arrays(trial.folder / f"{engine}.npz") for engine in (MICRO, REFERENCE))
    samples = min((len(array) for array in (*micro, *reference)), default=0)
    pairs = [(one[:samples], other[:samples]) for one, other in zip(micro, reference, strict=True)]
    return MicroComparison(
        source=inputs.source,
        noise=inputs.noise,
        samples=samples,
        outputs=sum(one.size for one, _ in pairs),
        differing=sum(count_differing(one, other) for one, other in pairs),
        max_abs_diff=max((_max_abs_diff(one, other) for one, other in pairs), default=0.0),
    )


def count_differing(one: np.ndarray, other: np.ndarray) -> int:
    """Return how many elements of two arrays differ in any bit; all of them where shape or dtype differ."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return max(one.size, other.size)
    first, second = (np.ascontiguousarray(array).view(np.uint8).reshape(-1, one.itemsize) for array in (one, other))
    return int((first != second).any(axis=1).sum())


def _max_abs_diff(one: np.ndarray, other: np.ndarray) -> float:
    if one.shape != other.shape or not one.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.abs(one.astype(np.float64) - other.astype(np.float64))).max())
