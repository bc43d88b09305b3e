"""Training for a scheme: what the file holds afterwards, and that the weights come back."""

import dataclasses
import functools
import gzip
import json

import keras
import numpy as np
import pytest
from keras import layers as kl
from tiers import by_tier

from keras_nin import InputError, data
from keras_nin.export import (
    Tuning,
    convert_model,
    convert_optimized,
    load_calibration,
    measure_compression,
    to_tf_keras,
    train_for_scheme,
)
from keras_nin.export.optimization.methods import fold_batch_norms
from keras_nin.tflite.runner import TFLiteRunner
from keras_nin.train import get_recipe
from keras_nin.train.training import split_validation

SETTINGS = {"epochs": 3, "learning_rate": 3e-3, "sparsity": 0.75, "clusters": 8}


def network():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 1), name="image")
    x = kl.Conv2D(8, 3, use_bias=False, name="conv1")(x)
    x = kl.ReLU(name="relu1")(kl.BatchNormalization(momentum=0.5, name="bn1")(x))
    x = kl.Conv2D(16, 1, activation="relu", name="conv2")(x)
    x = kl.Flatten(name="flat")(kl.MaxPooling2D(2, name="pool")(x))
    return keras.Model(inputs, kl.Dense(10, activation="softmax", name="classes")(x), name="tiny")


@pytest.fixture(scope="module")
def model(digits):
    model = network()
    images = digits.load(digits.select("train"), (8, 8), 1, digits.preprocessing)
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    model.fit(images, digits.labels[digits.select("train")], batch_size=20, epochs=10, verbose=0)
    return model


@pytest.fixture(scope="module")
def digits():
    """A few of the digits."""
    full = data.open_dataset("digits")
    splits = {split: full.splits[split][:count] for split, count in (("train", 200), ("calibration", 20), ("test", 40))}
    return dataclasses.replace(full, splits=splits)


@pytest.fixture(scope="module")
def trained(model, digits):
    """A function from a scheme's name to what was trained for it, each once."""
    before = model.get_weights()

    @functools.cache
    def train_once(scheme):
        optimized = train_for_scheme(model, scheme, digits, **SETTINGS)
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)  # a copy was trained
        return optimized

    return train_once


@pytest.fixture(scope="module")
def converted(model, digits, trained):
    """A function from a scheme's name to its file, each once."""
    calibration = load_calibration(digits, (8, 8, 1), count=20)
    return functools.cache(lambda scheme: convert_optimized(trained(scheme), calibration, original=model))


def top1_match(model, made, digits):
    images = digits.load(digits.select("test"), (8, 8), 1, digits.preprocessing)
    outputs = TFLiteRunner(made.data).predict(images)
    return np.mean(outputs.argmax(1) == model.predict(images, verbose=0).argmax(1))


@pytest.mark.parametrize("scheme", by_tier(["qat", "pruned", "clustered"], wide=["pruned", "clustered"]))
def test_the_file_is_integer_and_computes_as_the_trained_model(scheme, model, trained, converted, digits):
    from keras_nin.models import hash_weights

    made, optimized = converted(scheme), trained(scheme)
    record = made.export_record()
    assert made.float_operators == ()
    assert {record[end]["dtype"] for end in ("input", "output")} == {"int8"}
    assert top1_match(optimized.model, made, digits) >= 0.9
    assert [layer for layer in made.layers if layer] == ["conv1", "conv2", "pool", "flat", "classes", "classes"]
    assert optimized.record["val_accuracy"] >= 0.5  # of ten classes
    assert optimized.record["best_epoch"] in [entry["epoch"] for entry in optimized.history]
    training = record["training"]
    own = {"qat": {}, "pruned": {"sparsity": 0.75}, "clustered": {"clusters": 8}}[scheme]
    assert training == optimized.record == json.loads(json.dumps(training)) == training | own
    assert training["method"] == scheme
    assert (training["data"], training["images"], training["held_out"]) == ("digits", 180, 20)
    assert (training["epochs"], training["learning_rate"], training["seed"]) == (SETTINGS["epochs"], 3e-3, 0)
    assert training["weights_sha256"] == hash_weights(optimized.model) != made.weights_sha256
    assert made.weights_sha256 == hash_weights(model)
    assert set(training["versions"]) == {"tf_keras", "tensorflow-model-optimization"}
    calibration = record["calibration"]
    assert calibration is None if scheme == "qat" else calibration["count"] == 20
    assert made.tuning is None if scheme == "qat" else made.tuning == Tuning.plain()


@pytest.mark.slow
def test_the_network_nearest_to_the_original_is_kept_and_that_may_be_the_untrained_one(model, digits):
    from keras_nin.export import quantize_network

    calibration = digits.load(digits.select("calibration"), (8, 8), 1, digits.preprocessing)
    options = {"weight_bits": 2, "calibration": calibration, "epochs": 2, "batch_size": 32}
    untrained = quantize_network(model, calibration, weight_bits=2)
    better, worse = (
        train_for_scheme(model, "qat_keras", digits, learning_rate=rate, **options) for rate in (1e-3, 1.0)
    )
    held_out = digits.load(split_validation(digits, get_recipe("tiny", "digits"), 0)[1], (8, 8), 1)

    def distance(network):
        return np.square(network.predict(held_out, verbose=0) - model.predict(held_out, verbose=0)).sum(1).mean()

    assert better.record["best_epoch"] > 0
    nearest = min(entry["val_distance"] for entry in better.history)
    assert nearest == pytest.approx(distance(better.model), rel=1e-4)
    assert nearest < distance(untrained)
    assert worse.record["best_epoch"] == 0
    assert min(entry["val_distance"] for entry in worse.history) > distance(untrained)
    for kept, expected in zip(worse.model.get_weights(), untrained.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, expected)


@pytest.mark.slow
def test_three_quarters_of_every_pruned_layer_are_zeros_in_the_file(converted):
    kernels = measure_compression(converted("pruned").tflite).kernels
    assert [kernel.weights for kernel in kernels] == [72, 128, 1440]
    assert all(kernel.zeros >= int(0.75 * kernel.weights) for kernel in kernels)
    assert all(kernel.zeros < 0.9 * kernel.weights for kernel in kernels)


@pytest.mark.slow
def test_every_clustered_layer_has_few_values_in_the_file(trained, converted):
    assert all(kernel.distinct <= 8 for kernel in measure_compression(converted("clustered").tflite).kernels)
    assert trained("clustered").record["folded"] == ["bn1"]
    # A scale for each channel would tear the clusters apart.
    scheme = dataclasses.replace(trained("clustered").scheme, per_channel=True)
    images = np.random.default_rng(0).uniform(0, 1, (8, 8, 8, 1)).astype("float32")
    torn = convert_optimized(trained("clustered"), images, scheme=scheme)
    assert any(kernel.distinct > 8 for kernel in measure_compression(torn.tflite).kernels)


@pytest.mark.slow
def test_zeros_and_few_values_compress_better(model, digits, converted):
    plain = convert_model(model, "int8", load_calibration(digits, (8, 8, 1), count=20))
    sizes = {name: measure_compression(converted(name).tflite).gzip_bytes for name in ("qat", "pruned", "clustered")}
    assert sizes["pruned"] / len(converted("pruned").data) < sizes["qat"] / len(converted("qat").data)
    assert sizes["clustered"] < measure_compression(plain.tflite).gzip_bytes


@pytest.mark.parametrize("scheme", by_tier(["qat", "clustered"], wide=["qat", "clustered"]))
def test_the_same_seed_gives_the_same_file_and_another_seed_other_weights(scheme, model, digits, trained, converted):
    calibration = load_calibration(digits, (8, 8, 1), count=20)
    again = convert_optimized(train_for_scheme(model, scheme, digits, **SETTINGS), calibration, original=model)
    assert again.data == converted(scheme).data
    assert again.export_record() == converted(scheme).export_record()
    other = train_for_scheme(model, scheme, digits, seed=1, **SETTINGS)
    assert other.record["weights_sha256"] != trained(scheme).record["weights_sha256"]


@pytest.mark.slow
def test_other_types_and_another_batch(trained):
    scheme = trained("qat").scheme.with_io("float32")
    main = convert_optimized(trained("qat"), scheme=scheme, batch=2).tflite.main
    assert [main.tensors[index].dtype for index in (*main.inputs, *main.outputs)] == ["float32", "float32"]
    assert main.tensors[main.inputs[0]].shape == (2, 8, 8, 1)


@pytest.mark.slow
def test_pruning_ends_on_its_last_update():
    from keras_nin.export.optimization.methods import prepare_network
    from keras_nin.export.optimization.training import OptimizationSettings
    from keras_nin.train.training import get_recipe

    settings = OptimizationSettings(get_recipe("tiny", "digits"), sparsity=0.75)
    prepared = prepare_network("pruned", to_tf_keras(network(), check=False), settings, 230, np.zeros((1, 8, 8, 1)))
    assert prepared.final_step == 114  # half of the steps, down to a multiple of 115 // 50
    schedule = prepared.network.layers[1].pruning_schedule
    assert float(schedule(114)[1]) == pytest.approx(0.75)
    assert bool(schedule(114)[0])


def test_folding_changes_no_output():
    copy = network()
    rng = np.random.default_rng(0)
    copy.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in copy.get_weights()])
    images = rng.uniform(0, 1, (4, 8, 8, 1)).astype("float32")
    scores = keras.Model(copy.input, copy.get_layer("pool").output)
    expected = scores(images, training=False).numpy()
    kernel = copy.get_layer("conv1").kernel.numpy()
    assert fold_batch_norms(copy) == ["bn1"]
    np.testing.assert_allclose(scores(images, training=False).numpy(), expected, rtol=1e-4)
    assert (copy.get_layer("conv1").kernel.numpy() != kernel).all()


def test_a_norm_that_cannot_be_folded_stays():
    x = inputs = keras.Input((8, 8, 1), name="image")
    shared = kl.Conv2D(4, 1, name="shared")(x)
    x = kl.Add(name="sum")([kl.BatchNormalization(name="used_twice")(shared), shared])
    x = kl.Conv2D(4, 1, activation="relu", name="conv")(x)
    model = keras.Model(inputs, kl.BatchNormalization(name="after_relu")(x), name="net")
    assert fold_batch_norms(model) == []


def test_no_train_split(digits):
    empty = dataclasses.replace(digits, splits={"test": [0, 1]})
    with pytest.raises(InputError, match="train split"):
        train_for_scheme(network(), "qat", empty)


def test_an_unknown_layer_is_named(digits):
    inputs = keras.Input((8, 8, 1), name="image")
    x = kl.Flatten(name="flat")(kl.Conv2D(2, 3, activation=lambda x: x, name="own_function")(inputs))
    model = keras.Model(inputs, kl.Dense(10, activation="softmax", name="classes")(x), name="net")
    with pytest.raises(InputError, match="keras.models.clone_model can copy.*own_function"):
        train_for_scheme(model, "pruned", digits, epochs=1)


@pytest.mark.parametrize(
    ("scheme", "options", "message"),
    [
        ("int8", {}, "one of qat, qat_keras, pruned, clustered"),
        ("pruned", {"sparsity": 1.0}, "`sparsity` to be above 0 and below 1"),
        ("pruned", {"sparsity": float("nan")}, "`sparsity`"),
        ("clustered", {"clusters": 1}, "`clusters` to be a whole number from 2 to 256"),
        ("qat", {"epochs": 0}, "`epochs`"),
        ("qat", {"learning_rate": 0}, "`learning_rate`"),
    ],
)
def test_settings_that_make_no_sense(digits, scheme, options, message):
    with pytest.raises(InputError, match=message):
        train_for_scheme(network(), scheme, digits, **options)


@pytest.mark.slow
def test_a_loss_that_is_not_finite(model, digits):
    with pytest.raises(InputError, match="smaller `learning_rate`"):
        train_for_scheme(model, "clustered", digits, epochs=2, learning_rate=1e30)


@pytest.mark.slow
def test_norms_whose_statistics_are_far_from_those_of_a_batch():
    """As in a MobileNetV2 (momentum 0.999) after a few epochs, which gave NaN in the first epoch."""
    from keras_nin.export.optimization.methods import prepare_network
    from keras_nin.export.optimization.training import OptimizationSettings
    from keras_nin.train.training import get_recipe

    small, images = network(), np.random.default_rng(0).random((16, 8, 8, 1), np.float32)
    norm = small.get_layer("bn1")
    norm.moving_variance.assign(np.full(8, 30.0))
    settings = OptimizationSettings(get_recipe("tiny", "digits"))
    quantized = prepare_network("qat", to_tf_keras(small), settings, 10, images).network
    statistics = [weight.numpy() for weight in quantized.weights if "moving_" in weight.name]
    training, inference = (np.asarray(quantized(images, training=mode)) for mode in (True, False))
    # Only the ranges move, by a thousandth of the way.
    np.testing.assert_allclose(training, inference, atol=0.01)
    after = [weight.numpy() for weight in quantized.weights if "moving_" in weight.name]
    assert statistics
    assert all(map(np.array_equal, statistics, after))


@pytest.mark.parametrize("scheme", by_tier(["float16", "int8"], default=["int8"]))
def test_compression_is_what_the_file_says(scheme, digits, tmp_path):
    images = digits.load(digits.select("calibration"), (8, 8), 1, digits.preprocessing)
    made = convert_model(network(), scheme, images if scheme == "int8" else None)
    found = measure_compression(made.tflite, made.layers)
    path = tmp_path / "file.tflite"
    path.write_bytes(made.data)
    assert measure_compression(path).gzip_bytes == found.gzip_bytes == len(gzip.compress(made.data, 9, mtime=0))
    assert [(kernel.layer, kernel.weights) for kernel in found.kernels] == [
        ("conv1", 72),
        ("conv2", 128),
        ("classes", 1440),
    ]
    if scheme == "int8":
        operators = [op for op in made.tflite.main.operators if op.op in ("CONV_2D", "FULLY_CONNECTED")]
        for kernel, operator in zip(found.kernels, operators, strict=True):
            values = made.tflite.data(made.tflite.main.tensors[operator.inputs[1]])
            assert kernel.zeros == int((values == 0).sum())
            assert kernel.distinct == len(set(values.ravel().tolist()))
    assert found.sparsity == sum(kernel.zeros for kernel in found.kernels) / 1640
    assert json.loads(json.dumps(found.to_json()))["kernels"][0]["sparsity"] == found.kernels[0].sparsity
