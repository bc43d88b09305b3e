"""`keras-nin export`: from a model to .tflite files that are compared with it."""

import types

import click

from keras_nin.cli import options
from keras_nin.export import schemes
from keras_nin.export.schemes import RANGES, ROUNDINGS, Tuning

DEFAULT_MODEL = "nin_digits"


class _ExportCommand(click.Command):
    """The command, whose help shows the table of schemes before its example."""

    def format_epilog(self, context, formatter):
        """Write the table and the epilog."""
        with formatter.section("Schemes"):
            formatter.write_dl([(row[0], "; ".join(_describe_scheme(row))) for row in schemes.scheme_table_rows()])
        super().format_epilog(context, formatter)


def _describe_scheme(row):
    words = dict(zip(schemes.SCHEME_COLUMNS, row, strict=True))
    yield f"{words['weights']} weights, {words['activations']} activations, ends {words['input and output']}"
    yield f"computes in {words['compute type']}"
    if words["needs"] != "-":
        yield f"needs {words['needs']}"


@click.command(
    "export",
    short_help="Convert a model to .tflite files and prove them.",
    cls=_ExportCommand,
    epilog="Example: keras-nin export nin_digits --scheme float32,int8",
)
@click.argument("model", default=DEFAULT_MODEL)
@options.model_options
@click.option(
    "--scheme",
    default="float32,int8",
    show_default=True,
    metavar="S[,S...]",
    help="Schemes of the table below; all is those that train nothing.",
)
@click.option(
    "--calibration",
    metavar="DATASET|DIR|FILE.npz|random",
    help="Representative images for int8. [default: the calibration split of the model's own dataset]",
)
@click.option(
    "--calibration-count",
    type=options.COUNT,
    metavar="N",
    default=100,
    show_default=True,
    help="How many calibration images.",
)
@click.option(
    "--ranges",
    type=click.Choice(RANGES),
    default=Tuning().ranges,
    show_default=True,
    help="Ranges of the 8-bit activations: all that calibration saw, or of least mean square error.",
)
@click.option(
    "--rounding",
    type=click.Choice(ROUNDINGS),
    default=Tuning().rounding,
    show_default=True,
    help="Of the weights of the scheme int8: to the nearest integer, or so that outputs change least.",
)
@click.option(
    "--bias-correction/--no-bias-correction",
    default=Tuning().bias_correction,
    show_default=True,
    help="Whether the biases of the scheme int8 make good for the mean error of rounded weights.",
)
@click.option(
    "--io",
    type=click.Choice(["int8", "uint8", "float32"]),
    help="Type of input and output of the integer schemes. [default: int8; int16 for int16x8]",
)
@click.option("--batch", type=options.COUNT, metavar="N", default=1, show_default=True, help="Static batch size.")
@click.option(
    "--allow-float",
    is_flag=True,
    help="Let operators that int8 does not have compute in floating point; they are named.",
)
@click.option("--epochs", type=options.COUNT, metavar="N", help="Of a scheme that trains. [default: 20]")
@click.option(
    "--learning-rate",
    type=options.Number(0, min_open=True),
    metavar="R",
    help="Of a scheme that trains. [default: a fifth of what trained the network]",
)
@click.option(
    "--sparsity",
    type=options.Number(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    default=0.5,
    show_default=True,
    help="Share of zeros in each layer of the scheme pruned.",
)
@click.option(
    "--clusters",
    type=click.IntRange(2, 256),
    metavar="N",
    default=16,
    show_default=True,
    help="Distinct weights in each layer of the scheme clustered.",
)
@options.data_option
@options.preprocessing_options
@options.count_option
@options.limit_options
@options.threads_option
@click.option(
    "--runs", type=options.COUNT, metavar="N", help="Runs of the latency measurement. [default: until stable]"
)
@click.option("--out", default="exported", show_default=True, metavar="DIR", help="Where the files go.")
@options.force_option
@options.json_option
@click.option(
    "--from",
    "sidecar",
    metavar="SIDECAR",
    help="Do an export again as the JSON file beside it records it: same model, images and options. Beside it only "
    "--out, --force, --threads, --runs and --json.",
)
@click.pass_context
def export_command(context, **arguments):
    """Convert MODEL (default nin_digits) to .tflite files and prove them against it.

    Writes <model>_<scheme>.tflite, static batch 1, and a JSON file beside each that says what made it; runs each with
    the LiteRT runtime on test images that did not serve to calibrate; prints one table. Differences are in quantisation
    steps of the output: the file's scale, or for a float file 1/255 of the range of the model's outputs. A quantised
    file is judged on the worst class or channel, before a softmax or sigmoid that closes the network.

    Exit status 1 where a file is not as good as the model (see --min-top1-match and --max-drop). With random weights
    only the differences are judged; a file that noise calibrated (--calibration random) is good for latency only.

    --from compares the bytes with those that SIDECAR records: exit status 1 where the same versions give others, 2
    where the weights or the calibration images are others. Paths in it are as seen from the folder of that export.
    """
    if arguments["sidecar"] is None:
        return _export(types.SimpleNamespace(**arguments))
    from keras_nin.workflows import reproduction

    original = reproduction.read_original(arguments["sidecar"])
    return _export(reproduction.original_arguments(context, original), original)


def _export(given, original=None):
    from keras_nin.workflows import export, models

    chosen = schemes.parse_schemes(given.scheme)
    chosen = [scheme.with_io(given.io) if given.io else scheme for scheme in chosen]
    models.check_output_folder(given.out)
    job = export.prepare(given, chosen)
    return export.finish_export(job, export.convert_schemes(job, chosen), original)
