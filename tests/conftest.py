"""What several test modules share."""

import dataclasses
import gc
import json
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Each pytest worker keeps a core busy: NumPy's threads would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest  # noqa: E402 - TensorFlow reads the environment when it is first imported


def pytest_collection_finish():
    """Spare the garbage collector the million objects of the imported frameworks, which it else walks in every test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def external_data():
    """The folder of third-party data that KERAS_NIN_DATA names."""
    folder = os.environ.get("KERAS_NIN_DATA")
    if not folder:
        pytest.skip("KERAS_NIN_DATA is not set: it names the folder with third-party weights and images")
    path = pathlib.Path(folder)
    if not (path / "weights").is_dir():
        pytest.fail(f"KERAS_NIN_DATA={folder} has no folder weights/")
    return path


@dataclasses.dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        """The JSON document on stdout."""
        return json.loads(self.out)


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """A function that runs a `keras-nin` command, given as words, in an empty folder."""
    from keras_nin.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*words):
        status = main.run(list(map(str, words)))
        return Ran(status, *capsys.readouterr())

    return run
