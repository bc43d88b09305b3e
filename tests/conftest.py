"""What several test modules share."""

import contextlib
import dataclasses
import gc
import io
import json
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Each pytest worker keeps a core busy: NumPy's threads would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis  # noqa: E402 - TensorFlow reads the environment when it is first imported
import pytest  # noqa: E402

# The same examples every time, and no time limit: the machine may be busy.
hypothesis.settings.register_profile("keras-nin", deadline=None, derandomize=True)
hypothesis.settings.load_profile("keras-nin")


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


@pytest.fixture(scope="session")
def build():
    """A function that builds a model of the zoo, each once a session: `build("nin_digits", weights="digits")`.

    Its arguments are those of `keras_nin.models.build_model`. Random weights are always the same. The models are
    shared: a test that changes one clones it first.
    """
    models = {}

    def build_once(name, **arguments):
        key = name, repr(sorted(arguments.items()))
        if key not in models:
            import keras

            from keras_nin.models import build_model

            keras.utils.set_random_seed(0)
            models[key] = build_model(name, **arguments)
        return models[key]

    return build_once


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
    """A function that returns a folder for all workers by its name; `fill(folder)` makes its files the first time."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"

    def make(name, fill):
        if not (shared / name).exists():
            new = tmp_path_factory.mktemp("new")
            fill(new)
            shared.mkdir(exist_ok=True)
            with contextlib.suppress(OSError):  # another worker was quicker
                new.rename(shared / name)
        return shared / name

    return make


@pytest.fixture
def structure_only():
    """Models that the test builds have weights without values, which take most of the time of building a model."""
    import keras

    with keras.StatelessScope(initialize_variables=False):
        yield


@pytest.fixture(scope="session")
def exported(build, make_once):
    """A function that returns the path of a model's file, made once for all workers: `exported("nin_digits", "int8")`.

    The export record and the companions are beside it. Calibrated on eight random images, ranges from least to
    largest, weights rounded to nearest; further arguments are those of `build`. The files are shared: a test that
    changes one copies it first.
    """

    def export_once(name, scheme="int8", **arguments):
        def export(folder):
            import numpy as np

            from keras_nin.export import SCHEMES, Tuning, convert_model

            model = build(name, **arguments)
            images = np.random.default_rng(0).random((8, *model.input_shape[1:]), np.float32)
            calibration = images if SCHEMES[scheme].calibrated else None
            convert_model(model, scheme, calibration, tuning=Tuning.plain(), name=name).save(folder)

        suffix = "".join(f"-{key}-{value}" for key, value in sorted(arguments.items()))
        folder = make_once(f"{name}-{scheme}{suffix}".replace("/", "_").replace(" ", ""), export)
        return folder / f"{name}_{scheme}.tflite"

    return export_once


@pytest.fixture(scope="session")
def export_network(make_once):
    """A function that returns an `export_networks.ExportNetwork` by name, each converted once for all workers."""
    import functools
    import pickle

    from export_networks import NETWORKS

    @functools.cache
    def convert_once(name):
        network = NETWORKS[name]()
        folder = make_once(f"network-{name}", lambda new: (new / "files").write_bytes(pickle.dumps(network.files)))
        network.files = pickle.loads((folder / "files").read_bytes())
        return network

    return convert_once


@pytest.fixture(scope="session")
def digits_export(make_once):
    """The folder of `keras-nin export nin_digits`, both default schemes; a test that changes a file copies it first.

    ``../printed.json`` is what it printed.
    """

    def export(folder):
        from keras_nin.cli import main

        with contextlib.redirect_stdout(io.StringIO()) as printed:
            words = ["export", "nin_digits", "--runs", "20", "--out", str(folder / "files"), "--json"]
            assert main.run(words) == 0
        (folder / "printed.json").write_text(printed.getvalue())

    return make_once("digits_export", export) / "files"


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    """A `weight_publisher.Publisher` on 127.0.0.1, beside an empty cache of Keras."""
    from weight_publisher import Publisher

    server = Publisher(monkeypatch, tmp_path / "keras")
    yield server
    server.close()


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
