"""The Edge TPU's verdict on every model of the zoo: the table in docs/concepts/edgetpu_evidence.md.

python benchmarks/edgetpu_zoo.py [--check]     writes the table anew; --check: exit status 1 where it differs

The models are exported to int8 with random weights and noise: the verdict depends on neither.
"""

import dataclasses
import pathlib
import re
import sys

from keras_nin import files, models
from keras_nin.edge.edgetpu.records import EdgeTPUResult
from keras_nin.report.edge import format_edgetpu_overview
from keras_nin.workflows.conversion import ExportOptions
from keras_nin.workflows.edge import check_edgetpu

DOCS = pathlib.Path(__file__).parents[1] / "docs" / "concepts" / "edgetpu_evidence.md"
TABLE = re.compile(r"(?<=<!-- zoo -->\n).*?(?=<!-- end -->)", re.DOTALL)
# Variants that are mapped where the model itself is not, and a third-party network.
VARIANTS = tuple((f"convnet_{head}", {"relu_first": True}) for head in ("extra_relu", "linear_head", "pointwise_head"))
THIRD_PARTY = (("keras:MobileNet", {}),)


def subjects():
    """Return the rows of the table: a model, and further arguments of its builder."""
    return (*((name, {}) for name in models.list_models()), *VARIANTS, *THIRD_PARTY)


def label(model, arguments):
    """Return what the table calls a row: the arguments of `keras-nin edgetpu`."""
    return " ".join((model, *(f"--set {name}={str(value).lower()}" for name, value in arguments.items())))


def verdict(model, arguments) -> EdgeTPUResult:
    """Return the verdict on a model, exported for it."""
    export = ExportOptions(weights="random", builder_arguments=arguments, calibration="random", calibration_count=1)
    return dataclasses.replace(check_edgetpu(model, export=export), model=label(model, arguments))


def table(verdicts):
    """Return the table as Markdown."""
    return format_edgetpu_overview(verdicts).replace("| file |", "| model |", 1) + "\n"


def shown():
    """Return the table that the docs show."""
    return TABLE.search(DOCS.read_text())[0]


def main(check):
    """Write the table, or compare it; return the exit status."""
    found = table([verdict(*row) for row in subjects()])
    if check:
        print("up to date" if found == shown() else "not up to date")
        return int(found != shown())
    files.write_file(DOCS, TABLE.sub(lambda _: found, DOCS.read_text()))
    print(f"written: {DOCS}")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
