"""`keras-nin claims` and `report`: what articles claim, and all results on one page."""

from __future__ import annotations

from typing import Any

import click

from keras_nin.cli import options
from keras_nin.cli.output import TerminalProgress, print_checks, print_result, remark


@click.command("claims", cls=options.Command, epilog="Example: keras-nin claims paperspace-params lecun-fc")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--train", is_flag=True, help="Include the trained figures of paperspace-head and paperspace-relu.")
@click.option("--data", metavar="DATASET|DIR|FILE.npz", help="With --train: images of ten classes. [default: digits]")
@click.option("--epochs", type=options.COUNT, metavar="N",
              help="With --train: passes over the images. [default: the claim's]")  # fmt: skip
@click.option("--seeds", type=options.COUNT, metavar="N", help="With --train: runs of each network. [default: 3]")
@click.option("--activation", type=click.Choice(["softmax", "sigmoid"]),
              help="With --train: the last activation of the classifiers. [default: softmax; the article: "
              "sigmoid]")  # fmt: skip
@options.plot_option(help="Train the mask of demystified-softconv; save its 32 maps, their weights and it as a figure.")
@click.option("--image", metavar="FILE", help="With --plot: the photograph. [default: one of scikit-learn's]")
@options.force_option
@click.option("--markdown", is_flag=True, help="One Markdown table.")
@options.json_option
def claims_command(markdown: bool, as_json: bool, **arguments: Any) -> int:
    """Reproduce claims of well-known articles about 1x1 convolution: the article's figure, ours, and the verdict.

    Without an ID, all claims. Our figures are computed from layers that are built, audited and run on the spot. The
    verdict is on the article: holds, partly holds (another part does not hold or is not measured here), does not
    hold, not measured. The weights are random and seeded, except with --train and --plot.

    paperspace-speed is timed, in about 15 s: on a busy machine its intervals are wide.

    --train resizes the images to the 28x28 of the articles' networks, and trains each network on the same images, in
    the same order, for as many steps; it takes minutes.

    Exit status: 1 where a figure differs from what the claim's definition declares. A refuted claim is a result, not a
    failure; trained accuracies are measured, never declared.
    """
    if as_json and markdown:
        raise click.UsageError("--json and --markdown exclude each other.")
    from keras_nin.report.claims import format_claims, format_claims_markdown
    from keras_nin.workflows.reports import check_claims

    result = check_claims(**arguments, progress=TerminalProgress())
    if arguments["plot"] is not None:
        remark(f"written: {arguments['plot']}")
    print_result(result, as_json, lambda: (format_claims_markdown if markdown else format_claims)(result))
    return 0 if result.passed else 1


@click.command(
    "report",
    cls=options.Command,
    epilog="Example: keras-nin report exported/nin_digits_int8.tflite benchmark.json -o report.html",
)
@click.argument("sources", nargs=-1, required=True, metavar="FILE|JSON|CSV|MODEL...")
@click.option("-o", "--out", metavar="FILE.html", help="Where the page goes.")
@click.option("--title", metavar="TEXT", help="Heading of the page. [default: keras-nin report]")
@options.require_option(help="Limits on every file. Exit status 1 where one fails. Repeatable.")
@click.option("--plot", metavar="DIR", help="Save the figures as PNG files in this folder.")
@options.force_option
def report_command(**arguments: Any) -> int:
    """Write everything that is known of some files as one HTML page that needs no network and runs no script.

    A .tflite file is audited and checked for the Edge TPU, without TensorFlow; the record that `keras-nin export` left
    beside it adds how it was made and its parity. A MODEL is audited as built. JSON is what other commands print or
    write: audit, export, claims, compare-runs and fit, and benchmark, edgetpu, ethosu, evaluate and micro, which are
    joined to their .tflite file by the file's hash. CSV is that of `keras-nin sweep`.

    The page begins with one table of all files and the time of each by layer role; --require adds pass or FAIL to
    every figure. A latency limit is checked on every machine and number of threads, an Ethos-U limit on every
    accelerator in the report.

    \b
    Items of --require:
      cpu=5ms             the median latency at most, in us, ms or s
      edgetpu=full|95%    at least this share of the operators is mapped
      ethosu=2ms          Vela's time at most, with nothing on the CPU
      sram=64KiB          used on the Ethos-U at most, in B, kB, MB (thousands), KiB, MiB (1,024)
      arena=256KiB        of TFLite Micro at most
      flash=1MiB          the file's size at most
      top1=95%            top-1 accuracy at least
    An unknown value fails its limit.

    \b
    More examples:
      keras-nin benchmark a.tflite --json > a_host.json
      keras-nin report a.tflite a_host.json -o report.html --plot plots
      keras-nin report a.tflite a_host.json -o report.html --title "Gate camera" --require cpu=5ms,flash=1MiB
    """
    from keras_nin.workflows.reports import build_report

    result = build_report(**arguments, progress=TerminalProgress())
    print_checks(result.checks, failed_only=True)
    for path in result.paths:
        remark(f"written: {path}")
    return 0 if result.passed else 1
