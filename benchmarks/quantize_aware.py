"""Quantization-aware training at 8- and 4-bit weights: float, post-training, tfmot and ours, on held-out test images.

python benchmarks/quantize_aware.py make FOLDER [--network NAME] [--method NAME] [--bits N] [--seed N]
python benchmarks/quantize_aware.py table FOLDER
python benchmarks/quantize_aware.py steps FOLDER [--network NAME] [--bits N]

`make` writes a .tflite file for each row that FOLDER lacks, and tests it; `table` prints Markdown; `steps` times a
training step beside that of the float network, on any backend of Keras (KERAS_BACKEND). CIFAR-10 is read from
KERAS_NIN_DATA: images/cifar10_train_jpeg.npz and cifar10_test_jpeg.npz (see docs/concepts/images.md).

Both trainings get the same images in the same order, the same steps and optimizer, and the better of two learning
rates, chosen with seed 0 on held-out training images. A file with 4-bit weights is an int8 file whose weights have the
codes -7 to 7: the same arithmetic as int4 tensors, which LiteRT computes for few operators.
"""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
import time
from unittest import mock

import click
import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

NETWORKS = ("nin_digits", "nin_cifar10", "squeezenet_cifar10")
TITLES = {
    "float32": "-",
    "nearest": "post-training, nearest rounding",
    "adaptive": "post-training",
    "tfmot": "tfmot",
    "ours": "quantize_aware",
    "ours-longer": "quantize_aware, longer",
}
METHODS = tuple(TITLES)
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
LEVELS = {8: 127, 4: 7, 3: 3}  # of a weight, on each side of 0
CARRIED, HELD_OUT, TESTED = 20_000, 1_000, 10_000  # images of CIFAR-10: of the training images, the last are held out


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long a network is trained: the same for both methods."""

    images: int
    epochs: int
    batch_size: int
    rates: tuple[float, float]


BUDGETS = {
    "same": {
        "nin_digits": Budget(10**9, 5, 32, (1e-4, 4e-4)),
        "nin_cifar10": Budget(1_500, 2, 32, (3e-5, 4e-4)),
        "squeezenet_cifar10": Budget(1_500, 2, 32, (3e-5, 4e-4)),
    },
    "longer": {  # what an accelerator does in seconds
        "nin_digits": Budget(10**9, 20, 32, (1e-4, 4e-4)),
        "nin_cifar10": Budget(19_000, 2, 32, (3e-5, 3e-4)),
        "squeezenet_cifar10": Budget(19_000, 2, 32, (3e-5, 3e-4)),
    },
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One file: how it is made from which network."""

    network: str
    method: str
    bits: int
    seed: int
    rate: float | None = None

    @property
    def name(self):
        """The name of its files."""
        rate = "" if self.rate is None else f"-{self.rate:g}"
        return f"{self.network}-{self.method}-{self.bits}-{self.seed}{rate}"


@functools.cache
def load_network(network, budget="same"):
    """Return (`LoadedModel`, `Dataset`) of a network: its bundled weights; splits train, calibration and test.

    The calibration split is held out of the training images: it calibrates, and chooses the learning rate. There is no
    test split where its file is missing.
    """
    from keras_nin import data, models

    loaded = models.load_model(network)
    if network == "nin_digits":
        return loaded, data.open_dataset(loaded.dataset)
    images, labels = read_cifar10()
    training = min(CARRIED, len(images))
    first = training - HELD_OUT
    splits = {
        "train": np.arange(min(first, BUDGETS[budget][network].images)),
        "calibration": np.arange(first, training),
    }
    if len(images) > training:
        splits["test"] = np.arange(training, len(images))
    return loaded, data.Dataset("cifar10", images, labels, (), data.get_preset(loaded.preprocessing), splits)


@functools.cache
def read_cifar10():
    """Return the images and labels of CIFAR-10: `CARRIED` to train on, and those to test on where they are there."""
    from keras_nin import data

    paths = [
        pathlib.Path(os.environ["KERAS_NIN_DATA"], "images", f"cifar10_{part}_jpeg.npz") for part in ("train", "test")
    ]
    parts = [data.open_dataset(path) for path in paths if path.exists()]
    images = [parts[0].images[index] for index in range(min(CARRIED, len(parts[0].images)))]
    labels = parts[0].labels[: len(images)]
    for part in parts[1:]:
        images += [part.images[index] for index in range(min(TESTED, len(part.images)))]
        labels = np.concatenate([labels, part.labels[:TESTED]])
    return np.stack(images), labels


# The files of a row


def make_post_training(row, folder):
    """Return the bytes of a file that was not trained for its weights."""
    from keras_nin.export import Tuning, convert_model, load_calibration
    from keras_nin.export.tuning import tune_file

    loaded, dataset = load_network(row.network)
    if row.method == "float32":
        return convert_model(loaded.model, "float32").data, {}
    calibration = load_calibration(dataset, loaded.model.input_shape[1:], seed=row.seed)
    tune = functools.partial(tune_file, levels=LEVELS[row.bits])
    with mock.patch("keras_nin.export.conversion.tune_file", tune):
        made = convert_model(loaded.model, "int8", calibration, tuning=Tuning(rounding=row.method))
    return narrow_weights(made.data, row.bits), {}


def make_tfmot(row, folder):
    """Return the bytes of a file that tfmot's quantization-aware training made, and what it cost."""
    from keras_nin.export import convert_optimized
    from keras_nin.export.optimization import methods

    wrappers, quantize_network = [], methods.quantize_model

    def quantize_model(network):
        quantized = quantize_network(network)
        wrappers.extend(layer for layer in quantized.layers if getattr(layer, "_weight_vars", None))
        set_bits(row.bits)
        return quantized

    def set_bits(bits):
        for _, quantizer, _ in itertools.chain.from_iterable(wrapper._weight_vars for wrapper in wrappers):
            quantizer.num_bits = bits

    with mock.patch.object(methods, "quantize_model", quantize_model):
        trained, record = train(row, "qat")
    for wrapper in wrappers:  # the converter knows 8 bits: it is given the weights as 4 bits left them
        for weight, quantizer, ranges in wrapper._weight_vars:
            weight.assign(quantizer(weight, False, ranges))
    set_bits(8)
    return narrow_weights(convert_optimized(trained).data, row.bits), record


def train(row, scheme, **options):
    """Return an `OptimizedModel`, and what its training cost."""
    from keras_nin.export import train_for_scheme

    (loaded, dataset), budget = load_network(row.network), BUDGETS["same"][row.network]
    options |= {"epochs": budget.epochs, "batch_size": budget.batch_size, "learning_rate": row.rate}
    start, ends = time.perf_counter(), []
    trained = train_for_scheme(
        loaded.model,
        scheme,
        dataset,
        name=row.network,
        seed=row.seed,
        on_epoch=lambda epoch, logs: ends.append(time.perf_counter() - start),
        **options,
    )
    return trained, {key: trained.record[key] for key in ("images", "best_epoch", "val_accuracy")} | {
        "epoch_ends": ends
    }


def make_ours(row, folder):
    """Return the bytes of a file with the weights that `quantize_aware_train.py` left, else trained here."""
    from keras_nin.export import convert_optimized, convert_quantize_aware, load_calibration

    budget = "longer" if row.method.endswith("longer") else "same"
    weights = folder / f"{row.network}-{budget}.npz"
    if not weights.exists():
        loaded, dataset = load_network(row.network)
        calibration = load_calibration(dataset, loaded.model.input_shape[1:])
        trained, record = train(row, "qat_keras", weight_bits=row.bits, calibration=calibration)
        return convert_optimized(trained).data, record
    network = load_start(folder, row.network, row.bits)
    with np.load(weights) as arrays:
        for group, variables in (("trained", network.trainable_variables), ("other", network.non_trainable_variables)):
            for index, variable in enumerate(variables):
                variable.assign(arrays[f"{row.bits}/{row.seed}/{group}/{index}"].astype(np.float32))
    names, wanted = ("network", "budget", "bits", "seed"), (row.network, budget, row.bits, row.seed)
    runs = json.loads((folder / "training.json").read_text())["runs"]
    (record,) = [run for run in runs if tuple(run[name] for name in names) == wanted]
    return convert_quantize_aware(network)[0].data, {"training": record}


def load_start(folder, network, bits):
    """Return the quantize-aware network before its training, which is made where FOLDER has none."""
    from keras_nin import models
    from keras_nin.export import load_calibration, quantize_network

    path = folder / f"{network}-{bits}.keras"
    if not path.exists():
        loaded, dataset = load_network(network)
        calibration = load_calibration(dataset, loaded.model.input_shape[1:])
        quantize_network(loaded.model, calibration, weight_bits=bits).save(path)
    return models.load_model(path).model


def narrow_weights(content, bits):
    """Return an int8 file whose weights have codes of `bits` bits; they have to be on that grid already."""
    if bits == 8:
        return content
    ratio = LEVELS[8] / LEVELS[bits]

    def narrow(tensor, buffer, dtype):
        exact = np.frombuffer(bytes(buffer.data), dtype) / ratio
        if dtype == "int8" and np.abs(exact - np.round(exact)).max() > 0.05:
            raise ValueError(f"{tensor.name} is not on a grid of {bits} bits")
        buffer.data = np.frombuffer(np.round(exact).astype(dtype).tobytes(), np.uint8)
        tensor.quantization.scale = np.asarray(tensor.quantization.scale, np.float32) * np.float32(ratio)

    return edit_weights(content, narrow)


def pack_int4(content, kinds):
    """Return an int8 file whose weights of -7 to 7 are int4 tensors, two to a byte, in operators of these kinds."""
    from ai_edge_litert import schema_py_generated as schema

    def pack(tensor, buffer, dtype):
        if dtype == "int8":
            values = np.frombuffer(bytes(buffer.data), np.uint8) & 15
            low, high = np.pad(values, (0, len(values) % 2)).reshape(-1, 2).T
            buffer.data, tensor.type = low | high << 4, schema.TensorType.INT4

    return edit_weights(content, pack, kinds)


def edit_weights(content, edit, kinds=WEIGHTED):
    """Return a file after edit(tensor, buffer, dtype) for the weights, int8, and biases, int32, of some operators."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    graph, done = model.subgraphs[0], set()
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    chosen = [getattr(schema.BuiltinOperator, kind) for kind in kinds]
    for operator in graph.operators:
        constants = operator.inputs[1:] if codes[operator.opcodeIndex] in chosen else ()
        for index, dtype in zip(constants, ("int8", "int32"), strict=False):
            if index >= 0 and index not in done:
                edit(graph.tensors[index], model.buffers[graph.tensors[index].buffer], dtype)
                done.add(index)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


MAKERS = {"float32": make_post_training, "nearest": make_post_training, "adaptive": make_post_training}
MAKERS |= {"tfmot": make_tfmot, "ours": make_ours, "ours-longer": make_ours}


def make_file(row, folder):
    """Write the file of a row and its record, with top-1 on the held-out training images, where they are missing."""
    path = folder / f"{row.name}.tflite"
    record = path.with_suffix(".json")
    if not record.exists():
        start = time.process_time(), time.perf_counter()
        content, details = MAKERS[row.method](row, folder)
        details |= {"cpu_seconds": time.process_time() - start[0], "seconds": time.perf_counter() - start[1]}
        path.write_bytes(content)
        if row.rate is not None:
            details["held_out"] = measure_top1(path, row.network, "calibration")[0]
        record.write_text(json.dumps(dataclasses.asdict(row) | details))
        click.echo(record.read_text())
    return json.loads(record.read_text())


def measure_top1(path, network, split):
    """Return top-1 of a file in percent on a split, and the classes that it gives."""
    from keras_nin.tflite.runner import TFLiteRunner

    loaded, dataset = load_network(network)
    indices = dataset.select(split)
    *size, channels = loaded.model.input_shape[1:]
    runner, classes = TFLiteRunner(path.read_bytes()), []
    for images, _ in dataset.batches(indices, size, channels, 500):
        classes.append(runner.predict(images).argmax(axis=1))
    classes = np.concatenate(classes)
    return 100 * float((classes == dataset.labels_of(indices)).mean()), classes


def test_file(row, folder):
    """Add top-1 on the test images, and the classes that the file gives, to the record of a row."""
    record = folder / f"{row.name}.json"
    known = json.loads(record.read_text())
    if "test" not in known:
        known["test"], classes = measure_top1(record.with_suffix(".tflite"), row.network, "test")
        known["classes"] = "".join(map(str, classes))
        record.write_text(json.dumps(known))
        click.echo(f"{row.name}: {known['test']:.2f}%")
    return known


def choose_rate(row, folder):
    """Return the row with the learning rate whose 4-bit file of seed 0 is best on held-out training images."""
    if row.method not in ("tfmot", "ours") or (folder / f"{row.network}-same.npz").exists() and row.method == "ours":
        return row
    candidates = [dataclasses.replace(row, bits=4, seed=0, rate=rate) for rate in BUDGETS["same"][row.network].rates]
    best = max(candidates, key=lambda candidate: make_file(candidate, folder)["held_out"])
    return dataclasses.replace(row, rate=best.rate)


def table_rows(folder):
    """Yield the cells of each network, width and method, from the records in FOLDER."""
    records = [json.loads(path.read_text()) for path in folder.glob("*-*-*-*.json")]
    records = [record for record in records if "test" in record]
    for network, bits, method in itertools.product(NETWORKS, LEVELS, METHODS):
        floats = [record["test"] for record in records if (record["network"], record["method"]) == (network, "float32")]
        wanted = network, bits, method
        found = [record for record in records if (record["network"], record["bits"], record["method"]) == wanted]
        if found and floats:
            scores = [record["test"] for record in sorted(found, key=lambda record: record["seed"])]
            mean = sum(scores) / len(scores)
            weights = "float32" if method == "float32" else f"{bits} bits"
            difference = "" if method == "float32" else f"{mean - floats[0]:+.2f}"
            seeds = "" if len(scores) == 1 else ", ".join(f"{score:.2f}" for score in scores)
            yield network, weights, TITLES[method], f"{mean:.2f}%", difference, seeds


@click.group(help=__doc__)
def main():
    """Run a command."""


@main.command()
@click.argument("folder", type=click.Path(path_type=pathlib.Path))
@click.option("--network", "networks", type=click.Choice(NETWORKS), multiple=True, default=NETWORKS)
@click.option("--bits", "widths", type=click.Choice(tuple(LEVELS)), multiple=True, default=tuple(LEVELS))
def start(folder, networks, widths):
    """Make the quantize-aware networks that FOLDER lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    for network, bits in itertools.product(networks, widths):
        load_start(folder, network, bits)


@main.command()
@click.argument("folder", type=click.Path(path_type=pathlib.Path))
@click.option("--network", "networks", type=click.Choice(NETWORKS), multiple=True, default=NETWORKS)
@click.option("--method", "methods", type=click.Choice(METHODS), multiple=True, default=METHODS)
@click.option("--bits", "widths", type=click.Choice(tuple(LEVELS)), multiple=True, default=tuple(LEVELS))
@click.option("--seed", "seeds", type=int, multiple=True, default=(0, 1, 2))
@click.option("--test/--no-test", default=True, help="Whether to run the files on the test images.")
@click.option("--threads", type=int, default=1, help="Threads of TensorFlow.")
def make(folder, networks, methods, widths, seeds, test, threads):
    """Make and test the files that FOLDER lacks."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    for bits, network, method, seed in itertools.product(widths, networks, methods, seeds):
        row = Row(network, method, bits, seed)
        if row.method == "float32" and (row.bits, row.seed) != (8, 0):
            continue
        row = choose_rate(row, folder)
        make_file(row, folder)
        if test:
            test_file(row, folder)


@main.command()
@click.argument("folder", type=click.Path(exists=True, path_type=pathlib.Path))
def table(folder):
    """Print the table of the files in FOLDER."""
    from keras_nin.formatting import format_markdown_table

    columns = ("network", "weights", "method", "top-1", "pp to float", "each seed")
    click.echo(format_markdown_table(columns, list(table_rows(folder)), right=columns[3:]))


@main.command()
@click.argument("folder", type=click.Path(path_type=pathlib.Path))
@click.option("--network", type=click.Choice(NETWORKS), default="nin_cifar10")
@click.option("--bits", type=click.Choice(tuple(LEVELS)), default=8)
@click.option("--batch-size", type=int, default=64)
@click.option("--rounds", type=int, default=15, help="Steps of each network, in turns.")
def steps(folder, network, bits, batch_size, rounds):
    """Time a training step of the quantize-aware network and of the float one, without its dropout."""
    import keras

    folder.mkdir(parents=True, exist_ok=True)
    float_network = keras.models.clone_model(load_network(network)[0].model, clone_function=without_dropout)
    networks = {"float": float_network, "quantize-aware": load_start(folder, network, bits)}
    random, seconds = np.random.default_rng(0), {name: [] for name in networks}
    images = random.normal(size=(batch_size, *float_network.input_shape[1:])).astype(np.float32)
    labels = random.integers(0, float_network.output_shape[1], batch_size)
    for model in networks.values():
        model.compile(keras.optimizers.Adam(1e-5), "sparse_categorical_crossentropy", jit_compile="auto")
        model.train_on_batch(images, labels)
    for _, (name, model) in itertools.product(range(rounds), networks.items()):
        start = time.perf_counter()
        model.train_on_batch(images, labels)
        seconds[name].append(time.perf_counter() - start)
    click.echo(f"{network}, {bits} bits, batch {batch_size}, Keras on {keras.backend.backend()}")
    for name, times in seconds.items():
        click.echo(f"{name}: median {1000 * np.median(times):.0f} ms, fastest {1000 * min(times):.0f} ms")
    ratios = np.array(seconds["quantize-aware"]) / np.array(seconds["float"])
    fastest = min(seconds["quantize-aware"]) / min(seconds["float"])
    click.echo(f"median of the paired ratios {np.median(ratios):.2f}, fastest {fastest:.2f}")


def without_dropout(layer):
    """Return the layer of a copy of a network."""
    import keras

    config = layer.get_config()
    return layer.__class__.from_config(config | {"rate": 0.0} if isinstance(layer, keras.layers.Dropout) else config)


@main.command()
@click.argument("file", type=click.Path(exists=True, path_type=pathlib.Path))
def int4(file):
    """Run a file with 4-bit weights as int8 and as int4 tensors: bytes, differences, milliseconds."""
    from keras_nin.tflite.runner import TFLiteRunner

    content = file.read_bytes()
    files = {"int8": content, "int8, no delegate": content} | {kind: pack_int4(content, [kind]) for kind in WEIGHTED}
    images, outputs = None, {}
    for name, packed in files.items():
        runner = TFLiteRunner(packed, keep_tensors="delegate" in name)  # which runs LiteRT's own kernels
        if images is None:
            images = np.random.default_rng(0).normal(size=(50, *runner.input.shape[1:])).astype(np.float32)
        outputs[name] = runner.predict_raw(images).astype(int)
        times = []
        for image in images:
            start = time.perf_counter()
            runner.predict_raw(image[None])
            times.append(1000 * (time.perf_counter() - start))
        differences = [int(np.abs(outputs[name] - known).max()) for known in list(outputs.values())[:2]]
        click.echo(f"{name}: {len(packed):,} bytes, median {np.median(times):.2f} ms, max abs diff {differences} LSB")


if __name__ == "__main__":
    main()
