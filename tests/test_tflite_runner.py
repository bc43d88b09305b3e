"""Running .tflite files: predictions against Keras, and files that do not fit."""

import importlib
import re
import subprocess
import sys

import numpy as np
import pytest
from tflite_edits import edited

from keras_nin.errors import InputError
from keras_nin.tflite.host import describe_host
from keras_nin.tflite.quantization import quantize
from keras_nin.tflite.runner import TFLiteRunner

generated = importlib.import_module("ai_edge_litert.schema_py_generated")
pytestmark = pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")

SHAPE = (8, 8, 3)


class Files:
    """One network in every form, with the images and what Keras answers for them."""

    def __init__(self):
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(0)
        self._keras, self._tf = keras, tf
        self.images = np.random.default_rng(1).random((6, *SHAPE), np.float32)
        model = self.model(1)
        self.weights = model.get_weights()
        self.answers = np.concatenate([np.asarray(model(self.images[i : i + 1])) for i in range(6)])
        self.float32 = self.convert(model)
        self.int8 = self.convert(model, "int8")
        self.uint8 = self.convert(model, "uint8")
        self.open_batch = edited(self.float32, lambda _, subgraph: declare_input(subgraph, [-1, *SHAPE]))
        self.open_size = edited(self.float32, lambda _, subgraph: declare_input(subgraph, [1, -1, -1, 3]))
        self.batch_4 = edited(self.float32, at_batch_4)
        self.batch_4_flattened = self.convert(self.model(4, pool="Flatten"))

    def model(self, batch, pool="GlobalAveragePooling2D"):
        layers = self._keras.layers
        image = self._keras.Input(SHAPE, batch_size=batch)
        x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")(image)
        x = getattr(layers, pool)()(layers.Conv2D(5, 1)(x))
        model = self._keras.Model(image, layers.Softmax()(layers.Reshape((5, -1))(x) if pool == "Flatten" else x))
        if hasattr(self, "weights"):
            model.set_weights(self.weights)
        return model

    def convert(self, model, dtype=None):
        converter = self._tf.lite.TFLiteConverter.from_keras_model(model)
        if dtype:
            converter.optimizations = [self._tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([image[None]] for image in self.images)
            converter.target_spec.supported_ops = [self._tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = getattr(self._tf, dtype)
        return converter.convert()


def declare_input(subgraph, signature):
    """Give the input the shape that a converter writes for an open dimension."""
    subgraph.tensors[subgraph.inputs[0]].shapeSignature = signature


def at_batch_4(model, subgraph):
    for tensor in subgraph.tensors:
        if model.buffers[tensor.buffer].data is None:
            tensor.shape = [4, *tensor.shape[1:]]


@pytest.fixture(scope="module")
def files():
    return Files()


# Predictions


def test_a_float_file_answers_as_keras_does(files):
    runner = TFLiteRunner(files.float32)
    assert (runner.input.shape, runner.input.dtype, runner.input.scale, runner.input.zero_point) == (
        *((1, *SHAPE), "float32"),
        *(None, None),
    )
    answers = runner.predict(files.images)
    assert (answers.shape, answers.dtype) == ((6, 5), np.float32)
    # Sums of at most 27 float32 products in another order.
    np.testing.assert_allclose(answers, files.answers, atol=1e-6)
    np.testing.assert_array_equal(answers, runner.predict_raw(files.images))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_a_quantized_file_answers_within_a_few_steps(files, dtype):
    runner = TFLiteRunner(getattr(files, dtype), threads=2)
    details = runner.output
    raw = runner.predict_raw(files.images)
    assert (raw.dtype, raw.shape, details.dtype, details.scale) == (dtype, (6, 5), dtype, 1 / 256)
    assert details.zero_point == np.iinfo(dtype).min
    np.testing.assert_array_equal(runner.predict(files.images), (raw.astype(np.float32) - details.zero_point) / 256)
    assert len(np.unique(raw)) > 3
    np.testing.assert_allclose(runner.predict(files.images), files.answers, atol=4 / 256)


def test_a_batch_is_what_its_images_are_alone(files):
    runner = TFLiteRunner(files.int8)
    alone = [runner.predict_raw(files.images[index : index + 1]) for index in range(6)]
    np.testing.assert_array_equal(runner.predict_raw(files.images), np.concatenate(alone))
    none = runner.predict_raw(files.images[:0])
    assert (none.shape, none.dtype) == ((0, 5), np.int8)
    assert runner.predict(files.images[:0]).shape == (0, 5)


def test_the_input_is_quantized_by_the_one_function(files):
    """The runtime, fed by hand with what `quantize` gives, must answer the same."""
    from ai_edge_litert.interpreter import Interpreter

    runner = TFLiteRunner(files.int8)
    interpreter = Interpreter(model_content=files.int8)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()[0]
    assert details["quantization"] == (np.float32(runner.input.scale), runner.input.zero_point)
    for image, answer in zip(files.images, runner.predict_raw(files.images), strict=True):
        interpreter.set_tensor(details["index"], quantize(image[None], *details["quantization"], "int8"))
        interpreter.invoke()
        np.testing.assert_array_equal(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0], answer)


@pytest.mark.parametrize("form", ["open_batch", "batch_4"])
def test_other_batch_sizes_are_run_at_1(files, form):
    runner = TFLiteRunner(getattr(files, form))
    assert (runner.input.shape, runner.output.shape) == ((1, *SHAPE), (1, 5))
    np.testing.assert_allclose(runner.predict(files.images), files.answers, atol=1e-6)


def test_the_files_own_batch_is_kept(files):
    runner = TFLiteRunner(files.batch_4, batch=None)
    assert (runner.batch, runner.input.shape, runner.output.shape) == (4, (4, *SHAPE), (4, 5))
    np.testing.assert_allclose(runner.predict(files.images), files.answers, atol=1e-6)


def test_a_batch_that_cannot_become_1_is_named(files):
    with pytest.raises(InputError, match=r"its batch of 4 was resized to 1; export it at batch 1"):
        TFLiteRunner(files.batch_4_flattened)


def test_an_open_height_and_width_are_refused(files):
    with pytest.raises(InputError, match=re.escape("of shape (1, -1, -1, 3); export it with a fixed input shape")):
        TFLiteRunner(files.open_size)


def test_an_output_without_a_batch_dimension_is_stacked(files):
    """The first convolution's bias as the output: five numbers that belong to no batch."""

    def bias_too(model, subgraph):
        subgraph.outputs = [subgraph.operators[0].inputs[2]]
        model.signatureDefs = []

    assert TFLiteRunner(edited(files.float32, bias_too)).predict(files.images).shape == (6, 6)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros(SHAPE), "Expected a batch of shape (N, 8, 8, 3). Received: (8, 8, 3)"),
        (np.zeros((2, 8, 8, 1)), "Expected a batch of shape (N, 8, 8, 3). Received: (2, 8, 8, 1)"),
        (np.zeros((1, 1, *SHAPE)), "Received: (1, 1, 8, 8, 3)"),
        (0.0, "Received: ()"),
        (np.full((1, *SHAPE), np.nan), "Expected a batch of finite numbers. Received: NaN or infinity"),
        (np.full((1, *SHAPE), 1e300), "Received: NaN or infinity"),
        (np.full((1, *SHAPE), "x"), "Expected a batch of numbers. Received: dtype <U1"),
        (np.zeros((1, *SHAPE), complex), "Received: dtype complex128"),
    ],
)
@pytest.mark.parametrize("form", ["float32", "int8"])
def test_a_wrong_batch(files, form, batch, message):
    with pytest.raises(InputError, match=re.escape(message)):
        TFLiteRunner(getattr(files, form)).predict(batch)


def test_whole_numbers_are_taken_as_they_are(files):
    images = np.round(files.images * 255)
    runner = TFLiteRunner(files.float32)
    np.testing.assert_array_equal(runner.predict(images.astype(np.uint8)), runner.predict(images))


# Files that do not fit


def several(model, subgraph):
    """Make the first convolution's map a second output."""
    subgraph.outputs = [*subgraph.outputs, subgraph.operators[0].outputs[0]]
    model.signatureDefs = []


def test_several_outputs_need_a_choice(files):
    content = edited(files.int8, several)
    with pytest.raises(
        InputError, match=r"Expected `output` to choose one of the outputs .* 0 '.*', 1 '.*'\. Received"
    ):
        TFLiteRunner(content).predict(files.images)
    np.testing.assert_array_equal(
        TFLiteRunner(content, output=0).predict(files.images), TFLiteRunner(files.int8).predict(files.images)
    )
    assert TFLiteRunner(content, output=1).predict(files.images).shape == (6, 4, 4, 6)
    with pytest.raises(InputError, match="Expected `output` to be one of 0 to 1. Received: 2"):
        TFLiteRunner(content, output=2)


def test_several_inputs_are_named_but_run(files):
    def second_input(model, subgraph):
        subgraph.tensors.append(generated.TensorT(name="other", type=2, shape=[1, 2], quantization=None))
        subgraph.inputs = [*subgraph.inputs, len(subgraph.tensors) - 1]
        model.signatureDefs = []

    runner = TFLiteRunner(edited(files.int8, second_input))
    with pytest.raises(InputError, match="Expected a file with one input. Received: the bytes given with 2: .*'other'"):
        runner.predict(files.images)
    assert len(runner.run_raw([np.zeros(entry.shape, entry.dtype) for entry in runner.inputs])) == 1


def test_integers_without_a_scale(files):
    """An ARG_MAX at the end, as classifiers for small devices have."""

    def arg_max(model, subgraph):
        model.operatorCodes.append(generated.OperatorCodeT(builtinCode=56, deprecatedBuiltinCode=56))
        model.buffers.append(generated.BufferT(data=[1, 0, 0, 0]))
        axis = generated.TensorT(name="axis", type=2, shape=[1], buffer=len(model.buffers) - 1)
        subgraph.tensors += [axis, generated.TensorT(name="class", type=2, shape=[1])]
        last = len(subgraph.tensors) - 1
        options = generated.ArgMaxOptionsT(outputType=2)
        subgraph.operators.append(
            generated.OperatorT(
                opcodeIndex=len(model.operatorCodes) - 1,
                inputs=[subgraph.outputs[0], last - 1],
                outputs=[last],
                builtinOptionsType=generated.BuiltinOptions.ArgMaxOptions,
                builtinOptions=options,
            )
        )
        subgraph.outputs, model.signatureDefs = [last], []

    runner = TFLiteRunner(edited(files.int8, arg_max))
    np.testing.assert_array_equal(
        runner.predict_raw(files.images), TFLiteRunner(files.int8).predict_raw(files.images).argmax(1)
    )
    assert runner.predict(files.images).dtype == np.int32  # class indices stay as they are


def test_one_scale_for_an_input(files):
    def per_channel(model, subgraph):
        quantization = subgraph.tensors[subgraph.inputs[0]].quantization
        quantization.scale, quantization.zeroPoint, quantization.quantizedDimension = [0.5, 1.0, 2.0], [0, 0, 0], 3
        subgraph.operators, subgraph.outputs = [], subgraph.inputs
        model.signatureDefs = []

    with pytest.raises(InputError, match=r"^Expected one scale for an input or output\. Received: '.*' with 3$"):
        TFLiteRunner(edited(files.int8, per_channel))


def test_an_operator_that_the_runtime_lacks(files):
    def custom(model, subgraph):
        model.operatorCodes[subgraph.operators[0].opcodeIndex] = generated.OperatorCodeT(
            builtinCode=32, deprecatedBuiltinCode=32, customCode="My_Op"
        )

    with pytest.raises(InputError, match="Encountered unresolved custom op: My_Op") as caught:
        TFLiteRunner(edited(files.int8, custom))
    assert "\n" not in str(caught.value)


def test_a_file_that_the_runtime_cannot_prepare(files, tmp_path):
    path = tmp_path / "bad.tflite"
    path.write_bytes(edited(files.int8, lambda _, subgraph: setattr(subgraph.operators[0], "inputs", [0])))
    with pytest.raises(InputError, match="bad.tflite': .*failed to prepare") as caught:
        TFLiteRunner(path)
    assert "\n" not in str(caught.value)


def test_names_that_are_not_utf8(files):
    name = TFLiteRunner(files.int8).input.name.encode()
    with pytest.raises(InputError, match="utf-8"):
        TFLiteRunner(files.int8.replace(name, b"\xff" * len(name)))


def test_damaged_files_never_reach_the_runtime(files, monkeypatch):
    def no_runtime(*_, **__):
        raise AssertionError("the runtime was given a damaged file")

    monkeypatch.setattr("ai_edge_litert.interpreter.Interpreter", no_runtime)
    with pytest.raises(InputError, match="Expected a valid .tflite file"):
        TFLiteRunner(files.int8[: len(files.int8) // 2])
    with pytest.raises(InputError, match="refers to tensor 999"):
        TFLiteRunner(edited(files.int8, lambda _, subgraph: setattr(subgraph, "outputs", [999])))


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", None])
def test_threads_are_a_positive_whole_number(files, threads):
    with pytest.raises(InputError, match="Expected `threads` to be a whole number of at least 1"):
        TFLiteRunner(files.int8, threads=threads)


# What it prints, and the machine


def test_the_runtime_is_quiet_and_needs_no_framework(files, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(files.float32)
    program = (
        "import sys, numpy; from keras_nin.tflite.runner import TFLiteRunner;"
        f"TFLiteRunner({str(path)!r}).predict(numpy.zeros((1, *{SHAPE})));"
        "print([name for name in ('keras', 'tensorflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_warnings_of_the_runtime_are_passed_on(files, monkeypatch, capfd):
    import os

    from ai_edge_litert import interpreter

    class Talking(interpreter.Interpreter):
        def allocate_tensors(self):
            os.write(2, b"INFO: nothing of note\nWARNING: of note\n")
            super().allocate_tensors()

    monkeypatch.setattr(interpreter, "Interpreter", Talking)
    TFLiteRunner(files.int8)
    assert capfd.readouterr().err == "WARNING: of note\n"


def test_the_host_is_named():
    host = describe_host()
    assert list(host) == ["cpu", "cores", "system", "python", "litert"]
    assert all(host.values())
    assert host["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert isinstance(host["cores"], int)


@pytest.mark.external
@pytest.mark.parametrize("name", ["01078afe8b79", "340889728324", "47ffab684e0f"])
def test_third_party_files(external_data, name):
    """The first runs; the second has an operator of its own; the third has a batch of 256 that cannot become 1."""
    path = external_data / "edgetpu" / f"{name}.tflite"
    problem = {"340889728324": "unresolved custom op: PosenetDecoderOp", "47ffab684e0f": "its batch of 256"}.get(name)
    if problem:
        with pytest.raises(InputError, match=problem):
            TFLiteRunner(path)
        return
    runner = TFLiteRunner(path)
    images = np.random.default_rng(0).random((2, *runner.input.shape[1:]), np.float32)
    np.testing.assert_allclose(runner.predict(images).sum(1), 1, atol=0.1)
