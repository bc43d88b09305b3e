"""`keras-nin compare-runs`: what became slower from one benchmark to another."""

import math

import click

from keras_nin.cli.options import json_option
from keras_nin.cli.printing import echo


class Share(click.ParamType):
    """A share such as 5% or 0.05."""

    name = "share"

    def convert(self, value, param, ctx):
        """Return the number, or fail with the option's name."""
        if isinstance(value, float):
            return value
        text = value.strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = math.nan
        if not 0 <= share < math.inf:
            self.fail(f"expected a share such as 5% or 0.05, received {value!r}", param, ctx)
        return share


@click.command(
    "compare-runs",
    short_help="Tell what became slower between two benchmarks.",
    epilog="Example: keras-nin compare-runs before.json after.json --max-regression 5%",
)
@click.argument("before", metavar="A.json")
@click.argument("after", metavar="B.json")
@click.option(
    "--max-regression", type=Share(), metavar="SHARE", help="Exit status 1 where a file became slower by more."
)
@json_option
def command(before, after, max_regression, as_json):
    """Compare two results of `keras-nin benchmark --json`: what became slower or faster, and by how much.

    Results are matched by the file's name and the number of threads. The ratio of the medians is B over A; its 95 %
    interval combines those of the two, which are independent runs. Layers are told that changed by more than 5 % and
    1 us, or that another kernel computes.

    --max-regression asks that no file is slower by more than SHARE for certain: the whole interval must lie above it to
    fail, so that noise does not. Where a result has no interval (too few runs) the medians decide.
    """

    from keras_nin import files
    from keras_nin.benchmark import comparison
    from keras_nin.report import runs
    from keras_nin.tables import printable

    result = comparison.compare_runs(comparison.read(before), comparison.read(after))
    if as_json:
        click.echo(files.to_json(result.to_json()), nl=False)
    else:
        echo(runs.text(result))
    slower = () if max_regression is None else result.regressions(max_regression)
    for change in slower:
        file = printable(change.file)
        click.echo(f"Slower than allowed: {file}: {change.ratio:.3f} times, limit {1 + max_regression:g}", err=True)
    return 1 if slower else 0
