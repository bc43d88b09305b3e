"""Whether .tflite files give the same outputs on several devices and in all kernels, operator by operator."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_nin import files, schemas
from keras_nin.benchmark.devices import DeviceSession
from keras_nin.benchmark.runner.arrays import RESOLVERS
from keras_nin.errors import InputError
from keras_nin.formatting import format_count
from keras_nin.heads import Head
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, parse_limits
from keras_nin.results import CheckedResult
from keras_nin.schemas import record_from_json
from keras_nin.tflite.layer_names import operator_paths
from keras_nin.tflite.reader import expose_tensors
from keras_nin.tflite.records import FLOAT_DTYPES, TFLiteModel, TFLiteTensor

HOST = "host"
KERNELS = tuple(RESOLVERS)
BIT_EXACT = "bit-exact"
KERNEL_NAMES = {"xnnpack": "XNNPACK", "builtin": "builtin", "reference": "reference"}
_IMAGES = LimitItem(BIT_EXACT, Unit.COUNT, label="images with other outputs")
_STEPS = LimitItem("lsb", Unit.STEPS, label="max abs diff")
_NOT_COMPARED = ("string", "resource", "variant", "bfloat16")


@dataclasses.dataclass(frozen=True)
class OperatorDifference:
    """The first operator, in order of execution, whose outputs differ.

    Attributes:
        index, op, name: its number in the main subgraph, type and layer.
        max_lsb: largest difference on the first image that shows one; as in `CertifiedRun`.
        count: how many operators differ.
    """

    index: int
    op: str
    name: str
    max_lsb: float | None
    count: int


@dataclasses.dataclass(frozen=True)
class CertifiedRun:
    """A file on a device in one kind of kernels, compared with this machine.

    Another device is compared with this machine in the same kernels; this machine in other kernels with itself in the
    first ones.

    Attributes:
        device, kernels: "host" or a URL; one of `KERNELS`.
        error: why the file did not run; the other fields are then None.
        differing_images: images with outputs that are not equal to the last bit.
        max_lsb: largest difference in quantization steps of the output; of a float output in 1/255 of its range. None
            where it holds the numbers of classes.
        top1_changes: images whose decision differs: the top class, for maps that of any pixel. None for numbers.
        first_operator: None where all operators give equal outputs, or none was found.
        sha256: of all outputs.
    """

    device: str
    kernels: str
    error: str | None = None
    differing_images: int | None = None
    max_lsb: float | None = None
    top1_changes: int | None = None
    first_operator: OperatorDifference | None = None
    sha256: str | None = None

    @property
    def bit_exact(self) -> bool:
        """Whether all outputs are known to be equal."""
        return self.differing_images == 0


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A file on all devices: its name, hash and size, the images, how many operators were compared, and the runs."""

    file: str
    sha256: str
    bytes: int
    data: str
    images: int
    operators: int
    runs: tuple[CertifiedRun, ...]

    def run(self, device: str, kernels: str) -> CertifiedRun:
        """Return the run on a device in one kind of kernels."""
        return next(run for run in self.runs if (run.device, run.kernels) == (device, kernels))


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class CertifyResult(CheckedResult):
    """Files on this machine and other devices, whose descriptions `devices` has by their URLs, "host" first."""

    devices: dict[str, dict[str, Any]]
    kernels: tuple[str, ...]
    files: tuple[Certificate, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON-ready dictionary (schema ``keras_nin.certify/1``)."""
        document = {"schema": schemas.CERTIFY, **self._fields_to_json(), **self._checks_to_json()}
        document["kernels"] = list(self.kernels)
        document["files"] = [
            {**file, "runs": [{**run, "bit_exact": run["differing_images"] == 0} for run in file["runs"]]}
            for file in document["files"]
        ]
        return document

    def _summary(self) -> str:
        runs = [run for file in self.files for run in file.runs if run.device != HOST]
        exact = sum(run.bit_exact for run in runs)
        return f"{format_count(len(self.files), 'file')}, {exact} of {len(runs)} runs on other devices bit-exact"

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"file": file.file, **{key: getattr(run, key) for key in ("device", "kernels", "bit_exact", "max_lsb")},
             "top1_changes": run.top1_changes, "first_operator": run.first_operator and run.first_operator.op}
            for file in self.files for run in file.runs
        ]  # fmt: skip


def read_certify_result(document: Mapping[str, Any]) -> CertifyResult:
    """Return a `CertifyResult` from its JSON document, without the checks; `InputError` where it is damaged."""
    fields = {key: value for key, value in document.items() if key != "checks"}
    result = record_from_json(CertifyResult, fields)
    known = {(device, kernels) for device in result.devices for kernels in result.kernels}
    for file in result.files:
        if {(run.device, run.kernels) for run in file.runs} != known:
            raise InputError(f"Expected a run on each device in all kernels. Received: others, of {file.file!r:.80}")
    return result


@dataclasses.dataclass(frozen=True)
class OutputMeaning:
    """What the outputs of a file mean: for each its tensor, and its decisions."""

    tensor: TFLiteTensor
    head: Head

    def decisions(self, values: np.ndarray) -> np.ndarray | None:
        """Return the decisions of outputs (N, ...) in the file's own type."""
        quantization = self.tensor.quantization
        if quantization is not None and self.tensor.dtype not in FLOAT_DTYPES:
            # In order as the reals are; float64 has no ties that integers lack.
            values = (values.astype(np.float64) - quantization.zero_points[0]) * quantization.scales[0]
        return self.head.decisions(values)


class FileToCertify:
    """A file with its images: `batches` has an array for each input, in the file's own types, for each run."""

    def __init__(
        self, model: TFLiteModel, batches: Sequence[Sequence[np.ndarray]], heads: Sequence[Head], threads: int = 1
    ) -> None:
        self.model, self.batches, self.threads = model, batches, threads
        main = model.main
        self.outputs = [
            OutputMeaning(main.tensors[index], head) for index, head in zip(main.outputs, heads, strict=True)
        ]
        self.operators = [
            (operator, [index for index in operator.outputs if main.tensors[index].dtype not in _NOT_COMPARED])
            for operator in main.operators
        ]
        self._tensors = list(dict.fromkeys(index for _, indexes in self.operators for index in indexes))
        self._exposing = expose_tensors(model, self._tensors)
        self._baseline: dict[str, _Values] = {}

    def certify(self, device: str, kernels: str, session: DeviceSession, host: DeviceSession) -> CertifiedRun:
        """Run the file on a device, or on this machine first, and compare it."""
        reference = kernels if device != HOST else next(iter(self._baseline), kernels)
        try:
            values = self._compute(session, kernels)
        except InputError as error:
            return CertifiedRun(device, kernels, error=str(error))
        if device == HOST:
            self._baseline[kernels] = values
        expected = self._baseline.get(reference)
        if expected is None:
            return CertifiedRun(device, kernels, error="it did not run on this machine in these kernels")
        differing = [
            image
            for image in range(len(self.batches))
            if any(
                a[image].tobytes() != b[image].tobytes() for a, b in zip(values.outputs, expected.outputs, strict=True)
            )
        ]
        steps = [
            _largest_steps(received, own, output.tensor)
            for received, own, output in zip(values.outputs, expected.outputs, self.outputs, strict=True)
        ]
        known = [step for step in steps if step is not None]
        return CertifiedRun(
            device,
            kernels,
            differing_images=len(differing),
            max_lsb=max(known) if known else None,
            top1_changes=self._count_changes(values, expected),
            first_operator=self._find_operator((session, kernels, values), (host, reference, expected)),
            sha256=files.sha256(b"".join(output.tobytes() for output in values.outputs)),
        )

    def _compute(self, session: DeviceSession, kernels: str) -> "_Values":
        """Return outputs and the hashes of what every operator computes."""
        options = {"threads": self.threads, "kernels": kernels}
        if kernels != "xnnpack":  # all tensors are kept there
            answer = session.compute(self.model, self.batches, digests=self._tensors, **options)
            return _Values(answer.outputs, answer.digests)
        outputs = session.compute(self.model, self.batches, **options).outputs
        try:
            tensors = [*self._tensors, *self.model.main.outputs]
            digests = session.compute(self._exposing, self.batches, outputs=(), digests=tensors, **options).digests
        except InputError:
            if session.has_ended:
                raise
            return _Values(outputs, None)
        own = [[files.sha256(value.tobytes()) for value in output] for output in outputs]
        is_same = own == digests[len(self._tensors) :]
        return _Values(outputs, digests[: len(self._tensors)] if is_same else None)

    def _count_changes(self, values: "_Values", expected: "_Values") -> int | None:
        changed, decides = np.zeros(len(self.batches), bool), False
        for received, own, output in zip(values.outputs, expected.outputs, self.outputs, strict=True):
            decisions = [output.decisions(_without_batch(outputs)) for outputs in (received, own)]
            if decisions[0] is not None and decisions[1] is not None:
                decides = True
                changed |= (decisions[0] != decisions[1]).reshape(len(changed), -1).any(axis=1)
        return int(changed.sum()) if decides else None

    def _find_operator(
        self, one: tuple[DeviceSession, str, "_Values"], other: tuple[DeviceSession, str, "_Values"]
    ) -> OperatorDifference | None:
        """Return the first operator that differs between two runs, and by how much on the first image that shows it."""
        if one[2].digests is None or other[2].digests is None:
            return None
        images = {
            tensor: next((image for image, (a, b) in enumerate(zip(*pair, strict=True)) if a != b), None)
            for tensor, pair in zip(self._tensors, zip(one[2].digests, other[2].digests, strict=True), strict=True)
        }
        differing = [
            (operator, tensor)
            for operator, tensors in self.operators
            for tensor in [next((index for index in tensors if images[index] is not None), None)]
            if tensor is not None
        ]
        if not differing:
            return None
        operator, tensor = differing[0]
        image = images[tensor] or 0
        values = []
        for session, kernels, _ in (one, other):
            model = self._exposing if kernels == "xnnpack" else self.model
            values += session.compute(
                model, [self.batches[image]], threads=self.threads, kernels=kernels, outputs=[tensor], digests=[tensor]
            ).outputs
        name = operator_paths(self.model)[operator.index]
        steps = _largest_steps(values[0], values[1], self.model.main.tensors[tensor])
        return OperatorDifference(operator.index, operator.op, name, steps, len(differing))


@dataclasses.dataclass(frozen=True)
class _Values:
    """Outputs, the runs stacked, and hashes of each tensor in each run; None where they are of another computation."""

    outputs: list[np.ndarray]
    digests: list[list[str]] | None


def _without_batch(outputs: np.ndarray) -> np.ndarray:
    """Return outputs (N, 1, ...) as (N, ...)."""
    return outputs.reshape(len(outputs), *outputs.shape[2:]) if outputs.shape[1:2] == (1,) else outputs


def _largest_steps(values: np.ndarray, expected: np.ndarray, tensor: TFLiteTensor) -> float | None:
    """Return the largest difference in quantization steps, of floats in 1/255 of their range; None for indexes, NaN."""
    if values.tobytes() == expected.tobytes():
        return 0.0
    if values.shape != expected.shape or tensor.is_index or tensor.dtype.startswith("complex"):
        return None
    difference = np.abs(values.astype(np.float64) - expected.astype(np.float64)).max()
    if tensor.dtype in FLOAT_DTYPES:
        difference /= max(float(np.ptp(expected.astype(np.float64))), np.finfo(np.float32).tiny) / 255
    return float(f"{difference:.4g}") if np.isfinite(difference) else None


def parse_certify_limits(text: str, *, argument: str = "require") -> tuple[Limit, ...]:
    """Return limits such as ``"bit-exact"``, on the number of images whose outputs differ, and ``"lsb=1"``."""
    words = [f"{BIT_EXACT}=0" if word.strip() == BIT_EXACT else word for word in text.split(",")]
    return parse_limits(",".join(words), (_IMAGES, _STEPS), argument=argument)


def check_certify_limits(result: CertifyResult, limits: Sequence[Limit]) -> tuple[LimitCheck, ...]:
    """Compare every run on another device with limits; a run that failed, or without a difference, does not pass."""
    return tuple(
        check_limit(
            limit,
            run.differing_images if limit.item == _IMAGES else run.max_lsb,
            reason=run.error or "the outputs have no quantization steps",
            subject=f"{file.file} on {run.device}, {KERNEL_NAMES[run.kernels]}",
        )
        for limit in limits
        for file in result.files
        for run in file.runs
        if run.device != HOST
    )
