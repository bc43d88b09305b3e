"""`keras-nin export`, `verify` and `evaluate`: from a model to .tflite files, and how good they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from keras_nin.cli import options
from keras_nin.cli.output import TerminalProgress, echo, note, print_notes, print_result

if TYPE_CHECKING:
    from keras_nin.export import Parity
    from keras_nin.workflows.evaluation import EvaluateResult
    from keras_nin.workflows.export import ExportResult
    from keras_nin.workflows.reproduction import Reproduction
    from keras_nin.workflows.verification import VerifyResult

BESIDE_RECORD = ("out", "force", "threads", "runs")  # the options that --from can be combined with, besides --json
# What a record may name elsewhere, and --from then takes from the command line alone.
_FILES = ("model", "weights", "calibration", "test", "labels", "imports")


class ExportCommand(options.Command):
    """The command, with the table of schemes in its help."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what stands below the options."""
        from keras_nin.export.schemes import SCHEME_COLUMNS, scheme_table_rows

        rows = [dict(zip(SCHEME_COLUMNS, row, strict=True)) for row in scheme_table_rows()]
        with formatter.section("Schemes"):
            formatter.write_dl([(row[SCHEME_COLUMNS[0]], _describe_scheme(row)) for row in rows])
        super().format_epilog(ctx, formatter)


def _describe_scheme(row: Mapping[Any, str]) -> str:
    needs = "" if row["needs"] == "-" else f"; needs {row['needs']}"
    return (
        f"{row['weights']} weights, {row['activations']} activations, input/output {row['input and output']}; "
        f"compute type {row['compute type']}{needs}"
    )


@click.command("export", cls=ExportCommand, epilog="Example: keras-nin export nin_digits --scheme float32,int8")
@click.argument("model", default="nin_digits")
@options.model_options
@click.option("--scheme", metavar="S[,S...]",
              help="Schemes of the table below; all is every post-training scheme. [default: float32,int8; int8 of a "
              "quantize-aware model]")  # fmt: skip
@click.option("--calibration", metavar="DATASET|DIR|FILE.npz|random",
              help="Representative images for int8. [default: the calibration split of the model's own "
              "dataset]")  # fmt: skip
@click.option("--calibration-count", type=options.COUNT, metavar="N",
              help="Number of calibration images. [default: 100, or 8 of noise]")  # fmt: skip
@options.tuning_options
@click.option("--target", metavar="ITEM=LIMIT,...",
              help="What the file of the scheme mixed reaches on the calibration images: match=98%, top1_drop=0.5pp or "
              "snr=30dB; with slowdown=1.25x (of int8) and flash=2MiB within these.")  # fmt: skip
@click.option("--io", type=click.Choice(["int8", "uint8", "float32"]),
              help="Input and output type of the integer schemes. [default: int8; int16 for int16x8]")  # fmt: skip
@click.option("--batch", type=options.COUNT, default=1, metavar="N", help="Static batch size.")
@click.option("--allow-float", is_flag=True, help="Let operators that int8 lacks compute in float; they are listed.")
@click.option("--epochs", type=options.COUNT, metavar="N", help="Epochs of schemes that train. [default: 20]")
@click.option("--learning-rate", type=options.Number(0, min_open=True), metavar="RATE",
              help="Learning rate of schemes that train. [default: a fifth of the rate that trained the "
              "network]")  # fmt: skip
@click.option("--sparsity", type=options.Number(0, 1, min_open=True, max_open=True), default=0.5, metavar="SHARE",
              help="Share of zero weights in each layer of the scheme pruned.")  # fmt: skip
@click.option("--clusters", type=click.IntRange(2, 256), default=16, metavar="N",
              help="Distinct weights in each layer of the scheme clustered.")  # fmt: skip
@click.option("--weight-bits", type=click.IntRange(2, 8), default=8, metavar="N",
              help="Bits of the weights of the scheme qat_keras.")  # fmt: skip
@click.option("--converter", type=click.Choice(["tensorflow", "litert"]), default="tensorflow",
              help="litert, experimental, needs no TensorFlow: float32 alone, where each operator is the one of "
              "TensorFlow's converter.")  # fmt: skip
@options.data_option
@options.image_options
@options.test_count_option
@options.task_option
@options.limit_options
@options.require_option()
@options.threads_option
@click.option("--runs", type=options.COUNT, metavar="N",
              help="Runs of the latency measurement. [default: until stable]")  # fmt: skip
@click.option("--out", default="exported", metavar="DIR", help="Where the files go.")
@options.force_option
@options.json_option
@click.option("--from", "record", metavar="RECORD",
              help="Repeat the export that wrote this JSON file: same model, images and options. Only --out, --force, "
              "--threads, --runs, --json and what names files may be combined with it.")  # fmt: skip
def export_command(model: str, record: str | None, as_json: bool, require: str | None, **arguments: Any) -> int:
    """Convert MODEL (default nin_digits) to .tflite files and verify them against it.

    Writes <model>_<scheme>.tflite, static batch 1, and a JSON record of how it was made beside each; runs each with the
    LiteRT runtime on test images that did not calibrate it; prints one table. Differences are in LSB, quantization
    steps of the output: the file's scale, or for a float file 1/255 of the range of the model's outputs. A quantized
    file is checked on its worst class or channel, before a final softmax or sigmoid.

    Exit status 1 where a file fails (see --min-top1-match and --max-drop). With random weights only differences are
    checked; a file calibrated on noise (--calibration random) is good for latency only.

    \b
    Items of --require, for each file:
      top1_match=95%  top1_drop=1pp  snr=30dB  rms, max_error, closing, weight=8LSB  as the options --min-... and
                      --max-..., and failed where they are not measured, such as with random weights
      flash=100KiB    the file's size at most, in B, kB, MB (thousands), KiB, MiB (1,024)
      latency=1ms     the median on this machine at most, in us, ms or s

    The scheme mixed leaves operators in float32, so that --target is reached at the lowest latency on this machine; the
    record has what was chosen and what else was tried. Exit status 1 where nothing reaches the target.

    --from compares the bytes with those of RECORD: exit status 1 where the same versions give others, 2 where the
    weights or the calibration images are others. Paths in it are relative to the folder of that export; one that leads
    out of the working directory, and code to import, have to be given again as MODEL, --data, --import and so on.
    """
    from keras_nin.limits import all_passed
    from keras_nin.workflows.export import check_export_limits, export_model, parse_export_limits

    context = click.get_current_context()
    limits = parse_export_limits(require) if require and record is None else ()
    arguments["limits"] = arguments["limits"].with_required(limits)
    if record is None:
        result = export_model(model, **arguments, progress=TerminalProgress())
    else:
        from keras_nin.workflows.reproduction import reproduce_export

        _check_beside_record(context)
        given: dict[str, Any] = arguments | {"model": model}
        kept = {name: given[name] for name in BESIDE_RECORD}
        kept |= {name: given[name] for name in _FILES if options.is_set(context, name)}
        result = reproduce_export(record, **kept, progress=TerminalProgress())
    if result.reproduction is not None:
        _print_reproduction(result.reproduction, result.files[0].name, as_json)
    checks = check_export_limits(result, limits)
    print_notes(map(options.with_own_flags, result.notes))
    print_result(result, as_json, lambda: "\n".join(_result_lines(result)), checks)
    for file in result.files:
        _print_failures(file.name, file.parity)
    if context.obj is not None and not as_json:
        context.obj(result)  # what `export_edgetpu_command` prints after it
    return 0 if result.passed and all_passed(checks) else 1


def _check_beside_record(context: click.Context) -> None:
    flags = {param.name or "": param.opts[-1] for param in context.command.params} | {"model": "MODEL"}
    allowed = (*BESIDE_RECORD, *_FILES, "as_json")
    for name, flag in flags.items():
        if name not in (*allowed, "record", "quiet", "debug") and options.is_set(context, name):
            listed = ", ".join(flags[other] for other in allowed)
            raise click.UsageError(f"{flag} cannot be combined with --from. Allowed: {listed}.")


def _print_failures(name: str, parity: Parity) -> None:
    from keras_nin.report.accuracy import failed_checks, missing_verdict

    for line in failed_checks(name, parity):
        note(f"FAIL: {line}")
    silent = missing_verdict(name, parity)
    if silent is not None:
        note(f"NO VERDICT: {silent}")


def _result_lines(result: ExportResult) -> Iterator[str]:
    from keras_nin.formatting import format_count, format_host
    from keras_nin.report.accuracy import format_compression_table, format_parity_table
    from keras_nin.report.mixed_precision import mixed_lines

    yield _headline(result)
    yield format_parity_table(
        [(file.name, len(file.data), file.parity, file.latency.total.median) for file in result.files],
        original_top1=result.original_top1,
        trained={file.name: file.converted.scheme.trained for file in result.files if file.converted.scheme.trained},
    )
    yield from _test_lines(result)
    for file in result.files:
        if file.parity.images != len(result.test.indices):
            yield (
                f"{file.name}: compared on {file.parity.images:,} of them, because its int16 operators run in slow "
                "kernels; --test-count all takes all."
            )
    profiles = [file.latency for file in result.files]
    runs = ", ".join(f"{profile.runs:,}" for profile in profiles)
    batch = f", batch {profiles[0].batch}" if profiles[0].batch > 1 else ""
    threads = format_count(profiles[0].threads, "thread")
    yield f"Latency: median of {runs} runs on {threads}{batch}; {format_host(result.host)}"
    calibration = next((file.converted.calibration for file in result.files if file.converted.calibration), None)
    if calibration is not None and calibration.noise:
        yield "Calibration: noise. Files calibrated on noise are good for measuring latency, and for nothing else."
    elif calibration is not None:
        yield f"Calibration: {calibration.count} images of {calibration.source}, none of them among the test images."
    for file in result.files:
        if file.converted.float_operators and file.converted.mixed is None:
            yield f"{file.name}: in floating point: {', '.join(file.converted.float_operators)}"
        if file.converted.flags.get("integer_form"):
            yield f"{file.name}: in integer form: {', '.join(file.converted.flags['integer_form'])}"
        if file.converted.flags.get("rewritten"):
            pairs = file.converted.flags["rewritten"].items()
            yield f"{file.name}: rewritten without a change of values: {', '.join(f'{a} as {b}' for a, b in pairs)}"
        if file.converted.flags.get("unrolled"):
            yield f"{file.name}: recurrent layers unrolled: {', '.join(file.converted.flags['unrolled'])}"
    for file in result.files:
        compression = file.converted.compression()
        if compression:
            yield f"\n{format_compression_table(compression, file.name)}\n"
    for file in result.files:
        if file.converted.mixed is not None:
            yield from mixed_lines(file.converted.mixed, file.name, file.parity)
    for file in result.files:
        yield f"{file.state}: {file.path}, {', '.join(list(file.contents)[1:])}"


def _headline(result: ExportResult | VerifyResult) -> str:
    described = result.test.preprocessing or "none, arrays as they are"
    return f"{result.model}, weights: {result.weights}; preprocessing: {described}"


def _test_lines(result: ExportResult | VerifyResult) -> Iterator[str]:
    from keras_nin.models.model_spec import HE, random_kind

    test = result.test
    excluded = f" ({test.excluded} more were used for calibration and left out)" if test.excluded else ""
    if test.dataset.divided and not test.dataset.noise:
        yield test.dataset.describe_division()
    drawn = f" of {test.drawn_from:,}" if test.drawn_from else ""
    yield f"Compared on {len(test.indices):,}{drawn} test images of {test.dataset.name}{excluded}."
    if drawn:
        yield "The int16 operators of the file run in slow kernels; --test-count all takes all images."
    if result.random_weights:
        kind = " (he)" if random_kind(result.weights) == HE else ""
        yield f"The weights are random{kind}: top-1 match and accuracy say nothing and are not checked."


def _print_reproduction(reproduction: Reproduction, name: str, as_json: bool) -> None:
    changes = f" ({'; '.join(reproduction.version_changes)})" if reproduction.version_changes else ""
    other = f"{name} has other bytes than {reproduction.path} records"
    if reproduction.same:
        versions = f", with other versions{changes}" if changes else ""
        line = f"Reproduced: {name} has the bytes that {reproduction.path} records{versions}."
        (note if as_json else echo)(line)
    elif changes:
        note(f"Note: {other}, which other versions may explain{changes}.")
    else:
        note(f"Not reproduced: {other}, although all versions are the same. Was it made on another kind of processor?")


@click.command(
    "verify", cls=options.Command, epilog="Example: keras-nin verify nin_digits exported/nin_digits_int8.tflite"
)
@click.argument("model")
@click.argument("file")
@options.model_options
@options.data_option
@options.image_options
@options.test_count_option
@options.task_option
@options.limit_options
@options.require_option()
@click.option("--per-layer", is_flag=True, help="Also measure the quantization noise that each layer adds.")
@options.threads_option
@options.device_options
@options.json_option
def verify_command(as_json: bool, require: str | None, **arguments: Any) -> int:
    """Run MODEL and FILE (.tflite) on the same images and compare their outputs.

    The images are the test split of --data; the record beside FILE has the default for images and preprocessing. Images
    that calibrated FILE are left out. Exit status 1 where a check fails. With --on, FILE runs on a device and MODEL
    here.

    Items of --require: top1_match=95%, top1_drop=1pp, snr=30dB, and rms, max_error, closing, weight=8LSB, as the
    options --min-... and --max-..., and failed where they are not measured; flash=100KiB, the file's size at most.
    """
    from keras_nin.limits import all_passed
    from keras_nin.workflows.verification import check_verification_limits, parse_verification_limits, verify_model

    limits = parse_verification_limits(require) if require else ()
    arguments["limits"] = arguments["limits"].with_required(limits)
    result = verify_model(**arguments, progress=TerminalProgress())
    checks = check_verification_limits(result, limits)
    print_notes(map(options.with_own_flags, result.notes))
    print_result(result, as_json, lambda: "\n".join(_verification_lines(result)), checks)
    _print_failures(result.file, result.parity)
    if result.preprocessing_mismatch is not None:
        note(f"FAIL: {result.preprocessing_mismatch}. Accept it with --preprocessing")
    return 0 if result.passed and all_passed(checks) else 1


def _verification_lines(result: VerifyResult) -> Iterator[str]:
    from keras_nin.report import accuracy

    yield _headline(result)
    yield accuracy.format_parity_table([(result.file, result.file_bytes, result.parity, None)])
    yield from _test_lines(result)
    yield from accuracy.parity_lines(result.parity)
    if result.layer_noise is not None:
        yield f"\n{accuracy.format_noise_table(result.layer_noise)}\n{accuracy.noise_conclusion(result.layer_noise)}"


@click.command(
    "evaluate", cls=options.Command, epilog="Example: keras-nin evaluate exported/nin_digits_int8.tflite --data digits"
)
@click.argument("model", metavar="FILE.tflite|MODEL")
@options.data_option
@options.image_options
@options.test_count_option
@options.task_option
@click.option("--label-offset", type=click.IntRange(0), metavar="K",
              help="Output of label 0, such as 1 where output 0 is a background class. [default: 0]")  # fmt: skip
@click.option("--output", type=click.IntRange(0), metavar="N", help="Index of the output, for a file with several.")
@options.require_option()
@options.seed_option
@options.import_option
@options.threads_option
@click.option(
    "--workers",
    type=options.COUNT,
    metavar="N",
    help="Processes that read and run the images of a file. [default: one for 500 images, at most the cores]",
)
@click.option("--partial", metavar="FILE",
              help="Keep the results of a .tflite file as they come, and continue from them.")  # fmt: skip
@options.device_options
@options.json_option
def evaluate_command(as_json: bool, require: str | None, **arguments: Any) -> int:
    """Measure the accuracy of FILE (.tflite, .keras, .h5, or a model by name) on labeled images.

    Classes: top-1 and top-5 accuracy, precision and recall of every class, and the confusion matrix. Binary and
    multi-label outputs: accuracy and F1. Numbers: MAE, RMSE, R2. Masks: mean IoU and pixel accuracy. Outputs that carry
    no information, NaN or the same for all images, have no scores: exit status 1. The images are the test split of
    --data, the labels those in it (labels_NAME for each of several outputs). Images and preprocessing come from the
    options, else from the record beside FILE, else from the model and its dataset. Images per second of a .tflite file
    are for the runtime at batch 1, with the conversion of its input and output, without reading and preprocessing
    images; those of --workers together. The scores are the same for any number of them.

    Items of --require: top1=95%, top5, accuracy, f1, mean_iou, pixel_accuracy and r2=0.9 at least, mae=0.5 and rmse at
    most; of several outputs the worst.
    """
    from keras_nin.limits import all_passed
    from keras_nin.workflows.evaluation import check_evaluation_limits, evaluate_model, parse_evaluation_limits

    limits = parse_evaluation_limits(require) if require else ()
    result = evaluate_model(**arguments, progress=TerminalProgress())
    print_notes(map(options.with_own_flags, result.notes))
    checks = check_evaluation_limits(result, limits)
    print_result(result, as_json, lambda: "\n".join(_evaluation_lines(result)), checks)
    for output in result.outputs:
        if output.no_information:
            name = "" if output.output is None else f" {output.output!r}"
            note(f"NO VERDICT: {result.file}: the output{name} carries no information: {output.no_information}")
    return 0 if result.passed and all_passed(checks) else 1


def _evaluation_lines(result: EvaluateResult) -> Iterator[str]:
    from keras_nin.report.accuracy import format_output_scores, format_scores, inference_speed_line

    weights = f"; weights: {result.weights}" if result.random_weights else ""
    mode = f", preprocessing: {result.preprocessing or 'none, arrays as they are'}"
    conditions = f"on {result.outputs[0].images} images of {result.data}{mode}{weights}"
    if len(result.outputs) == 1:
        yield f"{result.file}: {format_output_scores(result.outputs[0])} {conditions}"
    else:
        yield f"{result.file}: {conditions}"
        yield from map(format_output_scores, result.outputs)
    if result.division is not None:
        yield result.division
    for output in result.outputs:
        if output.classification:
            yield format_scores(output.classification)
    if result.speed is not None:
        yield inference_speed_line(result.speed)
