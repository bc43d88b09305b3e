"""What a benchmark asks of the process that runs the files, what that answers, and how it fails.

The process is `keras_nin.benchmark.runner.main`, on this machine or a device; on Android it is LiteRT's own tool.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NotRequired, Protocol, TypedDict

from keras_nin.errors import InputError


class ModelEntry(TypedDict):
    """A file to run: its path, the number of threads, and what messages call it if not by its path."""

    file: str
    threads: int
    name: NotRequired[str]


class Job(TypedDict):
    """Files that are loaded together and measured in turns; `runs` and `seconds` as in `measure_files`.

    With `single_operators` they are operators of one network, of which the first keeps the processor awake. `api` is
    "interpreter" for TensorFlow Lite's; `kernel_mode` is "delegate" (XNNPACK), "builtin" or "reference".
    """

    models: list[ModelEntry]
    runs: NotRequired[int | None]
    seconds: NotRequired[float]
    profile: NotRequired[bool]
    single_operators: NotRequired[bool]
    api: NotRequired[str]
    kernel_mode: NotRequired[str]
    delegate: NotRequired[str | None]
    bandwidth: NotRequired[bool]


class ModelProgress(TypedDict):
    """What is known of a model so far: runs, median in us, and the half-width of its interval as a share of it."""

    runs: int
    us: float
    within: float | None


class ModelResult(TypedDict):
    """What was measured of one model; fields as in `keras_nin.benchmark.records.Profile`.

    `unavailable` says why there is no profiler, `profile` has "runs", "other_runs", "invoke_us", and of each kernel
    "kind", "name", "index" and "us"; `others_share` is the share of the processor time that other processes took.
    """

    file: str
    threads: int
    api: str
    unavailable: str | None
    signatures: int
    load_us: float
    first_us: float
    peak_bytes: int | None
    added_bytes: int | None
    us: dict[str, Any]
    runs: int
    converged: bool
    rounds_us: list[float]
    profile: dict[str, Any] | None
    others_share: NotRequired[float | None]
    bandwidth: NotRequired[dict[str, Any] | None]


@dataclasses.dataclass(frozen=True)
class JobResult:
    """The machine, and one result per model of the job, in its order."""

    host: dict[str, Any]
    results: tuple[ModelResult, ...]


Progress = Callable[[list[ModelProgress]], object]


class RunJob(Protocol):
    """A function that runs a job somewhere: `keras_nin.benchmark.measurement.run_job`, or `run` of a device."""

    def __call__(self, job: Job, *, progress: Progress | None = None) -> JobResult:
        """Return the result of a job; `progress` is called while it runs."""
        ...


class NoAnswerError(InputError):
    """The process ended or was silent before its first answer.

    `status` is its exit status, None where it was silent; `log` is what it wrote to standard error.
    """

    def __init__(self, message: str, *, status: int | None, log: str) -> None:
        super().__init__(message, status=status)
        self.log = log


class FileRefusedError(InputError):
    """The runtime does not run a file.

    `model` is its index in the job and `path` its path, None where it may have been any of several; `status` is the
    exit status of the process where it ended without an answer.
    """

    def __init__(self, message: str, *, model: int | None, path: str | None = None, status: int | None = None) -> None:
        super().__init__(message, path=path, status=status)
        self.model = model


class DelegateNotLoadedError(InputError):
    """The external delegate does not load where the files run; `received` is its path."""
