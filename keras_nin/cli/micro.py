"""`keras-nin micro`: what a file needs on a microcontroller with TFLite Micro."""

import contextlib
import os
import types

import click

from keras_nin.cli import on_the_fly, options


@click.command(
    "micro",
    short_help="Find the arena that a file needs with TFLite Micro.",
    epilog="Example: keras-nin micro exported/nin_digits_int8.tflite --require arena=256KiB",
)
@click.argument("file", metavar="FILE.tflite|MODEL")
@click.option(
    "--max-arena", type=options.Size(), metavar="SIZE", default="2MiB", show_default=True, help="Largest arena to try."
)
@click.option(
    "--require",
    metavar="ITEM=SIZE,...",
    help="Exit with 1 where the arena or the flash takes more, such as arena=256KiB,flash=1MiB.",
)
@click.option(
    "--c-array", "array", metavar="PATH", help="Write the file as PATH.cc and PATH.h: the array and its constants."
)
@options.data_option
@options.preprocessing_options
@click.option(
    "--test-count",
    type=options.COUNT,
    metavar="N",
    default=100,
    show_default=True,
    help="Compare at most N images of the test split, chosen by --seed, within --seconds.",
)
@click.option(
    "--seconds",
    type=options.Number(0),
    metavar="S",
    default=20,
    show_default=True,
    help="Each runtime compares no further image after S seconds.",
)
@click.option(
    "--time-limit",
    type=options.Number(1),
    metavar="S",
    default=300,
    show_default=True,
    help="A runtime that has not ended after S seconds is ended.",
)
@options.on_the_fly_options
@options.force_option
@options.json_option
@click.pass_context
def command(context, **arguments):
    """Find what FILE (.tflite) needs with TFLite Micro. A MODEL is exported to int8 first.

    The smallest tensor arena in which it runs, searched with the runtime itself on this machine, each try in a process
    of its own; the part of it that is tensors and the part that is persistent; flash; the operators to register; and
    whether the outputs are bit for bit those of LiteRT's reference kernels, on the test images that the export names
    where those are at hand, on --data, or else on random numbers.

    A persistent part measured on a 64-bit host is larger than on a microcontroller. What prevents any arena, a missing
    operator or a runtime that aborts, is reported; with --require arena=... it counts as exceeded.

    Needs pip install 'keras-nin[micro]'.
    """
    return _run(context, types.SimpleNamespace(**arguments))


def _run(context, given):
    from keras_nin.cli import stages
    from keras_nin.edge.micro import budget
    from keras_nin.edge.micro.c_array import paths as c_array_paths
    from keras_nin.edge.micro.examining import require_package

    require_package()
    is_model = on_the_fly.is_model(given.file)
    if not is_model:
        on_the_fly.check_file(context, given.file, other_use={"seed"})
    limits = () if given.require is None else budget.parse(given.require)
    if given.array is not None:  # what will not do is said before the search
        for path in c_array_paths(given.array):
            stages.check_output_folder(path.parent)
    with contextlib.ExitStack() as stack:
        path, source = given.file, given.data
        if is_model:
            from keras_nin import files

            path, source = _export(given, stack.enter_context(files.temporary_folder()))
        micro, graph = _examine(given, path, source)
        results = budget.check(micro, limits)
        written = _write(given, micro, graph)
    if given.as_json:
        stages.print_json(micro.to_json() | {"require": [result.to_json() for result in results], "written": written})
    else:
        from keras_nin.report.micro import text

        click.echo(text(micro, results))
        for name in written:
            click.echo(f"written: {name}")
    return 0 if all(result.holds for result in results) else 1


def _examine(given, path, source):
    """Return the `Micro` of a file, run on the images that `source` names, and its `Graph`."""
    from keras_nin.cli import stages
    from keras_nin.edge.micro import examine
    from keras_nin.tflite.graph import read

    graph = read(path)
    inputs = _images(given, path, graph, source)
    with stages.working(f"Searching the arena of {os.path.basename(path)}"):
        micro = examine(path, max_arena=given.max_arena, inputs=inputs, seconds=given.seconds, limit=given.time_limit)
    return micro, graph


def _images(given, path, graph, source):
    """Return `Inputs` of test images; None, for noise, where nothing names any that are at hand."""
    from keras_nin.cli import images, stages
    from keras_nin.cli.subject import image_source, read_sidecar
    from keras_nin.edge.micro.inputs import of_images

    sidecar = read_sidecar(path)
    if source is None and image_source(sidecar) in on_the_fly.AT_HAND:
        source = image_source(sidecar)
    if source in (None, "random"):
        if given.labels or given.preprocessing or given.crop is not None:
            raise click.UsageError("Expected --data with --labels, --preprocessing and --crop.")
        return None
    shape = _image_shape(graph)
    dataset = images.Sources(None, source, given.labels, given.seed).test_set(None, shape[1:])
    chosen = stages.choose_preprocessing(sidecar.get("preprocessing"), dataset, given.preprocessing, given.crop)
    count = -(-given.test_count // shape[0]) * shape[0]
    indices = dataset.select("test", count, given.seed)
    indices = indices[: max(len(indices) // shape[0], 1) * shape[0]]
    batch = dataset.load(indices, shape[1:3], shape[3], chosen)
    return of_images(graph, batch, f"test images of {dataset.name}, prepared as {chosen.mode}")


def _image_shape(graph):
    """Return (B, H, W, C) of the only input; `InputError` where it takes no images."""
    from keras_nin.errors import InputError

    shapes = [graph.main.tensors[index].shape for index in graph.main.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] < 1:
        raise InputError(f"Expected a file with one input of images for --data. Received: inputs of shapes {shapes}")
    return shapes[0]


def _export(given, folder):
    """Export a model, and return the path of the file and what names its test images, None for noise."""
    from keras_nin.cli import stages

    about = {"data": given.data, "labels": given.labels, "preprocessing": given.preprocessing, "crop": given.crop}
    (made,) = on_the_fly.export(given.file, given, folder, **about)
    if made.notes:
        stages.note(
            f"Note: {', '.join(made.notes)}: its outputs say nothing, and the trained network may run where it does not"
        )
    return made.path, given.data or made.images


def _write(given, micro, graph):
    """Write the C++ files, if asked for, and return their names."""
    if given.array is None:
        return []
    from keras_nin import files
    from keras_nin.edge.micro import c_array

    contents = {path: text.encode() for path, text in c_array(micro, graph, given.array).items()}
    files.save_all(contents, given.force)
    return [str(path) for path in contents]
