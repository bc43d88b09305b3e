"""Labels of image files: from a labels file, or from the numbers that file and folder names start with.

And back: what the classes of a network are called, as far as a dataset says it.
"""

import collections
import csv
import pathlib
import re

import numpy as np

from keras_nin.data.image_files import SUFFIXES
from keras_nin.errors import InputError
from keras_nin.files import read_bytes
from keras_nin.tables import printable

LABEL_FILES = ("labels.csv", "labels.txt")
# Five digits number every ImageNet class, in the 21k set too; a longer number is a date or a serial number.
_FOLDER_NUMBER = re.compile(r"[0-9]{1,5}(?![0-9])")
# A name that is a number and nothing more counts the images (0001.jpg); it is no class.
_FILE_NUMBER = re.compile(r"([0-9]{1,5})[ ._-]")
_NUMBERED = re.compile(r"(?P<number>[0-9]{1,5})(?:[ ._-]+(?P<name>.*))?", re.DOTALL)
_COUNTER = re.compile(r"[ ._-]+[0-9]+$")
# What may be the name of a class in a file's name: words, or the number of a noun in WordNet; and not DSC0123.
_WORDS = re.compile(r"[^\W\d_]+(?:[ ._-][^\W\d_]+)*|n[0-9]{8}")


def class_indices(names):
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


def from_file_names(names):
    """Return int64 labels from the numbers that `names` start with (0536_dog.jpg is 536), or None.

    None unless every name starts with at most five digits and one of ``_``, ``-``, ``.`` or a space, with more
    after it than the suffix.
    """
    matches = [_FILE_NUMBER.match(pathlib.PurePath(name).stem) for name in names]
    return np.array([int(match[1]) for match in matches], np.int64) if all(matches) else None


def from_file(path, names):
    """Return (int64 labels in the order of `names`, class names) that the labels file at `path` gives.

    Every line is ``name,label`` or ``name label``; a first line whose name is no image file's is a header. Labels are
    all whole numbers (class indices), or all class names, whose indices are their positions in sorted order.

    Raises:
        InputError: a line that is neither; an entry without an image, an image without an entry, an image twice.
    """
    entries = _read(path)
    missing = sorted(set(names) - set(entries))
    unknown = sorted(set(entries) - set(names))
    if missing or unknown:
        what = f"no entry for {missing[0]!r}" if missing else f"an entry for {unknown[0]!r}, which is not there"
        raise InputError(
            f"Expected one line in {str(path)!r} for every image. Received: {what} "
            f"({len(missing)} images without entry, {len(unknown)} entries without image)"
        )
    return _to_indices([entries[name] for name in names], path)


def _read(path):
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"Expected a labels file in UTF-8. Received: {str(path)!r}") from None
    entries = {}
    for number, line in enumerate(lines, 1):
        fields = _fields(line)
        if not fields or (number == 1 and not fields[0].lower().endswith(SUFFIXES)):
            continue  # an empty line; a header
        if len(fields) != 2 or not all(fields) or fields[0] in entries:
            problem = "a second entry for the image in" if fields[0] in entries else "not a name and a label:"
            raise InputError(f"Expected 'name,label' in line {number} of {str(path)!r}. Received: {problem} {line!r}")
        entries[fields[0]] = fields[1]
    return entries


def _fields(line):
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


def class_labels(dataset, classes):
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
        known = _by_folder(dataset) or _by_file(dataset)
    return tuple(printable(known.get(number, "").strip()) or f"class {number}" for number in range(classes))


def _by_folder(dataset):
    parents = [pathlib.PurePath(name).parent.name for name in dataset.names]
    pairs = zip(dataset.labels.tolist(), map(_NUMBERED.fullmatch, parents), strict=True)
    return {label: match["name"] or "" for label, match in pairs if match and int(match["number"]) == label}


def _by_file(dataset):
    found = collections.defaultdict(set)
    for label, path in zip(dataset.labels.tolist(), dataset.names, strict=True):
        match = _NUMBERED.fullmatch(pathlib.PurePath(path).stem)
        if match is None or int(match["number"]) != label:
            return {}
        found[label].add(_COUNTER.sub("", match["name"] or ""))
    named = {label: names.pop() for label, names in found.items() if len(names) == 1}
    often = collections.Counter(named.values())
    return {label: name for label, name in named.items() if often[name] == 1 and _WORDS.fullmatch(name)}
