"""Folders of images: layouts, files, labels."""

import dataclasses
import itertools
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_nin.data import open_dataset
from keras_nin.data.image_folder import (
    ImageFiles,
    decode_image,
    index_classes,
    labels_from_file_names,
    list_folders,
    list_images,
    read_labels_file,
)
from keras_nin.data.preprocessing import fit_image, fit_mask
from keras_nin.errors import InputError

_grey = itertools.count()


def fill(folder, *names):
    """Write a small image of its own grey under every name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (next(_grey) % 256,) * 3).save(path)


def names_of(photos, split):
    paths = photos.images.paths
    return [f"{paths[index].parent.name}/{paths[index].name}" for index in photos.select(split)]


def test_flat_with_numbers_in_the_names(tmp_path):
    fill(tmp_path, *(f"{index:04}_x.png" for index in range(2, 26, 2)))
    photos = open_dataset(tmp_path)
    assert photos.name == tmp_path.name
    assert photos.labels.tolist() == list(range(2, 26, 2))
    assert photos.select("calibration").tolist() == [0, 5, 10]
    assert photos.names_of([1, 0]) == ["0004_x.png", "0002_x.png"]
    assert photos.select("test").tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 11]
    assert photos.class_names == ()
    assert (photos.preprocessing.mode, photos.preprocessing.crop_fraction) == ("unit", 0.875)
    with pytest.raises(InputError, match="pass a folder with train/ and test/"):
        photos.select("train")


def test_flat_without_numbers_has_no_labels(tmp_path):
    fill(tmp_path, "a.png", "b.png")
    photos = open_dataset(tmp_path)
    assert photos.labels is None
    images, labels = next(photos.batches(photos.select("test"), (4, 4), 3))
    assert (images.shape, labels) == ((1, 4, 4, 3), None)


def masked(folder, shape=(6, 9), mode="L"):
    """Write two images and their masks of class indices, and return the mask of the first."""
    mask = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape) % 7
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for name in ("a", "b"):
        Image.new("RGB", shape[::-1]).save(folder / "images" / f"{name}.jpg")
        picture = Image.fromarray(mask)
        if mode == "P":
            picture.putpalette([255 - value for value in range(256) for _ in range(3)])
        picture.convert(mode).save(folder / "masks" / f"{name}.png")
    return mask


@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_folder_of_images_and_masks(tmp_path, mode):
    mask = masked(tmp_path, mode=mode)
    photos = open_dataset(tmp_path)
    assert (photos.labels, photos.select("test").tolist(), photos.names_of([1])) == (None, [1], ["images/b.jpg"])
    fitted = dataclasses.replace(photos.targets[""], fit=((6, 9), 1.0, (6, 9)))
    np.testing.assert_array_equal(fitted[np.array([1, 0])], [mask, mask])


@pytest.mark.parametrize("shape", [(6, 9), (40, 23), (3, 400), (17, 17)])
@pytest.mark.parametrize("crop", [1.0, 0.8])
def test_a_mask_lies_on_its_image(shape, crop):
    """The mask as an image of two colors goes through the resizing and the crop of images."""
    inside = np.zeros(shape, np.uint8)
    inside[shape[0] // 3 :, shape[1] // 2 :] = 1
    size = (24, 32)
    image = fit_image(inside * 255, size, 1, crop)[..., 0]
    mask = fit_mask(inside, size, size, crop)
    clear = (image < 64) | (image > 192)  # away from the edge, which is blurred in the image
    np.testing.assert_array_equal(mask[clear], image[clear] > 128)
    half = fit_mask(inside, size, (12, 16), crop)  # an output of half the size, whose centers are corners of pixels
    same = clear[::2, ::2] & clear[1::2, 1::2] & (mask[::2, ::2] == mask[1::2, 1::2])
    np.testing.assert_array_equal(half[same], mask[::2, ::2][same])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "masks/b.png").unlink(), r"masks/b.png'. Received: none \(1 of 2 images"),
        (lambda folder: Image.new("L", (9, 7)).save(folder / "masks/b.png"), "jpg', 9 x 6. Received: .*png', 9 x 7"),
        (lambda folder: Image.new("RGB", (9, 6)).save(folder / "masks/b.png"), "one channel, .*Pillow mode RGB"),
        (lambda folder: (folder / "masks/b.png").write_bytes(b"x"), "a readable image"),
        (lambda folder: [path.unlink() for path in folder.glob("images/*")], "images .* in .*images'"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit(tmp_path, damage, message):
    masked(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        dataclasses.replace(open_dataset(tmp_path).targets[""], fit=((6, 9), 1.0, (6, 9)))[np.array([1])]


def test_masks_in_a_split_are_no_classes(tmp_path):
    (tmp_path / "train").mkdir()
    masked(tmp_path / "train")
    with pytest.raises(InputError, match="images/ and masks/ directly in .*Pass '.*train'"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("name", ["labels.csv", "labels.txt", "truth.txt"])
def test_flat_with_a_labels_file(tmp_path, name):
    fill(tmp_path, "0_b.png", "1_a.png", "2_c.png")
    (tmp_path / name).write_text("1_a.png,cat\n0_b.png,dog\n2_c.png,cat\n")
    photos = open_dataset(tmp_path, labels=tmp_path / name if name == "truth.txt" else None)
    assert photos.labels.tolist() == [1, 0, 0]
    assert photos.class_names == ("cat", "dog")


def test_a_folder_beside_flat_images_may_hold_other_things(tmp_path):
    fill(tmp_path, "a.png")
    (tmp_path / "notes").mkdir()
    assert len(open_dataset(tmp_path).images) == 1


def test_class_folders(tmp_path):
    fill(tmp_path, *(f"{name}/{index}.png" for name in ["dog", "cat"] for index in range(4)))
    (tmp_path / "readme.txt").write_text("not an image")
    photos = open_dataset(tmp_path)
    assert photos.class_names == ("cat", "dog")
    assert photos.labels.tolist() == [0] * 4 + [1] * 4
    assert names_of(photos, "calibration") == photos.names_of([0, 5]) == ["cat/0.png", "dog/1.png"]
    assert len(photos.select("test")) == 6


def test_numbered_class_folders(tmp_path):
    fill(tmp_path, "536_dock/a.png", "7_cock/a.png")
    photos = open_dataset(tmp_path)
    assert photos.labels.tolist() == [536, 7]
    assert photos.class_names == ()


def test_one_numbered_class_folder(tmp_path):
    fill(tmp_path, "536_dock/a.png")
    assert open_dataset(tmp_path).labels.tolist() == [536]


@pytest.mark.parametrize("tests", ["test", "val"])
def test_train_and_test(tmp_path, tests):
    fill(tmp_path, *(f"train/{name}/{index}.png" for name in "ba" for index in range(6)))
    fill(tmp_path, f"{tests}/b/0.png", f"{tests}/b/1.png")
    photos = open_dataset(tmp_path)
    assert names_of(photos, "calibration") == ["a/0.png", "a/5.png", "b/4.png"]
    assert len(photos.select("train")) == 9
    assert names_of(photos, "test") == ["b/0.png", "b/1.png"]
    assert photos.labels.tolist() == [0] * 6 + [1] * 6 + [1] * 2  # class b is 1, though test has no a
    assert photos.class_names == ("a", "b")


def test_numbered_classes_of_train_and_test_agree(tmp_path):
    fill(tmp_path, "train/3_x/0.png", "train/9_y/0.png", "test/9_y/1.png")
    assert open_dataset(tmp_path).labels.tolist() == [3, 9, 9]


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, "bus/0.png", "train/0.png")
    assert open_dataset(tmp_path).class_names == ("bus", "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "Expected images .* directly or in class folders. Received: none"),
        (["a.png", "cat/b.png"], "either directly .* or in class folders. Received: both"),
        (["train/a/0.png"], r"Expected test/ or val/ beside '.*train'. Received: train"),
        (["train/a/0.png", "test/c/0.png"], "to be in train/ too. Received: 'c'"),
        (["train/0_a.png", "test/0_a.png"], "Expected images .* in class folders in '.*train'"),
        (["train/a/0.png", "test/0.png"], "Expected images .* in class folders in '.*test'"),
        (["x/y/0.png"], "Expected images .* in class folders"),
        (["photos/0.png"], "Expected several class folders .* Received: one. Pass '.*photos'"),
        (["1_a/0.png", "01_b/0.png"], "different numbers"),
    ],
)
def test_a_folder_of_no_layout_is_refused(tmp_path, files, message):
    fill(tmp_path, *files)
    with pytest.raises(InputError, match=message):
        open_dataset(tmp_path)


def test_a_labels_file_goes_with_flat_images(tmp_path):
    fill(tmp_path, "cat/a.png")
    with pytest.raises(InputError, match="to go with a labels file. Received: class folders"):
        open_dataset(tmp_path, labels="labels.csv")


def test_a_damaged_image_is_named_when_it_is_read(tmp_path):
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "b.png").write_bytes(b"")
    photos = open_dataset(tmp_path)
    photos.load(photos.select("calibration"), (4, 4), 3)
    with pytest.raises(InputError, match=r"b\.png"):
        photos.load(photos.select("test"), (4, 4), 3)


@pytest.mark.external
def test_imagenet_samples(external_data):
    photos = open_dataset(external_data / "images" / "imagenet_samples")
    calibration, test = photos.select("calibration"), photos.select("test")
    assert (len(calibration), len(test)) == (100, 400)
    assert photos.labels.tolist() == list(range(0, 1000, 2))
    digests = photos.image_digests(calibration), photos.image_digests(test)
    assert [len(each) for each in digests] == [100, 400]
    assert digests[0].isdisjoint(digests[1])
    # Their short side is 256: 224 at 0.875 is a crop without resampling.
    image = photos.images[0]
    top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
    expected = image[top : top + 224, left : left + 224] / np.float32(255)
    np.testing.assert_array_equal(photos.load([0], (224, 224), 3)[0], expected)


COLOUR = np.random.RandomState(0).randint(0, 256, (6, 9, 3), dtype=np.uint8)


def test_listing_is_sorted_and_leaves_out_what_is_no_image(tmp_path):
    for name in [
        "b.PNG",
        "a.jpg",
        "10.webp",
        "9.bmp",
        "c.jpeg",
        "d.ppm",
        "e.gif",
        "f.tif",
        "g.TIFF",
        "h.eps",
        ".hidden.jpg",
        "notes.txt",
        "labels.csv",
        "png",
    ]:
        (tmp_path / name).touch()
    for name in ["z", "a", ".git", "folder.jpg"]:
        (tmp_path / name).mkdir()
    listed = ["10.webp", "9.bmp", "a.jpg", "b.PNG", "c.jpeg", "d.ppm", "e.gif", "f.tif", "g.TIFF"]
    assert [path.name for path in list_images(tmp_path)] == listed
    assert [path.name for path in list_folders(tmp_path)] == ["a", "folder.jpg", "z"]


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"Expected a folder of images. Received: .*absent"):
        list_images(tmp_path / "absent")


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm"])
def test_lossless_files_give_their_pixels(tmp_path, suffix):
    Image.fromarray(COLOUR).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(decode_image(tmp_path / f"a.{suffix}"), COLOUR)


GRAY = COLOUR[..., 0]
ALPHA = np.random.RandomState(1).randint(0, 256, (6, 9, 1), dtype=np.uint8)
# 16 bits, of which the high ones are the 8-bit value: TensorFlow and Pillow both keep those.
DEEP = GRAY.astype(np.uint16) * 256 + 200
REDUCED = Image.fromarray(COLOUR).quantize(7)
CYAN = Image.fromarray(COLOUR).convert("CMYK")


def as_rgb(gray):
    return np.repeat(gray[..., np.newaxis], 3, axis=2)


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (Image.fromarray(GRAY), "png", as_rgb(GRAY)),
        (Image.fromarray(GRAY > 99), "png", as_rgb(np.uint8(255) * (GRAY > 99))),
        (Image.fromarray(np.dstack([COLOUR, ALPHA])), "png", COLOUR),  # alpha is dropped, colors below it stay
        (Image.fromarray(np.dstack([COLOUR, ALPHA])), "tiff", COLOUR),
        (Image.fromarray(np.dstack([GRAY, ALPHA])), "png", as_rgb(GRAY)),
        (Image.fromarray(DEEP), "png", as_rgb(GRAY)),
        (Image.fromarray(DEEP), "tif", as_rgb(GRAY)),
        (Image.fromarray(DEEP.astype(">u2")), "tif", as_rgb(GRAY)),
        (REDUCED, "gif", np.asarray(REDUCED.convert("RGB"))),
        (REDUCED, "bmp", np.asarray(REDUCED.convert("RGB"))),
        (CYAN, "tif", 255 - COLOUR),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_every_kind_of_image_gives_the_stated_pixels(tmp_path, image, suffix, expected):
    if image.mode == "CMYK":
        expected = np.asarray(image.convert("RGB"))
    image.save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(decode_image(list_images(tmp_path)[0]), expected)


def test_of_16_bits_in_color_the_high_ones_count(tmp_path):
    deep = (COLOUR.astype(np.uint16) * 256 + 200).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", 9, 6, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png"), COLOUR)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_of_several_images_counts(tmp_path, suffix):
    first, second = (Image.fromarray(np.full((6, 9, 3), value, np.uint8)) for value in (40, 200))
    first.save(
        tmp_path / f"a.{suffix}", save_all=True, append_images=[second], **{"webp": {"lossless": True}}.get(suffix, {})
    )
    assert set(decode_image(tmp_path / f"a.{suffix}").flat) == {40}


@pytest.mark.parametrize("kind", ["I", "F", "12 bits"])
def test_values_without_a_known_range_are_refused(tmp_path, kind):
    values = Image.fromarray(np.ones((6, 9), np.float32 if kind == "F" else np.int32))
    values = Image.fromarray(DEEP) if kind == "12 bits" else values
    values.save(tmp_path / "a.tif")
    if kind == "12 bits":
        content = (tmp_path / "a.tif").read_bytes()
        entry = struct.pack("<HHI", 258, 3, 1)
        (tmp_path / "a.tif").write_bytes(content.replace(entry + b"\x10", entry + b"\x0c"))
    with pytest.raises(InputError, match=r"8 or 16 bits per channel. Received: .*a\.tif"):
        decode_image(tmp_path / "a.tif")


def test_no_other_format_is_opened_whatever_its_name(tmp_path, monkeypatch):
    """Pillow gives an EPS file to Ghostscript, which is a program that runs programs."""
    gs = tmp_path / "bin" / "gs"
    gs.parent.mkdir()
    gs.write_text(f"#!/bin/sh\necho \"$@\" >> '{tmp_path}/was-run'\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gs.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    Image.fromarray(COLOUR).save(tmp_path / "a.eps")
    others = {"eps.jpg": (tmp_path / "a.eps").read_bytes()}
    for suffix in ("ico", "pcx", "tga", "jp2"):
        Image.fromarray(COLOUR).save(tmp_path / f"a.{suffix}")
        others[f"{suffix}.png"] = (tmp_path / f"a.{suffix}").read_bytes()
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="not an image of the formats BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"):
            decode_image(tmp_path / name)
    assert not (tmp_path / "was-run").exists()


def test_a_mask_is_a_png(tmp_path):
    masked(tmp_path)
    for mask in (tmp_path / "masks").glob("*.png"):  # in a JPEG, class indices would be blurred
        Image.open(mask).save(mask, format="JPEG")
    with pytest.raises(InputError, match="not an image of the formats PNG"):
        dataclasses.replace(open_dataset(tmp_path).targets[""], fit=((6, 9), 1.0, (6, 9)))[np.array([1])]


def test_a_damaged_tiff_is_one_line(tmp_path, capfd):
    Image.fromarray(COLOUR).save(tmp_path / "a.tif", compression="tiff_deflate")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    start = content.index(b"\x78\x9c")
    content[start + 20 : start + 40] = bytes(20)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.tif"):
        decode_image(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""


def test_files_that_are_no_images_or_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_nin.data.image_folder.MAX_FILE_BYTES", 1000)
    (tmp_path / "a.png").write_bytes(bytes(1001))
    with pytest.raises(InputError, match=r"Expected a file of at most 1,000 bytes. Received: '.*a\.png'"):
        decode_image(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"Expected an image file. Received: '.*b\.png', a pipe or a device"):
        decode_image(tmp_path / "b.png")


def test_a_palette_with_transparency_decodes_without_a_warning(tmp_path):
    image = Image.fromarray(COLOUR).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode_image(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_orientation_is_applied(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    masked(tmp_path, (9, 6))
    for image in (tmp_path / "images").iterdir():
        image.unlink()
        image = image.with_suffix(f".{suffix}")
        Image.fromarray(COLOUR).save(image, exif=exif)
        np.testing.assert_array_equal(decode_image(image), np.rot90(COLOUR, -1))
    dataset = dataclasses.replace(open_dataset(tmp_path).targets[""], fit=((9, 6), 1.0, (9, 6)))
    assert dataset[np.array([0])].shape == (1, 9, 6)  # a mask has the size of the upright image


def test_files_are_read_when_asked_for(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    images = ImageFiles(list_images(tmp_path))
    assert len(images) == 2
    np.testing.assert_array_equal(images[0], COLOUR)
    with pytest.raises(
        InputError, match=r"Expected a readable image. Received: .*b\.png' \(not an image of the formats"
    ):
        images[1]


def test_damaged_and_missing_files_are_named(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for length in range(0, len(whole) - 20, 7):  # what follows the pixels: their checksums, 8 bytes, and a chunk of 12
        (tmp_path / "a.png").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.png"):
            decode_image(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"absent\.png"):
        decode_image(tmp_path / "absent.png")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    monkeypatch.setattr("keras_nin.data.image_folder.MAX_PIXELS", 53)
    with pytest.raises(InputError, match=r"at most 53 pixels. Received: '.*a\.png' \(9 x 6\)"):
        decode_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # Pillow refuses more than twice as many itself
    with pytest.raises(InputError, match=r"at most 53 pixels. Received: '.*a\.png' \(Image size"):
        decode_image(tmp_path / "a.png")


NAMES = ["a.jpg", "b.jpg", "c d.jpg"]


def read(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    labels, class_names = read_labels_file(path, NAMES)
    return labels.tolist(), class_names


def test_class_folders_are_numbered_in_sorted_order():
    assert index_classes(["dog", "Bird", "cat"]) == ({"Bird": 0, "cat": 1, "dog": 2}, ("Bird", "cat", "dog"))


def test_one_name_without_a_number_makes_all_of_them_names():
    assert index_classes(["3d", "cat"])[0] == {"3d": 0, "cat": 1}


def test_numbered_class_folders_keep_their_number():
    assert index_classes(["10_b", "9_a"]) == ({"10_b": 10, "9_a": 9}, ())
    assert index_classes(["1", "0", "02-c"]) == ({"0": 0, "02-c": 2, "1": 1}, ("0", "1", "02-c"))


def test_dates_are_names():
    assert index_classes(["20240101", "20240102"])[0] == {"20240101": 0, "20240102": 1}


def test_two_class_folders_with_one_number_are_refused():
    with pytest.raises(InputError, match="Received: '07_cat' and '7_dog'"):
        index_classes(["7_dog", "07_cat", "1_x"])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["0536_n03216828.jpg", "7-x.png", "12 y.jpg", "3.z.jpg"], [536, 7, 12, 3]),
        (["0001.jpg", "0002.jpg"], None),
        (["20240101_120000.jpg"], None),
        (["1_a.jpg", "b.jpg"], None),
        (["IMG_0001.jpg"], None),
    ],
)
def test_file_names(names, expected):
    labels = labels_from_file_names(names)
    assert (labels is None and expected is None) or labels.tolist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg,2\nb.jpg,0\nc d.jpg,11\n",
        "\ufeffc d.jpg 11\r\na.jpg 2\r\n\r\nb.jpg\t0",
        b'\xef\xbb\xbffilename,label\na.jpg, 2\nb.jpg ,0\n"c d.jpg",11\n',
    ],
)
def test_indices_from_a_file(tmp_path, text):
    assert read(tmp_path, text) == ([2, 0, 11], ())


def test_names_from_a_file(tmp_path):
    assert read(tmp_path, 'a.jpg,dog\nb.jpg,"cat, wild"\nc d.jpg,dog') == ([1, 0, 1], ("cat, wild", "dog"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,2\nb.jpg,0", r"no entry for 'c d\.jpg' \(1 images without entry, 0 entries"),
        ("a.jpg,2\nb.jpg,0\nc d.jpg,1\ne.jpg,1", r"an entry for 'e\.jpg', which is not there \(0 .*, 1 entries"),
        ("a.jpg,2\nb.jpg,0\na.jpg,1", r"line 3 .*a second entry"),
        ("a.jpg,2\nb.jpg", r"line 2 .*not a name and a label: 'b\.jpg'"),
        ("a.jpg,2\nb.jpg,", "line 2"),
        ("a.jpg,2,3", "line 1"),
        ("goldfish\ntench\n", "line 2"),
        ("a.jpg,2\nb.jpg,cat\nc d.jpg,1", "all whole numbers from 0, or all class names. Received: '2' and 'cat'"),
        ("a.jpg,-1\nb.jpg,0\nc d.jpg,1", "Received: '0' and '-1'"),
        ("", "no entry for 'a.jpg'"),
        (b"\xff\xfea", "UTF-8"),
    ],
)
def test_a_file_that_does_not_match_the_images_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, text)
    assert "labels.csv" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.txt"):
        read_labels_file(tmp_path / "absent.txt", NAMES)
