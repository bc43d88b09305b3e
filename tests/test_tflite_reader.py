"""Reading .tflite files: built by hand with the schema's generated module, made by TensorFlow, damaged and hostile."""

import collections
import contextlib
import copy
import importlib
import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from keras_nin.errors import InputError
from keras_nin.tflite import flatbuffer, reader, schema
from keras_nin.tflite.records import QuantizationParameters, TFLiteSignature, float_operators

# The converter's and the runtime's own remarks.
pytestmark = pytest.mark.filterwarnings("ignore:Statistics for quantized inputs", "ignore:Warning. Enabling")

generated = importlib.import_module("ai_edge_litert.schema_py_generated")
flatbuffers = importlib.import_module("flatbuffers")

WEIGHTS = np.arange(-6, 6, dtype=np.int8).reshape(3, 1, 2, 2)
BIAS = np.array([7, -8, 9], np.int32)


def record(kind, **fields):
    """Return an object of the generated module's class `kind` + "T"."""
    made = getattr(generated, kind + "T")()
    for name, value in fields.items():
        assert hasattr(made, name), name
        setattr(made, name, value)
    return made


def tensor(name, dtype, shape, buffer=0, scale=None, zero_point=None, axis=0, **fields):
    code = getattr(generated.TensorType, dtype)
    quantization = scale and record(
        "QuantizationParameters", scale=scale, zeroPoint=zero_point, quantizedDimension=axis
    )
    return record("Tensor", name=name, type=code, shape=shape, buffer=buffer, quantization=quantization, **fields)


def operator(code, inputs, outputs, options=None, **values):
    made = record("Operator", opcodeIndex=code, inputs=inputs, outputs=outputs)
    if options and hasattr(generated.BuiltinOptions2, options):
        made.builtinOptions2Type = getattr(generated.BuiltinOptions2, options)
        made.builtinOptions2 = record(options, **values)
    elif options:
        made.builtinOptionsType = getattr(generated.BuiltinOptions, options)
        made.builtinOptions = record(options, **values)
    return made


def small_model():
    """A float input, quantised, then one 1x2 convolution with weights per channel."""
    tensors = [
        tensor("image", "FLOAT32", [1, 4, 4, 2], shapeSignature=[-1, 4, 4, 2]),
        tensor("image_int8", "INT8", [1, 4, 4, 2], scale=[0.5], zero_point=[-1]),
        tensor("weights", "INT8", [3, 1, 2, 2], 1, scale=[0.5, 0.25, 2.0], zero_point=[0, 0, 0]),
        tensor("bias", "INT32", [3], 2),
        tensor("map", "INT8", [1, 4, 2, 3], scale=[1.0], zero_point=[3]),
    ]
    operators = [
        operator(0, [0], [1]),
        operator(1, [1, 2, 3], [4], "Conv2DOptions", strideW=2, strideH=1, padding=1, fusedActivationFunction=3),
    ]
    subgraph = record("SubGraph", name="main", tensors=tensors, operators=operators, inputs=[0], outputs=[4])
    named = [record("TensorMap", name="x", tensorIndex=0)], [record("TensorMap", name="y", tensorIndex=4)]
    return record(
        "Model",
        version=3,
        description="by hand",
        operatorCodes=[
            record("OperatorCode", builtinCode=114, deprecatedBuiltinCode=114, version=2),
            record("OperatorCode", builtinCode=3, deprecatedBuiltinCode=3, version=5),
        ],
        subgraphs=[subgraph],
        buffers=[record("Buffer"), *(record("Buffer", data=list(values.tobytes())) for values in (WEIGHTS, BIAS))],
        metadata=[record("Metadata", name="min_runtime_version", buffer=0)],
        signatureDefs=[record("SignatureDef", inputs=named[0], outputs=named[1], signatureKey="serve")],
    )


def packed(model):
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def changed(change):
    """Return the small model's bytes after `change(model, subgraph)`."""
    model = small_model()
    change(model, model.subgraphs[0])
    return packed(model)


def one_operator(op, options=None, **values):
    """Return the bytes of a model whose only operator is the builtin `op`."""
    model = small_model()
    code = getattr(generated.BuiltinOperator, op)
    model.operatorCodes = [record("OperatorCode", builtinCode=code, deprecatedBuiltinCode=min(code, 127))]
    model.subgraphs = [copy.copy(model.subgraphs[0]), model.subgraphs[0]]
    model.subgraphs[0].operators = [operator(0, [1], [4], options, **values)]
    model.subgraphs[1].operators = []
    return packed(model)


@pytest.fixture(scope="module")
def converted():
    """A small int8 network as TensorFlow's converter writes it."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((8, 8, 3), batch_size=1)
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(image)
    x = layers.Concatenate()([layers.Conv2D(2, 1)(x), layers.Conv2D(2, 3, padding="same")(x)])
    x = layers.Softmax()(layers.GlobalAveragePooling2D()(layers.MaxPooling2D(2)(x)))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(image, x))
    rng = np.random.default_rng(0)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([rng.random((1, 8, 8, 3), np.float32)] for _ in range(8))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


# What is read


def test_every_field_of_a_small_model():
    content = packed(small_model())
    net = reader.read_model(content)
    assert (net.version, net.description, net.size_bytes) == (3, "by hand", len(content))
    assert net.metadata == ("min_runtime_version",)
    assert net.signatures == (TFLiteSignature("serve", 0, (("x", 0),), (("y", 4),)),)
    assert net.main is net.subgraphs[0]
    assert (net.main.name, net.main.inputs, net.main.outputs) == ("main", (0,), (4,))
    quantize, conv = net.main.operators
    assert (quantize.op, quantize.version, quantize.inputs, quantize.outputs) == ("QUANTIZE", 2, (0,), (1,))
    assert (conv.index, conv.op, conv.version, conv.is_custom) == (1, "CONV_2D", 5, False)
    assert (conv.inputs, conv.outputs, conv.subgraph) == ((1, 2, 3), (4,), 0)
    assert conv.options == {
        **{"padding": "VALID", "stride_w": 2, "stride_h": 1},
        **{"fused_activation": "RELU6", "dilation_w": 1, "dilation_h": 1},
    }
    image, image_int8, weights, bias, _ = net.main.tensors
    assert (image.name, image.dtype, image.shape, image.shape_signature) == (
        *("image", "float32", (1, 4, 4, 2)),
        (-1, 4, 4, 2),
    )
    assert (image.quantization, image.is_constant, image.elements, image.nbytes) == (None, False, 4 * 4 * 2, 4 * 32)
    assert image_int8.quantization == QuantizationParameters((0.5,), (-1,), 0)
    assert weights.quantization == QuantizationParameters((0.5, 0.25, 2.0), (0, 0, 0), 0)
    assert (weights.shape_signature, weights.buffer_bytes, bias.buffer_bytes) == (None, 3 * 1 * 2 * 2, 3 * 4)


def test_constant_values():
    net = reader.read_model(packed(small_model()))
    weights, bias = (net.data(net.main.tensors[index]) for index in (2, 3))
    assert (weights.dtype, bias.dtype) == (np.int8, np.int32)
    np.testing.assert_array_equal(weights, WEIGHTS)
    np.testing.assert_array_equal(bias, BIAS)
    assert not weights.flags.writeable


def test_a_tensor_of_no_elements_is_an_empty_array():
    def empty(model, subgraph):
        subgraph.tensors.append(tensor("axes", "INT32", [0], 0))

    net = reader.read_model(changed(empty))
    assert net.data(net.main.tensors[5]).shape == (0,)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (tensor("computed", "INT8", [4]), "'computed', which has no values in the file"),
        (tensor("brain", "BFLOAT16", [6], 1), "'brain', which is bfloat16"),
        (tensor("words", "STRING", [1], 1), "'words', which is string"),
        (tensor("few", "INT8", [99], 1, sparsity=record("SparsityParameters")), "'few', which is sparse int8"),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_values_that_cannot_be_an_array_are_named(made, message):
    net = reader.read_model(changed(lambda model, subgraph: subgraph.tensors.append(made)))
    with pytest.raises(InputError, match=re.escape(message)):
        net.data(net.main.tensors[5])


def test_buffer_0_means_no_values_whatever_it_holds():
    net = reader.read_model(changed(lambda model, _: setattr(model.buffers[0], "data", [1, 2, 3])))
    assert [each.index for each in net.main.tensors if each.is_constant] == [2, 3]


def test_int4_takes_half_a_byte_rounded_up():
    net = reader.read_model(changed(lambda model, subgraph: subgraph.tensors.append(tensor("odd", "INT4", [23], 1))))
    assert net.main.tensors[5].nbytes == 12


def test_values_behind_the_flatbuffer():
    """Files over 2 GB keep values behind the flatbuffer, found by offset and size."""

    def at(offset):
        return changed(
            lambda model, _: model.buffers.__setitem__(1, record("Buffer", offset=offset, size=WEIGHTS.nbytes))
        )

    behind = len(at(1 << 40))
    net = reader.read_model(at(behind) + WEIGHTS.tobytes())
    np.testing.assert_array_equal(net.data(net.main.tensors[2]), WEIGHTS)
    with pytest.raises(InputError, match="buffer 1 at byte .* past the end"):
        reader.read_model(at(behind) + WEIGHTS.tobytes()[:-1])


def test_custom_operators_go_by_their_code_and_optional_inputs_are_minus_one():
    def custom(model, subgraph):
        model.operatorCodes[1] = record("OperatorCode", builtinCode=32, deprecatedBuiltinCode=32, customCode="My_Op")
        subgraph.operators[1].inputs = [1, -1, 3]

    last = reader.read_model(changed(custom)).main.operators[1]
    assert (last.op, last.is_custom, last.options, last.inputs) == ("My_Op", True, {}, (1, -1, 3))


def test_old_files_have_the_operator_code_in_a_byte_alone():
    net = reader.read_model(changed(lambda model, _: setattr(model.operatorCodes[1], "builtinCode", 0)))
    assert net.main.operators[1].op == "CONV_2D"


def test_paths_and_bytes_read_the_same(tmp_path):
    content = packed(small_model())
    path = tmp_path / "small.tflite"
    path.write_bytes(content)
    assert (
        reader.read_model(path)
        == reader.read_model(str(path))
        == reader.read_model(content)
        == reader.read_model(memoryview(content))
    )


# The schema's tables against the generated module


def enumeration(kind):
    names = {value: name for name, value in vars(kind).items() if not name.startswith("_")}
    return tuple(names[code] for code in range(len(names)))


def test_enumerations_equal_the_schema():
    assert enumeration(generated.BuiltinOperator) == schema.OPERATORS
    assert enumeration(generated.Padding) == schema.PADDINGS
    assert enumeration(generated.ActivationFunctionType) == schema.ACTIVATIONS
    assert tuple(name.lower() for name in enumeration(generated.TensorType)) == tuple(name for name, _ in schema.DTYPES)


SLOTS = {
    "Model": schema.ModelSlots,
    "OperatorCode": schema.OperatorCodeSlots,
    "Buffer": schema.BufferSlots,
    "Metadata": schema.MetadataSlots,
    "SignatureDef": schema.SignatureSlots,
    "TensorMap": schema.TensorMapSlots,
    "SubGraph": schema.SubgraphSlots,
    "Tensor": schema.TensorSlots,
    "Operator": schema.OperatorSlots,
    "QuantizationParameters": schema.QuantizationSlots,
}


@pytest.mark.parametrize("kind", SLOTS)
def test_slots_equal_the_schema(kind):
    """The generated module writes slot 1 with `SubGraphAddInputs(builder, x)`: `builder.Prepend...Slot(1, ...)`."""

    class Builder:
        def __getattr__(self, name):
            return lambda slot, *_: setattr(self, "slot", slot)

    assert SLOTS[kind]
    for slot in SLOTS[kind]:
        builder = Builder()
        getattr(generated, kind + "Add" + slot.name.title().replace("_", ""))(builder, 0)
        assert (slot.name, builder.slot) == (slot.name, slot)


@pytest.mark.parametrize("name", [name for name in vars(generated) if name + "T" in vars(generated)])
def test_layouts_equal_the_schema(name):
    class Builder:
        def __getattr__(self, method):
            return lambda *arguments: calls.append((method, *arguments))

    layout, slots = schema.LAYOUTS.get(name, ()), 0
    for function in [value for key, value in vars(generated).items() if key.startswith(f"{name}Add")]:
        calls = []
        with contextlib.suppress(TypeError):  # of another table whose name starts like this one's
            function(Builder(), 0)
            ((method, slot, *_),) = calls
            number = re.fullmatch(r"Prepend(\D+)(\d*)Slot", method)
            size = {"Bool": "1", "UOffsetTRelative": None}.get(number[1], str(int(number[2] or 8) // 8))
            assert layout[slot] == size if size else not layout[slot].isdigit(), function
            vector = getattr(generated, function.__name__.replace("Add", "Start") + "Vector", None)
            assert (layout[slot][0] == "[") == (vector is not None), function
            if vector:
                calls.clear()
                vector(Builder(), 0)
                assert calls[0][1] == int(layout[slot][1:-1]) if layout[slot][1:-1].isdigit() else 4
            slots += 1
    assert slots == len([kind for kind in layout if kind != "-"])


def test_unions_equal_the_schema():
    for name, tables in schema.UNIONS.items():
        assert tables == tuple(enumeration(getattr(generated, name)))
    for op, table in schema.OPTION_TABLES.items():
        assert (schema.UNIONS["BuiltinOptions" if table.union == 1 else "BuiltinOptions2"][table.code], op) == (
            table.schema_name,
            op,
        )
    assert set(schema.ARITIES) <= set(schema.OPERATORS)


LONG_NAMES = {
    "fused_activation": "fusedActivationFunction",
    **{f"dilation_{axis}": f"dilation{axis.upper()}Factor" for axis in "dwh"},
}


def camel(name):
    first, *rest = name.split("_")
    return LONG_NAMES.get(name, first + "".join(word.title() for word in rest))


def distinct_value(option, position):
    if option.code == "i*":
        return [1, 1] if option.name.endswith("subgraph_indices") else [position, -1]
    if option.code == "f":
        return position + 0.5
    return 1 if option.code in "?b" or option.name.endswith("subgraph_index") else position + 2


@pytest.mark.parametrize("op", schema.OPERATOR_OPTIONS)
def test_options_are_read_from_where_the_schema_puts_them(op):
    known = schema.OPERATOR_OPTIONS[op]
    union = generated.BuiltinOptions if known.union == 1 else generated.BuiltinOptions2
    assert getattr(union, known.schema_name) == known.code
    written = {option.name: distinct_value(option, position) for position, option in enumerate(known.options)}
    content = one_operator(op, known.schema_name, **{camel(name): value for name, value in written.items()})
    read = reader.read_model(content).main.operators[0].options
    for option in known.options:
        value = written[option.name]
        expected = option.names[value] if option.names else tuple(value) if isinstance(value, list) else value
        assert (option.name, read[option.name]) == (option.name, expected)
    assert list(read) == list(written)


def test_absent_options_have_the_schemas_defaults():
    assert reader.read_model(one_operator("ADD")).main.operators[0].options == {"fused_activation": "NONE"}
    assert reader.read_model(one_operator("RESHAPE")).main.operators[0].options == {"new_shape": None}
    with pytest.raises(
        InputError, match=re.escape("operator 0 of subgraph 0 (CONV_2D) has the stride_w 0, less than 1")
    ):
        reader.read_model(one_operator("CONV_2D"))


# Float operators


def test_a_quantize_at_a_float_input_is_a_float_operator():
    assert [operator.op for operator in float_operators(reader.read_model(packed(small_model())))] == ["QUANTIZE"]


@pytest.mark.parametrize("dtype", ["FLOAT32", "FLOAT16", "FLOAT64", "BFLOAT16", "FLOAT8_E4M3FN", "COMPLEX64"])
@pytest.mark.parametrize("place", [1, 4])
def test_float_operators_by_dtype_of_input_and_output(dtype, place):
    def change(model, subgraph):
        subgraph.tensors[0].type = generated.TensorType.INT8
        subgraph.tensors[place] = tensor("real", dtype, [1, 4, 4, 2])

    found = float_operators(reader.read_model(changed(change)))
    assert [operator.index for operator in found] == ([0, 1] if place == 1 else [1])


def test_float_operators_of_every_subgraph():
    def second(model, subgraph):
        model.subgraphs.append(small_model().subgraphs[0])
        subgraph.operators = subgraph.operators[1:]

    found = float_operators(reader.read_model(changed(second)))
    assert [(operator.subgraph, operator.op) for operator in found] == [(1, "QUANTIZE")]


# A real file


def test_a_converted_network(converted):
    net = reader.read_model(converted)
    ops = collections.Counter(operator.op for operator in net.main.operators)
    assert ops == {"CONV_2D": 3, "CONCATENATION": 1, "MAX_POOL_2D": 1, "MEAN": 1, "SOFTMAX": 1}
    assert float_operators(net) == ()
    by_op = {operator.op: operator.options for operator in net.main.operators}
    assert by_op["CONCATENATION"] == {"axis": -1, "fused_activation": "NONE"}
    assert by_op["MAX_POOL_2D"]["filter_width"] == by_op["MAX_POOL_2D"]["stride_h"] == 2
    assert by_op["SOFTMAX"] == {"beta": 1.0}
    first = net.main.operators[0]
    assert first.options["fused_activation"] == "RELU"
    assert net.main.tensors[first.inputs[1]].shape == (4, 3, 3, 3)


def test_a_converted_network_as_the_runtime_sees_it(converted):
    from ai_edge_litert.interpreter import Interpreter

    net = reader.read_model(converted)
    interpreter = Interpreter(model_content=converted, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    details = {entry["index"]: entry for entry in interpreter.get_tensor_details()}
    constants = 0
    for ours in net.main.tensors:
        theirs = details[ours.index]
        assert (ours.name, ours.shape, ours.dtype) == (theirs["name"], tuple(theirs["shape"]), theirs["dtype"].__name__)
        scales = ours.quantization.scales if ours.quantization else ()
        zero_points = ours.quantization.zero_points if ours.quantization else ()
        assert scales == tuple(theirs["quantization_parameters"]["scales"])
        assert zero_points == tuple(theirs["quantization_parameters"]["zero_points"])
        if ours.is_constant:
            constants += 1
            np.testing.assert_array_equal(net.data(ours), interpreter.get_tensor(ours.index))
    assert constants == 3 * 2 + 1  # weights and bias of three convolutions, the axes of the mean


@pytest.mark.external
def test_operator_counts_of_third_party_files(external_data):
    folder = external_data / "edgetpu"
    truth = json.loads((folder / "truth.json").read_text())
    assert len(truth) == 103
    for entry in truth:
        net = reader.read_model(folder / entry["file"])
        counts = collections.Counter(operator.op for subgraph in net.subgraphs for operator in subgraph.operators)
        logged = [sum(row[1] for row in log["rows"]) for log in entry.get("compiler_logs", ())]
        assert counts == entry.get("ops", counts), entry["file"]
        if "ops" not in entry:
            assert [counts.total()] == logged, entry["file"]
        for subgraph in net.subgraphs:
            for each in subgraph.tensors:
                if each.is_constant:
                    assert net.data(each).nbytes == each.buffer_bytes


# Bad files


HOSTILE = {
    "operator 1 of subgraph 0 (CONV_2D) refers to tensor 5 of 5": lambda m, s: s.operators[1].inputs.append(5),
    "operator 1 of subgraph 0 (CONV_2D) refers to tensor -2 of 5": lambda m, s: s.operators[1].inputs.append(-2),
    "operator 0 of subgraph 0 (QUANTIZE) refers to tensor -1 of 5": lambda m, s: setattr(
        s.operators[0], "outputs", [-1]
    ),
    "subgraph 0 refers to tensor 9 of 5": lambda m, s: setattr(s, "outputs", [9]),
    "subgraph 0 refers to tensor -1 of 5": lambda m, s: setattr(s, "inputs", [-1]),
    "refers to operator type 2 of 2": lambda m, s: setattr(s.operators[0], "opcodeIndex", 2),
    "tensor 2 refers to buffer 3 of 3": lambda m, s: setattr(s.tensors[2], "buffer", 3),
    "tensor 0 has the unknown type code 99": lambda m, s: setattr(s.tensors[0], "type", 99),
    "tensor 0 has the unknown type code -1": lambda m, s: setattr(s.tensors[0], "type", -1),
    "tensor 0 has the negative size -4": lambda m, s: setattr(s.tensors[0], "shape", [1, -4]),
    "tensor 2 takes 13 bytes, but its buffer has 12": lambda m, s: s.tensors.__setitem__(
        2, tensor("w", "INT8", [13], 1)
    ),
    "takes 21267647892944572736998860269687930881 bytes": lambda m, s: s.tensors.__setitem__(
        2, tensor("w", "INT8", [2**31 - 1] * 4, 1)
    ),
    "tensor 2 has 3 scales but 2 zero points": lambda m, s: setattr(s.tensors[2].quantization, "zeroPoint", [0, 0]),
    "keeps its values in another file, which is not supported": lambda m, s: setattr(s.tensors[0], "externalBuffer", 1),
    "(CONV_2D) writes to a constant tensor": lambda m, s: setattr(s.operators[1], "outputs", [3]),
    "has options of type 2, not 1 (Conv2DOptions)": lambda m, s: s.operators.__setitem__(
        1, operator(1, [1, 2, 3], [4], "DepthwiseConv2DOptions", strideW=1, strideH=1)
    ),
    "has the unknown padding 2": lambda m, s: setattr(s.operators[1].builtinOptions, "padding", 2),
    "has the unknown fused_activation -1": lambda m, s: setattr(
        s.operators[1].builtinOptions, "fusedActivationFunction", -1
    ),
    "has the dilation_h -1, less than 1": lambda m, s: setattr(s.operators[1].builtinOptions, "dilationHFactor", -1),
    "operator code 210 is unknown (known: 0 to 209)": lambda m, s: setattr(m.operatorCodes[0], "builtinCode", 210),
    "signature 'serve' refers to subgraph 1 of 1": lambda m, s: setattr(m.signatureDefs[0], "subgraphIndex", 1),
    "'y' of signature 'serve' refers to tensor 5": lambda m, s: setattr(
        m.signatureDefs[0].outputs[0], "tensorIndex", 5
    ),
    "the schema version is 2, not 3": lambda m, s: setattr(m, "version", 2),
    "there is no subgraph": lambda m, s: setattr(m, "subgraphs", []),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_what_contradicts_itself_is_refused_in_one_line(message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        reader.read_model(changed(HOSTILE[message]))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("Expected a valid .tflite file. Received: the bytes given, where ")


def test_control_flow_into_a_missing_subgraph():
    content = one_operator("WHILE", "WhileOptions", condSubgraphIndex=1, bodySubgraphIndex=2)
    with pytest.raises(InputError, match="has the body_subgraph_index 2 of 2"):
        reader.read_model(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the mark 'TFL3' at byte 4 is missing"),
        (b"<!DOCTYPE html>" * 99, "the mark 'TFL3' at byte 4 is missing"),
        (b"\x08\0\0\0TFL3", "a table at byte 8 reaches past the end (8 bytes)"),
        (b"\xff\xff\xff\xffTFL3" + bytes(64), "past the end (72 bytes)"),
        (b"\x08\0\0\0TFL3\0\0\0\x80", "past the end (12 bytes)"),
        (b"\x08\0\0\0TFL3\xff\xff\xff\x7f", "a vtable at byte -2147483639 reaches past the end"),
        (b"\x0c\0\0\0TFL3\x03\0\0\0\x04\0\0\0", "the vtable at byte 8 has the impossible size 3"),
    ],
)
def test_what_is_no_tflite_file(content, message, tmp_path):
    path = tmp_path / "other.tflite"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        reader.read_model(path)
    assert repr(str(path)) in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "missing.tflite"):
        with pytest.raises(InputError, match="Expected a readable file"):
            reader.read_model(path)


def repeated_tensor(times, rank):
    """Return a file of one subgraph that lists the same tensor, of `rank` dimensions, `times` times."""
    builder = flatbuffers.Builder(1 << 16)
    shape = builder.CreateNumpyVector(np.ones(rank, np.int32))
    generated.TensorStart(builder)
    generated.TensorAddShape(builder, shape)
    one = generated.TensorEnd(builder)

    def vector(start, items):
        start(builder, len(items))
        for item in items:
            builder.PrependUOffsetTRelative(item)
        return builder.EndVector()

    tensors = vector(generated.SubGraphStartTensorsVector, [one] * times)
    generated.SubGraphStart(builder)
    generated.SubGraphAddTensors(builder, tensors)
    subgraphs = vector(generated.ModelStartSubgraphsVector, [generated.SubGraphEnd(builder)])
    generated.ModelStart(builder)
    generated.ModelAddVersion(builder, 3)
    generated.ModelAddSubgraphs(builder, subgraphs)
    builder.Finish(generated.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_small_file_cannot_ask_for_endless_decoding():
    assert len(reader.read_model(repeated_tensor(times=3, rank=4)).main.tensors) == 3
    content = repeated_tensor(times=20_000, rank=254)
    start = time.perf_counter()
    with pytest.raises(InputError, match="the same bytes are referred to again and again"):
        reader.read_model(content)
    assert time.perf_counter() - start < 2


def test_the_number_of_tables_is_limited(monkeypatch):
    monkeypatch.setattr(flatbuffer, "_MAX_TABLES", 50)
    assert len(reader.read_model(repeated_tensor(times=48, rank=1)).main.tensors) == 48
    with pytest.raises(InputError, match="more than 50 tables"):
        reader.read_model(repeated_tensor(times=49, rank=1))


def read_or_refuse(content):
    """Return the seconds that reading took; anything but a Graph or an `InputError` fails the test."""
    start = time.perf_counter()
    with contextlib.suppress(InputError):
        net = reader.read_model(content)
        for each in net.main.tensors:
            if each.is_constant and each.dtype in ("int8", "int32", "float32") and not each.is_sparse:
                net.data(each)
    return time.perf_counter() - start


def test_damaged_files_are_read_or_refused(converted):
    rng = np.random.default_rng(0)
    slowest = 0
    for content in (packed(small_model()), converted):
        for length in range(0, len(content), 11):
            slowest = max(slowest, read_or_refuse(content[:length]))
        for _ in range(1000):
            damaged = np.frombuffer(content, np.uint8).copy()
            places = rng.integers(len(content), size=rng.integers(1, 9))
            damaged[places] = rng.choice(np.array([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)], np.uint8), len(places))
            slowest = max(slowest, read_or_refuse(damaged.tobytes()))
    assert slowest < 1


def test_reading_imports_neither_numpy_nor_the_frameworks(tmp_path):
    path = tmp_path / "small.tflite"
    path.write_bytes(packed(small_model()))
    slow = ("numpy", "keras", "tensorflow", "flatbuffers", "ai_edge_litert")
    program = (
        f"import sys; from keras_nin.tflite import reader; reader.read_model({str(path)!r}); "
        f"print([name for name in {slow} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
