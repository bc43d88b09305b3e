"""`keras-nin benchmark`: the latency of .tflite files and of each of their layers."""

import click

from keras_nin.cli import options


@click.command("benchmark", epilog="Example: keras-nin benchmark exported/nin_digits_int8.tflite")
@click.argument("files", nargs=-1, required=True, metavar="FILE|MODEL...")
@click.option("--threads", type=options.COUNT, multiple=True, metavar="N", default=(1,), help="Threads; repeatable.")
@click.option("--runs", type=options.COUNT, metavar="N", help="Exactly so many runs. [default: until stable]")
@options.json_option
def command(files, threads, runs, as_json):
    """Measure the latency of .tflite files, and inside the runtime that of each of their layers."""
    from keras_nin.benchmark import measure
    from keras_nin.cli import stages

    benchmark = measure(files, threads=threads, runs=runs)
    if as_json:
        stages.print_json(benchmark.to_json())
