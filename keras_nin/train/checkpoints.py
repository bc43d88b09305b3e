"""A training run on disk: every epoch's state in a file of its own, and the history, which says which of them count."""

import math
import shutil

from keras_nin import files
from keras_nin.errors import InputError

HISTORY = "history.json"


class Checkpoints:
    """The epochs that a run has done, in `folder`; what is there at the start is taken up.

    An epoch counts once history.json names it, and that is written last: an interruption at any time loses no more
    than the epoch under way. Files are kept of the best epoch and of the last one.

    Attributes:
        history: one dictionary an epoch; a figure that is not finite is None.

    Raises:
        InputError: history.json is damaged.
    """

    def __init__(self, folder):
        self.path = folder / HISTORY
        self.folder = folder / "state"
        self.history = _read_history(self.path) if self.path.exists() else []

    def add(self, model, logs):
        """Store `model`, with its optimizer and its random generators, after an epoch that gave `logs`."""
        number = len(self.history) + 1
        entry = {"epoch": number} | {key: _finite_or_none(value) for key, value in logs.items()}
        with files.replace_file(self._file(number)) as path:
            model.save_weights(path)
            _save_seed_generators(model, path)
        self.history.append(entry)
        files.write_file(self.path, files.dump_json(self.history))
        kept = {self._file(number), self._file(find_best_epoch(self.history)["epoch"])}
        for file in set(self.folder.glob("epoch-*.weights.h5")) - kept:
            file.unlink()
        return entry

    def restore(self, model, number):
        """Give the compiled `model` the state that it had after epoch `number`; `InputError` where it is damaged."""
        path = self._file(number)
        if not path.is_file():
            raise _damaged(f"the state of epoch {number} in {str(path)!r}", "no file")
        model.optimizer.build(model.trainable_variables)
        try:
            model.load_weights(path)
            _load_seed_generators(model, path)
        except Exception as error:  # h5py and Keras each raise their own kinds
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise _damaged(f"the state of epoch {number} in {str(path)!r}", line) from error

    def remove(self):
        """Remove the stored states; the history stays."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number):
        return self.folder / f"epoch-{number:04}.weights.h5"


def find_best_epoch(history):
    """Return the entry with the highest validation accuracy, then the lowest loss, then the earliest."""
    return max(history, key=_score)


def read_run_file(path):
    """Return the content of a JSON file of a run; `InputError` with what to do where it is damaged."""
    try:
        return files.read_json(path)
    except InputError as error:
        raise InputError(f"{error}. Use --force to start again, or another --out") from None


def _read_history(path):
    history = read_run_file(path)
    if not isinstance(history, list) or not all(_is_entry(entry, n) for n, entry in enumerate(history, start=1)):
        raise _damaged(f"one entry an epoch in {str(path)!r}", "other content")
    return history


def _is_entry(entry, number):
    return (
        isinstance(entry, dict)
        and entry.get("epoch") == number
        and all(isinstance(entry.get(key, ""), int | float | None) for key in ("val_accuracy", "val_loss"))
    )


def _damaged(expected, received):
    return InputError(f"Expected {expected}. Received: {received}. Use --force to start again, or another --out")


def _score(entry):
    accuracy, loss = entry["val_accuracy"], entry["val_loss"]
    return -math.inf if accuracy is None else accuracy, -math.inf if loss is None else -loss


def _finite_or_none(value):
    # JSON has no NaN.
    return float(value) if math.isfinite(value) else None


def _seed_generators(model):
    return [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]


def _save_seed_generators(model, path):
    """Add to a weight file what Keras leaves out of it: with it dropout goes on where it was."""
    import h5py

    with h5py.File(path, "a") as file:
        for number, variable in enumerate(_seed_generators(model)):
            file[f"generators/{number}"] = variable.numpy()


def _load_seed_generators(model, path):
    import h5py

    with h5py.File(path, "r") as file:
        for number, variable in enumerate(_seed_generators(model)):
            variable.assign(file[f"generators/{number}"][...])
