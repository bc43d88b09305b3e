"""What the scheme mixed reaches: top-1 match on images that did not choose, and latency paired with the int8 file.

python benchmarks/mixed.py --data FOLDER [--networks "squeezenet_v1_1;googlenet"] [--splits 5]
                           [--target match=98.5%,slowdown=1.25x] [--cache FOLDER] [--markdown FILE.md]

FOLDER holds weights/ and images/imagenet_samples, as for `quantization.py`: a split is 100 images that calibrate the
network and choose its operators, and 400 others that score the file. The calibrated and tuned networks, and the result
of each split, are kept in the cache.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import pickle

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import quantization

from keras_nin import files, models
from keras_nin.benchmark.comparison import compute_ratios
from keras_nin.benchmark.measurement import BenchmarkFile, measure_files
from keras_nin.export import SCHEMES, Tuning
from keras_nin.export.converted_model import Calibration
from keras_nin.export.mixed_precision import MixedNetwork, UnreachableTargetError
from keras_nin.formatting import format_host, format_markdown_table
from keras_nin.report.mixed_precision import describe_operators
from keras_nin.tflite.reader import read_model
from keras_nin.workflows.conversion import ConversionInputs
from keras_nin.workflows.mixed_precision import TargetSearch

PAIRED_SECONDS = 20.0


class Search(TargetSearch):
    """A search without the sensitivity of each operator, which decides nothing."""

    def _sensitivities(self, network, times):
        return []


def tuned_network(subject, seed, cache):
    """Return the network of a split, calibrated and tuned, from the cache where it is there."""
    import tensorflow as tf

    from keras_nin._compat.tensorflow import mlir_quantize

    path = cache / f"{subject.name}_{seed}.pickle"
    if not path.exists():
        images = subject.images[subject.split(seed)[0]]
        network = subject.source.tune(SCHEMES["mixed"], images, subject.row.allow_float, Tuning())
        path.write_bytes(pickle.dumps((network.calibrated, network.tuned, network.names)))

    def quantize(io_type):
        def run(content, float_tensors):
            return mlir_quantize(
                content, input_data_type=io_type, output_data_type=io_type, denylisted_nodes=float_tensors or None
            )

        return run

    parts = pickle.loads(path.read_bytes())
    return MixedNetwork(*parts, quantize(tf.float32)), MixedNetwork(*parts, quantize(tf.int8)).build(())


def measure(subject, loaded, seed, target, cache):
    """Return the result of one split: of the chosen file and of the file in int8, and the points of the search."""
    network, int8 = tuned_network(subject, seed, cache)
    chosen_on, scored = subject.split(seed)
    calibration = Calibration("photographs", subject.images[chosen_on], None, seed, "")
    source = ConversionInputs(loaded, subject.dataset, None, calibration, frozenset(), subject.labels[chosen_on])
    search = Search(target, source)
    try:
        names = search(network)
    except UnreachableTargetError as error:
        return {"unreachable": str(error)}
    mixed = network.build(network.indexes(names))
    results = {}
    for name, content in (("int8", int8), ("mixed", mixed)):
        outputs = quantization.outputs(content, subject.images[scored])
        results[name] = quantization.score(outputs, subject.reference[scored], subject.labels[scored])
        results[name]["bytes"] = len(content)
        results[name]["snr_db"] = min(results[name]["snr_db"], 999.0)  # JSON has no infinity
    pair = [BenchmarkFile(read_model(content), name=name) for name, content in (("int8", int8), ("mixed", mixed))]
    paired = measure_files(pair, seconds=PAIRED_SECONDS, layers=False, interleave=True)
    (ratio,) = compute_ratios(paired.profiles)
    results["search"] = dataclasses.asdict(search.result)
    results["latency"] = dataclasses.asdict(ratio) | {"int8_us": paired.profiles[0].total.median}
    return results


SPLIT_COLUMNS = (
    "split",
    "in float32",
    "top-1 match, %",
    "int8, %",
    "expected at least, %",
    "SNR, dB",
    "time of int8",
    "bytes",
)
POINT_COLUMNS = ("in float32", "top-1 match, %", "expected at least, %", "SNR, dB", "time of int8", "bytes", "front")


def tables(name, target, results):
    """Return the Markdown of a network: a row per split, and the points of the first split."""
    rows = []
    for seed, result in results.items():
        if "unreachable" in result:
            rows.append([seed, result["unreachable"], *[""] * 6])
            continue
        search, latency, mixed = result["search"], result["latency"], result["mixed"]
        chosen = search["points"][search["chosen"]]
        lifted = describe_operators(search["operators"], chosen["float_operators"])
        shares = [
            100 * value for value in (mixed["top1_match"], result["int8"]["top1_match"], chosen["expected_match"])
        ]
        ratio = f"{latency['ratio']:.2f} ({latency['low']:.2f} to {latency['high']:.2f})"
        rows.append([seed, lifted, *(f"{share:.2f}" for share in shares), f"{mixed['snr_db']:.1f}", ratio,
                     f"{mixed['bytes']:,}"])  # fmt: skip
    reached = [result for result in results.values() if "mixed" in result]
    text = f"## {name}, target {target}\n\n{format_markdown_table(SPLIT_COLUMNS, rows, right=SPLIT_COLUMNS[2:])}\n"
    if not reached:
        return text
    means = [np.mean([100 * result[part]["top1_match"] for result in reached]) for part in ("mixed", "int8")]
    ratio = np.mean([result["latency"]["ratio"] for result in reached])
    text += f"\nMean: {means[0]:.2f}% top-1 match (int8 {means[1]:.2f}%) at {ratio:.2f} times the latency of int8.\n"
    search = reached[0]["search"]
    points = []
    for point in search["points"]:
        lifted = describe_operators(search["operators"], point["float_operators"])
        snr = "exact" if point["snr_db"] is None else f"{point['snr_db']:.1f}"
        shares = [f"{100 * point[share]:.1f}" for share in ("match", "expected_match")]
        points.append([lifted, *shares, snr, f"{point['slowdown']:.2f}", f"{point['bytes']:,}",
                       "yes" if point["on_front"] else ""])  # fmt: skip
    table = format_markdown_table(POINT_COLUMNS, points, right=POINT_COLUMNS[1:-1])
    return f"{text}\nThe files of split 0, on its calibration images; {format_host(search['host'])}:\n\n{table}\n"


def main():
    """Measure what the cache lacks and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, default=os.environ.get("KERAS_NIN_DATA", "."))
    parser.add_argument("--networks", default="squeezenet_v1_1;googlenet")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--target", default="match=98.5%,slowdown=1.25x")
    parser.add_argument("--cache", type=pathlib.Path, default="mixed_cache")
    parser.add_argument("--markdown", type=pathlib.Path, help="file for the tables")
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    text = "# Mixed precision\n\nThe last result of `python benchmarks/mixed.py`.\n"
    for name in given.networks.split(";"):
        paths = {seed: given.cache / f"{name}_{seed}_{given.target}.json" for seed in range(given.splits)}
        if not all(path.exists() for path in paths.values()):
            subject = quantization.Subject(name, pathlib.Path(given.data))
            row = subject.row
            loaded = models.load_model(row.model, weights=given.data / row.weights, **dict(row.arguments))
            with subject.source:
                for seed, path in paths.items():
                    if not path.exists():
                        result = measure(subject, loaded, seed, given.target, given.cache)
                        files.write_file(path, json.dumps(result, indent=1))
                        shown = result.get("mixed", result)
                        print(name, seed, shown, result.get("latency"), flush=True)
        results = {str(seed): files.read_json(path) for seed, path in paths.items()}
        text += f"\n{tables(name, given.target, results)}"
    print(text)
    if given.markdown:
        files.write_file(given.markdown, text)


if __name__ == "__main__":
    main()
