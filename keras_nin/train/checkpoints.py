"""A training run on disk: the state after an epoch, each in a file of its own, and the history of all epochs."""

from __future__ import annotations

import contextlib
import math
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from keras_nin import archives, files
from keras_nin.errors import InputError, first_line, input_error
from keras_nin.models.weight_files import save_weights

if TYPE_CHECKING:
    import keras

HISTORY = "history.json"
# What to do about a run that cannot go on.
RESTART_HINT = "Use `force` to start again, or another folder"
# Epoch number and metrics; a metric that is not finite is None.
Entry: TypeAlias = dict[str, Any]


class Checkpoints:
    """The epochs that a run has done, in `folder`; an interrupted run continues with those that are there.

    An epoch counts once history.json names it, and that is written last: an interruption at any time loses no more
    than the epoch under way. Files are kept of the best epoch and of the last one. A damaged history.json is an
    `InputError`.

    Where several processes share a run, one `writes`, and the others only read.
    """

    def __init__(self, folder: pathlib.Path, *, writes: bool = True) -> None:
        self.writes = writes
        self.path = folder / HISTORY
        self.folder = folder / "state"
        self.history: list[Entry] = _read_history(self.path) if self.path.exists() else []

    def save(self, model: keras.Model, metrics: Mapping[str, float]) -> Entry:
        """Store `model`, with its optimizer and its random generators, after an epoch with these `metrics`."""
        import h5py

        number = len(self.history) + 1
        finite = {key: float(value) if math.isfinite(value) else None for key, value in metrics.items()}
        entry = {"epoch": number} | finite  # JSON has no NaN
        with contextlib.ExitStack() as stack:
            if self.writes:
                path = stack.enter_context(files.replace_file(self._file(number)))
            else:  # reading the weights takes all processes
                path = stack.enter_context(files.temporary_folder()) / "discarded.weights.h5"
            save_weights(model, path)
            with h5py.File(path, "a") as file:  # so that dropout continues where it was
                for place, variable in _seed_generators(model).items():
                    file[place] = variable.numpy()
        self.history.append(entry)
        if not self.writes:
            return entry
        files.write_file(self.path, files.dump_json(self.history))
        kept = {self._file(number), self._file(find_best_epoch(self.history)["epoch"])}
        for file in set(self.folder.glob("epoch-*.weights.h5")) - kept:
            file.unlink()
        return entry

    def restore(self, model: keras.Model, number: int) -> None:
        """Give the compiled `model` the state that it had after epoch `number`; `InputError` where it is damaged."""
        import h5py

        path = self._file(number)
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        try:
            if not path.is_file():
                raise FileNotFoundError("no file")
            archives.check_weight_file(path)
            model.load_weights(path)
            with h5py.File(path, "r") as file:
                for place, variable in _seed_generators(model).items():
                    state: Any = file[place]
                    variable.assign(state[...])
        except Exception as error:  # h5py and Keras each raise their own kinds
            received = f"{first_line(error)}. {RESTART_HINT}"
            expected = f"the state of epoch {number} in {str(path)!r}"
            raise input_error(expected, received, argument="folder", path=path) from error

    def remove(self) -> None:
        """Remove the stored states; the history stays."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> pathlib.Path:
        return self.folder / f"epoch-{number:04}.weights.h5"


def find_best_epoch(history: Sequence[Entry]) -> Entry:
    """Return the entry with the highest validation accuracy, then the lowest loss, then the earliest."""

    def score(entry: Entry) -> tuple[float, float]:
        accuracy, loss = entry["val_accuracy"], entry["val_loss"]
        return -math.inf if accuracy is None else accuracy, -math.inf if loss is None else -loss

    return max(history, key=score)


def read_run_file(path: pathlib.Path) -> Any:
    """Return the content of a JSON file of a run; `InputError` with what to do where it is damaged."""
    try:
        return files.read_json(path)
    except InputError as error:
        raise InputError(f"{error}. {RESTART_HINT}", argument="folder", path=path) from None


def _read_history(path: pathlib.Path) -> list[Entry]:
    history = read_run_file(path)

    def is_entry(entry: object, number: int) -> bool:
        if not isinstance(entry, dict) or entry.get("epoch") != number:
            return False
        return all(isinstance(entry.get(key, ""), int | float | None) for key in ("val_accuracy", "val_loss"))

    if not isinstance(history, list) or not all(is_entry(entry, n) for n, entry in enumerate(history, start=1)):
        received = f"other content. {RESTART_HINT}"
        raise input_error(f"one entry per epoch in {str(path)!r}", received, argument="folder", path=path)
    return history


def _seed_generators(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the states of a model's random generators by their places in a weight file."""
    states = [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]
    return {f"generators/{number}": variable for number, variable in enumerate(states)}
