"""From what a user names (a data set, a folder, an .npz file) to a `Dataset`."""

import dataclasses
import importlib
import os

from keras_nin.errors import InputError, unknown_name_error


@dataclasses.dataclass(frozen=True)
class _Loader:
    """Where a kind of source is read: a function of a module of this package, and the options of `load` it takes."""

    module: str
    function: str
    options: tuple = ()

    def __call__(self, *args, **options):
        module = importlib.import_module(f"keras_nin.data.{self.module}")
        return getattr(module, self.function)(*args, **{name: options[name] for name in self.options})


_NAMED = {
    "cifar10": _Loader("named_datasets", "open_cifar10"),
    "cifar100": _Loader("named_datasets", "open_cifar100"),
    "digits": _Loader("named_datasets", "open_digits"),
    "fashion_mnist": _Loader("named_datasets", "open_fashion_mnist"),
    "mnist": _Loader("named_datasets", "open_mnist"),
    "random": _Loader("named_datasets", "open_noise", ("input_shape", "seed")),
}
_FOLDER = _Loader("image_folder", "open_folder", ("labels",))
_NPZ = _Loader("npz_files", "open_npz")


def list_datasets():
    """Return the names that `load` knows, sorted."""
    return sorted(_NAMED)


def open_dataset(source, *, labels=None, seed=0, input_shape=None):
    """Return the `Dataset` that `source` names.

    Args:
        source: a name of `list_datasets`, a folder of images (see `keras_nin.data.image_folder`), or a path ending in .npz
            (see `keras_nin.data.npz_files`). A name goes before a folder of the same name: "./digits" is the folder.
        labels: path of a labels file, for a folder whose images lie in it directly.
        seed: for "random". The splits of the other data sets are fixed.
        input_shape: (H, W, C), for "random" alone; other images have sizes of their own.

    Raises:
        InputError: an unknown source; labels for a source that takes none; whatever the source's own file says.
    """
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"Expected `data` to be a dataset name, a folder or an .npz file. Received: {source!r}")
    path = os.fspath(source)
    named = _NAMED.get(path)
    loader = named or _loader_for_path(path)
    if labels is not None and "labels" not in loader.options:
        raise InputError(
            f"Expected a labels file only with a folder of images. Received: {str(labels)!r} with {path!r}"
        )
    options = {"labels": labels, "seed": seed, "input_shape": input_shape}
    return loader(**options) if named else loader(path, **options)


def _loader_for_path(path):
    if os.path.isdir(path):
        return _FOLDER
    if path.lower().endswith(".npz"):
        return _NPZ
    error = unknown_name_error("data", path, _NAMED)
    raise InputError(
        f"{error} Data sets: {', '.join(list_datasets())}; an existing folder of images and an .npz file work too."
    )
