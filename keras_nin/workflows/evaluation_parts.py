"""The scores of many images in parts: by worker processes with read-ahead, and kept in a file to continue from.

A part is one batch of images. What the scores need of it (`heads.Head.summarize`) is small, so that memory does not
grow with the outputs, and it is the same whoever computes it: the scores do not depend on the number of workers.

As a module this is a worker: it reads an `EvaluationJob` as a line of JSON, then a batch per line, and answers each
with a part. It reads and prepares the images of the next batch while one runs.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import fcntl
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from keras_nin import child_runtime, files, schemas
from keras_nin.child_process import JsonProcess, describe_status, python_command
from keras_nin.errors import InputError, input_error
from keras_nin.files import AnyPath

if TYPE_CHECKING:
    import numpy as np

    from keras_nin.data import Dataset, Preprocessing
    from keras_nin.data.dataset import IndexSequence
    from keras_nin.heads import Head, Information
    from keras_nin.workflows.inputs import Shapes

_AHEAD = 3  # batches that a worker has: one runs, one is read, one waits
_FOREVER = 1e7  # seconds


@dataclasses.dataclass(frozen=True)
class ScoredOutput:
    """An output whose scores are wanted: its position among those that a network returns, and its name."""

    position: int
    name: str
    head: Head


@dataclasses.dataclass(frozen=True)
class Part:
    """What the scores need of one batch.

    Attributes:
        number: of the batch.
        digest: of its images and labels.
        seconds: in which the network ran.
        summaries, information: of each scored output; see `heads.Head.summarize` and `heads.Information`.
    """

    number: int
    digest: str
    seconds: float
    summaries: tuple[dict[str, np.ndarray], ...]
    information: tuple[Information, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the part as a JSON-ready dictionary; arrays are base64."""
        information = [
            dataclasses.asdict(entry) | {"constant": None if entry.constant is None else _encode(entry.constant)}
            for entry in self.information
        ]
        summaries = [{name: _encode(array) for name, array in summary.items()} for summary in self.summaries]
        return dataclasses.asdict(self) | {"summaries": summaries, "information": information}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Part:
        """Return the part of a dictionary that `to_json` made."""
        from keras_nin.heads import Information

        return cls(
            int(document["number"]),
            str(document["digest"]),
            float(document["seconds"]),
            tuple({name: _decode(array) for name, array in entry.items()} for entry in document["summaries"]),
            tuple(
                schemas.record_from_json(
                    Information, entry | {"constant": entry["constant"] and _decode(entry["constant"])}
                )
                for entry in document["information"]
            ),
        )


def _encode(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(array.tobytes()).decode()
    return {"shape": list(array.shape), "dtype": array.dtype.str, "data": data}


def _decode(document: Mapping[str, Any]) -> np.ndarray:
    import numpy as np

    data = base64.b64decode(document["data"], validate=True)
    return np.frombuffer(data, np.dtype(document["dtype"])).reshape(document["shape"])


class Evaluator:
    """Runs a network on batches of images, in this process.

    Args:
        predict: returns the outputs of prepared images.
        dataset, preprocessing, shapes: the images, and how they become input.
        outputs: what is scored.
        label_offset: output of label 0.
        digests: whether each part names its images by a hash.
    """

    def __init__(
        self,
        predict: Callable[[Any], Sequence[Any]],
        dataset: Dataset,
        preprocessing: Preprocessing | None,
        shapes: Shapes,
        outputs: Sequence[ScoredOutput],
        label_offset: int = 0,
        *,
        digests: bool = False,
    ) -> None:
        self._predict, self._dataset, self._preprocessing, self._shapes = predict, dataset, preprocessing, shapes
        self._outputs, self._offset, self._digests = outputs, label_offset, digests

    def load(self, indices: IndexSequence) -> Any:
        """Return the prepared images of a batch."""
        from keras_nin.data import split_image_shape

        return self._dataset.load(indices, *split_image_shape(self._shapes), self._preprocessing)

    def targets(self, indices: IndexSequence) -> list[np.ndarray]:
        """Return the labels of each scored output as its scores take them; `InputError` where they do not fit."""
        from keras_nin.heads import require_labels

        answers, source, targets = self._dataset.answers_of(indices), self._dataset.name, []
        for output in self._outputs:
            own = answers.get(output.name, answers.get("")) if isinstance(answers, dict) else answers
            targets.append(output.head.check_targets(require_labels(own, output.head) + self._offset, source))
        return targets

    def digest(self, indices: IndexSequence) -> str:
        """Return a hash of the images, as they are stored, and labels of a batch."""
        labels = "".join(files.sha256(targets.tobytes()) for targets in self.targets(indices))
        return files.sha256((self._dataset.stored_digest(indices) + labels).encode())

    def run(self, number: int, indices: IndexSequence, images: Any) -> Part:
        """Run one batch of prepared images."""
        import numpy as np

        from keras_nin.heads import Information

        start = time.perf_counter()
        values = self._predict(images)
        seconds = time.perf_counter() - start
        scored = [np.asarray(values[output.position]) for output in self._outputs]
        pairs = zip(self._outputs, scored, self.targets(indices), strict=True)
        return Part(
            number,
            self.digest(indices) if self._digests else "",
            seconds,
            tuple(output.head.summarize(array, targets) for output, array, targets in pairs),
            tuple(map(Information.of, scored)),
        )


@dataclasses.dataclass(frozen=True)
class EvaluationJob:
    """What a worker process needs to know: a .tflite file, and the arguments of `TFLiteRunner` and of `Evaluator`.

    `source` and `options` are those of `keras_nin.data.open_dataset`.
    """

    file: str
    threads: int
    output: int | None
    source: str
    options: dict[str, Any]
    preprocessing: Preprocessing | None
    shapes: Shapes
    outputs: tuple[ScoredOutput, ...]
    label_offset: int
    digests: bool

    def to_json(self) -> dict[str, Any]:
        """Return the job as a JSON-ready dictionary."""
        preprocessing = None if self.preprocessing is None else self.preprocessing.to_json()
        return dataclasses.asdict(dataclasses.replace(self, preprocessing=None)) | {"preprocessing": preprocessing}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> EvaluationJob:
        """Return the job of a dictionary that `to_json` made."""
        from keras_nin.data import Preprocessing
        from keras_nin.heads import Head

        outputs = tuple(
            ScoredOutput(
                entry["position"], entry["name"], Head(**entry["head"] | {"shape": tuple(entry["head"]["shape"])})
            )
            for entry in document["outputs"]
        )
        described, shapes = document["preprocessing"], document["shapes"]
        shapes = {name: tuple(shape) for name, shape in shapes.items()} if isinstance(shapes, dict) else tuple(shapes)
        options = document["options"] | {"input_shape": shapes}
        preprocessing = None if described is None else Preprocessing.from_json(described)
        changes = {"outputs": outputs, "shapes": shapes, "options": options, "preprocessing": preprocessing}
        return cls(**document | changes)

    def open(self) -> Evaluator:
        """Return the evaluator, with the file and the images open."""
        import numpy as np

        from keras_nin import data
        from keras_nin.tflite.isolated import estimate_time_limit
        from keras_nin.tflite.runner import TFLiteRunner
        from keras_nin.workflows.inputs import TestImages

        runner = TFLiteRunner(self.file, self.threads, self.output)
        seconds = estimate_time_limit(runner.model)

        def predict(batch: Any) -> list[np.ndarray]:
            count = len(next(iter(batch.values())) if isinstance(batch, dict) else batch)
            with child_runtime.time_limit(seconds * count):
                return runner.predict_outputs(batch) if self.output is None else [runner.predict(batch)]

        dataset = data.open_dataset(self.source, **self.options)
        described = [(output.name, output.head.shape, None) for output in self.outputs]
        images = TestImages(dataset, np.empty(0, np.int64), self.preprocessing, self.shapes).fit_masks(described)
        arguments = (self.preprocessing, self.shapes, self.outputs, self.label_offset)
        return Evaluator(predict, images.dataset, *arguments, digests=self.digests)


Batches: TypeAlias = "Mapping[int, IndexSequence]"


def run_here(evaluator: Evaluator, batches: Batches) -> Iterator[Part]:
    """Yield the parts of the batches (their images by number), computed by this process."""
    for number, indices in batches.items():
        yield evaluator.run(number, indices, evaluator.load(indices))


@contextlib.contextmanager
def start_workers(job: EvaluationJob, workers: int) -> Iterator[Callable[[Batches], Iterator[Part]]]:
    """Start worker processes, which end with the block; yields a function that yields the parts of batches.

    Raises:
        InputError: a worker cannot open the file or the images, or ends before its work does.
    """
    command, environment = python_command(__name__)
    answers: queue.SimpleQueue[tuple[JsonProcess, dict[str, Any] | None]] = queue.SimpleQueue()

    def collect(process: JsonProcess) -> None:
        for document in process.documents(_FOREVER):
            answers.put((process, document))
        answers.put((process, None))

    def next_answer() -> tuple[JsonProcess, dict[str, Any]]:
        process, answer = answers.get()
        if answer is None:
            how = "ended early" if process.status is None else describe_status(process.status)
            last = process.stderr.strip().splitlines()[-1:]
            received = " ".join([f"one {how}", *(f"({line})" for line in last)])
            raise InputError(f"Expected a worker process that runs {job.file!r}. Received: {received}", path=job.file)
        if "error" in answer:
            raise InputError(**answer["error"])
        return process, answer

    def run(batches: Batches) -> Iterator[Part]:
        remaining, unanswered = iter(batches.items()), 0
        for process in processes * _AHEAD:
            unanswered += _send_next(process, remaining)
        while unanswered:
            process, answer = next_answer()
            unanswered += _send_next(process, remaining) - 1
            yield Part.from_json(answer)

    with contextlib.ExitStack() as stack:
        job_document = job.to_json()
        processes = [
            stack.enter_context(JsonProcess(command, keeps_stdin=True, job=job_document, env=environment))
            for _ in range(workers)
        ]
        for process in processes:
            threading.Thread(target=collect, args=(process,), daemon=True).start()
        for _ in processes:
            next_answer()  # it is ready
        yield run


def _send_next(process: JsonProcess, batches: Iterator[tuple[int, IndexSequence]]) -> bool:
    number, indices = next(batches, (None, ()))
    if number is not None:
        process.send({"number": number, "indices": list(map(int, indices))})
    return number is not None


class PartialResults:
    """A file with the finished batches of an evaluation, one per line as JSON; its first line names the evaluation.

    A batch that a killed process left incomplete is dropped. While the block runs, no other process can use the file.

    Args:
        path: of the file, made where there is none.
        identity: names the evaluation: hash of the file, images, preprocessing, and how the outputs are scored.

    Raises:
        InputError: a file of something else, of another evaluation, or in use.
    """

    def __init__(self, path: AnyPath, identity: Mapping[str, Any]) -> None:
        self._path = os.fspath(path)
        self._header = {"schema": schemas.PARTIAL, **json.loads(json.dumps(identity))}
        self.parts: dict[int, Part] = {}

    def __enter__(self) -> PartialResults:
        try:
            self._file = open(self._path, "a+b")  # noqa: SIM115 - closed at the end of the block
        except OSError as error:
            expected, received = "a `partial` file that can be written to", f"{self._path!r} ({error.strerror})"
            raise input_error(expected, received, argument="partial", path=self._path) from None
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _refuse(self, received: str) -> InputError:
        hint = f"{self._path!r} with {received}. Delete the file or name another"
        return input_error("`partial` to name a file of this evaluation", hint, argument="partial", path=self._path)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            expected = "a `partial` file that no other process uses"
            raise input_error(expected, repr(self._path), argument="partial", path=self._path) from None

    def _read(self) -> None:
        self._file.seek(0)
        complete = 0
        for line in self._file:
            try:
                document = files.parse_json(line) if line.endswith(b"\n") else None
                if complete and document is not None:
                    part = Part.from_json(document)
                    self.parts[part.number] = part
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                document = None
            if document is None:
                break
            if not complete:
                self._check(document)
            complete += len(line)
        self._file.seek(complete)
        rest = self._file.read()
        if not complete and not self._line(self._header).startswith(rest):  # else it was killed in its first line
            raise self._refuse("something else")
        self._file.truncate(complete)
        if not complete:
            self._append(self._header)

    def _check(self, header: Any) -> None:
        if not isinstance(header, dict) or header.get("schema") != schemas.PARTIAL:
            raise self._refuse("something else")
        changed = [key for key, value in self._header.items() if header.get(key) != value]
        if changed:
            raise self._refuse(f"the results of an evaluation with other {', '.join(changed)}")

    def check_images(self, evaluator: Evaluator, batches: Batches) -> None:
        """Raise `InputError` where the images or labels of a part are not those that it is of."""
        for number, part in self.parts.items():
            if number not in batches or part.digest != evaluator.digest(batches[number]):
                raise self._refuse("the results of an evaluation with other data")

    def add(self, part: Part) -> None:
        """Keep a part; it is on disk when this returns."""
        self._append(part.to_json())

    @staticmethod
    def _line(document: dict[str, Any]) -> bytes:
        return json.dumps(document).encode() + b"\n"

    def _append(self, document: dict[str, Any]) -> None:
        try:
            self._file.write(self._line(document))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError(
                f"Expected {self._path!r} to be writable. Received: {error.strerror}", path=self._path
            ) from error


def main() -> int:
    """Serve as a worker until stdin ends."""
    child_runtime.end_with_parent()
    child_runtime.limit_memory()
    write = child_runtime.claim_stdout()
    try:
        evaluator = EvaluationJob.from_json(json.loads(sys.stdin.readline())).open()
        write({"ready": True})
        for number, indices, images in _read_ahead(evaluator):
            write(evaluator.run(number, indices, images).to_json())
    except InputError as error:
        write({"error": {"message": str(error), **error.to_json()}})
    return 0


def _read_ahead(evaluator: Evaluator) -> Iterator[tuple[int, list[int], Any]]:
    """Yield (number, indices, images) of the batches on stdin; a thread loads the images of the next one."""
    loaded: queue.Queue[tuple[int, list[int], Any] | BaseException | None] = queue.Queue(maxsize=1)

    def load() -> None:
        try:
            for line in sys.stdin:
                request = json.loads(line)
                loaded.put((request["number"], request["indices"], evaluator.load(request["indices"])))
            loaded.put(None)
        except BaseException as error:  # the other thread raises it
            loaded.put(error)

    threading.Thread(target=load, daemon=True).start()
    while (item := loaded.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item


if __name__ == "__main__":
    raise SystemExit(main())
