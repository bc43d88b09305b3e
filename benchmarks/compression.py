"""What training for a scheme is worth: accuracy on held-out test images, and sizes raw and after gzip.

python benchmarks/compression.py [SEEDS]

nin_digits with its weights, 359 test images; prints Markdown. About two minutes a seed.
"""

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

MODEL = "nin_digits"
SCHEMES = ("float32", "int8", "qat", "pruned", "clustered")
COLUMNS = ("scheme", "top-1", "bytes", "gzip -9", "zeros", "distinct values a layer", "training")


def main(seeds=1):
    """Print the table of `seeds` trainings of each scheme; where they differ, mean and range."""
    from keras_nin.formatting import format_markdown_table

    found = {scheme: [] for scheme in SCHEMES}
    for seed in range(seeds):
        for scheme, *figures in run(seed):
            found[scheme].append(figures)
    print(format_markdown_table(COLUMNS, [[scheme, *cells(found[scheme])] for scheme in SCHEMES], right=COLUMNS[1:]))
    print(f"\n{MODEL}, shipped weights; seeds 0 to {seeds - 1}. Mean (least to largest) over the seeds.")


def run(seed):
    """Yield (scheme, top-1, bytes, bytes after gzip, share of zeros, most distinct values, seconds) of each scheme."""
    from keras_nin import data, models
    from keras_nin.export import convert_optimized, convert_schemes, load_calibration, train_for_scheme

    loaded = models.load_model(MODEL)
    dataset = data.open_dataset(loaded.dataset)
    calibration = load_calibration(dataset, loaded.model.input_shape[1:], seed=seed)
    for made in convert_schemes(loaded.model, ["float32", "int8"], calibration):
        yield made.scheme.name, *figures(made, dataset), None
    for scheme in ("qat", "pruned", "clustered"):
        start = time.perf_counter()
        trained = train_for_scheme(loaded.model, scheme, dataset, name=MODEL, seed=seed)
        seconds = time.perf_counter() - start
        yield scheme, *figures(convert_optimized(trained, calibration, original=loaded.model), dataset), seconds


def figures(made, dataset):
    """Return the figures of an `Export` on the test split."""
    from keras_nin.export import measure_compression
    from keras_nin.metrics import top_k_accuracy
    from keras_nin.tflite.runner import TFLiteRunner

    runner = TFLiteRunner(made.data)
    _, *size, channels = runner.input.shape
    indices = dataset.select("test")
    outputs = runner.predict(dataset.load(indices, tuple(size), channels, dataset.preprocessing))
    found = measure_compression(made.data)
    top1 = top_k_accuracy(outputs, dataset.labels_of(indices), 1)
    return top1, found.bytes, found.gzip_bytes, found.sparsity, max(kernel.distinct for kernel in found.kernels)


def cells(rows):
    """Return the text of each column over the seeds."""
    top1, size, packed, zeros, distinct, seconds = zip(*rows, strict=True)
    return [
        spread([100 * value for value in top1], "{:.2f} %"),
        spread(size, "{:,.0f}"),
        spread(packed, "{:,.0f}"),
        spread([100 * value for value in zeros], "{:.1f} %"),
        f"{max(distinct):,}",
        "-" if seconds[0] is None else spread(seconds, "{:.0f} s"),
    ]


def spread(values, form):
    """Return the mean of `values`, and their range where they differ."""
    mean, least, largest = (form.format(value) for value in (sum(values) / len(values), min(values), max(values)))
    return mean if least == largest else f"{mean} ({least} to {largest})"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
