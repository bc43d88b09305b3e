"""What is written beside an exported network that classifies images: the names of its classes, and a script."""

import shlex

import numpy as np

from keras_nin.data import Preprocessing
from keras_nin.formatting import escape_unprintable


def companion_files(made):
    """Return the content of the files that go beside an `Export`, as text by their names.

    ``<model>_<scheme>_labels.txt`` has the name of class i in line i, counted from 0; ``<model>_<scheme>.py`` prints
    the likeliest classes of an image. Both belong to one file, as its sidecar does: what else lies in the folder may be
    of another network, or of the same one with other classes.

    A network whose output is no vector of classes has neither, one on anything but images of 1 or 3 channels, or
    without a known preprocessing, no script.
    """
    main = made.graph().main
    if len(main.outputs) != 1 or not _is_classes(main.tensors[main.outputs[0]].shape):
        return {}
    source, target = main.tensors[main.inputs[0]], main.tensors[main.outputs[0]]
    known = made.classes or tuple(f"class {index}" for index in range(target.shape[1]))
    found = {labels_filename(made.stem): "".join(f"{name}\n" for name in known)}
    if len(main.inputs) == 1 and made.preprocessing and _is_image(source.shape):
        found[f"{made.stem}.py"] = classification_script(made.stem, made.preprocessing, source, target)
    return found


def _is_classes(shape):
    return len(shape) == 2 and shape[1] > 1


def _is_image(shape):
    return len(shape) == 4 and shape[3] in (1, 3)


# MERGED The script that goes beside an exported file: it classifies an image with NumPy, Pillow and LiteRT alone.
# MERGED
# MERGED What it does is what `keras_nin.data.preprocessing`, `keras_nin.data.preprocessing` and `keras_nin.tflite.quantization` do, in
# MERGED the few lines that one network needs of them; but for strips of more than 16 times the length that the network sees,
# MERGED of which `fitting` drops the ends first.

_SCRIPT_TEMPLATE = '''\
"""Print the likeliest classes of an image: python {command} photo.jpg"""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

{constants}beside = __file__.removesuffix(".py")
labels = open(f"{{beside}}_labels.txt", encoding="utf-8").read().splitlines()
network = Interpreter(f"{{beside}}.tflite")
network.allocate_tensors()
source, target = network.get_input_details()[0], network.get_output_details()[0]

image = ImageOps.exif_transpose(Image.open(sys.argv[1]))
image = image.convert("RGBA" if image.mode == "P" else "RGB").convert("RGB")
scale = max({wide} / image.width, {high} / image.height)
size = max({wide}, round(image.width * scale)), max({high}, round(image.height * scale))
image = image.resize(size, Image.BILINEAR)
left, top = (image.width - {width}) // 2, (image.height - {height}) // 2
image = image.crop((left, top, left + {width}, top + {height})).convert("{mode}")
pixels = np.asarray(image, np.float32).reshape(1, {height}, {width}, {channels})
{arithmetic}{quantize}
network.set_tensor(source["index"], {tensor})
network.invoke()
scores = network.get_tensor(target["index"])[0]
{dequantize}for index in np.argsort(-scores, kind="stable")[:5]:
    print(f"{{scores[index]:.4f}}  {{labels[index]}}")
'''

_ARITHMETIC = {
    "raw": "values = pixels\n",
    "unit": "values = pixels / 255\n",
    "symmetric": "values = pixels / 127.5 - 1\n",
    "bgr_mean": "values = pixels[..., ::-1] - np.float32(MEAN)\n",
    "standardize": """\
mean = pixels.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float64)
deviation = pixels.std(axis=(1, 2, 3), keepdims=True, dtype=np.float64)
values = (pixels - np.float32(mean)) / np.float32(np.maximum(deviation, 1 / np.sqrt(pixels.size)))
""",
}
# Ties go away from zero; in float64, where adding a half is exact.
_QUANTIZE = """\
scale, zero_point = source["quantization"]
steps = np.float64(values / np.float32(scale))
values = np.clip(np.trunc(steps + np.copysign(0.5, steps)) + zero_point, {least}, {most}).astype(np.{dtype})
"""
_DEQUANTIZE = """\
scale, zero_point = target["quantization"]
scores = (np.float64(scores) - zero_point) * scale
"""


def classification_script(stem, preprocessing, source, target):
    """Return the Python source of a script that classifies one image with an exported file.

    Args:
        stem: name of the file without its ending; that of the script, too.
        preprocessing: what the network expects, as `Preprocessing.to_json` gives it.
        source, target: `keras_nin.tflite.records.TFLiteTensor` of the file's input (batch, height, width, 1 or 3) and output
            (batch, classes).
    """
    record = Preprocessing.from_json(preprocessing)
    batch, height, width, channels = source.shape
    return _SCRIPT_TEMPLATE.format(
        command=_in_docstring(shlex.quote(f"{stem}.py")),
        constants=_constants(record),
        wide=round(width / record.crop_fraction),
        high=round(height / record.crop_fraction),
        width=width,
        height=height,
        channels=channels,
        mode="L" if channels == 1 else "RGB",
        arithmetic=_arithmetic(record),
        quantize=_quantize(source.dtype),
        tensor="values" if batch == 1 else f"np.repeat(values, {batch}, axis=0)",
        dequantize="" if target.dtype == "float32" else _DEQUANTIZE,
    )


def labels_filename(stem):
    """Return the name of the file that holds the names of the classes, one a line."""
    return f"{stem}_labels.txt"


def _constants(record):
    values = {"MEAN": record.mean, "STD": record.std}
    lines = [f"{name} = {value!r}  # of each channel\n" for name, value in values.items() if value is not None]
    return "".join(lines)


def _arithmetic(record):
    lines = _ARITHMETIC[record.mode]
    if record.mode == "unit" and record.mean is not None:
        lines += "values -= np.float32(MEAN)\n"
    if record.mode == "unit" and record.std is not None:
        lines += "values /= np.float32(STD)\n"
    return lines


def _quantize(dtype):
    if dtype == "float32":
        return ""
    limits = np.iinfo(dtype)
    return _QUANTIZE.format(least=limits.min, most=limits.max, dtype=dtype)


def _in_docstring(text):
    return escape_unprintable(text).replace("\\", "\\\\").replace('"', '\\"')
