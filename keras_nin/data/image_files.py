"""Image files of a folder: listed in a fixed order, decoded when they are asked for."""

import io
import os
import pathlib

import numpy as np

from keras_nin.errors import InputError
from keras_nin.files import read_bytes

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp")


def list_images(folder):
    """Return the paths of the image files directly in `folder`, sorted by name; hidden files do not count."""
    return [folder / name for name, is_folder in _entries(folder) if not is_folder and name.lower().endswith(SUFFIXES)]


def list_folders(folder):
    """Return the paths of the folders directly in `folder`, sorted by name; hidden folders do not count."""
    return [folder / name for name, is_folder in _entries(folder) if is_folder]


def _entries(folder):
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
        return decode(self.paths[index])


def decode(path):
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
