"""`keras-nin micro`: what a file needs on a microcontroller with TFLite Micro."""

import contextlib
import os
import types

import click

from keras_nin.cli import options

_SCHEME = "int8"
# Data that is read without Keras; what the record beside a file names is only then taken by itself.
_AT_HAND = ("digits",)
_IMAGES, _NOISE = 100, 8  # to calibrate a model: ranges of noise serve no accuracy


class Size(click.ParamType):
    """Bytes with their unit, as a whole number."""

    name = "size"

    def convert(self, value, param, ctx):
        """Return the number of bytes, or fail with the option's name."""
        from keras_nin.audit.budget import byte_count

        return byte_count(value, param.opts[0]) if isinstance(value, str) else value


@click.command("micro", epilog="Example: keras-nin micro exported/nin_digits_int8.tflite --require arena=256KiB")
@click.argument("file", metavar="FILE|MODEL")
@click.option(
    "--max-arena", type=Size(), metavar="SIZE", default="2MiB", show_default=True, help="Largest arena to try."
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
@click.option(
    "--seed", type=options.SEED, metavar="N", default=0, show_default=True, help="Seed of whatever is random."
)
@options.force_option
@options.json_option
def command(**arguments):
    """Find what FILE (.tflite) needs with TFLite Micro. A MODEL is exported to int8 first.

    The smallest tensor arena in which it runs, searched with the runtime itself on this machine, each try in a process
    of its own; the part of it that is tensors and the part that is persistent; flash; the operators to register; and
    whether the outputs are bit for bit those of LiteRT's reference kernels, on the test images that the export names
    where those are at hand, on --data, or else on random numbers.

    A persistent part measured on a 64-bit host is larger than on a microcontroller. What prevents any arena, a missing
    operator or a runtime that aborts, is reported; with --require arena=... it counts as exceeded. For a MODEL with
    options of its own, export it first.

    Needs pip install 'keras-nin[micro]'.
    """
    given = types.SimpleNamespace(**arguments)
    return _run(given)


def _run(given):
    from keras_nin.cli import stages
    from keras_nin.edge.micro import budget
    from keras_nin.edge.micro.c_array import paths as c_array_paths
    from keras_nin.edge.micro.examining import require_package

    require_package()
    limits = () if given.require is None else budget.parse(given.require)
    if given.array is not None:  # what will not do is said before the search
        for path in c_array_paths(given.array):
            stages.check_output_folder(path.parent)
    with contextlib.ExitStack() as stack:
        path, source = given.file, given.data
        if not path.endswith(".tflite"):
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
    if source is None and image_source(sidecar) in _AT_HAND:
        source = image_source(sidecar)
    if source is None:
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
    """Export a model to int8 without a proof, and return the path of the file and what names its test images, or None.

    It is calibrated on --data, else on the dataset of weights that ship where that is at hand, else on noise.
    """
    from keras_nin import files
    from keras_nin.cli import images, stages
    from keras_nin.export import calibrate, export_all

    loaded = stages.load_model(given.file, seed=given.seed)
    own = loaded.dataset if loaded.dataset in _AT_HAND and not loaded.random else None
    source = given.data or own or "random"
    shape = stages.model_input(loaded.model)
    dataset = images.Sources(source, source, given.labels, given.seed).calibration_set(None, shape)
    preprocessing = stages.choose_preprocessing(loaded.preprocessing, dataset, given.preprocessing, given.crop)
    count = _NOISE if dataset.noise else _IMAGES
    calibration = calibrate(dataset, shape, count=count, seed=given.seed, preprocessing=preprocessing)
    with stages.working(f"Converting {loaded.name} to {_SCHEME}"):
        about = {"weights": loaded.weights, "preprocessing": preprocessing, "name": loaded.name}
        (made,) = export_all(loaded.model, [_SCHEME], calibration, **about)
    for said, noted in ((loaded.random, "has random weights"), (dataset.noise, "was calibrated on noise")):
        if said:
            stages.note(f"Note: {loaded.name} {noted}: its outputs say nothing.")
    contents = made.contents(folder)
    files.save_all(contents)
    return str(next(iter(contents))), None if dataset.noise else source


def _write(given, micro, graph):
    """Write the C++ files, if asked for, and return their names."""
    if given.array is None:
        return []
    from keras_nin import files
    from keras_nin.edge.micro import c_array

    contents = {path: text.encode() for path, text in c_array(micro, graph, given.array).items()}
    files.save_all(contents, given.force)
    return [str(path) for path in contents]
