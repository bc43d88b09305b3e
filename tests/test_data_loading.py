import subprocess
import sys

import numpy as np
import pytest

from keras_nin.data import list_datasets, open_dataset
from keras_nin.errors import InputError


def test_the_names():
    assert list_datasets() == ["cifar10", "cifar100", "digits", "fashion_mnist", "mnist", "random"]


@pytest.mark.parametrize("source", ["mnits", "no/such/folder", "photo.jpg", "", "Digits"])
def test_an_unknown_source_names_what_works(source):
    with pytest.raises(InputError) as caught:
        open_dataset(source)
    message = str(caught.value)
    assert "\n" not in message
    assert f"Received: {source!r}" in message
    assert f"{', '.join(list_datasets())}; an existing folder of images and an .npz file work too" in message


@pytest.mark.parametrize("source", [None, 3, ["digits"]])
def test_a_source_that_is_no_name_is_refused(source):
    with pytest.raises(InputError, match="Expected `data`"):
        open_dataset(source)


def test_a_path_may_be_a_path_object_and_its_ending_in_capitals(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8))
    (tmp_path / "a.npz").rename(tmp_path / "a.NPZ")
    assert open_dataset(tmp_path / "a.NPZ").name == "a.NPZ"


def test_a_name_goes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert len(open_dataset("digits").images) == 1797
    with pytest.raises(InputError, match="Expected images"):
        open_dataset("./digits")


@pytest.mark.parametrize("source", ["digits", "random", "some.npz"])
def test_labels_go_with_folders_alone(source):
    with pytest.raises(InputError, match="Expected a labels file only with a folder"):
        open_dataset(source, labels="labels.csv")


def modules_after(code):
    """Return the top-level modules that a fresh interpreter holds after `code`."""
    code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_imports_nothing_slow():
    imported = modules_after("import keras_nin.data as data; data.__all__; dir(data)")
    assert "keras_nin" in imported
    assert imported.isdisjoint({"keras", "tensorflow", "sklearn", "PIL", "numpy"})


def test_reading_images_imports_neither_keras_nor_scikit_learn():
    imported = modules_after(
        "from keras_nin.data import load, preset\n"
        "load('random', input_shape=(8, 8, 3)).load([0], (8, 8), 3, preset('torch'))"
    )
    assert "numpy" in imported
    assert imported.isdisjoint({"keras", "tensorflow", "sklearn"})


def test_an_attribute_that_is_not_there():
    import keras_nin.data

    with pytest.raises(AttributeError, match="lod"):
        keras_nin.data.lod  # noqa: B018
