"""Parity: what holds for a right file, and that it fails for every kind of wrong one."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers as kl
from tflite_edits import edited

from keras_nin import InputError, data, export, models
from keras_nin.export import Limits, tolerance
from keras_nin.export.parity import ParityCheck, compare_outputs
from keras_nin.export.verification import verify_files
from keras_nin.report.accuracy import failed_checks
from keras_nin.tflite.records import QuantizationParameters, TFLiteTensor
from keras_nin.tflite.runner import TFLiteRunner

SCHEMES = ("float32", "int8")


class Network:
    """A model, its calibration and test images, and its files."""

    def __init__(self, model, calibration, test, labels=None):
        self.model, self.calibration, self.test, self.labels = model, calibration, test, labels
        self.files = {scheme: self.convert(model, scheme) for scheme in SCHEMES}

    def convert(self, model, scheme):
        return export.convert_model(model, scheme, self.calibration).data

    def compare(self, content, model=None):
        """Return the `Parity` of a file with the model."""
        (parity,) = verify_files(
            model or self.model,
            [TFLiteRunner(content)],
            [(self.test, self.labels)],
            source="tests",
            random_weights=self.labels is None,
        )
        return parity

    def copy(self):
        copy = keras.models.clone_model(self.model)
        copy.set_weights(self.model.get_weights())
        return copy


def noise(count, shape, seed):
    return np.random.default_rng(seed).random((count, *shape), np.float32)


@pytest.fixture(scope="module")
def trained():
    digits = data.open_dataset("digits")
    parts = {split: digits.select(split, 100) for split in ("calibration", "test")}
    images = {split: digits.load(indices, (8, 8), 1) for split, indices in parts.items()}
    model = models.build_model("nin_digits", weights="digits")
    return Network(model, images["calibration"], images["test"], digits.labels_of(parts["test"]))


@pytest.fixture(scope="module")
def random():
    """A network with 100 classes whose probabilities all lie within a few steps of 1/256."""
    keras.utils.set_random_seed(1)
    stack = [kl.Conv2D(12, 3, activation="relu", name=f"conv{number}") for number in (1, 2, 3)]
    head = [kl.Conv2D(100, 1, name="conv4"), kl.GlobalAveragePooling2D(), kl.Softmax()]
    model = keras.Sequential([keras.Input((12, 12, 3)), *stack, *head])
    return Network(model, noise(60, (12, 12, 3), 1), noise(60, (12, 12, 3), 2))


@pytest.fixture(scope="module")
def mask():
    """A network that ends in a map of probabilities."""
    keras.utils.set_random_seed(1)
    model = models.build_model("deepphys_softconv", input_shape=(12, 12, 3))
    return Network(model, noise(60, (12, 12, 3), 1), noise(60, (12, 12, 3), 2))


@pytest.fixture(scope="module")
def linear():
    """A network whose output is its last convolution."""
    keras.utils.set_random_seed(1)
    stack = [kl.Conv2D(8, 3, activation="relu", name="conv1"), kl.Conv2D(6, 1, name="conv2")]
    model = keras.Sequential([keras.Input((12, 12, 3)), *stack])
    return Network(model, noise(60, (12, 12, 3), 1), noise(60, (12, 12, 3), 2))


@pytest.fixture(params=["trained", "random", "mask", "linear"])
def network(request):
    return request.getfixturevalue(request.param)


def convolutions(model):
    return [layer for layer in model.layers if isinstance(layer, kl.Conv2D)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_right_file_holds(network, scheme):
    parity = network.compare(network.files[scheme])
    assert parity.passed
    # Far from the limit, so that failing it means something.
    assert all(check.value <= check.limit / 2 for check in parity.checks if check.name.endswith("steps"))


def swapped(model):
    """Two classes: the last layer's first filters change places."""
    last = convolutions(model)[-1]
    if last.filters == 1:
        pytest.skip("one class alone")
    order = np.argsort(last.bias.numpy() + last.kernel.numpy().sum((0, 1, 2)))
    places = np.arange(last.filters)
    places[[order[0], order[-1]]] = places[[order[-1], order[0]]]
    last.set_weights([weight[..., places] for weight in last.get_weights()])


def shifted(position):
    def shift(model):
        """Biases of one layer, by a fifth of the range of the layer's weighted sums."""
        layer = convolutions(model)[position]
        image = noise(16, model.input_shape[1:], 3)
        until = keras.Model(model.inputs, layer.output)
        layer.bias.assign_add(np.full(layer.filters, 0.2 * np.ptp(until.predict(image, verbose=0)), np.float32))

    return shift


def other(model):
    """Weights of another start."""
    generator = np.random.default_rng(9)
    model.set_weights([generator.permutation(weight.ravel()).reshape(weight.shape) for weight in model.get_weights()])


def without_a_filter(model):
    """A quarter of a layer's filters is gone."""
    layer = convolutions(model)[0]
    kernel = layer.kernel.numpy()
    kernel[..., : layer.filters // 4] = 0
    layer.kernel.assign(kernel)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "damage",  # the model is changed and not the file: which of the two is wrong makes no difference
    [swapped, shifted(0), shifted(1), other, without_a_filter],
    ids=["swapped classes", "first biases", "second biases", "other weights", "filters gone"],
)
def test_another_network_fails(network, damage, scheme):
    wrong = network.copy()
    damage(wrong)
    parity = network.compare(network.files[scheme], model=wrong)
    assert not parity.passed
    assert any(not check.passed for check in parity.checks if check.name.endswith("steps"))
    assert failed_checks("file", parity)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_corrupted_weight_fails(network, scheme):
    def corrupt(model, subgraph):
        largest = max((model.buffers[tensor.buffer] for tensor in subgraph.tensors), key=lambda each: _size(each.data))
        values = np.array(largest.data, np.uint8)
        dtype = np.float32 if scheme == "float32" else np.int8
        weights = values.view(dtype)
        weights[: len(weights) // 8] = np.abs(weights).max()
        largest.data = values

    assert not network.compare(edited(network.files[scheme], corrupt)).passed


def _size(buffer):
    return 0 if buffer is None else len(buffer)


@pytest.mark.parametrize("which", ["weights", "output"])
def test_a_wrong_scale_fails(network, which):
    def rescale(_, subgraph):
        convolution = next(each for each in reversed(subgraph.operators) if len(each.inputs) == 3)
        tensor = subgraph.tensors[convolution.inputs[1] if which == "weights" else subgraph.outputs[0]]
        # The runtime takes the multiplier of a convolution from the scales: a smaller one of the output cuts off.
        tensor.quantization.scale = np.array(tensor.quantization.scale, np.float32) * np.float32(0.5)

    content = edited(network.files["int8"], rescale)
    if (
        which == "output"
        and tolerance.find_compared_tensor(TFLiteRunner(network.files["int8"]).model).closing == "SOFTMAX"
    ):
        # The output of a softmax has one scale, which the runtime knows.
        with pytest.raises(InputError, match="a file that the LiteRT runtime runs"):
            network.compare(content)
    else:
        assert not network.compare(content).passed


def test_the_old_bound_on_the_output_would_miss_swapped_classes(random):
    """Why what goes into the softmax is judged: behind it nothing of a network with many classes is left."""
    wrong = random.copy()
    swapped(wrong)
    parity = random.compare(random.convert(wrong, "int8"))  # a file that is wrong, to have seen one
    assert parity.rms_diff_lsb < 1
    assert [check.name for check in parity.checks if not check.passed] == ["channel_rms_lsb", "weight_diff_lsb"]


def test_damage_that_training_shows(trained):
    """Agreement and accuracy are judged with trained weights."""
    wrong = trained.copy()
    swapped(wrong)
    parity = trained.compare(trained.convert(wrong, "float32"))
    failed = {check.name for check in parity.checks if not check.passed}
    assert failed == {"max_abs_diff_lsb", "top1_match", "top1_drop_pp", "weight_diff_lsb"}
    assert parity.file_top1 < parity.model_top1


def test_the_record_of_trained_digits(trained):
    float32, int8 = (trained.compare(trained.files[scheme]) for scheme in SCHEMES)
    common = ["top1_match", "top1_drop_pp", "weight_diff_lsb"]
    assert [check.name for check in float32.checks] == ["max_abs_diff_lsb", *common]
    names = ["channel_rms_lsb", "closing_error_lsb", *common]
    assert [check.name for check in int8.checks] == names
    assert (int8.step, int8.images, int8.source) == (1 / 256, 100, "tests")
    assert int8.top1_match >= 0.98
    assert int8.model_top5 is not None
    assert 0 < int8.rms_diff_lsb <= int8.max_abs_diff_lsb


def test_several_files_on_the_same_images(trained):
    runners = [TFLiteRunner(trained.files[scheme]) for scheme in SCHEMES]
    batches = [(trained.test[:40], trained.labels[:40]), (trained.test[40:], trained.labels[40:])]
    together = verify_files(trained.model, runners, batches, source="tests")
    assert [parity.to_json() for parity in together] == [
        trained.compare(trained.files[scheme]).to_json() for scheme in SCHEMES
    ]


def test_limits():
    reference = np.eye(10, dtype=np.float32)
    output = reference.copy()
    output[0] = reference[1]
    parity = compare_outputs(reference, output, np.arange(10), limits=Limits(0.9, 10))
    assert [(check.name, check.passed) for check in parity.checks[1:]] == [
        ("top1_match", True),
        ("top1_drop_pp", True),
    ]
    parity = compare_outputs(reference, output, np.arange(10), limits=Limits(0.91, 9.9))
    assert parity.checks[1:] == (
        ParityCheck("top1_match", 0.9, 0.91, False),
        ParityCheck("top1_drop_pp", 10.0, 9.9, False),
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("quantized", [False, True])
def test_what_is_not_finite_never_holds(trained, value, side, quantized, recwarn):
    graph = TFLiteRunner(trained.files["int8"]).model
    pair = [np.full((3, 10), 0.1, np.float32) for _ in range(2)]
    pair[side][1, 4] = value
    place = tolerance.find_compared_tensor(graph) if quantized else None
    parity = compare_outputs(*pair, place=place, values=np.log(np.abs(pair[1])), limits=Limits())
    assert not parity.passed
    document = json.loads(json.dumps(parity.to_json(), allow_nan=False))
    assert document["max_abs_diff_lsb"] is None
    assert "not a finite number" in failed_checks("file", parity)[0]
    assert not recwarn.list


def test_a_model_whose_outputs_are_nan_does_not_hold(linear):
    wrong = linear.copy()
    wrong.layers[-1].bias.assign(np.full(6, np.nan))
    for scheme in SCHEMES:
        assert not linear.compare(linear.files[scheme], model=wrong).passed


@pytest.mark.parametrize("value", [0.0, 1e-3, -7.0])
def test_constant_outputs(value):
    reference = np.full((5, 1), value, np.float32)
    parity = compare_outputs(reference, reference, limits=Limits())
    assert parity.passed
    assert parity.top1_match is None  # one output is no vector of classes
    assert compare_outputs(reference, np.nextafter(reference, np.float32(1))).passed  # the last bit is rounding
    assert not compare_outputs(reference, reference + 1e-3).passed


def test_one_image():
    reference = np.array([[0.1, 0.2, 0.7]], np.float32)
    parity = compare_outputs(reference, reference, np.array([2]), limits=Limits())
    assert (parity.images, parity.top1_match, parity.model_top1, parity.passed) == (1, 1.0, 1.0, True)
    assert parity.model_top5 is parity.file_top5 is None  # of three classes


def test_no_labels():
    reference = np.eye(10, dtype=np.float32)
    parity = compare_outputs(reference, reference, None, limits=Limits())
    assert parity.model_top1 is parity.file_top1 is parity.model_top5 is None
    assert [check.name for check in parity.checks] == ["max_abs_diff_lsb", "top1_match"]


def test_labels_beyond_the_classes():
    reference = np.eye(10, dtype=np.float32)
    with pytest.raises(InputError, match="labels from 0 to 9, .* Received: 536 in 'photos'"):
        compare_outputs(reference, reference, np.array([*range(9), 536]), source="photos")


def test_shapes_that_differ(trained, linear):
    with pytest.raises(InputError, match=r"outputs of shape \(3,\). Received: a file with \(4,\)"):
        compare_outputs(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(InputError, match=r"with the input \(8, 8, 1\) of 'nin_digits'. Received: .* \(12, 12, 3\)"):
        linear.compare(linear.files["float32"], model=trained.model)
    short = keras.Model(trained.model.inputs, kl.Dense(4)(trained.model.outputs[0]), name="short")
    with pytest.raises(InputError, match=r"with the output \(4,\) of 'short'. Received: the bytes given with \(10,\)"):
        trained.compare(trained.files["float32"], model=short)


def test_no_images(trained):
    with pytest.raises(InputError, match="at least one image"):
        verify_files(trained.model, [TFLiteRunner(trained.files["float32"])], [], source="none")


def test_the_record_is_rounded_so_that_the_same_command_writes_the_same_bytes():
    reference = np.linspace(0, 1, 20, dtype=np.float32).reshape(2, 10)
    parity = compare_outputs(reference, reference + np.float32(1e-7))
    assert parity.to_json()["max_abs_diff_lsb"] == float(f"{parity.max_abs_diff_lsb:.5g}")
    assert (
        parity.to_json() == dataclasses.replace(parity, max_abs_diff_lsb=parity.max_abs_diff_lsb * (1 + 1e-9)).to_json()
    )


@pytest.mark.parametrize("position", [1, 2])
def test_float_operators_inside_a_quantised_file(position):
    """The output is quantised again after the last of them, and judged there."""
    stack = [kl.Conv2D(4, 3, name="conv1"), kl.Conv2D(4, 1, name="conv2")]
    stack.insert(position, kl.Lambda(lambda x: keras.ops.arctan2(x, x + 9)))
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 3)), *stack])
    images = noise(40, (8, 8, 3), 1)
    runner = TFLiteRunner(export.convert_model(model, "int8", images, allow_float=True).data)
    assert tolerance.find_compared_tensor(runner.model).closing is None
    (parity,) = verify_files(model, [runner], [(images, None)], source="tests", random_weights=True)
    assert [check.name for check in parity.checks] == ["channel_rms_lsb", "weight_diff_lsb"]
    assert parity.passed


# What is judged behind a softmax or a sigmoid


def test_the_place_that_is_judged(network):
    place = tolerance.find_compared_tensor(TFLiteRunner(network.files["int8"]).model)
    assert tolerance.find_compared_tensor(TFLiteRunner(network.files["float32"]).model) is None
    kind = type(network.model.layers[-1]).__name__
    expected = {"Softmax": "SOFTMAX", "Activation": "SOFTMAX", "Conv2D": None}[kind]
    last = network.model.layers[-1]
    if getattr(last, "activation", None) is keras.activations.sigmoid:
        expected = "LOGISTIC"
    assert place.closing == expected


def test_the_file_up_to_its_softmax(trained):
    runner = TFLiteRunner(trained.files["int8"])
    place = tolerance.find_compared_tensor(runner.model)
    logits = TFLiteRunner(tolerance.set_first_output(runner.model, place.tensor)).predict(trained.test)
    assert tolerance.closing_error(runner.predict(trained.test), logits, place) <= 1.01
    before = keras.Model(trained.model.inputs, trained.model.layers[-2].output)
    steps = (logits - before.predict(trained.test, verbose=0)) / place.tensor.quantization.scales[0]
    assert np.sqrt((steps**2).mean()) < 2
    assert len(tolerance.set_first_output(runner.model, place.tensor)) == len(trained.files["int8"])


def place_of(closing, scale):
    """A place with the range of +-127 steps of `scale`."""
    quantization = QuantizationParameters((scale,), (0,), 0)
    tensor = TFLiteTensor(0, "logits", (1, 10), None, "int8", quantization, 0, 0, False, False)
    return tolerance.ComparedTensor(tensor, closing, 1 / 256, 10.0, 2.0)


def test_logits_are_found_again_from_probabilities():
    place = place_of("SOFTMAX", 0.1)
    logits = np.random.default_rng(0).normal(0, 2, (50, 10))
    powers = np.exp(logits)
    probabilities = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    assert tolerance.worst_channel_rms(probabilities, logits + 3, place) < 1e-3  # a softmax forgets a constant
    wrong = logits.copy()
    wrong[:, 4] += 0.2
    assert tolerance.worst_channel_rms(probabilities, wrong, place) == pytest.approx(2, abs=0.1)


def test_probabilities_that_say_only_which_class_is_largest():
    place = place_of("SOFTMAX", 1.0)
    probabilities = np.eye(10, dtype=np.float32)[[3]]
    right = np.full((1, 10), -100.0)
    right[0, 3] = 0
    assert tolerance.worst_channel_rms(probabilities, right, place) == 0
    assert tolerance.worst_channel_rms(probabilities, right[:, ::-1], place) > place.limit


def test_sigmoids_are_opened_too():
    place = place_of("LOGISTIC", 1.0)
    logits = np.linspace(-100, 100, 41).reshape(41, 1)
    probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
    assert tolerance.worst_channel_rms(probabilities, logits, place) < 0.1
    assert tolerance.worst_channel_rms(probabilities, -logits, place) > place.limit


def test_a_calibration_on_nothing_fails(random):
    dark = export.convert_model(random.model, "int8", np.zeros_like(random.calibration[:4])).data
    assert not random.compare(dark).passed


def test_the_limit_is_arithmetic(linear):
    place = tolerance.find_compared_tensor(TFLiteRunner(linear.files["int8"]).model)
    operators = TFLiteRunner(linear.files["int8"]).model.main.operators
    assert place.limit == 8 * (len(operators) / 6) ** 0.5
