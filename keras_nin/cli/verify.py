"""`keras-nin verify` and `evaluate`: is a file as good as its model, and how accurate is it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from keras_nin.cli import options
from keras_nin.cli.export import format_headline, format_test_lines
from keras_nin.cli.output import TerminalProgress, echo, note, print_json, print_notes

if TYPE_CHECKING:
    from keras_nin.workflows.evaluation import EvaluateResult
    from keras_nin.workflows.verification import VerifyResult


@click.command(
    "verify", cls=options.Command, epilog="Example: keras-nin verify nin_digits exported/nin_digits_int8.tflite"
)
@click.argument("model")
@click.argument("file")
@options.model_options
@options.test_option
@options.preprocessing_options
@options.count_option
@options.limit_options
@click.option("--per-layer", is_flag=True, help="Also measure the quantization noise that each layer adds.")
@options.threads_option
@options.json_option
def verify_command(as_json: bool, **arguments: Any) -> int:
    """Run MODEL and FILE (.tflite) on the same images and compare their outputs.

    The images are the test split of --data; the record beside FILE has the default for images and preprocessing. Images
    that calibrated FILE are left out. Exit status 1 where a check fails.
    """
    from keras_nin.workflows.verification import verify_model

    result = verify_model(**arguments, progress=TerminalProgress())
    print_notes(result.notes)
    if as_json:
        print_json(result.to_json())
    else:
        _print_verification(result)
    _print_failures(result)
    return 0 if result.passed else 1


def _print_verification(result: VerifyResult) -> None:
    from keras_nin.report import accuracy

    echo(format_headline(result.model, result.weights, result.test))
    echo(accuracy.format_parity_table([(result.file, result.file_bytes, result.parity, None)]))
    echo("\n".join([*format_test_lines(result.test, result.random_weights), *accuracy.parity_lines(result.parity)]))
    if result.layer_noise is not None:
        noise = result.layer_noise
        echo(f"\n{accuracy.format_noise_table(noise)}\n{accuracy.noise_conclusion(noise)}")


def _print_failures(result: VerifyResult) -> None:
    from keras_nin.report.accuracy import failed_checks

    for line in failed_checks(result.file, result.parity):
        note(f"FAIL: {line}")
    if result.preprocessing_mismatch is not None:
        note(f"FAIL: {result.preprocessing_mismatch}. Accept it with --preprocessing")


@click.command(
    "evaluate",
    cls=options.Command,
    epilog="Example: keras-nin evaluate exported/nin_digits_int8.tflite --data digits",
)
@click.argument("model", metavar="FILE.tflite|MODEL")
@options.test_option
@options.preprocessing_options
@options.count_option
@click.option(
    "--label-offset",
    type=click.IntRange(min=0),
    metavar="K",
    help="Output of label 0, such as 1 where output 0 is a background class. [default: 0]",
)
@click.option("--output", type=click.IntRange(min=0), metavar="N", help="Index of the output, for a file with several.")
@options.seed_option
@options.threads_option
@options.json_option
def evaluate_command(as_json: bool, **arguments: Any) -> int:
    """Measure the accuracy of FILE (.tflite, .keras, .h5, or a model by name) on labeled images.

    Top-1 and top-5 accuracy, precision and recall of every class, and the confusion matrix. The images are the test
    split of --data. Images and preprocessing come from the options, else from the record beside FILE, else from the
    model and its dataset. Images per second of a .tflite file are for the runtime at batch 1, with the conversion of
    its input and output, without reading and preprocessing images.
    """
    from keras_nin.workflows.evaluation import evaluate_model

    result = evaluate_model(**arguments, progress=TerminalProgress())
    print_notes(result.notes)
    if as_json:
        print_json(result.to_json())
    else:
        _print_evaluation(result)
    return 0


def _print_evaluation(result: EvaluateResult) -> None:
    from keras_nin.formatting import format_percent
    from keras_nin.report.accuracy import format_scores, inference_speed_line

    top5 = "" if result.top5 is None else f", top-5 {format_percent(result.top5)}"
    weights = f"; weights: {result.weights}" if result.random_weights else ""
    echo(
        f"{result.file}: top-1 {format_percent(result.top1)}{top5} on {result.scores.images} images of {result.data}, "
        f"preprocessing: {result.preprocessing.mode}{weights}"
    )
    echo(format_scores(result.scores))
    if result.speed is not None:
        echo(inference_speed_line(result.speed))
