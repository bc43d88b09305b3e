"""Training: batches, recipes, and runs that end, go on after an interruption, or refuse."""

import dataclasses
import json
import math
import os
import pathlib
import shutil
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism
from tiers import by_tier

from keras_nin import InputError, data, files, layers, models, train
from keras_nin.train.batches import StepBatches, TrainingBatches, augment_images
from keras_nin.train.checkpoints import Checkpoints, find_best_epoch
from keras_nin.train.training import outputs_logits
from keras_nin.train.training_model import Distillation, TrainingModel, WeightAverages, build_optimizer
from keras_nin.workflows.training import train_model

UNIT = data.get_preset("unit")
RECIPE = train.Recipe(epochs=3, batch_size=8, learning_rate=3e-2, shift=1, flip=True)
EVERYTHING = dataclasses.replace(
    RECIPE,
    epochs=2,
    clip_norm=1.0,
    label_smoothing=0.1,
    ema=0.9,
    cutout=3,
    mixup=0.3,
    precision="mixed_float16",
    keep="last",
)


@pytest.fixture(scope="module", autouse=True)
def deterministic():
    """As the command does it."""
    tf.config.experimental.enable_op_determinism()
    yield
    disable_op_determinism()


def tiny(count=60, classes=3, test=True):
    """Noise, brighter from class to class."""
    labels = np.arange(count) % classes
    images = np.random.default_rng(0).integers(0, 60, (count, 8, 8, 1), np.uint8)
    images += (90 * labels).astype(np.uint8)[:, None, None, None]
    end = count * 3 // 4 if test else count
    splits = {"train": np.arange(end)} | ({"test": np.arange(end, count)} if test else {})
    return data.Dataset("tiny", images, labels, (), UNIT, splits)


def network(classes=3, activation="softmax", size=(8, 8, 1)):
    """A small network with dropout, which has a state of its own."""
    keras.utils.set_random_seed(0)
    x = keras.Input(size)
    y = layers.conv2d(x, 8, 3, name="conv")
    y = keras.layers.Dropout(0.2, name="drop")(y)
    y = layers.pointwise_head(y, classes, activation=None, classifier_activation=activation, name="head")
    return keras.Model(x, y, name="net")


def fit(folder, model=None, dataset=None, recipe=RECIPE, **options):
    model = model or network()
    return train.fit_model(model, dataset or tiny(), recipe, folder, name="net", preprocessing=UNIT, **options)


def digest(folder, **arguments):
    model = network(**arguments)
    models.load_weights(model, pathlib.Path(folder) / "net.weights.h5")
    return models.hash_weights(model)


def stop_after(number):
    def on_epoch(epoch, entry):
        if epoch == number:
            raise KeyboardInterrupt

    return on_epoch


def contents(folder):
    return {path: path.read_bytes() for path in pathlib.Path(folder).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run without interruption: its folder, its `Run`, and the digest of the weights after every epoch.

    Beside its folder there is a copy of what was there after the second epoch, which an interruption leaves.
    """
    folder = tmp_path_factory.mktemp("finished") / "run"
    model, digests = network(), []

    def on_epoch(epoch, entry):
        digests.append(models.hash_weights(model))
        if epoch == 2:
            shutil.copytree(folder, folder.parent / "interrupted")

    return folder, fit(folder, model, on_epoch=on_epoch), digests


def test_what_a_run_writes(finished):
    folder, run, _ = finished
    assert sorted(os.listdir(folder)) == ["history.json", "net.json", "net.keras", "net.weights.h5"]
    assert json.loads((folder / "net.json").read_text()) == run.record
    assert json.loads((folder / "history.json").read_text()) == run.history
    assert [entry["epoch"] for entry in run.history] == [1, 2, 3]
    assert run.record["schema"] == "keras_nin.train/1"
    assert (run.record["dataset"], run.record["input_shape"]) == ("tiny", [8, 8, 1])
    assert train.Recipe(**run.record["recipe"]) == RECIPE
    assert run.resumed_epochs == 0


def test_the_best_epoch_is_kept_and_tested(finished):
    folder, run, digests = finished
    entry = find_best_epoch(run.history)
    assert entry["val_accuracy"] == run.record["val_accuracy"] == max(e["val_accuracy"] for e in run.history)
    assert len(set(digests)) == 3
    assert digest(folder) == digests[run.record["best_epoch"] - 1]
    model = models.load_model(folder / "net.keras").model
    dataset = tiny()
    outputs = model.predict(dataset.load(dataset.select("test"), (8, 8), 1, UNIT), verbose=0)
    assert run.record["test_images"] == 15
    assert run.record["test_top1"] == np.mean(outputs.argmax(1) == dataset.labels[dataset.select("test")])


def test_it_learns(finished):
    assert finished[1].history[-1]["loss"] < 0.8 * finished[1].history[0]["loss"]


def test_results_hold_no_optimizer(finished):
    with h5py.File(finished[0] / "net.weights.h5") as file:
        assert set(file) == {"layers", "vars"}
    loaded = models.load_model(finished[0] / "net.keras")
    assert getattr(loaded.model, "optimizer", None) is None
    assert (loaded.preprocessing, loaded.dataset) == (UNIT.to_json(), None)


@pytest.mark.slow
def test_the_same_run_again(finished, tmp_path, monkeypatch):
    """Gives the same weights, with another model object in the same process, from batches in their own order."""
    taken = []

    def recorded(self, index):
        taken.append((self.epoch, index))
        return getitem(self, index)

    getitem = StepBatches.__getitem__
    monkeypatch.setattr(StepBatches, "__getitem__", recorded)
    assert fit(tmp_path).history == finished[1].history
    assert digest(tmp_path) == digest(finished[0])
    assert taken[-15:] == [(epoch, index) for epoch in range(3) for index in range(5)]


@pytest.mark.slow
def test_an_interruption_between_state_and_history(finished, tmp_path, monkeypatch):
    def write(path, data):
        if path.name == "history.json" and len(json.loads(data)) == 3:
            raise KeyboardInterrupt
        files_write(path, data)

    files_write = files.write_file
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", write)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path)
    run = fit(tmp_path)
    assert run.resumed_epochs == 2
    assert run.history == finished[1].history
    assert digest(tmp_path) == digest(finished[0])


def test_nothing_in_a_finished_folder_changes_without_force(finished):
    folder, *_ = finished
    before = contents(folder)
    for options in ({}, {"recipe": dataclasses.replace(RECIPE, epochs=2)}, {"seed": 1}):
        with pytest.raises(InputError, match="holds a finished run. Use `force`"):
            fit(folder, **options)
    with pytest.raises(InputError, match="holds a finished run"):
        train.fit_model(network(), tiny(), RECIPE, folder, name="another", preprocessing=UNIT)
    assert contents(folder) == before


@pytest.mark.slow
def test_force_starts_again(finished, tmp_path):
    for path, content in contents(finished[0]).items():
        (tmp_path / path.name).write_bytes(content)
    options = {"recipe": dataclasses.replace(RECIPE, epochs=2), "seed": 1}
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, force=True, on_epoch=stop_after(1), **options)
    assert digest(tmp_path) == digest(finished[0])  # until there are new results
    run = fit(tmp_path, **options)
    assert (run.resumed_epochs, run.record["seed"], len(run.history)) == (1, 1, 2)
    assert digest(tmp_path) != digest(finished[0])


@pytest.fixture(scope="module")
def interrupted(finished):
    return finished[0].parent / "interrupted"


@pytest.fixture
def broken(interrupted, tmp_path):
    """A copy of an interrupted run, to damage."""
    for path, content in contents(interrupted).items():
        target = tmp_path / path.relative_to(interrupted)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
    return tmp_path


@pytest.mark.slow
def test_an_interrupted_run_goes_on(finished, broken):
    """To exactly the same weights: optimizer, learning rate, batches and dropout are where they were."""
    assert len(json.loads((broken / "history.json").read_text())) == 2
    assert not (broken / "net.json").exists()
    run = fit(broken)
    assert run.resumed_epochs == 2
    assert run.history == finished[1].history
    assert digest(broken) == digest(finished[0])
    assert sorted(os.listdir(broken)) == ["history.json", "net.json", "net.keras", "net.weights.h5"]


@pytest.mark.slow
def test_every_setting_resumes(tmp_path, monkeypatch):
    """To the same weights, also where the images stay on the host, and the averages of the weights are kept."""
    model = network()
    whole = fit(tmp_path / "whole", model, recipe=EVERYTHING)
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert whole.record["best_epoch"] == 2
    last = []
    monkeypatch.setattr("keras_nin.train.training._MAX_RESIDENT_BYTES", 0)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "parts", recipe=EVERYTHING, on_epoch=stop_after(1))
    model = network()
    run = fit(tmp_path / "parts", model, recipe=EVERYTHING, on_epoch=lambda *_: last.append(models.hash_weights(model)))
    assert (run.resumed_epochs, run.history) == (1, whole.history)
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    assert digest(tmp_path / "parts") not in last  # the weights themselves, after the last epoch


@pytest.mark.parametrize("options", [{"seed": 1}, {"recipe": dataclasses.replace(RECIPE, epochs=7)}])
def test_other_settings_in_the_folder_of_an_interrupted_run(options, interrupted):
    before = contents(interrupted)
    with pytest.raises(InputError, match="holds an interrupted run with other settings"):
        fit(interrupted, **options)
    assert contents(interrupted) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", b"{", "a JSON file. Received: .*run.json.*Use `force`"),
        ("history.json", b"[{]", "a JSON file. Received: .*history.json.*Use `force`"),
        ("history.json", b"{}", "one entry per epoch in .*history.json"),
        ("history.json", b"[3]", "one entry per epoch"),
        ("history.json", b'[{"epoch": 2, "val_accuracy": 1, "val_loss": 0}]', "one entry per epoch"),
        ("history.json", b'[{"epoch": 1, "val_accuracy": "high", "val_loss": 0}]', "one entry per epoch"),
        ("state/epoch-0002.weights.h5", b"text", "the state of epoch 2 in .*Received: .*Use `force`"),
        ("state/epoch-0002.weights.h5", None, "the state of epoch 2 in .*Use `force`"),
    ],
)
def test_a_damaged_run(name, content, message, broken):
    (broken / name).unlink() if content is None else (broken / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        fit(broken)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_scores_train_as_their_softmax_does(finished, tmp_path):
    history = fit(tmp_path, network(activation=None)).history
    for key in ("loss", "val_loss"):
        expected = [entry[key] for entry in finished[1].history]
        assert [entry[key] for entry in history] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("activation", "scores"),
    [("softmax", False), (None, True), ("relu", True), (keras.ops.softmax, False), (lambda x: 3 * x, True)],
)
def test_what_scores_are(activation, scores):
    x = keras.Input((8, 8, 1))
    y = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    y = activation(y) if callable(activation) else keras.layers.Activation(activation)(y)
    assert outputs_logits(keras.Model(x, y), np.ones((4, 8, 8, 1), np.float32)) is scores


def two_inputs():
    x, y = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    return keras.Model([x, y], keras.layers.Flatten()(keras.layers.Add()([x, y])), name="net")


def two_outputs():
    x = keras.Input((8, 8, 1))
    y = keras.layers.Flatten()(x)
    return keras.Model(x, [y, y], name="net")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: models.build_model("convnet_extra_relu"),
            "ends in classes. Received: 'convnet_extra_relu' with output",
        ),
        (
            lambda: network(size=(None, None, 1)),
            r"of fixed size .*Received: 'net' with '.*' \(None, None, 1\)\. Pass `input_shape`",
        ),
        (lambda: network(activation="sigmoid"), "ends in a softmax, or in logits.*'net', which ends in a sigmoid"),
        (
            lambda: network(classes=2),
            "labels from 0 to 1 for 'net'. Received: 2 in 'tiny'. Build the model with classes=3",
        ),
        (two_inputs, "whose only input is an image"),
        (two_outputs, "ends in classes"),
    ],
)
def test_models_that_do_not_fit(build, message, tmp_path):
    with pytest.raises(InputError, match=message):
        fit(tmp_path / "run", build())
    assert os.listdir(tmp_path) == []


def relabelled(labels):
    return dataclasses.replace(tiny(), labels=labels)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (dataclasses.replace(tiny(), splits={"test": np.arange(60)}), "images in the train split of 'tiny'"),
        (relabelled(None), "labeled images"),
        (relabelled(np.arange(60) % 3 - 1), "labels from 0 to 2 for 'net'. Received: -1 in 'tiny'$"),
        (relabelled(np.where(np.arange(60) == 59, 9, 0)), "Received: 9 in 'tiny'"),  # an image of the test split
        (tiny(1, test=False), "at least two training images. Received: 1"),
    ],
)
def test_datasets_that_do_not_fit(dataset, message, tmp_path):
    with pytest.raises(InputError, match=message):
        fit(tmp_path / "run", dataset=dataset)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "devices", "message"),
    [
        ({"shift": 8}, 1, "`shift` to be at most 7 for images of 8x8. Received: 8"),
        ({"cutout": 9}, 1, "`cutout` to be at most 8 for images of 8x8"),
        ({}, 3, "`batch_size` to be a multiple of what 3 devices share. Received: 8"),
        ({"mixup": 0.2, "batch_size": 6}, 2, "`batch_size` to be a multiple of what 2 devices share and mixes pairs"),
    ],
)
def test_recipes_that_do_not_fit(changes, devices, message, tmp_path):
    with pytest.raises(InputError, match=message):
        fit(tmp_path / "run", recipe=dataclasses.replace(RECIPE, **changes), devices=devices)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_arrays_as_they_are_train_as_the_pixels_that_they_were(tmp_path):
    images, labels = tiny().images, tiny().labels
    arrays = {"pixels": images, "raw": images.astype(np.float32) / np.float32(255)}
    runs = {}
    for name, preprocessing in {"pixels": "unit", "raw": "none"}.items():
        path, values = tmp_path / f"{name}.npz", arrays[name]
        np.savez(path, x_train=values[:45], y_train=labels[:45], x_test=values[45:], y_test=labels[45:])
        options: Any = {"epochs": 2, "batch_size": 8, "recipe": {"shift": 1, "flip": True}}
        out = tmp_path / name
        runs[name] = train_model(network(), str(path), preprocessing=preprocessing, out=out, **options)
    assert runs["raw"].record["preprocessing"] is None
    assert runs["raw"].record["test_images"] == 15
    for expected, entry in zip(runs["pixels"].history, runs["raw"].history, strict=True):
        assert entry == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seed", [-1, 1.5, 2**32])
def test_what_is_no_seed(seed, tmp_path):
    with pytest.raises(InputError, match="`seed` to be a whole number"):
        fit(tmp_path, seed=seed)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_a_file(force, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="a folder that can be written to"):
        fit(tmp_path / "file", force=force)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_a_run_that_diverges_still_has_weights(tmp_path):
    model = network()
    model.get_layer("head").bias.assign([np.nan] * 3)
    run = fit(tmp_path, model, tiny(test=False), dataclasses.replace(RECIPE, epochs=1))
    assert [entry["val_loss"] for entry in run.history] == [None]
    assert (run.record["best_epoch"], run.record["test_images"], run.record["test_top1"]) == (1, 0, None)
    assert digest(tmp_path)
    assert "NaN" not in (tmp_path / "history.json").read_text()


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([(0.5, 1.0), (0.7, 2.0), (0.6, 0.1)], 2),
        ([(0.5, 1.0), (0.5, 0.9), (0.5, 0.9)], 2),
        ([(0.5, 1.0)] * 3, 1),
        ([(0.3, None), (0.3, 1.0), (0.3, 0.5)], 3),
        ([(0.3, 1.0), (0.3, None), (0.3, 0.5)], 3),
        ([(None, None), (0.0, None)], 2),
    ],
)
def test_best(scores, expected):
    history = [{"epoch": n, "val_accuracy": a, "val_loss": b} for n, (a, b) in enumerate(scores, start=1)]
    assert find_best_epoch(history)["epoch"] == expected


def test_only_the_best_and_the_last_state_stay(tmp_path):
    model = network()
    model.compile("adam")
    model.optimizer.build(model.trainable_variables)
    state = Checkpoints(tmp_path)
    for accuracy in (0.1, 0.9, 0.5, 0.4):
        model.get_layer("head").bias.assign([accuracy] * 3)
        state.save(model, {"val_accuracy": accuracy, "val_loss": math.nan})
    assert sorted(os.listdir(tmp_path / "state")) == ["epoch-0002.weights.h5", "epoch-0004.weights.h5"]
    again = Checkpoints(tmp_path)
    assert again.history == state.history
    again.restore(model, 2)
    np.testing.assert_array_equal(model.get_layer("head").bias, np.float32([0.9] * 3))


def test_every_batch_of_every_epoch():
    images = np.arange(50, dtype=np.float32).reshape(50, 1, 1, 1)
    recipe = train.Recipe(batch_size=16)

    def epoch(batches, number):
        batches.start_epoch(number)
        parts = [batches[index] for index in range(len(batches))]
        assert [len(part) for part, _ in parts] == [16, 16, 16, 2]
        pixels = np.concatenate([part.ravel() for part, _ in parts])
        np.testing.assert_array_equal(pixels, np.concatenate([labels for _, labels in parts]))
        return pixels.tolist()

    batches = TrainingBatches(images, np.arange(50), recipe, seed=0)
    orders = [epoch(batches, number) for number in (0, 1, 2)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert epoch(TrainingBatches(images, np.arange(50), recipe, seed=0), 1) == orders[1]
    assert epoch(TrainingBatches(images, np.arange(50), recipe, seed=1), 1) != orders[1]


def test_the_step_shifts_mirrors_cuts_and_normalizes():
    """As NumPy does it image by image."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 7, 5, 3), np.uint8)
    recipe = train.Recipe(batch_size=40, shift=3, flip=True, cutout=3)
    x = keras.Input((7, 5, 3))
    presets = [*data.preprocessing.PRESETS.values(), data.Preprocessing("affine", (1, 2, 3), (2,), channels="bgr")]
    batches = StepBatches(lambda positions: positions, np.arange(40), 40, (7, 5), recipe, seed=0)
    inputs, _ = batches[0]
    expected = []
    for image, (mirrored, down, right, *_) in zip(images[inputs["image"]], inputs["transform"], strict=True):
        padded = np.pad(image[:, ::-1] if mirrored else image, ((3, 3), (3, 3), (0, 0)), mode="reflect")
        expected.append(padded[3 - down : 10 - down, 3 - right : 8 - right])
    assert {tuple(row) for row in inputs["transform"][:, :1]} == {(0,), (1,)}
    assert set(inputs["transform"][:, 1]) == set(inputs["transform"][:, 2]) == set(range(-3, 4))
    for preprocessing in presets:
        model = TrainingModel(keras.Model(x, x), recipe, preprocessing, images)
        pixels = preprocessing.normalize(np.stack(expected))
        for image, (top, left) in zip(pixels, inputs["transform"][:, 3:], strict=True):
            image[max(top, 0) : top + 3, max(left, 0) : left + 3] = 0
        np.testing.assert_allclose(model(inputs, training=True), pixels, rtol=1e-5, atol=1e-5)
        positions = {"image": np.arange(3)}
        np.testing.assert_allclose(model(positions), preprocessing.normalize(images[:3]), rtol=1e-5, atol=1e-5)


def test_mixup_mixes_neighbors_and_their_labels():
    images = np.random.default_rng(0).random((10, 2, 2, 1)).astype(np.float32)
    recipe = train.Recipe(batch_size=4, mixup=0.4)
    batches = StepBatches(lambda positions: positions, np.arange(10), 10, (2, 2), recipe, seed=0)
    assert len(batches) == 2
    inputs, targets = batches[1]
    x = keras.Input((2, 2, 1))
    outputs = np.asarray(TrainingModel(keras.Model(x, x), recipe, None, images)(inputs, training=True))
    assert 0 < inputs["share"][0] < 1
    # The labels say which images each is made of.
    np.testing.assert_allclose(outputs, np.tensordot(targets, images, 1), rtol=1e-5)


@pytest.mark.parametrize("from_logits", by_tier([False, True], wide=(True,)))
def test_answers_of_a_teacher_take_the_place_of_labels(from_logits):
    """A network that answers as its teacher has nothing to learn: dropout is off, and labels say nothing."""
    x = keras.Input((4, 4, 1))
    scores = keras.layers.Dense(3)(keras.layers.Dropout(0.5)(keras.layers.Flatten()(x)))
    network = keras.Model(x, scores if from_logits else keras.layers.Softmax()(scores))
    other = keras.models.clone_model(network)
    other.set_weights([value[..., ::-1] + [0, 0, 1] for value in network.get_weights()])
    images = np.random.default_rng(0).random((8, 4, 4, 1)).astype(np.float32)
    recipe = train.Recipe(batch_size=8, mixup=1.0)
    batches = StepBatches(lambda positions: positions, np.zeros(8, int), 3, (4, 4), recipe, seed=0)
    losses = []
    for teacher in (network, other):
        training = TrainingModel(network, recipe, None, images, Distillation(teacher, from_logits=from_logits))
        training.compile("sgd", loss=None)
        losses += [training.evaluate(batches, verbose=0), training.train_on_batch(*batches[0])]
    assert losses[:2] == pytest.approx([0, 0], abs=1e-5)
    assert min(losses[2:]) > 0.01


def test_features_of_a_teacher_are_learned_too():
    x = keras.Input((4,))
    hidden = keras.layers.Dense(6)(x)
    network = keras.Model(x, keras.layers.Dense(3)(hidden))
    features = keras.Model(x, [network.output, hidden])
    teacher = keras.models.clone_model(features)
    first, last = (layer for layer in teacher.layers if layer.weights)
    first.kernel.assign(2 * network.layers[1].kernel)
    last.set_weights([0.5 * network.layers[2].kernel, network.layers[2].bias])  # the same answers
    images = np.random.default_rng(0).random((8, 4)).astype(np.float32)
    distillation = Distillation(teacher, from_logits=True, features=features)
    outputs, learned = features(images)
    assert float(distillation.loss(images, outputs)) == pytest.approx(0, abs=1e-5)
    # Half as large: a quarter of the squares is missing, and features count four times.
    assert float(distillation.loss(images, outputs, [learned])) == pytest.approx(1, rel=1e-3)


def test_batches_depend_on_seed_and_epoch_and_are_shared_by_processes():
    recipe = train.Recipe(batch_size=16, shift=2, flip=True)

    def epoch(number, seed=0, share=(0, 1)):
        batches = StepBatches(lambda positions: positions, np.arange(50), 50, (8, 8), recipe, seed, share)
        batches.start_epoch(number)
        parts = [batches[index] for index in range(len(batches))]
        for inputs, targets in parts:
            np.testing.assert_array_equal(inputs["image"], targets.argmax(1))
        return np.concatenate([np.column_stack([inputs["image"], inputs["transform"]]) for inputs, _ in parts])

    first = epoch(0)
    assert len(first) == len(set(first[:, 0])) == 48  # two images are left out, other ones in each epoch
    np.testing.assert_array_equal(first, epoch(0))
    assert not np.array_equal(first, epoch(1))
    assert not np.array_equal(first, epoch(0, seed=1))
    halves = [epoch(0, share=(number, 2)).reshape(3, 8, 6) for number in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1).reshape(48, 6), first)


def test_averages_of_weights():
    x = keras.Input((2,))
    model = keras.Model(x, keras.layers.BatchNormalization()(keras.layers.Dense(1)(x)))
    averages = WeightAverages(model, 0.5)
    expected = [weight.copy() for weight in model.get_weights()]
    for step in range(5):
        model.set_weights([weight + 1 for weight in model.get_weights()])
        averages.update(model)
        momentum = min(0.5, step / (9 + step))
        expected = [momentum * a + (1 - momentum) * w for a, w in zip(expected, model.get_weights(), strict=True)]
    inputs = np.float32([[1, 2]])
    outputs = averages.run(model, inputs)
    averages.assign_to(model)
    for weight, average in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(weight, average, rtol=1e-5)
    np.testing.assert_array_equal(outputs, model(inputs))


def test_weights_decay_in_kernels_alone():
    x = keras.Input((2,))
    model = keras.Model(x, keras.layers.BatchNormalization()(keras.layers.Dense(1, bias_initializer="ones")(x)))
    optimizer = build_optimizer(model, train.Recipe(warmup=0, weight_decay=0.5), steps=10)
    before = [variable.numpy() for variable in model.trainable_variables]
    optimizer.apply([np.zeros_like(value) for value in before], model.trainable_variables)
    changed = [not np.array_equal(value, v) for value, v in zip(before, model.trainable_variables, strict=True)]
    assert dict(zip([v.name for v in model.trainable_variables], changed, strict=True)) == {
        "kernel": True,
        "bias": False,
        "gamma": False,
        "beta": False,
    }


def test_a_shift_moves_and_repeats_the_edge():
    images = np.arange(200 * 5 * 4, dtype=np.float32).reshape(200, 5, 4, 1)
    before = images.copy()
    shifted = augment_images(images, train.Recipe(shift=2), np.random.default_rng(0))
    np.testing.assert_array_equal(images, before)
    assert shifted.shape == images.shape
    seen = set()
    for image, result in zip(images, shifted, strict=True):
        fits = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if np.array_equal(result, image[np.clip(np.arange(5) - down, 0, 4)][:, np.clip(np.arange(4) - right, 0, 3)])
        ]
        assert len(fits) == 1
        seen.update(fits)
    assert len(seen) == 25


def test_a_mirror_turns_left_and_right():
    images = np.arange(100 * 2 * 3 * 2, dtype=np.float32).reshape(100, 2, 3, 2)
    before = images.copy()
    mirrored = augment_images(images, train.Recipe(flip=True), np.random.default_rng(0))
    np.testing.assert_array_equal(images, before)
    turned = [np.array_equal(result, image[:, ::-1]) for image, result in zip(images, mirrored, strict=True)]
    kept = [np.array_equal(result, image) for image, result in zip(images, mirrored, strict=True)]
    assert all(a != b for a, b in zip(turned, kept, strict=True))
    assert 30 < sum(turned) < 70


def test_without_changes_the_images_stay_and_are_a_copy():
    images = np.ones((3, 2, 2, 1), np.float32)
    result = augment_images(images, train.Recipe(), np.random.default_rng(0))
    np.testing.assert_array_equal(result, images)
    result[...] = 0
    assert images.min() == 1


def test_recipes():
    assert train.get_recipe("nin_digits", "mnist").epochs == 80
    assert train.get_recipe("squeezenet_v1_1", "cifar10").flip
    recipe = train.get_recipe("nin_cifar10", "cifar10", ema=0.0)
    assert (recipe.weight_decay, recipe.clip_norm, recipe.ema, recipe.keep) == (0.05, 1.0, 0.0, "last")
    assert train.get_recipe("googlenet_cifar10", "other") == dataclasses.replace(recipe, epochs=17, ema=0.999)
    with pytest.raises(InputError, match="`recipe` to be a known name. Received: 'cut_out'. Did you mean cutout"):
        train.get_recipe("other", "other", cut_out=3)
    assert train.get_recipe("other", "other", epochs=3, batch_size=None) == train.Recipe(epochs=3)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("epochs", (0, 1.5, True, "3")),
        ("batch_size", (0, -1)),
        ("shift", (-1, 0.5)),
        ("learning_rate", (0, -1.0, math.nan, math.inf, "fast")),
        ("weight_decay", (-1, math.nan)),
        ("validation", (0, 1, 1.5)),
        ("clip_norm", (-1.0, math.nan)),
        ("label_smoothing", (-0.1, 1)),
        ("ema", (1, True)),
        ("cutout", (-1, 2.5)),
        ("mixup", (-1, math.inf)),
        ("flip", (1, "yes")),
        ("precision", ("float16",)),
        ("keep", ("first",)),
    ],
)
def test_recipes_that_make_no_sense(field, values):
    for value in values:
        with pytest.raises(InputError, match=f"Expected `{field}` to be .*Received: {value!r}"):
            train.Recipe(**{field: value})
