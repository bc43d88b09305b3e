"""Archives and HDF5 files that would read or write elsewhere, or fill the memory."""

import copy
import io
import pathlib
import stat
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
import third_party_writers as writers

from keras_nin import archives, models
from keras_nin.data import open_dataset
from keras_nin.errors import InputError

SECRET = np.full(48, 7, np.float32)


def refused(action, message):
    with pytest.raises(InputError, match=message) as caught:
        action()
    assert "\n" not in str(caught.value)


def array_bytes(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def link(name):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../escaped.npy", "which leads elsewhere"),
        ("a/../../escaped.npy", "which leads elsewhere"),
        ("/etc/escaped.npy", "which leads elsewhere"),
        ("a\\..\\escaped.npy", "which leads elsewhere"),
        ("C:/escaped.npy", "which leads elsewhere"),
        ("./images.npy", "a second time"),
        (link("l.npy"), "a link"),
    ],
)
def test_names_in_a_zip(build, tmp_path, name, problem):
    for path in (tmp_path / "photos.npz", tmp_path / "net.keras", tmp_path / "weights.pt"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", array_bytes(np.zeros((10, 4, 4), np.uint8)))
            archive.writestr(name, b"/etc/passwd")
    refused(lambda: open_dataset(tmp_path / "photos.npz"), rf"photos.npz' to hold files, .* Received: .*, {problem}")
    refused(lambda: models.load_model(tmp_path / "net.keras"), rf"net.keras' to hold files, .* {problem}")
    refused(lambda: models.load_weights(build("nin_digits"), tmp_path / "weights.pt"), rf"weights.pt' .* {problem}")


def test_names_of_arrays_stay_free(tmp_path):
    """Keras 2 wrote names with a colon, which on Windows would follow a drive."""
    names = ["b:0", "conv/kernel:0", "über..x", "..."]
    np.savez(tmp_path / "a.npz", **dict.fromkeys(names, np.zeros(3)))
    archives.check_zip(tmp_path / "a.npz")


def overlapping_bomb(path):
    """Write an archive of 200 members that all are the same 10 MB of zeros, in 10 KB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a0.npy", bytes(10_000_000))
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(1, 200):
            entry = copy.copy(archive.filelist[0])
            entry.filename = f"a{number}.npy"
            archive.filelist.append(entry)
        archive._didModify = True


def test_a_zip_bomb(build, tmp_path):
    overlapping_bomb(tmp_path / "bomb.npz")
    assert (tmp_path / "bomb.npz").stat().st_size < 30_000
    (tmp_path / "bomb.keras").write_bytes((tmp_path / "bomb.npz").read_bytes())
    message = "to expand to at most 1,073,741,824 bytes. Received: 1,080,000,000"
    refused(lambda: open_dataset(tmp_path / "bomb.npz"), message)
    refused(lambda: models.load_weights(build("nin_digits"), tmp_path / "bomb.npz"), message)
    refused(lambda: models.load_model(tmp_path / "bomb.keras"), message)


def test_a_large_archive_is_no_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_EXPANDED_BYTES", 1000)
    np.savez(tmp_path / "a.npz", images=np.zeros((10, 40, 40), np.uint8))
    assert len(open_dataset(tmp_path / "a.npz").images) == 10


def tar(path, *members, **options):
    with tarfile.open(path, "w:gz", **options) as archive:
        for member, content in members:
            entry = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            if content is not None:
                entry.size = len(content)
            archive.addfile(entry, None if content is None else io.BytesIO(content))
    return path


def symlink(name):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return entry


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../escaped", b"x")], "which leads elsewhere"),
        ([("/escaped", b"x")], "which leads elsewhere"),
        ([("cifar-10-batches-py/test_batch", b"x")] * 2, "a second time"),
        ([(symlink("cifar-10-batches-py/test_batch"), None)], "a link"),
    ],
)
def test_names_in_a_tar(tmp_path, members, message):
    path = tar(tmp_path / "cifar-10-python.tar.gz", *members)
    refused(lambda: open_dataset(path), rf"cifar-10-python.tar.gz' to hold files, .* {message}")


def test_tar_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_EXPANDED_BYTES", 100_000)
    zeros = tar(tmp_path / "zeros.tar.gz", ("cifar-10-batches-py/test_batch", bytes(3_000_000)))
    refused(lambda: open_dataset(zeros), "to expand to at most 100,000 bytes. Received: 3,000,000")
    beside = tar(tmp_path / "beside.tar.gz", ("readme", bytes(3_000_000)))
    refused(lambda: open_dataset(beside), "to expand to at most 100,000 bytes")
    header = tar(tmp_path / "header.tar.gz", ("a" * 500_000, b""), format=tarfile.GNU_FORMAT)
    refused(lambda: open_dataset(header), "to expand to at most 100,000 bytes")
    many = tar(tmp_path / "many.tar.gz", *((f"f{number}", b"") for number in range(30)))
    monkeypatch.setattr(archives, "MAX_FILES", 20)
    refused(lambda: open_dataset(many), "to hold at most 20 files")


def external_link(file, place, tmp_path):
    del file[place]
    file[place] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/secret")


def group_elsewhere(file, place, tmp_path):
    file["/more"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/")


def soft_link(file, place, tmp_path):
    file["/more"] = file["/"]  # a circle, which is harmless
    del file[place]
    file[place] = h5py.SoftLink("/more/more")


def external_storage(file, place, tmp_path):
    del file[place]
    file.create_dataset(place, (48,), "f4", external=[(str(tmp_path / "secret.bin"), 0, SECRET.nbytes)])


def virtual_array(file, place, tmp_path):
    del file[place]
    layout = h5py.VirtualLayout((48,), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "secret", (48,))
    file.create_virtual_dataset(place, layout)


def empty_but_huge(file, place, tmp_path):
    del file[place]
    file.create_dataset(place, (1 << 40,), "f4", chunks=(1 << 20,))


CHANGES = [
    (external_link, r"hold all of its values itself. Received: a link to '.*secret.h5:/secret' at '.*'"),
    (group_elsewhere, r"hold all of its values itself. Received: a link to '.*secret.h5:/' at 'more'"),
    (soft_link, r"hold all of its values itself. Received: a link to '/more/more' at '.*'"),
    (external_storage, r"hold all of its values itself. Received: values in the file '.*secret.bin' at '.*'"),
    (virtual_array, r"hold all of its values itself. Received: an array that is made of others at '.*'"),
    (empty_but_huge, r"to expand to at most 1,073,741,824 bytes. Received: 4,398,0.*"),
]


@pytest.fixture(scope="module")
def saved(build, tmp_path_factory):
    """Files of a model, as Keras 3 and Keras 2 write them, by their endings."""
    folder, model = tmp_path_factory.mktemp("saved"), build("nin_digits", weights="digits")
    for name in ("net.weights.h5", "net.keras", "net.h5"):
        (model.save_weights if "weights" in name else model.save)(folder / name)
    writers.keras_2(model, folder / "keras2.h5")
    return folder


def find_array(file):
    """Return the place of an array in an open file."""
    places = []
    file.visititems(lambda place, item: places.append(place) if isinstance(item, h5py.Dataset) else None)
    return f"/{places[0]}"


@pytest.mark.parametrize("name", ["net.weights.h5", "net.keras", "net.h5", "keras2.h5"])
@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_values_that_are_not_in_the_file(build, saved, tmp_path, name, change, message):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret"] = SECRET
    (tmp_path / "secret.bin").write_bytes(SECRET.tobytes())
    path = tmp_path / name
    path.write_bytes((saved / name).read_bytes())
    if name == "net.keras":
        with zipfile.ZipFile(saved / name) as archive:
            members = {entry: archive.read(entry) for entry in archive.namelist()}
        (tmp_path / "model.weights.h5").write_bytes(members["model.weights.h5"])
    with h5py.File(tmp_path / "model.weights.h5" if name == "net.keras" else path, "a") as file:
        change(file, find_array(file), tmp_path)
    if name == "net.keras":
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in members.items():
                changed = pathlib.Path(tmp_path / entry)
                archive.writestr(entry, changed.read_bytes() if changed.is_file() else content)
    refused(lambda: models.load_weights(build("nin_digits"), path), message)
    if name in ("net.keras", "net.h5"):
        refused(lambda: models.load_model(path), message)


def test_a_file_that_is_a_zip_and_hdf5(build, saved, tmp_path):
    path = tmp_path / "both.weights.h5"
    path.write_bytes((saved / "net.weights.h5").read_bytes())
    with h5py.File(path, "a") as file:
        group_elsewhere(file, "", tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a", b"")
    refused(lambda: models.load_weights(build("nin_digits"), path), "a link to")
