"""A folder of images as a `Dataset`. The layouts:

- ``train/`` and ``test/`` (or ``val/``, which is read only where there is no ``test/``), class folders in each:
  every fifth image of train/ is for calibration, the others for training; all of test/ is for tests.
- several class folders: the label is the folder's position in the sorted list of their names, or, where every name
  starts with a number, that number (then one folder will do).
- ``images/`` and ``masks/``: for each image a ``.png`` of the same stem and size in masks/, of one channel or with a
  palette, that holds the class index of each pixel; 255 is unknown. For networks whose output is a map.
- images directly in the folder: the label is the number that the file name starts with (``0536_n03216828.jpg``), or
  comes from a labels file (``labels.csv`` or ``labels.txt`` in the folder, or the one that is passed). Without
  either the images have no labels.

In the last three, where nothing else is there to calibrate or to test on, every fifth image of the sorted list
(positions 0, 5, 10, ...) is for calibration, the others for tests; none is for training. Other files, hidden ones, and
folders inside class folders are not read.

Images come from anywhere. Pillow opens the formats of `FORMATS` alone, within limits on the file and on the pixels.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import os
import pathlib
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from keras_nin.data.dataset import Dataset, Indices, Splits, split_calibration, take_every
from keras_nin.data.preprocessing import Pixels, Preprocessing, fit_mask
from keras_nin.errors import InputError, first_line, input_error
from keras_nin.files import read_bytes
from keras_nin.output_capture import capture_output

if TYPE_CHECKING:
    import PIL.Image

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
# What Pillow may open, whatever a file's name; it knows others, such as EPS, which starts Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MASK_FORMATS = ("PNG",)  # the others may blur class indices
MAX_PIXELS = 8192 * 6144  # a photograph of 50 megapixels; decoding takes up to 25 bytes for each
MAX_FILE_BYTES = 1 << 28
LABEL_FILES = ("labels.csv", "labels.txt")
_CALIBRATION_STEP = 5
_ORIENTATION, _FIRST_TURNED = 0x0112, 5  # the EXIF tag, and the first orientation that exchanges width and height
_BITS_PER_SAMPLE = 258  # the TIFF tag
_TIFF_STARTS = (b"II", b"MM")
_PREPROCESSING = Preprocessing("unit", crop_fraction=0.875)
# Five digits number every ImageNet class, in the 21k set too; a longer number is a date or a serial number.
_FOLDER_NUMBER = re.compile(r"[0-9]{1,5}(?![0-9])")
# A name that is a number and nothing more counts the images (0001.jpg); it is no class.
_FILE_NUMBER = re.compile(r"([0-9]{1,5})[ ._-]")


def open_folder(
    path: str | os.PathLike[str], labels: str | os.PathLike[str] | None = None, split: str | None = None
) -> Dataset:
    """Return the images of a folder, decoded on demand, to RGB.

    `labels` is a labels file for images directly in it; `split` takes all images of a folder without train/.
    """
    path = pathlib.Path(path)
    folders, images = list_folders(path), list_images(path)
    names = {folder.name for folder in folders}
    if {"images", "masks"} <= names:
        return _open_images_and_masks(path, labels, split)
    nested = [folder for folder in folders if (folder / "images").is_dir() and (folder / "masks").is_dir()]
    if nested:
        expected = f"images/ and masks/ directly in {str(path)!r}"
        raise input_error(expected, f"them in {nested[0].name}/. Pass {str(nested[0])!r}", path=path)
    if images and any(list_images(folder) for folder in folders):
        raise input_error(f"images either directly in {str(path)!r} or in class folders", "both", path=path)
    if images:
        if labels is None:
            labels = next((path / name for name in LABEL_FILES if (path / name).is_file()), None)
        image_names = [image.name for image in images]
        indices, class_names = labels_from_file_names(image_names), ()
        if labels is not None:
            indices, class_names = read_labels_file(labels, image_names)
        return _make_dataset(path, images, indices, class_names, split)
    if not folders:
        raise _no_images(f"in {str(path)!r}, directly or in class folders", path)
    if labels is not None:
        expected = f"images directly in {str(path)!r} to go with a labels file"
        raise input_error(expected, "class folders", argument="labels", path=path)
    if "train" in names and (names & {"test", "val"} or list_folders(path / "train")):
        return _open_train_and_test(path, names)
    images, indices, class_names = _label_by_folder(path, folders)
    if len(folders) == 1 and not folders[0].name[0].isdigit():
        # Most likely the folder above the images: as a class, all of them would be class 0.
        received = f"one. Pass {str(folders[0])!r}?"
        raise input_error(f"several class folders in {str(path)!r}", received, path=path)
    return _make_dataset(path, images, indices, class_names, split)


def _open_images_and_masks(path: pathlib.Path, labels: str | os.PathLike[str] | None, split: str | None) -> Dataset:
    if labels is not None:
        raise input_error(f"masks as the only labels of {str(path)!r}", repr(str(labels)), argument="labels")
    images = list_images(path / "images")
    if not images:
        raise _no_images(f"in {str(path / 'images')!r}", path)
    masks = {image: path / "masks" / f"{image.stem}.png" for image in images}
    missing = [mask for mask in masks.values() if not mask.is_file()]
    if missing:
        received = f"none ({len(missing):,} of {len(images):,} images have no mask)"
        raise input_error(f"a mask {str(missing[0])!r}", received, path=missing[0])
    dataset = _make_dataset(path, images, None, (), split)
    return dataset.with_targets({"": MaskFiles(images, list(masks.values()))})


def _open_train_and_test(path: pathlib.Path, names: set[str]) -> Dataset:
    test_folder = next((path / name for name in ("test", "val") if name in names), None)
    if test_folder is None:
        raise input_error(f"test/ or val/ beside {str(path / 'train')!r}", ", ".join(sorted(names)), path=path)
    train_classes, test_classes = list_folders(path / "train"), list_folders(test_folder)
    train_images, train_labels, class_names = _label_by_folder(path / "train", train_classes)
    known = [folder.name for folder in train_classes]
    unseen = {folder.name for folder in test_classes}.difference(known)
    if unseen:
        raise input_error(f"the classes in {str(test_folder)!r} to be in train/ too", repr(min(unseen)), path=path)
    test_images, test_labels, _ = _label_by_folder(test_folder, test_classes, known)
    calibration, train = take_every(len(train_images), _CALIBRATION_STEP)
    test = np.arange(len(train_images), len(train_images) + len(test_images))
    splits = {"train": train, "calibration": calibration, "test": test}
    labels = np.concatenate([train_labels, test_labels])
    return _make_dataset(path, train_images + test_images, labels, class_names, splits)


def _label_by_folder(
    path: pathlib.Path, folders: list[pathlib.Path], classes: Iterable[str] | None = None
) -> tuple[list[pathlib.Path], Indices, tuple[str, ...]]:
    """Return (image paths, labels, class names) of class folders; `classes` names all classes, also those not here."""
    images = {folder.name: list_images(folder) for folder in folders}
    paths = [image for name in images for image in images[name]]
    if not paths:
        raise _no_images(f"in class folders in {str(path)!r}", path)
    indices, class_names = index_classes(classes or images)
    labels = np.array([indices[name] for name in images for _ in images[name]], np.int64)
    return paths, labels, class_names


def _make_dataset(
    path: pathlib.Path,
    images: list[pathlib.Path],
    labels: Indices | None,
    class_names: tuple[str, ...],
    splits: Splits | str | None,
) -> Dataset:
    """Return the `Dataset` of image files; `splits` may name the one that takes all, None divides them."""
    name = os.path.basename(os.path.abspath(path))
    # A file system may hold names that are no text; records do not.
    relative = (image.relative_to(path).as_posix() for image in images)
    names = tuple(text.encode("utf-8", "backslashreplace").decode() for text in relative)
    divided = splits is None
    if splits is None or isinstance(splits, str):
        splits = split_calibration(len(images), splits)
    return Dataset(name, ImageFiles(images), labels, class_names, _PREPROCESSING, splits, names, divided=divided)


def _no_images(where: str, path: pathlib.Path) -> InputError:
    return input_error(f"images ({', '.join(IMAGE_SUFFIXES)}) {where}", "none", path=path)


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the paths of the image files directly in `folder`, sorted by name; hidden files do not count."""
    files = (name for name, is_folder in _list_entries(folder) if not is_folder)
    return [folder / name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]


def list_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the paths of the folders directly in `folder`, sorted by name; hidden folders do not count."""
    return [folder / name for name, is_folder in _list_entries(folder) if is_folder]


def _list_entries(folder: pathlib.Path) -> list[tuple[str, bool]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise input_error("a folder of images", f"{str(folder)!r} ({error.strerror})", path=folder) from None


class ImageFiles:
    """Images as uint8 (h, w, 3) arrays, each read from its file when it is asked for."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self.paths = tuple(pathlib.Path(path) for path in paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Pixels:
        return decode_image(self.paths[index])

    def read_stored(self, index: int) -> bytes:
        """Return the bytes of an image's file."""
        return _read_file(self.paths[index])


class EncodedImages:
    """Images as uint8 (h, w, 3) arrays, each decoded from its bytes, such as those of a JPEG, when it is asked for.

    Args:
        content: the bytes of all images, uint8, one after the other.
        offsets: where each image begins in them, and after the last where it ends, int64 (N + 1,).
        path: of the file that they are from.
    """

    def __init__(self, content: npt.NDArray[np.uint8], offsets: Indices, path: str | os.PathLike[str]) -> None:
        self._content, self._offsets, self._path = content, offsets, path

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> Pixels:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return decode_bytes(self.read_stored(index), f"image {index} of {str(self._path)!r}", self._path)

    def read_stored(self, index: int) -> bytes:
        """Return the bytes of an image as they are stored."""
        return self._content[self._offsets[index] : self._offsets[index + 1]].tobytes()


@dataclasses.dataclass(frozen=True, eq=False)
class MaskFiles:
    """Masks of images as arrays of class indices (N, H, W), each read from its file when it is asked for.

    `fit` says how: (H, W) and crop fraction of the images as `fit_image` takes them, and (H, W) of the masks. Without
    it none can be read.
    """

    images: Sequence[pathlib.Path]
    masks: Sequence[pathlib.Path]
    fit: tuple[tuple[int, int], float, tuple[int, int]] | None = None

    def __getitem__(self, indices: Indices) -> npt.NDArray[Any]:
        if self.fit is None:
            raise ValueError("masks need the size of the network's output")
        size, crop_fraction, map_size = self.fit
        masks = (self._read(int(index)) for index in indices)
        return np.stack([fit_mask(mask, size, map_size, crop_fraction) for mask in masks])

    def _read(self, index: int) -> npt.NDArray[Any]:
        path = self.masks[index]
        with _open_image(_read_file(path), repr(str(path)), path, formats=_MASK_FORMATS) as mask:
            if mask.mode not in ("1", "L", "P") and not mask.mode.startswith("I"):
                expected = "a mask of one channel, or with a palette, that holds class indices"
                raise input_error(expected, f"{str(path)!r} (Pillow mode {mask.mode})", path=path)
            classes = np.asarray(mask)
        source = self.images[index]
        # The size alone, without the pixels.
        with _open_image(_read_file(source), repr(str(source)), source, upright=False) as image:
            turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
            width, height = image.size[::-1] if turned else image.size  # of a TIFF, Pillow turns the size itself
        if classes.shape != (height, width):
            expected = f"a mask of the size of {str(source)!r}, {width} x {height}"
            raise input_error(expected, f"{str(path)!r}, {classes.shape[1]} x {classes.shape[0]}", path=path)
        return classes.astype(np.int32)


def decode_image(path: pathlib.Path) -> Pixels:
    """Return the image file at `path`; see `decode_bytes`."""
    return decode_bytes(_read_file(path), repr(str(path)), path)


def _read_file(path: pathlib.Path) -> bytes:
    if path.exists() and not path.is_file():
        raise input_error("an image file", f"{str(path)!r}, a pipe or a device", path=path)
    return read_bytes(path, MAX_FILE_BYTES)


def decode_bytes(data: bytes, source: str, path: str | os.PathLike[str]) -> Pixels:
    """Return an encoded image as uint8 (h, w, 3), RGB, upright as its EXIF orientation says.

    Of several images in one file it is the first. Transparency is dropped; of 16 bits per channel the high ones are
    kept. Other numbers, whose range is not known, are an `InputError`; `source` is what it calls the image, `path` the
    file.
    """
    with _open_image(data, source, path) as image:
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
        if image.mode.startswith("I;16") and 12 not in bits:
            gray = np.asarray(image) >> 8  # Pillow would clip
            return np.repeat(gray[..., np.newaxis].astype(np.uint8), 3, axis=2)
        if image.mode.startswith(("I", "F")):
            received = f"{source} ({'12 bits' if 12 in bits else f'Pillow mode {image.mode}'})"
            raise input_error("an image with 8 or 16 bits per channel", received, path=path)
        if image.mode == "P":  # by way of RGBA, because a palette may hold transparency that RGB has no room for
            return np.asarray(image.convert("RGBA").convert("RGB"))
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


@contextlib.contextmanager
def _open_image(
    data: bytes, source: str, path: str | os.PathLike[str], *, upright: bool = True, formats: tuple[str, ...] = FORMATS
) -> Iterator[PIL.Image.Image]:
    """Yield an encoded image, `upright` as its EXIF orientation says; what Pillow cannot read is an `InputError`."""
    from PIL import Image, ImageOps

    # libtiff prints what it finds wrong.
    silence = capture_output() if data.startswith(_TIFF_STARTS) else contextlib.nullcontext()
    try:
        with silence, warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width:,} x {image.height:,}")
            if upright:
                ImageOps.exif_transpose(image, in_place=True)
            yield image
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise input_error(f"an image of at most {MAX_PIXELS:,} pixels", f"{source} ({error})", path=path) from None
    except Exception as error:  # damaged bytes can raise nearly anything
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = f"not an image of the formats {', '.join(formats)}" if unknown else first_line(error)
        raise input_error("a readable image", f"{source} ({reason})", path=path) from None


def index_classes(names: Iterable[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return ({folder name: class index}, class names) of class folders; no class names where numbers leave gaps.

    The index is the number that the name starts with, where every name starts with one (at most five digits), else
    the position in the sorted list of names.
    """
    names = sorted(names)
    matches = [_FOLDER_NUMBER.match(name) for name in names]
    numbers = [int(match.group()) for match in matches if match]
    if len(numbers) < len(names):
        return {name: index for index, name in enumerate(names)}, tuple(names)
    by_number: dict[int, str] = {}
    for name, number in zip(names, numbers, strict=True):
        other = by_number.setdefault(number, name)
        if other != name:
            raise input_error("class folders with different numbers", f"{other!r} and {name!r}")
    complete = sorted(numbers) == list(range(len(names)))
    class_names = tuple(by_number[number] for number in range(len(names))) if complete else ()
    return {name: number for number, name in by_number.items()}, class_names


def labels_from_file_names(names: Iterable[str]) -> Indices | None:
    """Return int64 labels from the numbers that `names` start with (0536_dog.jpg is 536).

    None unless every name starts with up to five digits and one of ``_-.`` or a space, with more than the suffix after.
    """
    matches = [_FILE_NUMBER.match(pathlib.PurePath(name).stem) for name in names]
    return np.array([int(match[1]) for match in matches if match], np.int64) if all(matches) else None


def read_labels_file(path: str | os.PathLike[str], names: Sequence[str]) -> tuple[Indices, tuple[str, ...]]:
    """Return (int64 labels in the order of `names`, class names) of the labels file at `path`.

    Every line is ``name,label`` or ``name label``, one for every image; a first line whose name is no image file's is a
    header. Labels are all class indices, or all class names, whose indices are their positions in sorted order.
    """
    entries = _read_entries(path)
    missing = sorted(set(names) - set(entries))
    unknown = sorted(set(entries) - set(names))
    if missing or unknown:
        what = f"no entry for {missing[0]!r}" if missing else f"an entry for {unknown[0]!r}, which is not there"
        received = f"{what} ({len(missing)} images without entry, {len(unknown)} entries without image)"
        raise input_error(f"one line in {str(path)!r} for every image", received, argument="labels", path=path)
    labels = [entries[name] for name in names]
    is_number = [re.fullmatch("[0-9]{1,9}", label) is not None for label in labels]
    if all(is_number):
        return np.array([int(label) for label in labels], np.int64), ()
    if any(is_number):
        expected = f"the labels in {str(path)!r} to be all whole numbers from 0, or all class names"
        received = f"{labels[is_number.index(True)]!r} and {labels[is_number.index(False)]!r}"
        raise input_error(expected, received, path=path)
    class_names, indices = np.unique(labels, return_inverse=True)
    return indices.astype(np.int64), tuple(class_names.tolist())


def _read_entries(path: str | os.PathLike[str]) -> dict[str, str]:
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise input_error("a labels file in UTF-8", repr(str(path)), path=path) from None
    entries: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        fields = next(csv.reader([line]), []) if "," in line else line.rsplit(maxsplit=1)
        fields = [field.strip() for field in fields]
        if not fields or (number == 1 and not fields[0].lower().endswith(IMAGE_SUFFIXES)):
            continue  # an empty line; a header
        if len(fields) != 2 or not all(fields) or fields[0] in entries:
            problem = "a second entry for the image in" if fields[0] in entries else "not a name and a label:"
            raise input_error(f"'name,label' in line {number} of {str(path)!r}", f"{problem} {line!r}", path=path)
        entries[fields[0]] = fields[1]
    return entries
