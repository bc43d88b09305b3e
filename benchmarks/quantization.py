"""How far each scheme, and each way to calibrate int8, is from float: paired on the same images, over several splits.

python benchmarks/quantization.py --data FOLDER [--networks "squeezenet_v1_1;nin_digits"] [--methods "int8;int16x8"]
                                  [--splits 5] [--cache FILE.json] [--markdown FILE.md]

FOLDER holds weights/ and images/imagenet_samples (500 photographs); nin_digits needs neither. A split is 100 images to
calibrate with and the others, the same for every method, to score. Each result goes to the cache at once, so that a run
that was cut goes on where it stopped. The scheme int16x8 comes last: it has no fast kernels and takes most of the time.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from tunings import Equalized, Percentile

from keras_nin import data, files, models
from keras_nin.data.dataset import draw_indices
from keras_nin.export import SCHEMES
from keras_nin.export.conversion import ModelConverter, image_input_shape
from keras_nin.export.converted_model import package_versions
from keras_nin.export.parity import CLOSING
from keras_nin.export.schemes import Tuning
from keras_nin.export.tuning import tune_file
from keras_nin.export.verification import with_first_output
from keras_nin.formatting import format_markdown_table
from keras_nin.metrics import top_k_accuracy
from keras_nin.output_capture import capture_output
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.runner import TFLiteRunner

CALIBRATED_ON = 100
CASTS = ("QUANTIZE", "DEQUANTIZE")


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of the zoo with its weights and images; both None: those that ship."""

    model: str
    weights: str | None = None
    images: str | None = None
    preprocessing: str | None = None
    arguments: tuple = ()
    allow_float: bool = False


PHOTOGRAPHS = "images/imagenet_samples"
CAFFE_1_0 = (("input_shape", (227, 227, 3)), ("pool_rounding", "ceil"), ("padded_head", True))
NETWORKS = {
    "squeezenet_v1_1": Network("squeezenet_v1_1", "weights/squeezenet_v1_1_imagenet.npz", PHOTOGRAPHS, "torch"),
    "squeezenet_v1_0": Network(
        "squeezenet_v1_0", "weights/squeezenet_v1_0_imagenet.npz", PHOTOGRAPHS, "caffe", CAFFE_1_0
    ),
    "googlenet": Network("googlenet", "weights/googlenet_imagenet.npz", PHOTOGRAPHS, "caffe"),
    "googlenet, LRN in float": Network(
        "googlenet", "weights/googlenet_imagenet.npz", PHOTOGRAPHS, "caffe", allow_float=True
    ),
    "nin_digits": Network("nin_digits"),
}


# name -> (scheme, tuning)
METHODS = {
    "float16": ("float16", None),
    "dynamic": ("dynamic", None),
    "int8": ("int8", Tuning.plain()),
    "int8 percentile 99.9": ("int8", Percentile(0.999)),
    "int8 percentile 99.99": ("int8", Percentile(0.9999)),
    "int8 percentile 99.999": ("int8", Percentile(0.99999)),
    "int8 mse": ("int8", Tuning("mse", "nearest", False)),
    "int8 bias": ("int8", Tuning("minmax", "nearest", True)),
    "int8 adaptive": ("int8", Tuning("minmax", "adaptive", False)),
    "int8 adaptive + bias": ("int8", Tuning("minmax", "adaptive", True)),
    "int8 mse + bias": ("int8", Tuning("mse", "nearest", True)),
    "int8 mse + adaptive": ("int8", Tuning("mse", "adaptive", False)),
    "int8 mse + adaptive + bias": ("int8", Tuning("mse", "adaptive", True)),
    "int8 equalised by weights": ("int8", Equalized("weights")),
    "int8 equalised by weights, mse + adaptive + bias": ("int8", Equalized("weights", Tuning("mse", "adaptive", True))),
    "int8 equalised by activations": ("int8", Equalized("activations")),
    "int8 equalised by activations, mse + adaptive + bias": (
        "int8",
        Equalized("activations", Tuning("mse", "adaptive", True)),
    ),
    "int16x8": ("int16x8", None),
}


class Subject:
    """A network with its images, traced once; calibrated once a split."""

    def __init__(self, name, folder):
        self.name, self.row = name, NETWORKS[name]
        weights = folder / self.row.weights if self.row.weights else None
        loaded = models.load_model(self.row.model, weights=weights, **dict(self.row.arguments))
        self.model, shape = loaded.model, image_input_shape(loaded.model)
        self.dataset = data.open_dataset(str(folder / self.row.images) if self.row.images else loaded.dataset)
        preprocessing = (
            data.get_preset(self.row.preprocessing) if self.row.preprocessing else self.dataset.preprocessing
        )
        count = len(self.dataset.images)
        self.images = self.dataset.load(np.arange(count), shape[:2], shape[2], preprocessing)
        self.labels = self.dataset.labels_of(np.arange(count))
        self.source = ModelConverter(self.model)
        self.float32, _ = self.source.convert(SCHEMES["float32"])
        self.reference = outputs(self.float32, self.images)
        self._calibrated = {}

    def split(self, seed):
        """Return the images (calibrating, scored) of a split."""
        if self.row.images:
            return draw_indices(len(self.images), CALIBRATED_ON, seed)
        return self.dataset.select("calibration", CALIBRATED_ON, seed), self.dataset.splits["test"]

    def convert(self, scheme, tuning, seed):
        """Return (the bytes of the file, the seconds that the tuning took)."""
        if not SCHEMES[scheme].calibrated:
            return self.source.convert(SCHEMES[scheme])[0], 0.0
        self._calibrate(seed)
        if scheme == "int16x8":
            return self._calibrated[seed, "int16x8"], 0.0
        content, samples = self._calibrated[seed, "float"]
        start = time.process_time()
        tuned = tune_file(content, samples, tuning) if isinstance(tuning, Tuning) else tuning(content, samples)
        return quantized(tuned), time.process_time() - start

    def _calibrate(self, seed):
        if (seed, "float") in self._calibrated:
            return
        images, keep = self.images[self.split(seed)[0]], Keep()
        self.source.convert(SCHEMES["int8"], images, self.row.allow_float, keep)
        int16x8, _ = self.source.convert(SCHEMES["int16x8"], images, self.row.allow_float, keep)
        self._calibrated = {(seed, "float"): keep.seen, (seed, "int16x8"): int16x8}


class Keep:
    """A tuning that changes nothing and keeps what it was given."""

    def __call__(self, content, samples):
        """Return the file as it came."""
        self.seen = content, samples
        return content


def quantized(content):
    """Return a calibrated float file in int8, as the converter does it."""
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    with capture_output():
        return mlir_quantize(content, input_data_type=tf.int8, output_data_type=tf.int8)


def outputs(content, images):
    """Return what goes into the softmax that closes a file, else its outputs: (N, classes)."""
    tflite = read_model(content)
    closing = tflite.main.producers[tflite.main.outputs[0]]
    while closing.op in CASTS:
        closing = tflite.main.producers[closing.inputs[0]]
    if closing.op in CLOSING:
        tflite = with_first_output(tflite, tflite.main.tensors[closing.inputs[0]])
    return TFLiteRunner(tflite).predict(images)


def score(found, reference, labels):
    """Return how the outputs of a file (N, classes) compare with those of float; ties go to the lowest class."""
    exact = reference.astype(np.float64)
    return {
        "top1_match": float(np.mean(found.argmax(1) == reference.argmax(1))),
        "snr_db": float(10 * np.log10((exact**2).sum() / ((found - exact) ** 2).sum())),
        "ties": float(np.mean((found == found.max(1, keepdims=True)).sum(1) > 1)),
        "top1": top_k_accuracy(found, labels, 1),
        "top5": top_k_accuracy(found, labels, 5),
        "float_top1": top_k_accuracy(reference, labels, 1),
        "float_top5": top_k_accuracy(reference, labels, 5),
    }


def measure(name, methods, splits, folder, cache):
    """Add what is missing of a network to the cache, result by result."""
    wanted = [(seed, method) for seed in range(splits) for method in methods]
    # What has no fast kernels comes last.
    wanted.sort(key=lambda pair: METHODS[pair[1]][0] == "int16x8")
    missing = [pair for pair in wanted if key(name, *reversed(pair)) not in cache.results]
    if not missing:
        return
    subject = Subject(name, folder)
    with subject.source:
        for seed, method in missing:
            cache.add(key(name, method, seed), one(subject, method, seed))


def one(subject, method, seed):
    """Return the result of a method on a split."""
    content, seconds = subject.convert(*METHODS[method], seed)
    scored = subject.split(seed)[1]
    result = score(outputs(content, subject.images[scored]), subject.reference[scored], subject.labels[scored])
    figures = f"{100 * result['top1_match']:.2f} %, {result['snr_db']:.2f} dB"
    print(f"{subject.name}, split {seed}, {method}: {figures}", flush=True)
    return result | {"bytes": len(content), "tuning_cpu_seconds": round(seconds, 1)}


def key(name, method, seed):
    """Return the name of a result in the cache."""
    return f"{name}/{method}/{seed}"


class Cache:
    """The results so far, in a file that holds those of one set of versions."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        document = files.read_json(self.path) if self.path.exists() else {"versions": package_versions(), "results": {}}
        if document["versions"] != package_versions():
            sys.exit(f"{self.path} was made with other versions ({document['versions']}): remove it or name another")
        self.results = document["results"]

    def add(self, name, result):
        """Add a result and write the file."""
        self.results[name] = result
        files.write_file(self.path, json.dumps({"versions": package_versions(), "results": self.results}, indent=1))


COLUMNS = ("file", "bytes", "agrees with float, %", "SNR, dB", "ties, %", "top-1, %", "top-5, %", "tuning, CPU s")


def table(name, methods, splits, results):
    """Return the Markdown table of a network: mean and range over the splits of what is there."""
    rows = []
    for method in methods:
        found = [results[key(name, method, seed)] for seed in range(splits) if key(name, method, seed) in results]
        if not found:
            continue
        if not rows:
            top = [spread([100 * result[f"float_{which}"] for result in found]) for which in ("top1", "top5")]
            rows.append(["float32", "", "", "", "", *top, ""])
        shares = [spread([100 * result[name] for result in found]) for name in ("top1_match", "ties", "top1", "top5")]
        snr = spread([result["snr_db"] for result in found])
        seconds = np.mean([result["tuning_cpu_seconds"] for result in found])
        rows.append(
            [method, f"{found[0]['bytes']:,}", shares[0], snr, *shares[1:], f"{seconds:.0f}" if seconds else ""]
        )
    return format_markdown_table(COLUMNS, rows, right=COLUMNS[1:])


def spread(values):
    """Return the mean and the range of some numbers as text."""
    low, high = min(values), max(values)
    return f"{np.mean(values):.1f}" + (f" ({low:.1f} to {high:.1f})" if low != high else "")


def main():
    """Measure what is asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, default=os.environ.get("KERAS_NIN_DATA", "."))
    parser.add_argument("--networks", default="squeezenet_v1_1")
    parser.add_argument("--methods", default=";".join(METHODS), help=f"of {', '.join(METHODS)}")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--cache", default="quantization.json")
    parser.add_argument("--markdown", type=pathlib.Path, help="file for the tables")
    given = parser.parse_args()
    names, methods = given.networks.split(";"), given.methods.split(";")
    for unknown in (set(names) - set(NETWORKS)) | (set(methods) - set(METHODS)):
        parser.error(f"unknown: {unknown}")
    cache = Cache(given.cache)
    text = ""
    for name in names:
        measure(name, methods, given.splits, pathlib.Path(given.data), cache)
        text += f"## {name}\n\n{table(name, methods, given.splits, cache.results)}\n\n"
    print(text)
    if given.markdown:
        files.write_file(given.markdown, text)


if __name__ == "__main__":
    main()
