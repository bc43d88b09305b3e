"""What a benchmark asks of the process that runs the files (`runner.main` or Android's tool), its answer and errors."""

import dataclasses
from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

from keras_nin.errors import InputError


class ModelEntry(TypedDict):
    """A file to run; `name` is what messages call it if not by its path."""

    file: str
    threads: int
    name: NotRequired[str]
    inside: NotRequired[int]  # an operator of this model of the job, timed alone beside it


class Job(TypedDict):
    """Files that are loaded together and measured in turns; `runs` and `seconds` as in `measure_files`."""

    models: list[ModelEntry]
    runs: NotRequired[int | None]
    seconds: NotRequired[float]
    profile: NotRequired[bool]
    single_operators: NotRequired[bool]  # of one network; the first one keeps the processor awake
    delegate: NotRequired[str | None]
    bandwidth: NotRequired[bool]
    arrays: NotRequired[str]  # instead of measuring: the folder of the arrays to run files on


class ModelResult(TypedDict):
    """What was measured of one model; fields as in `keras_nin.benchmark.records.Profile`."""

    file: str
    threads: int
    api: str
    unavailable: str | None  # why there is no profiler
    load_us: float
    first_us: float
    peak_bytes: int | None
    added_bytes: int | None
    us: dict[str, Any]
    runs: int
    converged: bool
    rounds_us: list[float]
    # "runs", "other_runs", "invoke_us", and of each of the "kernels" "kind", "name", "index" and "us".
    profile: dict[str, Any] | None
    others_share: NotRequired[float | None]  # of the processor time, which other processes took
    bandwidth: NotRequired[dict[str, Any] | None]


@dataclasses.dataclass(frozen=True)
class JobResult:
    """The machine, and one result per model of the job, in its order."""

    host: dict[str, Any]
    results: tuple[ModelResult, ...]


# Called with what is known of each model so far: "runs", median "us", and the interval's half as a share, "within".
Progress = Callable[[list[dict[str, Any]]], object]
# Runs a job somewhere: (job, *, progress: Progress | None = None), as `run_job` and `run` of a device do.
RunJob = Callable[..., JobResult]


class NoAnswerError(InputError):
    """The process ended with `status`, or was silent (None), before its first answer; `log` is its stderr."""

    def __init__(self, message: str, *, status: int | None, log: str) -> None:
        super().__init__(message, status=status)
        self.log = log


class FileRefusedError(InputError):
    """The runtime does not run file number `model` (None: one of several); `status` is that of the process."""

    def __init__(self, message: str, *, model: int | None, path: str | None = None, status: int | None = None) -> None:
        super().__init__(message, path=path, status=status)
        self.model = model


class DelegateNotLoadedError(InputError):
    """The external delegate does not load where the files run; `received` is its path."""
