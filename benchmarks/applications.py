"""Networks of keras.applications with weights of `--weights he`, in float32 and int8: what passes, what is refused.

python benchmarks/applications.py [NAME...] [--size PIXELS] [--tuned] [--out FILE.md]

Needs no data: the images are random ones with the spectrum of photographs. Writes a Markdown table. About a minute
for a network, with --tuned some minutes.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

NETWORKS = (
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "EfficientNetV2B0", "EfficientNetB0"),
    *("NASNetMobile", "DenseNet121", "ResNet50", "ResNet50V2", "ConvNeXtTiny", "Xception", "InceptionV3", "VGG16"),
    *("EfficientNetB1", "EfficientNetV2B1", "DenseNet169", "ResNet101V2", "ResNet101", "InceptionResNetV2"),
)
CALIBRATION, TEST = 16, 32
COLUMNS = ("network", "parameters", "float32 SNR", "float32", "int8 SNR", "int8 top-1 match", "int8", "seconds")


def main():
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NETWORKS, metavar="NAME")
    parser.add_argument("--size", type=int, default=96, help="height and width of the input [default: 96]")
    parser.add_argument("--tuned", action="store_true", help="tune int8 as `keras-nin export` does")
    parser.add_argument("--out", type=pathlib.Path, help="where the table goes [default: only to the terminal]")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.names:
        rows.append(measure(name, arguments.size, arguments.tuned))
        print(*rows[-1], sep=" | ", flush=True)
        if arguments.out:
            arguments.out.write_text(table(rows, arguments.size, arguments.tuned), encoding="utf-8")
    print(table(rows, arguments.size, arguments.tuned))


def measure(name, size=96, tuned=False):
    """Return the row of a network: its exports to float32 and int8, each verified against the model."""
    import keras
    import numpy as np

    from keras_nin import InputError, export_model, models
    from keras_nin.export import Tuning
    from keras_nin.models.he_weights import sample_images

    start = time.perf_counter()
    keras.backend.clear_session()
    loaded = models.load_model(f"keras:{name}", weights="he", input_shape=(size, size, 3))
    shape, generator = loaded.model.input_shape[1:], np.random.default_rng(1)
    options = {
        "calibration": sample_images(CALIBRATION, shape, generator),
        "test": sample_images(TEST, shape, generator),
        "tuning": Tuning() if tuned else Tuning.plain(),
        "runs": 1,
    }
    try:
        float32, int8 = export_model(loaded, "float32,int8", **options)
        cells = [decibels(int8.parity), f"{int8.parity.top1_match:.0%}", verdict(int8.parity)]
    except InputError as error:
        (float32,) = export_model(loaded, "float32", **options)
        cells = ["-", "-", f"refused: {error}"]
    seconds = f"{time.perf_counter() - start:.0f}"
    parameters = f"{loaded.model.count_params():,}"
    return [name, parameters, decibels(float32.parity), verdict(float32.parity), *cells, seconds]


def decibels(parity):
    """Return the signal-to-noise ratio before the softmax, where that is known, else of the output."""
    ratio = parity.logits_snr_db or parity.snr_db
    return "exact" if ratio is None else f"{ratio:.1f} dB"


def verdict(parity):
    """Return ``pass``, or the checks that fail."""
    failed = [
        f"{check.name} {check.value:.3g} (limit {check.limit:.3g})" for check in parity.checks if not check.passed
    ]
    return f"FAIL: {', '.join(failed)}" if failed else "pass"


def table(rows, size, tuned):
    """Return the rows as Markdown, with what was measured."""
    from keras_nin.formatting import format_markdown_table

    how = (
        "tuned as `keras-nin export` does"
        if tuned
        else "with `--ranges minmax --rounding nearest --no-bias-correction`"
    )
    return (
        f"{format_markdown_table(COLUMNS, rows, right=COLUMNS[1:])}\n\n"
        f"Input {size}x{size}x3, weights `he` (seed 0), {CALIBRATION} calibration and {TEST} test images, int8 {how}. "
        "SNR: of the float32 file at the output, of the int8 file before the softmax.\n"
    )


if __name__ == "__main__":
    main()
