"""What several test modules share."""

import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest  # noqa: E402 - TensorFlow reads the environment when it is first imported


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
