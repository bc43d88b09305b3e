"""What a MODEL argument means, and which weights it comes with."""

import json
import pathlib
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
from tiers import by_tier

from keras_nin import InputError, data, models
from keras_nin.metrics import top_k_accuracy
from keras_nin.models import registry, weight_files

DIGITS = ("nin_digits", "inception_digits", "convnet_linear_head", "convnet_pointwise_head")
CIFAR10 = ("nin_cifar10", "squeezenet_cifar10")
BUNDLED = weight_files.find_weights("nin_digits", "digits")
RECORD = {
    "schema": "keras_nin.train/1",
    "dataset": "digits",
    "preprocessing": {"mode": "unit", "mean": [0.5], "std": None, "crop_fraction": 0.5},
}


@pytest.fixture(scope="module")
def digest(build):
    return models.hash_weights(build("nin_digits", weights="digits"))


@pytest.fixture(scope="module")
def saved(build, tmp_path_factory):
    """A saved model as .keras, as the legacy .h5, and one that leaves its input size open."""
    folder = tmp_path_factory.mktemp("saved")
    model = build("nin_digits", weights="digits")
    for ending in ("keras", "h5"):
        model.save(folder / f"mine.{ending}")
    x = keras.Input((None, None, 3))
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, name="conv")(x))
    keras.Model(x, keras.layers.Dropout(0.5)(y), name="open").save(folder / "open.keras")
    return folder


def refused(message, *args, **kwargs):
    with pytest.raises(InputError, match=message) as caught:
        models.load_model(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_bundled_weights_are_the_default(digest):
    loaded = models.load_model("nin_digits")
    assert (loaded.weights, loaded.random, loaded.name) == ("digits", False, "nin_digits")
    assert (loaded.preprocessing, loaded.dataset) == ("unit", "digits")
    assert models.hash_weights(loaded.model) == digest


def test_every_bundled_file_is_of_a_model_that_says_so_and_comes_with_its_record():
    declared = {name: set(models.get_spec(name).bundled_weights) for name in models.list_models()}
    assert declared == {name: set(weight_files.list_bundled_weights(name)) for name in declared}
    assert {name for name, weights in declared.items() if weights} == {*DIGITS, *CIFAR10}
    for name, bundled in declared.items():
        for weights in bundled:
            record = weight_files.read_bundled_metrics(name, weights)
            spec = models.get_spec(name)
            assert (record["model"], record["dataset"]) == (name, spec.dataset)
            stored = data.Preprocessing.from_json(record["preprocessing"])
            assert stored == data.get_preset(spec.preprocessing)


@pytest.mark.parametrize("name", by_tier(DIGITS, default=["nin_digits"]))
def test_networks_for_digits_have_the_accuracy_of_their_record(name):
    loaded = models.load_model(name)
    assert (loaded.weights, loaded.random, loaded.preprocessing, loaded.dataset) == ("digits", False, "unit", "digits")
    digits, (height, width, channels) = data.open_dataset("digits"), loaded.model.input_shape[1:]
    test = digits.select("test")
    images = digits.load(test, (height, width), channels, data.get_preset("unit"))
    scores = np.asarray(loaded.model(images, training=False))
    record = weight_files.read_bundled_metrics(name, "digits")
    assert (len(test), top_k_accuracy(scores, digits.labels_of(test), 1)) == (359, pytest.approx(record["test_top1"]))
    is_half = all((array == array.astype(np.float16)).all() for array in loaded.model.get_weights())
    assert is_half == ("weights_precision" in record)


@pytest.mark.slow
@pytest.mark.parametrize("name", CIFAR10)
def test_half_precision_weights_are_the_default(name):
    loaded = models.load_model(name)
    assert (loaded.weights, loaded.random, loaded.preprocessing) == ("cifar10", False, "standardize")
    arrays = loaded.model.get_weights()
    assert {array.dtype.name for array in arrays} == {"float32"}
    assert all((array == array.astype(np.float16)).all() for array in arrays)
    assert models.load_model(name, classes=3).random


@pytest.mark.parametrize(
    "arguments",
    [{"input_shape": (16, 12, 1)}, {"classifier_activation": None}],
)
def test_bundled_weights_stay_where_they_fit(arguments, digest):
    loaded = models.load_model("nin_digits", **arguments)
    assert (loaded.weights, loaded.random) == ("digits", False)
    assert models.hash_weights(loaded.model) == digest
    assert loaded.model.input_shape[1:] == arguments.get("input_shape", (8, 8, 1))


def test_bundled_weights_without_the_top(build):
    loaded = models.load_model("nin_digits", include_top=False)
    assert (loaded.weights, len(loaded.model.weights)) == ("digits", 16)
    kernel = build("nin_digits", weights="digits").weights[0].numpy()
    np.testing.assert_array_equal(loaded.model.weights[0].numpy(), kernel)


@pytest.mark.parametrize(
    "arguments",
    [
        {"classes": 4},
        *(pytest.param(a, marks=pytest.mark.slow) for a in ({"input_shape": (8, 8, 3)}, {"batch_norm": True})),
    ],
)
def test_random_where_bundled_weights_do_not_fit(arguments):
    loaded = models.load_model("nin_digits", seed=3, **arguments)
    assert (loaded.weights, loaded.random) == ("random (seed 3)", True)
    again = models.load_model("nin_digits", seed=3, weights="random", **arguments)
    assert models.hash_weights(loaded.model) == models.hash_weights(again.model)


@pytest.mark.parametrize(("weights", "arguments"), [("digits", {"classes": 4}), (BUNDLED, {"input_shape": (8, 8, 3)})])
def test_named_weights_that_do_not_fit(weights, arguments):
    refused("of layer 'mlpconv.*Received: shape", "nin_digits", weights=weights, **arguments)


def test_weights_by_path(digest):
    loaded = models.load_model("nin_digits", weights=BUNDLED)
    assert (loaded.weights, loaded.random) == (str(BUNDLED), False)
    assert models.hash_weights(loaded.model) == digest


@pytest.mark.parametrize("model", ["nin_digits", pytest.param("keras:MobileNet", marks=pytest.mark.slow)])
def test_random_weights_repeat_by_seed(model):
    arguments = {"input_shape": (32, 32, 3), "alpha": 0.25} if model.startswith("keras:") else {}
    first, again, other = (models.load_model(model, weights="random", seed=seed, **arguments) for seed in (1, 1, 2))
    assert (first.weights, first.random) == ("random (seed 1)", True)
    digests = [models.hash_weights(loaded.model) for loaded in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "one"])
def test_what_is_no_seed(seed):
    refused("`seed` to be a whole number", "nin_cifar10", seed=seed)


@pytest.mark.slow
def test_a_keras_application():
    loaded = models.load_model("keras:MobileNet", input_shape=(32, 32, 3), alpha=0.25, classes=5)
    assert (loaded.name, loaded.random, loaded.preprocessing) == ("mobilenet", True, "symmetric")
    assert (loaded.model.input_shape, loaded.model.output_shape) == ((None, 32, 32, 3), (None, 5))


@pytest.mark.slow
def test_weights_of_a_keras_application(tmp_path):
    small = {"input_shape": (32, 32, 3), "alpha": 0.25, "classes": 5}
    loaded = models.load_model("keras:MobileNet", **small)
    loaded.model.save_weights(tmp_path / "mine.weights.h5")
    again = models.load_model("keras:MobileNet", weights=tmp_path / "mine.weights.h5", seed=1, **small)
    assert not again.random
    assert models.hash_weights(again.model) == models.hash_weights(loaded.model)


@pytest.mark.parametrize("name", [name for name, value in vars(keras.applications).items() if callable(value)])
def test_preprocessing_of_every_application(name):
    assert registry.application_preprocessing(name) in data.PRESETS


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("nin_digit", {}, "Did you mean nin_digits"),
        ("keras:mobilenetv2", {}, r"Did you mean keras:MobileNetV2"),
        ("keras:keras", {}, "to be a known name"),
        ("keras:MobileNet", {"depth": 3}, "an argument of keras:MobileNet .*Received: 'depth'"),
        ("keras:MobileNet", {"input_shape": (8, 8, 3)}, "arguments that keras:MobileNet accepts. Received: Input size"),
        ("keras:MobileNet", {"alpha": "wide"}, "arguments that keras:MobileNet accepts"),
        ("nin_digits", {"depth": 3}, "an argument of nin_digits .*Received: 'depth'"),
        ("nin_digits", {"name": "mine"}, "no `name` for nin_digits"),
        ("missing.keras", {}, "Received: 'missing.keras', no file"),
        ("folder", {}, "Received: 'folder', a folder"),
        ("notes.txt", {}, "a saved model ending in .keras or .h5. Received: 'notes.txt'"),
        ("x" * 5000, {}, "a known name"),
    ],
)
def test_what_is_no_model(model, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    refused(message, model, **arguments)


def test_a_zoo_name_goes_before_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nin_digits").mkdir()
    assert models.load_model("nin_digits").weights == "digits"


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_saved_models(ending, saved, digest):
    path = saved / f"mine.{ending}"
    for model in (path, str(path)):
        loaded = models.load_model(model, input_shape=(8, 8, 1))
        assert (loaded.name, loaded.weights, loaded.random) == ("mine", str(path), False)
        assert (loaded.preprocessing, loaded.dataset) == (None, None)
        assert models.hash_weights(loaded.model) == digest


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_called_damaged(share, saved, tmp_path):
    content = (saved / "mine.keras").read_bytes()
    path = tmp_path / "cut.keras"
    path.write_bytes(content[: int(share * len(content))])
    refused("a saved Keras model. Received: a damaged or truncated file", path)


def test_a_saved_model_with_random_weights(saved, digest, build):
    first, again = (models.load_model(saved / "mine.keras", weights="random", seed=4) for _ in range(2))
    assert (first.weights, first.random) == ("random (seed 4)", True)
    assert models.hash_weights(first.model) == models.hash_weights(again.model) != digest
    layers = build("nin_digits", weights="digits").layers
    assert [layer.name for layer in first.model.layers] == [layer.name for layer in layers]


def test_a_saved_model_of_open_size(saved):
    loaded, still_open = (models.load_model(saved / "open.keras", input_shape=shape) for shape in ((9, 7, 3), None))
    assert (loaded.model.input_shape, still_open.model.input_shape) == ((None, 9, 7, 3), (None, None, None, 3))
    image = np.random.default_rng(0).random((1, 9, 7, 3), np.float32)
    expected = np.asarray(still_open.model(image))
    np.testing.assert_array_equal(np.asarray(loaded.model(image)), expected)
    refused(
        r"input shape of 'open.keras', \(None, None, 3\). Received: \(9, 7, 1\)",
        saved / "open.keras",
        input_shape=(9, 7, 1),
    )
    refused("an input that 'open.keras' accepts", saved / "open.keras", input_shape=(2, 2, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (16, 16, 1)}, r"input shape of 'mine.keras', \(8, 8, 1\). Received: \(16, 16, 1\)"),
        ({"weights": "digits"}, "no `weights` beside a saved model"),
        ({"classes": 3}, "no arguments of a builder beside a saved model. Received: classes"),
    ],
)
def test_what_a_saved_model_does_not_take(arguments, message, saved):
    refused(message, saved / "mine.keras", **arguments)


def test_weights_alone_are_no_model(saved, tmp_path):
    refused(
        "'nin_digits.digits.weights.h5', which holds only weights. Pass the name of a model, and the file as `weights`",
        BUNDLED,
    )
    legacy = pathlib.Path(tmp_path / "legacy.h5")
    legacy.write_bytes((saved / "mine.h5").read_bytes())
    with h5py.File(legacy, "a") as file:
        del file.attrs["model_config"]
    for content in (legacy.read_bytes(), BUNDLED.read_bytes()):
        legacy.write_bytes(content)
        refused("to be a saved Keras model. Received: only weights, or another HDF5 file", legacy)


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"text\n" * 99, lambda data: data[: len(data) // 2]])
def test_damaged_models(ending, damage, saved, tmp_path):
    path = tmp_path / f"broken.{ending}"
    path.write_bytes(damage((saved / f"mine.{ending}").read_bytes()))
    refused("to be a saved Keras model. Received: ", path)


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_code_in_a_file_is_not_run(ending, tmp_path):
    x = keras.Input((4,))
    keras.Model(x, keras.layers.Lambda(lambda tensor: tensor * 2)(x)).save(tmp_path / f"lambda.{ending}")
    refused("Received: a Lambda layer, whose Python code is not run", tmp_path / f"lambda.{ending}")


@pytest.fixture
def trained(saved, tmp_path):
    """A saved model with a file beside it: call it with the content."""
    (tmp_path / "net.v2.keras").write_bytes((saved / "mine.keras").read_bytes())

    def write(content):
        (tmp_path / "net.v2.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path / "net.v2.keras"

    return write


def test_the_record_of_a_training(trained):
    loaded = models.load_model(trained(RECORD))
    assert (loaded.preprocessing, loaded.dataset) == (RECORD["preprocessing"], "digits")
    assert data.Preprocessing.from_json(loaded.preprocessing).mean == (0.5,)


def test_a_dataset_of_ones_own_has_no_name_to_open_it_by(trained):
    assert models.load_model(trained(RECORD | {"dataset": "images.npz"})).dataset is None


@pytest.mark.parametrize("other", [{"schema": "another/1", "preprocessing": 3}, {}, [], "3"])
def test_a_file_of_others_beside_the_model(other, trained):
    loaded = models.load_model(trained(other))
    assert (loaded.preprocessing, loaded.dataset) == (None, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{broken", "a JSON file. Received: .*net.v2.json"),
        (RECORD | {"preprocessing": "unit"}, "`preprocessing` and `dataset` of the training in .*net.v2.json"),
        (RECORD | {"dataset": None}, "`preprocessing` and `dataset`"),
    ],
)
def test_a_damaged_record(content, message, trained):
    refused(message, trained(content))


@pytest.mark.slow
def test_a_saved_model_of_every_layer_of_ours_loads_in_a_new_process(tmp_path):
    from keras_nin import layers

    image = keras.Input((8, 8, 4))
    x = layers.local_response_normalization(layers.Fire(2, 4, 4, name="fire")(image), name="norm")
    keras.Model(image, x, name="ours").save(tmp_path / "ours.keras")
    code = f"from keras_nin import models; print(models.load_model({str(tmp_path / 'ours.keras')!r}).model.name)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.splitlines() == ["ours"], ran.stderr[-500:]


@pytest.mark.slow
def test_half_precision_is_cast_to_float32():
    inner = keras.Sequential(
        [keras.Input((6, 6, 3)), keras.layers.Conv2D(4, 3, dtype="mixed_float16", name="conv")], name="inner"
    )
    x = keras.Input((6, 6, 3))
    head = keras.layers.Bidirectional(keras.layers.GRU(3, dtype="mixed_float16"), name="both")
    y = head(keras.layers.Reshape((16, 4), dtype="mixed_float16")(inner(x)))
    model = keras.Model(x, keras.layers.Dense(2, dtype="float16", name="last")(y), name="half")
    loaded = models.LoadedModel(model, "half", "as given", False)
    cast = models.cast_to_float32(loaded)
    assert cast.weights == "as given, cast from float16 and mixed_float16 to float32"
    assert {layer.compute_dtype for layer in cast.model.layers} == {"float32"}
    assert cast.model.get_layer("both").forward_layer.compute_dtype == "float32"
    images = np.random.default_rng(0).random((3, 6, 6, 3), np.float32)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(cast.model.predict(images, verbose=0), expected, atol=5e-3)
    assert {layer.compute_dtype for layer in model.layers} > {"float32"}  # the model is as it was
    assert models.cast_to_float32(cast) is cast


class Gain(keras.layers.Layer):
    """A custom layer that nobody registered, with a layer and a weight of its own."""

    def __init__(self, act=None, **kwargs):
        super().__init__(**kwargs)
        self.act, self.dense = act, keras.layers.Dense(4)

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")

    def call(self, inputs):
        return self.dense(inputs) * self.gain


class Documented(Gain):
    def get_config(self):
        return super().get_config() | {"act": self.act}


class Closed(Gain):
    def __init__(self):
        super().__init__()


class Stubborn(Gain):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(4, dtype="mixed_float16")


def double(values):
    return values * 2


@pytest.fixture
def half():
    """A model of the given layers under the policy mixed_float16, which stays."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield lambda *layers: keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2)], name="half")
    keras.config.set_dtype_policy(policy)


@pytest.mark.slow
def test_custom_layers_in_half_precision_need_not_be_registered(half):
    import keras_nin

    model = half(Gain(name="a"), Documented("x", name="b"), keras.layers.Activation(double))
    model.get_layer("a").gain.assign(3)
    samples = np.random.default_rng(0).random((20, 4), np.float32)
    result = keras_nin.export_model(model, "float32", samples, runs=1)
    assert result.passed
    assert result.weights == "as given, cast from mixed_float16 to float32"
    cast = models.cast_to_float32(models.LoadedModel(model, "half", "as given", False)).model
    np.testing.assert_allclose(cast.predict(samples, verbose=0), model.predict(samples, verbose=0), atol=0.05)
    assert keras.config.dtype_policy().name == "mixed_float16"


def test_half_precision_that_cannot_be_cast(half):
    twin = type("Gain", (Gain,), {})
    for layers, problem in [
        ((Gain(act=double),), "Object Gain was created by passing non-serializable argument values"),
        ((Closed(),), r"Closed.__init__\(\) got an unexpected keyword argument 'trainable'"),
        ((keras.layers.Lambda(lambda values: values + 1),), "a lambda. Name the function"),
        ((Stubborn(),), "layers that compute in mixed_float16 whatever their config says"),
        ((Gain(), twin()), "two of the name 'Gain' in 'half'"),
    ]:
        with pytest.raises(InputError, match=problem) as caught:
            models.cast_to_float32(models.LoadedModel(half(*layers), "half", "as given", False))
        assert "\n" not in str(caught.value)
        if layers[1:] == ():
            assert "A custom layer needs get_config, and an __init__ that passes **kwargs" in str(caught.value)
