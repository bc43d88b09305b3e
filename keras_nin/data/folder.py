"""A folder of images as a `Dataset`. The layouts:

- ``train/`` and ``test/`` (or ``val/``, which is read only where there is no ``test/``), class folders in each:
  every fifth image of train/ is for calibration, the others for training; all of test/ is for tests.
- several class folders: the label is the folder's position in the sorted list of their names, or, where every name
  starts with a number, that number (then one folder will do).
- images directly in the folder: the label is the number that the file name starts with (``0536_n03216828.jpg``), or
  comes from a labels file (``labels.csv`` or ``labels.txt`` in the folder, or the one that is passed). Without
  either the images have no labels.

In the last two every fifth image of the sorted list (positions 0, 5, 10, ...) is for calibration, the others for
tests, and none for training. Other files, hidden ones, and folders inside class folders are not read.
"""

import os
import pathlib

import numpy as np

from keras_nin.data import labels as labelling
from keras_nin.data.dataset import Dataset
from keras_nin.data.image_files import SUFFIXES, ImageFiles, list_folders, list_images
from keras_nin.data.preprocessing import Preprocessing
from keras_nin.data.splits import every
from keras_nin.errors import InputError

_CALIBRATION_STEP = 5
_PREPROCESSING = Preprocessing("unit", crop_fraction=0.875)


def folder(path, labels=None):
    """Return the images of the folder `path`; they decode when they are asked for, always to RGB.

    Args:
        path: the folder.
        labels: path of a labels file, for images that lie directly in the folder.

    Raises:
        InputError: a folder that is missing, without images, or of no layout; labels that do not match the images.
    """
    path = pathlib.Path(path)
    inner, flat = list_folders(path), list_images(path)
    names = {each.name for each in inner}
    if flat and any(list_images(each) for each in inner):
        raise InputError(f"Expected images either directly in {str(path)!r} or in class folders. Received: both")
    if not flat and not inner:
        raise InputError(
            f"Expected images ({', '.join(SUFFIXES)}) in {str(path)!r}, directly or in class folders. Received: none"
        )
    if flat:
        return _flat(path, flat, labels)
    if labels is not None:
        raise InputError(f"Expected images directly in {str(path)!r} to go with a labels file. Received: class folders")
    if "train" in names and (names & {"test", "val"} or list_folders(path / "train")):
        return _train_and_test(path, names)
    return _classes(path, inner)


def _flat(path, paths, labels_file):
    names = [image.name for image in paths]
    if labels_file is None:
        labels_file = next((path / name for name in labelling.LABEL_FILES if (path / name).is_file()), None)
    if labels_file is None:
        labels, class_names = labelling.from_file_names(names), ()
    else:
        labels, class_names = labelling.from_file(labels_file, names)
    return _dataset(path, paths, labels, class_names, _calibration_and_test(len(paths)))


def _classes(path, folders):
    paths, labels, class_names = _labelled(path, folders)
    if len(folders) == 1 and not folders[0].name[0].isdigit():
        # Most likely the folder above the images: as a class, all of them would be class 0.
        raise InputError(f"Expected several class folders in {str(path)!r}. Received: one. Pass {str(folders[0])!r}?")
    return _dataset(path, paths, labels, class_names, _calibration_and_test(len(paths)))


def _train_and_test(path, names):
    tests = next((path / name for name in ("test", "val") if name in names), None)
    if tests is None:
        raise InputError(f"Expected test/ or val/ beside {str(path / 'train')!r}. Received: {', '.join(sorted(names))}")
    train_folders, test_folders = list_folders(path / "train"), list_folders(tests)
    paths, labels, class_names = _labelled(path / "train", train_folders)
    unseen = {each.name for each in test_folders} - {each.name for each in train_folders}
    if unseen:
        raise InputError(f"Expected the classes in {str(tests)!r} to be in train/ too. Received: {min(unseen)!r}")
    test_paths, test_labels, _ = _labelled(tests, test_folders, [each.name for each in train_folders])
    calibration, train = every(len(paths), _CALIBRATION_STEP)
    test = np.arange(len(paths), len(paths) + len(test_paths))
    splits = {"train": train, "calibration": calibration, "test": test}
    return _dataset(path, paths + test_paths, np.concatenate([labels, test_labels]), class_names, splits)


def _labelled(path, folders, class_folders=None):
    """Return (paths, labels, class names) of the images in `folders`; the classes are `class_folders` where given."""
    images = {each.name: list_images(each) for each in folders}
    paths = [image for name in images for image in images[name]]
    if not paths:
        raise InputError(f"Expected images ({', '.join(SUFFIXES)}) in class folders in {str(path)!r}. Received: none")
    indices, class_names = labelling.class_indices(class_folders or images)
    labels = np.array([indices[name] for name in images for _ in images[name]], np.int64)
    return paths, labels, class_names


def _calibration_and_test(count):
    calibration, test = every(count, _CALIBRATION_STEP)
    return {"calibration": calibration, "test": test}


def _dataset(path, paths, labels, class_names, splits):
    name = os.path.basename(os.path.abspath(path))
    # A file system may hold names that are no text; records do not.
    inside = (image.relative_to(path).as_posix() for image in paths)
    names = tuple(each.encode("utf-8", "backslashreplace").decode() for each in inside)
    return Dataset(name, ImageFiles(paths), labels, class_names, _PREPROCESSING, splits, names)
