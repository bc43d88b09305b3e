import warnings

import numpy as np
import pytest
from PIL import Image

from keras_nin.data.image_folder import ImageFiles, decode_image, list_folders, list_images
from keras_nin.errors import InputError

COLOUR = np.random.RandomState(0).randint(0, 256, (6, 9, 3), dtype=np.uint8)


def test_listing_is_sorted_and_leaves_out_what_is_no_image(tmp_path):
    for name in [
        "b.PNG",
        "a.jpg",
        "10.webp",
        "9.bmp",
        "c.jpeg",
        "d.ppm",
        ".hidden.jpg",
        "notes.txt",
        "labels.csv",
        "png",
    ]:
        (tmp_path / name).touch()
    for name in ["z", "a", ".git", "folder.jpg"]:
        (tmp_path / name).mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["10.webp", "9.bmp", "a.jpg", "b.PNG", "c.jpeg", "d.ppm"]
    assert [path.name for path in list_folders(tmp_path)] == ["a", "folder.jpg", "z"]


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"Expected a folder of images. Received: .*absent"):
        list_images(tmp_path / "absent")


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm"])
def test_lossless_files_give_their_pixels(tmp_path, suffix):
    Image.fromarray(COLOUR).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(decode_image(tmp_path / f"a.{suffix}"), COLOUR)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb_or_is_refused(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image = Image.fromarray(COLOUR)
    if mode == "I;16":
        image = Image.fromarray(COLOUR[..., 0].astype(np.uint16) * 257)
    image.convert(mode).save(path)
    if mode == "I;16":
        with pytest.raises(InputError, match=r"8 bits a channel. Received: .*a\.png"):
            decode_image(path)
    else:
        pixels = decode_image(path)
        assert (pixels.shape, pixels.dtype) == ((6, 9, 3), np.uint8)


def test_a_palette_with_transparency_decodes_without_a_warning(tmp_path):
    image = Image.fromarray(COLOUR).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode_image(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


def test_exif_orientation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png"), np.rot90(COLOUR, -1))


def test_files_are_read_when_asked_for(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    images = ImageFiles(list_images(tmp_path))
    assert len(images) == 2
    np.testing.assert_array_equal(images[0], COLOUR)
    with pytest.raises(InputError, match=r"Expected a readable image. Received: .*b\.png' \(not an image that Pillow"):
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
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(InputError, match=r"usual size. Received: .*a\.png"):
        decode_image(tmp_path / "a.png")
