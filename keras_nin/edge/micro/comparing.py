"""Whether TFLite Micro computes the same bits as LiteRT's reference kernels."""

import pathlib

import numpy as np

from keras_nin.edge.micro import runtime
from keras_nin.edge.micro.judging import judge
from keras_nin.edge.micro.records import Comparison, Finding

_INPUTS = "inputs.npz"


def store(inputs, folder):
    """Put `keras_nin.edge.micro.inputs.Inputs` into `folder`, a `pathlib.Path`, for the jobs."""
    np.savez(folder / _INPUTS, **{str(index): array for index, array in enumerate(inputs.arrays)})


def job(engine, path, folder, seconds, **more):
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
        "inputs": str(folder / _INPUTS),
        "outputs": str(folder / f"{engine}.npz"),
        "seconds": seconds,
        **more,
    }


def compare(run, path, inputs, folder, seconds, limit):
    """Return the `Comparison` of outputs that TFLite Micro left in `folder`, or the `Finding` why there is none.

    Args:
        run: `keras_nin.edge.micro.child.run`.
        path, folder, seconds: as `job` takes them.
        inputs: what `store` put there.
        limit: seconds that the reference may take.
    """
    outcome = run(job(runtime.REFERENCE, path, folder, seconds), limit)
    if not outcome.done:
        found = judge(outcome, limit)
        return Finding(found.kind, f"LiteRT's reference kernels do not run it: {found.message}")
    micro, reference = (_outputs(folder / f"{engine}.npz") for engine in (runtime.MICRO, runtime.REFERENCE))
    samples = min((len(array) for array in (*micro, *reference)), default=0)
    pairs = [(one[:samples], other[:samples]) for one, other in zip(micro, reference, strict=True)]
    return Comparison(
        source=inputs.source,
        noise=inputs.noise,
        samples=samples,
        outputs=sum(one.size for one, _ in pairs),
        differing=sum(differing(one, other) for one, other in pairs),
        largest=max((_largest(one, other) for one, other in pairs), default=0.0),
    )


def differing(one, other):
    """Return how many elements of two arrays of one shape and dtype differ in any bit; all where shape or dtype do."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return max(one.size, other.size)
    bits = [np.ascontiguousarray(each).view(np.uint8).reshape(each.size, each.itemsize) for each in (one, other)]
    return int((bits[0] != bits[1]).any(axis=1).sum())


def _largest(one, other):
    if one.shape != other.shape or not one.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.abs(one.astype(np.float64) - other.astype(np.float64))).max())


def _outputs(path: pathlib.Path):
    with np.load(path) as stored:
        return [stored[str(index)] for index in range(len(stored.files))]
