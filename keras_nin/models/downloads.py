"""Weights that a publisher offers for download: where they are, how they are verified, and what they need.

Hashes, arguments, preprocessing and accuracies are those that the publishers state: torchvision in
torchvision/models/{squeezenet,googlenet,inception}.py, Keras in keras/src/applications/inception_v3.py and in the table
of https://keras.io/api/applications.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_nin import files
from keras_nin.errors import InputError, expected_error, first_line

_TORCHVISION = "https://download.pytorch.org/models/"
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"
_TORCHVISION_LICENSE = "torchvision: BSD-3-Clause; the weights may be subject to the terms of ImageNet"
_KERAS_LICENSE = "Keras: Apache-2.0; none is stated for the weights, which were trained on ImageNet"
_KERAS_CACHE = "models"  # the folder of keras.applications in Keras's cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownloadableWeights:
    """A publisher's weight file, and what makes the network of a zoo model the publisher's.

    Attributes:
        publisher, url, license: who offers the file, where, and under which terms.
        hash: the hash that the publisher states, in hexadecimal: an MD5 of 32 digits, or the first eight or more digits
            of the SHA-256.
        arguments: of the model's builder.
        preprocessing: of the publisher's evaluation, as `keras_nin.data.Preprocessing.from_json` takes it.
        top1, top5: accuracies on the 50,000 validation images of ILSVRC 2012 in percent, as the publisher states them.
    """

    publisher: str
    url: str
    hash: str
    license: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preprocessing: dict[str, Any]
    top1: float
    top5: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dictionary."""
        return dataclasses.asdict(self)

    @property
    def file_name(self) -> str:
        """The file's name, at the publisher's and in the cache."""
        return self.url.rpartition("/")[2]

    @property
    def algorithm(self) -> str:
        """Name of the hash's algorithm, as hashlib has it."""
        return "md5" if len(self.hash) == 32 else "sha256"


_GOOGLENET = DownloadableWeights(
    publisher="torchvision",
    url=f"{_TORCHVISION}googlenet-1378be20.pth",
    hash="1378be20",
    license=_TORCHVISION_LICENSE,
    arguments={
        "normalization": "batch",
        "branch5x5_kernel_size": 3,  # https://github.com/pytorch/vision/issues/906
        "pool4_size": 2,
        "pool_rounding": "ceil",
    },
    # What `transform_input` makes of images that are normalized as for the other networks.
    preprocessing={"preset": "symmetric", "crop_fraction": 224 / 256},
    top1=69.778,
    top5=89.530,
)

# By the name of the model and that of the weights.
DOWNLOADS: dict[tuple[str, str], DownloadableWeights] = {
    ("squeezenet_v1_0", "imagenet"): DownloadableWeights(
        publisher="torchvision",
        url=f"{_TORCHVISION}squeezenet1_0-b66bff10.pth",
        hash="b66bff10",
        license=_TORCHVISION_LICENSE,
        arguments={"pool_rounding": "ceil"},
        preprocessing={"preset": "torch", "crop_fraction": 224 / 256},
        top1=58.092,
        top5=80.420,
    ),
    ("squeezenet_v1_1", "imagenet"): DownloadableWeights(
        publisher="torchvision",
        url=f"{_TORCHVISION}squeezenet1_1-b8a52dc0.pth",
        hash="b8a52dc0",
        license=_TORCHVISION_LICENSE,
        arguments={"pool_rounding": "ceil"},
        preprocessing={"preset": "torch", "crop_fraction": 224 / 256},
        top1=58.178,
        top5=80.624,
    ),
    ("googlenet", "imagenet"): _GOOGLENET,
    ("googlenet_bn", "imagenet"): _GOOGLENET,
    ("inception_v3", "imagenet"): DownloadableWeights(
        publisher="keras.applications",
        url=f"{_KERAS}inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels.h5",
        hash="9a0d58056eeedaa3f26cb7ebd46da564",
        license=_KERAS_LICENSE,
        preprocessing={"preset": "symmetric"},
        top1=77.9,
        top5=93.7,
    ),
    ("inception_v3", "imagenet_torchvision"): DownloadableWeights(
        publisher="torchvision",
        url=f"{_TORCHVISION}inception_v3_google-0cc3c7bd.pth",
        hash="0cc3c7bd",
        license=_TORCHVISION_LICENSE,
        arguments={"padded_pools": True},
        preprocessing={"preset": "symmetric", "crop_fraction": 299 / 342},
        top1=77.294,
        top5=93.450,
    ),
}


def list_downloads(model_name: str) -> dict[str, DownloadableWeights]:
    """Return the weights that can be downloaded for the model of that name, by their names."""
    return {weights: download for (model, weights), download in DOWNLOADS.items() if model == model_name}


def find_download(model_name: str, weights: object) -> DownloadableWeights | None:
    """Return the model's downloadable weights of that name; None where `weights` is something else."""
    return DOWNLOADS.get((model_name, weights)) if isinstance(weights, str) else None


def fetch_weights(download: DownloadableWeights) -> pathlib.Path:
    """Return the path of a publisher's file in Keras's cache, downloaded where it is not there, and verified.

    Raises:
        InputError: no network, no such file, another hash, or a cache that cannot be written to. The message says where
            to put the file by hand; the cache holds no part of one.
    """
    import keras

    from keras_nin.data.named_datasets import cache_folder, redirect_progress

    path = cache_folder(_KERAS_CACHE) / download.file_name
    problem = _describe_mismatch(path, download) if path.is_file() else None
    if path.is_file() and problem is None:
        return path
    before = f"in the cache, {problem}; " if problem else ""
    try:
        files.make_folder(path.parent)
    except InputError as error:
        raise InputError(f"{error}. Set KERAS_HOME to a folder for Keras's cache", path=path.parent) from None
    with files.replace_file(path) as temporary:
        try:
            with redirect_progress():
                keras.utils.get_file(temporary.name, download.url, cache_subdir=str(temporary.parent))
        except Exception as error:  # Keras raises a bare Exception where the download fails
            raise _unavailable_error(download, path, before + first_line(error)) from error
        problem = _describe_mismatch(temporary, download)
        if problem is not None:
            raise _unavailable_error(download, path, f"{before}from {download.url}, {problem}")
    return path


def _describe_mismatch(path: pathlib.Path, download: DownloadableWeights) -> str | None:
    """Return what is wrong with the file at `path`, or None where it has the publisher's hash."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, download.algorithm).hexdigest()
            file.seek(0)
            is_page = file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))
    except OSError as error:
        return f"a file that cannot be read ({error.strerror})"
    if digest.startswith(download.hash):
        return None
    kind = "an HTML page" if is_page else "a file"
    size, name = path.stat().st_size, download.algorithm.upper().replace("SHA", "SHA-")
    return f"{kind} of {size:,} bytes with {name} {digest[: len(download.hash)]} instead of {download.hash}"


def _unavailable_error(download: DownloadableWeights, path: pathlib.Path, received: str) -> InputError:
    message = (
        f"Expected {download.publisher}'s {download.file_name} in Keras's cache or a network to fetch it. "
        f"Received: {received}. Save {download.url} as {str(path)!r}"
    )
    return InputError(message, argument="weights", path=path)


def check_classes(download: DownloadableWeights, classes: int | None, arguments: Mapping[str, Any]) -> None:
    """Raise `InputError` where a builder's arguments ask for another number of classes than the weights have."""
    wanted = arguments.get("classes")
    if arguments.get("include_top", True) and wanted not in (None, classes):
        expected = f"to be {classes}, as in {download.file_name}, or `include_top` to be false"
        raise expected_error("classes", expected, wanted)
