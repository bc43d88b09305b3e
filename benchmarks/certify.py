"""The int8 file of every model of the zoo on emulated ARM CPUs: the table in docs/commands/certify.md.

python benchmarks/certify.py FOLDER [--minutes M] [--models NAME...]

Exports to FOLDER, runs `keras-nin certify` on the files and keeps both: repeated, it continues. It writes the table of
all models that are there. The weights are the bundled ones; models without any have
random weights. Models of a bundled dataset are calibrated and run on its images, the others on noise. It needs
`keras-nin devices install qemu`.
"""

import argparse
import json
import pathlib
import re
import sys
import time
from typing import Any

from keras_nin import files, models
from keras_nin.benchmark.certification import HOST, Certificate, CertifiedRun, read_certify_result
from keras_nin.benchmark.emulator import EMULATED_CPUS, SCHEME
from keras_nin.formatting import format_markdown_table
from keras_nin.tflite.isolated import estimate_macs
from keras_nin.tflite.reader import read_model
from keras_nin.workflows.certify import certify_files
from keras_nin.workflows.conversion import BUNDLED_DATASETS, ExportOptions, export_temporarily

DOCS = pathlib.Path(__file__).parents[1] / "docs" / "commands" / "certify.md"
TABLE = re.compile(r"(?<=<!-- zoo -->\n).*?(?=<!-- end -->)", re.DOTALL)
# Larger networks run on two images, and still larger ones on one, in XNNPACK alone: emulated, their reference kernels
# take a minute for each.
SMALL_MACS, MAX_MACS = 20_000_000, 300_000_000
CPUS = tuple(f"{SCHEME}{cpu}" for cpu in EMULATED_CPUS)


def export(model: str, folder: pathlib.Path) -> pathlib.Path:
    """Return the path of the int8 file of a model, made where it is missing."""
    path = folder / f"{model}_int8.tflite"
    if not path.exists():
        weights = None if models.get_spec(model).bundled_weights else "random"
        export_temporarily(model, folder, ExportOptions(weights=weights), schemes="int8")
    return path


def kept_path(path: pathlib.Path) -> pathlib.Path:
    """Return where the certificate of a file is kept."""
    return path.with_suffix(".certify.json")


def settings_of(model: str, path: pathlib.Path) -> tuple[str | None, str | None, int | None, tuple[str, ...]]:
    """Return images, preprocessing, number of images and kernels for a model: those that share them run together."""
    spec, macs = models.get_spec(model), estimate_macs(read_model(path))
    has_images = spec.dataset in BUNDLED_DATASETS
    count = None if macs < SMALL_MACS else 1 if macs > MAX_MACS else 2
    images = (spec.dataset, spec.preprocessing) if has_images else (None, None)
    return (*images, count, ("xnnpack",) if macs > MAX_MACS else ())


def certify(paths: list[pathlib.Path], test: str | None, preprocessing: str | None, count: int | None,
            kernels: tuple[str, ...]) -> None:  # fmt: skip
    """Run files on all emulated CPUs, and keep the certificate of each."""
    result = certify_files(
        paths, CPUS, kernels=kernels, test=test, preprocessing=preprocessing, test_count=count
    ).to_json()
    for path, file in zip(paths, result["files"], strict=True):
        files.write_file(kept_path(path), files.dump_json({**result, "files": [file]}))


def cell(runs: list[CertifiedRun]) -> str:
    """Return what the emulated CPUs gave in one kind of kernels."""
    if not runs:
        return "-"
    if any(run.error for run in runs):
        return "not run"
    if all(run.bit_exact for run in runs):
        return "bit-exact"
    worst = max(runs, key=lambda run: run.max_lsb or 0)
    where = "" if all(run.sha256 == runs[0].sha256 for run in runs) else f" on {worst.device.removeprefix(SCHEME)}"
    operator = f", {worst.first_operator.op}" if worst.first_operator else ""
    changes = f", top-1 changes {worst.top1_changes}" if worst.top1_changes else ""
    return f"{worst.max_lsb:g} LSB{where}{operator}{changes}"


def row(model: str, certificate: Certificate) -> tuple[str, ...]:
    """Return the row of a model."""
    columns = ([run for run in certificate.runs if run.device != HOST and run.kernels == name]
               for name in ("xnnpack", "builtin", "reference"))  # fmt: skip
    return (model, f"{certificate.images} of {certificate.data}", *map(cell, columns))


def main() -> int:
    """Certify what is missing, small models first, and write the table of what is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no further model after so long")
    parser.add_argument("--models", nargs="*", default=models.list_models(), help="run no others")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * arguments.minutes
    groups: dict[Any, list[pathlib.Path]] = {}
    for model in sorted(arguments.models, key=lambda name: models.get_spec(name).macs):
        path = arguments.folder / f"{model}_int8.tflite"
        if not kept_path(path).exists() and time.monotonic() < end:
            path = export(model, arguments.folder)
            settings = settings_of(model, path)
            groups.setdefault((*settings, model if settings[-1] else None), []).append(path)
    for (*settings, _), paths in groups.items():
        if time.monotonic() < end:
            print("running", *(path.stem for path in paths), flush=True)
            certify(paths, *settings)
    rows, missing = [], []
    for model in models.list_models():
        kept = kept_path(arguments.folder / f"{model}_int8.tflite")
        if kept.exists():
            rows.append(row(model, read_certify_result(json.loads(kept.read_text())).files[0]))
        else:
            missing.append(model)
    table = format_markdown_table(("model", "images", "XNNPACK", "builtin", "reference"), rows) + "\n"
    files.write_file(DOCS, TABLE.sub(lambda _: table, DOCS.read_text(), count=1))
    print(f"written: {DOCS}; repeat the command for: {', '.join(missing) or 'nothing'}")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
