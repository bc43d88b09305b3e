"""The script beside an exported file classifies an image just as our preprocessing and our runner do."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as kl
from PIL import Image

from keras_nin import data
from keras_nin.data.image_folder import decode_image
from keras_nin.export import Tuning, convert_schemes
from keras_nin.export.schemes import SCHEMES
from keras_nin.tflite.quantization import quantize
from keras_nin.tflite.runner import TFLiteRunner

SHAPE = (10, 12, 3)
CLASSES = ("boat", "cat", "dög", "class 3", "tree", "owl")
KINDS = {
    "float32": SCHEMES["float32"],
    "int8": SCHEMES["int8"],
    "uint8": SCHEMES["int8"].with_io("uint8"),
    "float_ends": SCHEMES["int8"].with_io("float32"),
    "int16": SCHEMES["int16x8"],
}
# Of its own and of keras_nin's imports, runs every script on every image and keeps what went in and came out.
DRIVER = """
import contextlib, io, json, runpy, sys
import numpy

scripts, images, kept = json.loads(sys.argv[1])
printed, arrays = {}, {}
for script in scripts:
    for image in images:
        sys.argv = [script, image]
        with contextlib.redirect_stdout(io.StringIO()) as out:
            found = runpy.run_path(script)
        printed[f"{script} {image}"] = out.getvalue()
        arrays[f"{script} {image}"] = found["values"]
numpy.savez(kept, **{str(number): array for number, array in enumerate(arrays.values())})
forbidden = ("keras_nin", "keras", "tensorflow", "sklearn")
print(json.dumps([printed, [name for name in forbidden if name in sys.modules]]))
"""


def network(shape):
    keras.utils.set_random_seed(0)
    flat = [kl.Flatten(name="flat"), kl.Dense(len(CLASSES), name="scores")]
    return keras.Sequential([keras.Input(shape), kl.Conv2D(4, 3, name="conv"), *flat], name="net")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Image files of many kinds, by path."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.RandomState(0)
    smooth = Image.fromarray(random.randint(0, 256, (6, 9, 3), np.uint8)).resize((61, 37), Image.Resampling.BICUBIC)
    smooth.save(folder / "colour.png")
    smooth.resize((12, 10)).save(folder / "exact.png")
    smooth.resize((4, 3)).save(folder / "small.png")
    smooth.resize((80, 9)).save(folder / "wide.png")
    smooth.convert("L").save(folder / "grey.png")
    Image.fromarray(random.randint(0, 1 << 16, (30, 50), np.uint16)).save(folder / "deep.png")
    smooth.convert("P").save(folder / "palette.png", transparency=3)
    smooth.convert("CMYK").save(folder / "print.jpg")
    faint = smooth.copy()
    faint.putalpha(Image.fromarray(random.randint(0, 256, (37, 61), np.uint8)))
    faint.save(folder / "faint.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: turn by 90 degrees
    smooth.save(folder / "turned.jpg", exif=turned)
    return sorted(map(str, folder.iterdir()))


def convert(model, *kinds, reach=3.0, **options):
    """Return the files of `model` by kind, with an input from -`reach` to `reach`."""
    noise = np.random.RandomState(1).uniform(-reach, reach, (16, *model.input_shape[1:]))
    schemes = [KINDS[kind] for kind in kinds]
    options = {"classes": CLASSES, "tuning": Tuning.plain()} | options
    converted = convert_schemes(model, schemes, noise, name="my net", **options)
    return dict(zip(kinds, converted, strict=True))


def drive(scripts, images, folder):
    """Return what every script printed about every image, and what went into the network."""
    argument = json.dumps([list(map(str, scripts)), images, str(folder / "kept.npz")])
    ran = subprocess.run([sys.executable, "-I", "-c", DRIVER, argument], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    printed, forbidden = json.loads(ran.stdout)
    assert forbidden == []
    with np.load(folder / "kept.npz") as kept:
        return printed, {key: kept[str(number)] for number, key in enumerate(printed)}


def check(files, images, folder):
    """Compare scripts with our way; `files` are pairs of the path of a .tflite file and a `Preprocessing`."""
    printed, inputs = drive([path.with_suffix(".py") for path, _ in files], images, folder)
    for path, preprocessing in files:
        runner = TFLiteRunner(path)
        _, height, width, channels = runner.model.main.tensors[runner.model.main.inputs[0]].shape
        for image in images:
            key = f"{path.with_suffix('.py')} {image}"
            prepared = preprocessing.apply([decode_image(pathlib.Path(image))], (height, width), channels)
            np.testing.assert_array_equal(inputs[key], encoded(runner, prepared), err_msg=key)
            scores = runner.predict(prepared)[0]
            best = np.argsort(-scores, kind="stable")[:5]
            lines = [line.split("  ") for line in printed[key].splitlines()]
            assert [label for _, label in lines] == [CLASSES[index] for index in best], key
            np.testing.assert_allclose([float(score) for score, _ in lines], scores[best], rtol=1e-6, atol=6e-5)


def encoded(runner, prepared):
    """Return what goes into the file."""
    details = runner.input
    if details.dtype == "float32":
        return prepared
    return quantize(prepared, details.scale, details.zero_point, details.dtype)


@pytest.mark.slow
def test_every_preset_on_images_of_every_kind(photographs, tmp_path):
    """Files of every type, with every preset, one of them on images of one channel that it crops."""
    model = network(SHAPE)
    presets = {3: ("unit", "symmetric", "standardize", "torch"), 255: ("raw", "caffe", "keras_caffe")}
    files, made = [], {reach: convert(model, *(KINDS if reach == 3 else ["int8"]), reach=reach) for reach in presets}
    for reach, names in presets.items():
        for converted in made[reach].values():
            for chosen in map(data.get_preset, names):
                with_preset = dataclasses.replace(converted, preprocessing=chosen.to_json())
                files.append((with_preset.save(tmp_path / str(len(files))), chosen))
    assert {chosen for _, chosen in files} == set(data.PRESETS.values())
    constants = [{"scale": 1 / 64, "mean": (1.5, 2.0, 1.0), "std": (0.9,)}, {"preset": "torch", "channels": "bgr"}]
    for chosen in map(data.Preprocessing.from_json, constants):
        with_constants = dataclasses.replace(made[3]["int8"], preprocessing=chosen.to_json())
        files.append((with_constants.save(tmp_path / str(len(files))), chosen))
    cropping = data.Preprocessing("unit", (0.1307,), (0.3081,), 0.6)
    for converted in convert(network((9, 7, 1)), "int8", preprocessing=cropping).values():
        files.append((converted.save(tmp_path / str(len(files))), cropping))
    check(files[-3:], photographs, tmp_path)  # the last network on images of every kind, the others on two
    check(files[:-3], photographs[:2], tmp_path)


@pytest.fixture(scope="module")
def int8():
    return convert(network(SHAPE), "int8", preprocessing=data.get_preset("torch"))["int8"]


@pytest.mark.slow
def test_a_static_batch(int8, photographs, tmp_path):
    three = convert(network(SHAPE), "int8", preprocessing=data.get_preset("torch"), batch=3)["int8"]
    scripts = [made.save(tmp_path / str(made.batch)).with_suffix(".py") for made in (int8, three)]
    printed, _ = drive(scripts, photographs[:2], tmp_path)
    texts = list(printed.values())
    assert len(set(texts[:2])) == 2
    assert texts[:2] == texts[2:]


def test_as_a_user_runs_it(int8, photographs, tmp_path):
    path = int8.save(tmp_path)
    assert path.with_name("my net_int8_labels.txt").read_text(encoding="utf-8") == "\n".join(CLASSES) + "\n"
    command = [sys.executable, path.with_suffix(".py"), photographs[0]]
    ran = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert ran.returncode == 0
    lines = [line.split("  ") for line in ran.stdout.splitlines()]
    assert len(lines) == 5
    assert {label for _, label in lines} < set(CLASSES)
    scores = [float(score) for score, _ in lines]
    assert scores == sorted(scores, reverse=True)
    source = path.with_suffix(".py").read_text()
    assert "python 'my net_int8.py' photo.jpg" in source
    assert "MEAN = (0.485, 0.456, 0.406)" in source
    assert len([line for line in source.splitlines() if line.strip()]) <= 35


def test_classes_without_names_and_a_name_that_could_end_the_script(int8, photographs, tmp_path):
    odd = dataclasses.replace(int8, classes=(), model='a"""b\\\'')
    labels = f"{odd.stem}_labels.txt"
    assert odd.companion_files()[labels] == "".join(f"class {number}\n" for number in range(len(CLASSES)))
    printed, _ = drive([odd.save(tmp_path).with_suffix(".py")], photographs[:1], tmp_path)
    assert "class 0" in "".join(printed.values())
    assert list(dataclasses.replace(int8, preprocessing=None).companion_files()) == ["my net_int8_labels.txt"]


def test_networks_that_do_not_classify_images(int8):
    def tensors(source, *outputs):
        """The file as if it had this input and these outputs."""
        main = int8.tflite.main
        shapes = [source, *outputs]
        made = tuple(dataclasses.replace(main.tensors[0], index=i, shape=shape) for i, shape in enumerate(shapes))
        changed = dataclasses.replace(main, tensors=made, inputs=(0,), outputs=tuple(range(1, len(shapes))))
        return dataclasses.replace(int8, tflite=dataclasses.replace(int8.tflite, subgraphs=(changed,)))

    def suffixes(*shapes):
        return [name.removeprefix("my net_int8") for name in tensors(*shapes).companion_files()]

    assert suffixes((1, 8, 8, 3), (1, 2)) == ["_labels.txt", ".py"]
    assert suffixes((1, 8, 8, 3), (1, 8, 8, 2)) == []  # a map
    assert suffixes((1, 8, 8, 3), (1, 1)) == []  # one number
    assert suffixes((1, 8, 8, 3), (1, 2), (1, 2)) == []
    assert suffixes((1, 8, 8, 5), (1, 2)) == ["_labels.txt"]  # no image
