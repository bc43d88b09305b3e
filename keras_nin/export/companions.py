"""What is written beside an exported image classifier: the names of its classes, and a script that needs no Keras.

The script classifies an image with NumPy, Pillow and LiteRT alone. It does what `keras_nin.data` and
`keras_nin.tflite.quantization` do, in the few lines that one network needs of them; except for strips of more than 16
times the length that the network sees, whose ends `keras_nin.data` drops first.
"""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.data import Preprocessing
from keras_nin.formatting import escape_unprintable

if TYPE_CHECKING:
    from keras_nin.tflite.records import TFLiteModel, TFLiteTensor

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


def companion_files(
    tflite: "TFLiteModel", stem: str, classes: Sequence[str], preprocessing: dict[str, Any] | None
) -> dict[str, str]:
    """Return the text of the files that go beside an exported network, by their names.

    ``<stem>_labels.txt`` has the name of class i in line i, counted from 0; ``<stem>.py`` prints the likeliest classes
    of an image. Both belong to one file, as its export record does: what else lies in the folder may be of another
    network, or of the same one with other classes.

    A network whose output is no vector of classes gets neither. A network whose input is no image of 1 or 3 channels,
    or whose preprocessing is unknown, gets no script.

    Args:
        tflite: the exported file.
        stem: its name without the ending.
        classes: a name for each class, or none.
        preprocessing: what the network expects, as `Preprocessing.to_json` gives it, or None.
    """
    main = tflite.main
    source, target = main.tensors[main.inputs[0]], main.tensors[main.outputs[0]]
    if len(main.outputs) != 1 or len(target.shape) != 2 or target.shape[1] < 2:
        return {}
    names = classes or tuple(f"class {index}" for index in range(target.shape[1]))
    texts = {f"{stem}_labels.txt": "".join(f"{name}\n" for name in names)}
    is_image = len(main.inputs) == 1 and len(source.shape) == 4 and source.shape[3] in (1, 3)
    if is_image and preprocessing:
        texts[f"{stem}.py"] = _classification_script(stem, Preprocessing.from_json(preprocessing), source, target)
    return texts


def _classification_script(
    stem: str, preprocessing: Preprocessing, source: "TFLiteTensor", target: "TFLiteTensor"
) -> str:
    """Return the source of a script that classifies one image with an exported file.

    Args:
        stem: name of the file and of the script, without the ending.
        preprocessing: what the network expects.
        source, target: the file's input (batch, height, width, 1 or 3) and output (batch, classes).
    """
    batch, height, width, channels = source.shape
    constants = {"MEAN": preprocessing.mean, "STD": preprocessing.std}
    return _SCRIPT_TEMPLATE.format(
        command=_escape_in_docstring(shlex.quote(f"{stem}.py")),
        constants="".join(
            f"{name} = {value!r}  # of each channel\n" for name, value in constants.items() if value is not None
        ),
        wide=round(width / preprocessing.crop_fraction),
        high=round(height / preprocessing.crop_fraction),
        width=width,
        height=height,
        channels=channels,
        mode="L" if channels == 1 else "RGB",
        arithmetic=_arithmetic(preprocessing),
        quantize=_quantize(source.dtype),
        tensor="values" if batch == 1 else f"np.repeat(values, {batch}, axis=0)",
        dequantize="" if target.dtype == "float32" else _DEQUANTIZE,
    )


def _arithmetic(preprocessing: Preprocessing) -> str:
    lines = _ARITHMETIC[preprocessing.mode]
    if preprocessing.mode == "unit" and preprocessing.mean is not None:
        lines += "values -= np.float32(MEAN)\n"
    if preprocessing.mode == "unit" and preprocessing.std is not None:
        lines += "values /= np.float32(STD)\n"
    return lines


def _quantize(dtype: str) -> str:
    if dtype == "float32":
        return ""
    limits = np.iinfo(dtype)
    return _QUANTIZE.format(least=limits.min, most=limits.max, dtype=dtype)


def _escape_in_docstring(text: str) -> str:
    return escape_unprintable(text).replace("\\", "\\\\").replace('"', '\\"')
