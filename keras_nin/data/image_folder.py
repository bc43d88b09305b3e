"""Image files of a folder: listed in a fixed order, decoded when they are asked for."""

import collections
import csv
import io
import os
import pathlib
import re

import numpy as np

from keras_nin.data.dataset import Dataset, take_every
from keras_nin.data.preprocessing import Preprocessing
from keras_nin.errors import InputError
from keras_nin.files import read_bytes
from keras_nin.formatting import escape_unprintable

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp")


def list_images(folder):
    """Return the paths of the image files directly in `folder`, sorted by name; hidden files do not count."""
    return [
        folder / name
        for name, is_folder in _list_entries(folder)
        if not is_folder and name.lower().endswith(IMAGE_SUFFIXES)
    ]


def list_folders(folder):
    """Return the paths of the folders directly in `folder`, sorted by name; hidden folders do not count."""
    return [folder / name for name, is_folder in _list_entries(folder) if is_folder]


def _list_entries(folder):
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"Expected a folder of images. Received: {str(folder)!r} ({error.strerror})") from None


class ImageFiles:
    """Sequence of images as uint8 (h, w, 3) arrays, each read from its file when it is asked for."""

    def __init__(self, paths):
        self.paths = tuple(pathlib.Path(path) for path in paths)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return decode_image(self.paths[index])


def decode_image(path):
    """Return the image file at `path` as uint8 (h, w, 3), RGB, upright as its EXIF orientation says.

    Raises:
        InputError: the file cannot be read, is damaged or no image, is too large for Pillow's limit, or has more than
            8 bits a channel (which Pillow would clip, not scale).
    """
    from PIL import Image, ImageOps

    data = read_bytes(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode = image.mode
            upright = ImageOps.exif_transpose(image)
            # By way of RGBA, because a palette may hold transparency that RGB has no room for.
            pixels = np.asarray(upright.convert("RGBA").convert("RGB") if mode == "P" else upright.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise InputError(f"Expected an image of a usual size. Received: {str(path)!r} ({error})") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError) as error:
        reason = "not an image that Pillow can read" if "cannot identify" in str(error) else error
        raise InputError(f"Expected a readable image. Received: {str(path)!r} ({reason})") from None
    if mode.startswith(("I", "F")):
        raise InputError(f"Expected an image with 8 bits a channel. Received: {str(path)!r} (Pillow mode {mode})")
    return pixels


# MERGED A folder of images as a `Dataset`. The layouts:
# MERGED
# MERGED - ``train/`` and ``test/`` (or ``val/``, which is read only where there is no ``test/``), class folders in each:
# MERGED   every fifth image of train/ is for calibration, the others for training; all of test/ is for tests.
# MERGED - several class folders: the label is the folder's position in the sorted list of their names, or, where every name
# MERGED   starts with a number, that number (then one folder will do).
# MERGED - images directly in the folder: the label is the number that the file name starts with (``0536_n03216828.jpg``), or
# MERGED   comes from a labels file (``labels.csv`` or ``labels.txt`` in the folder, or the one that is passed). Without
# MERGED   either the images have no labels.
# MERGED
# MERGED In the last two every fifth image of the sorted list (positions 0, 5, 10, ...) is for calibration, the others for
# MERGED tests, and none for training. Other files, hidden ones, and folders inside class folders are not read.

_CALIBRATION_STEP = 5
_PREPROCESSING = Preprocessing("unit", crop_fraction=0.875)


def open_folder(path, labels=None):
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
            f"Expected images ({', '.join(IMAGE_SUFFIXES)}) in {str(path)!r}, directly or in class folders. Received: none"
        )
    if flat:
        return _open_flat(path, flat, labels)
    if labels is not None:
        raise InputError(f"Expected images directly in {str(path)!r} to go with a labels file. Received: class folders")
    if "train" in names and (names & {"test", "val"} or list_folders(path / "train")):
        return _open_train_and_test(path, names)
    return _open_classes(path, inner)


def _open_flat(path, paths, labels_file):
    names = [image.name for image in paths]
    if labels_file is None:
        labels_file = next((path / name for name in LABEL_FILES if (path / name).is_file()), None)
    if labels_file is None:
        labels, class_names = labels_from_file_names(names), ()
    else:
        labels, class_names = read_labels_file(labels_file, names)
    return _make_dataset(path, paths, labels, class_names, _split_calibration(len(paths)))


def _open_classes(path, folders):
    paths, labels, class_names = _label_by_folder(path, folders)
    if len(folders) == 1 and not folders[0].name[0].isdigit():
        # Most likely the folder above the images: as a class, all of them would be class 0.
        raise InputError(f"Expected several class folders in {str(path)!r}. Received: one. Pass {str(folders[0])!r}?")
    return _make_dataset(path, paths, labels, class_names, _split_calibration(len(paths)))


def _open_train_and_test(path, names):
    tests = next((path / name for name in ("test", "val") if name in names), None)
    if tests is None:
        raise InputError(f"Expected test/ or val/ beside {str(path / 'train')!r}. Received: {', '.join(sorted(names))}")
    train_folders, test_folders = list_folders(path / "train"), list_folders(tests)
    paths, labels, class_names = _label_by_folder(path / "train", train_folders)
    unseen = {each.name for each in test_folders} - {each.name for each in train_folders}
    if unseen:
        raise InputError(f"Expected the classes in {str(tests)!r} to be in train/ too. Received: {min(unseen)!r}")
    test_paths, test_labels, _ = _label_by_folder(tests, test_folders, [each.name for each in train_folders])
    calibration, train = take_every(len(paths), _CALIBRATION_STEP)
    test = np.arange(len(paths), len(paths) + len(test_paths))
    splits = {"train": train, "calibration": calibration, "test": test}
    return _make_dataset(path, paths + test_paths, np.concatenate([labels, test_labels]), class_names, splits)


def _label_by_folder(path, folders, class_folders=None):
    """Return (paths, labels, class names) of the images in `folders`; the classes are `class_folders` where given."""
    images = {each.name: list_images(each) for each in folders}
    paths = [image for name in images for image in images[name]]
    if not paths:
        raise InputError(
            f"Expected images ({', '.join(IMAGE_SUFFIXES)}) in class folders in {str(path)!r}. Received: none"
        )
    indices, class_names = index_classes(class_folders or images)
    labels = np.array([indices[name] for name in images for _ in images[name]], np.int64)
    return paths, labels, class_names


def _split_calibration(count):
    calibration, test = take_every(count, _CALIBRATION_STEP)
    return {"calibration": calibration, "test": test}


def _make_dataset(path, paths, labels, class_names, splits):
    name = os.path.basename(os.path.abspath(path))
    # A file system may hold names that are no text; records do not.
    inside = (image.relative_to(path).as_posix() for image in paths)
    names = tuple(each.encode("utf-8", "backslashreplace").decode() for each in inside)
    return Dataset(name, ImageFiles(paths), labels, class_names, _PREPROCESSING, splits, names)


# MERGED Labels of image files: from a labels file, or from the numbers that file and folder names start with.
# MERGED
# MERGED And back: what the classes of a network are called, as far as a dataset says it.

LABEL_FILES = ("labels.csv", "labels.txt")
# Five digits number every ImageNet class, in the 21k set too; a longer number is a date or a serial number.
_FOLDER_NUMBER = re.compile(r"[0-9]{1,5}(?![0-9])")
# A name that is a number and nothing more counts the images (0001.jpg); it is no class.
_FILE_NUMBER = re.compile(r"([0-9]{1,5})[ ._-]")
_NUMBERED = re.compile(r"(?P<number>[0-9]{1,5})(?:[ ._-]+(?P<name>.*))?", re.DOTALL)
_COUNTER = re.compile(r"[ ._-]+[0-9]+$")
# What may be the name of a class in a file's name: words, or the number of a noun in WordNet; and not DSC0123.
_WORDS = re.compile(r"[^\W\d_]+(?:[ ._-][^\W\d_]+)*|n[0-9]{8}")


def index_classes(names):
    """Return ({folder name: class index}, class names) of class folders.

    The index is the number that the name starts with, where every name starts with one (at most five digits), else
    the position in the sorted list of names. The class names are empty where the numbers leave gaps.

    Raises:
        InputError: two names that start with the same number.
    """
    names = sorted(names)
    matches = [_FOLDER_NUMBER.match(name) for name in names]
    if not all(matches):
        return {name: index for index, name in enumerate(names)}, tuple(names)
    by_number = {}
    for name, match in zip(names, matches, strict=True):
        other = by_number.setdefault(int(match.group()), name)
        if other != name:
            raise InputError(f"Expected class folders with different numbers. Received: {other!r} and {name!r}")
    complete = sorted(by_number) == list(range(len(names)))
    indices = {name: number for number, name in by_number.items()}
    return indices, tuple(by_number[number] for number in range(len(names))) if complete else ()


def labels_from_file_names(names):
    """Return int64 labels from the numbers that `names` start with (0536_dog.jpg is 536), or None.

    None unless every name starts with at most five digits and one of ``_``, ``-``, ``.`` or a space, with more
    after it than the suffix.
    """
    matches = [_FILE_NUMBER.match(pathlib.PurePath(name).stem) for name in names]
    return np.array([int(match[1]) for match in matches], np.int64) if all(matches) else None


def read_labels_file(path, names):
    """Return (int64 labels in the order of `names`, class names) that the labels file at `path` gives.

    Every line is ``name,label`` or ``name label``; a first line whose name is no image file's is a header. Labels are
    all whole numbers (class indices), or all class names, whose indices are their positions in sorted order.

    Raises:
        InputError: a line that is neither; an entry without an image, an image without an entry, an image twice.
    """
    entries = _read_entries(path)
    missing = sorted(set(names) - set(entries))
    unknown = sorted(set(entries) - set(names))
    if missing or unknown:
        what = f"no entry for {missing[0]!r}" if missing else f"an entry for {unknown[0]!r}, which is not there"
        raise InputError(
            f"Expected one line in {str(path)!r} for every image. Received: {what} "
            f"({len(missing)} images without entry, {len(unknown)} entries without image)"
        )
    return _to_indices([entries[name] for name in names], path)


def _read_entries(path):
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"Expected a labels file in UTF-8. Received: {str(path)!r}") from None
    entries = {}
    for number, line in enumerate(lines, 1):
        fields = _split_line(line)
        if not fields or (number == 1 and not fields[0].lower().endswith(IMAGE_SUFFIXES)):
            continue  # an empty line; a header
        if len(fields) != 2 or not all(fields) or fields[0] in entries:
            problem = "a second entry for the image in" if fields[0] in entries else "not a name and a label:"
            raise InputError(f"Expected 'name,label' in line {number} of {str(path)!r}. Received: {problem} {line!r}")
        entries[fields[0]] = fields[1]
    return entries


def _split_line(line):
    fields = next(csv.reader([line]), []) if "," in line else line.rsplit(maxsplit=1)
    return [field.strip() for field in fields]


def _to_indices(labels, path):
    numbers = [re.fullmatch("[0-9]{1,9}", label) is not None for label in labels]
    if all(numbers):
        return np.array([int(label) for label in labels], np.int64), ()
    if any(numbers):
        one_number, one_name = labels[numbers.index(True)], labels[numbers.index(False)]
        raise InputError(
            f"Expected the labels in {str(path)!r} to be all whole numbers from 0, or all class names. "
            f"Received: {one_number!r} and {one_name!r}"
        )
    class_names = sorted(set(labels))
    position = {name: index for index, name in enumerate(class_names)}
    return np.array([position[label] for label in labels], np.int64), tuple(class_names)


def get_class_names(dataset, classes):
    """Return what each of the `classes` (a number) outputs of a network is called, "class 12" where nothing says it.

    Names come from the dataset's own where it has one for each output, from class folders such as "0536_boat", and
    from file names such as "0536_boat.jpg" and "0536_boat_2.jpg", where those of a class agree on a word that no other
    class has. Whatever else a dataset calls its classes, it may count them in another way than the network.
    """
    if len(dataset.class_names) == classes:
        known = dict(enumerate(dataset.class_names))
    elif dataset.labels is None or dataset.names is None:
        known = {}
    else:
        known = _class_names_by_folder(dataset) or _class_names_by_file(dataset)
    return tuple(escape_unprintable(known.get(number, "").strip()) or f"class {number}" for number in range(classes))


def _class_names_by_folder(dataset):
    parents = [pathlib.PurePath(name).parent.name for name in dataset.names]
    pairs = zip(dataset.labels.tolist(), map(_NUMBERED.fullmatch, parents), strict=True)
    return {label: match["name"] or "" for label, match in pairs if match and int(match["number"]) == label}


def _class_names_by_file(dataset):
    found = collections.defaultdict(set)
    for label, path in zip(dataset.labels.tolist(), dataset.names, strict=True):
        match = _NUMBERED.fullmatch(pathlib.PurePath(path).stem)
        if match is None or int(match["number"]) != label:
            return {}
        found[label].add(_COUNTER.sub("", match["name"] or ""))
    named = {label: names.pop() for label, names in found.items() if len(names) == 1}
    often = collections.Counter(named.values())
    return {label: name for label, name in named.items() if often[name] == 1 and _WORDS.fullmatch(name)}
