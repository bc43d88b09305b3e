"""The time of each layer: every kernel and every operator is in the rows, once, by its layer's name; and sums."""

import collections
import json
import pathlib

import pytest
from branched_net import CHANNELS, SIZE, branched_net, recorded
from latency_records import layer, profile
from loop_net import STEPS, loop_net
from tflite_writer import operator, tensor, write
from tiers import by_tier

from keras_nin.audit import tables
from keras_nin.benchmark import BenchmarkResult, layer_times, measure_file
from keras_nin.benchmark.job import FileRefusedError
from keras_nin.benchmark.measurement import run_job
from keras_nin.benchmark.single_operators import cut_loops
from keras_nin.errors import InputError
from keras_nin.tflite.reader import read_model

GEMM, COPY, ADD, RESHAPE = "Fully Connected (NC, F32) GEMM", "Copy (NC, X32)", "Add (ND)", "Static Reshape (NC)"


def kernel(name, us, kind="delegate", index=0):
    return {"kind": kind, "name": name, "index": index, "us": dict.fromkeys(("median", "mean", "p90", "typical"), us)}


@pytest.fixture
def net(tmp_path):
    return read_model(branched_net(tmp_path / "net.tflite"))


def test_a_layer_in_several_kernels(tmp_path):
    image, whole = (tensor(name, (1, 4, size), "FLOAT32") for name, size in (("image", 4), ("whole", 8)))
    path = write(
        tmp_path / "net.tflite",
        [image, whole],
        [operator("CONCATENATION", [0, 0], [1], "ConcatenationOptions", axis=2)],
    )
    first, second = layer_times.join_layers(read_model(path), [kernel(COPY, 3.0), kernel(COPY, 2.0, index=1)], 5.0)[0]
    assert (first.name, first.operators, first.us.typical) == ("whole", (0,), 3.0)
    assert (second.name, second.op, second.operators) == ("whole (Copy)", "CONCATENATION", (0,))
    assert (first.macs, first.bytes, second.macs, second.bytes) == (0, 4 * 4 * (4 + 8), None, 0)


def test_rows_in_order_of_execution(net):
    rows, _ = layer_times.join_layers(net, recorded(), 20.0)
    assert [(row.name, row.op, row.operators) for row in rows] == [
        ("first", "CONV_2D", (0,)),
        ("second", "CONV_2D", (2,)),
        ("normal", "LOCAL_RESPONSE_NORMALIZATION", (1,)),
        ("third", "CONV_2D", (3, 4)),
        ("both", "CONCATENATION", (5,)),
        ("flat", "RESHAPE", (6,)),
        ("dense (Static Reshape)", None, ()),
        ("dense", "FULLY_CONNECTED", (7,)),
    ]
    assert all(row.joined for row in rows)


def test_facts_of_a_row(net):
    rows, _ = layer_times.join_layers(net, recorded(), 20.0)
    first, third, inserted, dense = rows[0], rows[3], rows[6], rows[7]
    positions = SIZE * SIZE
    assert (first.kind, first.macs, first.dtype) == ("pointwise", positions * CHANNELS * CHANNELS, "float32")
    assert first.bytes == 4 * (2 * positions * CHANNELS + CHANNELS * CHANNELS + CHANNELS)
    # The padding is part of it: what lies between the two is neither read nor written, and paddings are no weights.
    assert third.bytes == 4 * (2 * positions * CHANNELS + 9 * CHANNELS * CHANNELS + CHANNELS)
    assert (inserted.kind, inserted.macs, inserted.bytes, inserted.dtype) == ("other", None, 0, None)
    assert dense.macs == positions * 2 * CHANNELS * 10
    assert first.gmacs_per_s == pytest.approx(first.macs / first.us.typical / 1000)
    assert first.share == pytest.approx(first.us.typical / 20)


def test_an_operator_without_kernel_says_why(net):
    kernels = recorded()
    # One reshape less: it is the dense layer's or its own.
    rows, _ = layer_times.join_layers(net, kernels[:5] + kernels[6:], 20.0)
    assert {index for row in rows for index in row.operators} == set(range(8))
    rows, _ = layer_times.join_layers(net, kernels[:4] + kernels[7:], 20.0)
    flat, both = (next(row for row in rows if row.name == name) for name in ("flat", "both"))
    assert (flat.kernel, flat.us, flat.share, flat.joined) == (None, None, None, True)
    assert flat.note == "reads its input in place"
    assert (both.us, both.joined, both.note) == (None, False, "no kernel was found for it")
    assert [row.name for row in rows[-3:]] == ["both", "flat", "dense"]


def test_a_kernel_that_is_not_known_is_shown_as_such(net):
    kernels = recorded()
    strange = kernel("New Kernel (NC)", 5.0, index=9)
    rows, overhead = layer_times.join_layers(net, [*kernels, strange, strange], 40.0)
    assert [(row.name, row.op, row.joined, row.kind) for row in rows[-2:]] == [
        ("New Kernel (NC)", None, False, "other"),
        ("New Kernel (NC) (2)", None, False, "other"),
    ]
    assert sum(row.us.typical for row in rows) + overhead == pytest.approx(40)


def test_an_unexpected_order_joins_only_what_has_an_index(net):
    kernels = [kernel("LOCAL_RESPONSE_NORMALIZATION", 2.0, "operator", 1), *recorded()]
    rows, _ = layer_times.join_layers(net, kernels, 40.0)
    assert collections.Counter(row.joined for row in rows) == {True: 2, False: 7 + 7}
    assert {index for row in rows for index in row.operators} == set(range(8))


def test_what_the_clock_cuts_off_comes_back():
    kernels = [kernel(GEMM, 3.0), kernel(RESHAPE, 0.0), kernel("SOFTMAX", 0.5, "operator"), kernel(ADD, 0.0)]
    assert [us.typical for us in layer_times.correct_kernel_times(kernels, 4.1)] == pytest.approx([3.3, 0, 0.5, 0.3])
    assert [us.typical for us in layer_times.correct_kernel_times(kernels, 99)] == pytest.approx([3.5, 0, 0.5, 0.5])
    assert [us.typical for us in layer_times.correct_kernel_times(kernels, 2)] == [3.0, 0.0, 0.5, 0.0]
    assert [us.median for us in layer_times.correct_kernel_times(kernels, 99)] == [3.0, 0.0, 0.5, 0.0]


def test_a_file_that_the_audit_refuses_has_rows_all_the_same(net, monkeypatch):
    expected, _ = layer_times.join_layers(net, recorded(), 20.0)
    monkeypatch.setattr("keras_nin.audit.tflite_reader.read_tflite_graph", refuse)
    rows, _ = layer_times.join_layers(net, recorded(), 20.0)
    assert [row.name for row in rows] == [row.name for row in expected]
    assert (rows[0].kind, rows[0].macs) == ("other", None)


def refuse(model):
    raise InputError("no")


def check(path):
    """Profile a file, and return its rows, which have every kernel and every operator."""
    job = {"models": [{"file": str(path), "threads": 1}], "runs": 20, "seconds": 5, "profile": True}
    (result,) = run_job(job).results
    kernels, median = result["profile"]["kernels"], result["us"]["median"]
    model = read_model(path)
    rows, overhead = layer_times.join_layers(model, kernels, median)
    assert {index for row in rows for index in row.operators} == set(range(len(model.main.operators))), path
    names = collections.Counter(row.kernel for row in rows if row.kernel)
    assert names == collections.Counter(kernel["name"] for kernel in kernels)
    assert all(row.joined for row in rows), [row.name for row in rows if not row.joined]
    assert len({row.name for row in rows}) == len(rows)
    assert sum(row.us.typical for row in rows if row.us) + overhead == pytest.approx(median)
    return rows


def test_what_runs_here_is_what_was_recorded(net):
    expected = [(kernel["name"], kernel["us"] is not None) for kernel in recorded()]
    assert [(row.kernel, row.us is not None) for row in check(net.path)] == expected


def test_kernels_inside_a_loop_are_the_loops(tmp_path):
    measured = measure_file(loop_net(tmp_path / "loop.tflite"), runs=50)
    assert [(row.op, row.kernel is not None, row.joined) for row in measured.layers if row.op] == [
        ("RELU", True, True), ("WHILE", True, True), ("FULLY_CONNECTED", True, True),
    ]  # fmt: skip
    loop = next(row for row in measured.layers if row.op == "WHILE")
    assert loop.iterations == STEPS
    inner = {(kernel.kernel, kernel.subgraph): kernel.executions for kernel in loop.inner}
    assert {key: inner[key] for key in inner if key[0] != RESHAPE} == {
        ("LESS", 1): STEPS + 1, ("ADD", 2): STEPS, (GEMM, 2): STEPS, ("TanH (NC)", 2): STEPS,
    }  # fmt: skip
    assert loop.note.startswith(f"{STEPS} iterations of {len(loop.inner)} kernels")
    assert loop.note.endswith("timed alone")
    assert 0.3 < loop.share < 1.7
    assert sum(row.us.typical for row in measured.layers if row.us) + measured.overhead_us == pytest.approx(
        measured.total.median
    )
    document = json.loads(json.dumps(BenchmarkResult({}, (measured,)).to_json()))
    assert BenchmarkResult.from_json(document).profiles[0].layers == measured.layers


def test_a_loop_that_depends_on_inputs_has_the_time_of_its_kernels(tmp_path):
    model = read_model(loop_net(tmp_path / "loop.tflite", steps=None))
    assert cut_loops(model) == {}
    inner = [
        {"subgraph": 2, "kind": "invoke", "name": "Invoke", "index": 0, "executions": 3, "us": 90.0},
        {"subgraph": 2, "kind": "delegate", "name": GEMM, "index": 0, "executions": 3, "us": 21.0},
        {"subgraph": 2, "kind": "operator", "name": "ADD", "index": 0, "executions": 3, "us": 1.0},
    ]
    kernels = [kernel("Clamp (NC)", 1.0), kernel("WHILE", 500.0, "operator", 1) | {"inner": inner}, kernel(GEMM, 2.0)]
    rows, overhead = layer_times.join_layers(model, kernels, 40.0)
    loop = next(row for row in rows if row.op == "WHILE")
    assert (loop.us.typical, loop.iterations) == (22.0, 3)
    assert loop.note == (
        "3 iterations of 2 kernels, such as Fully Connected 21.0 us; the time of the kernels; what lies between them "
        "is runtime overhead"
    )
    assert sum(row.us.typical for row in rows) + overhead == pytest.approx(40)


@pytest.mark.slow
def test_the_layers_of_an_lstm_and_a_gru(tmp_path):
    import keras

    from keras_nin.export import convert_model

    layers = keras.layers
    audio = keras.Input((12, 8), name="audio")
    hidden = layers.GRU(16, name="gru")(layers.LSTM(24, return_sequences=True, name="lstm")(audio))
    model = keras.Model(audio, layers.Dense(5, activation="softmax", name="classes")(hidden), name="rnn")
    convert_model(model, "float32").save(tmp_path)
    rows = check(tmp_path / "rnn_float32.tflite")
    loops = [row for row in rows if row.op == "WHILE"]
    assert [(row.name.split("/")[0], row.iterations) for row in loops] == [("lstm", 12), ("gru", 12)]
    assert [row.kernel for row in rows if row.name.startswith("classes") and row.op] == [GEMM, "Softmax (NC, F32)"]


@pytest.mark.parametrize("scheme", ["float32", "int8"])
@pytest.mark.parametrize(
    "name",
    by_tier(
        ("nin_digits", "squeezenet_cifar10", "googlenet_cifar10", "convnet_pointwise_head"), wide=("googlenet_cifar10",)
    ),
)
def test_every_convolution_of_an_export_is_its_layer(exported, name, scheme):
    path = exported(name, scheme)
    record = json.loads(path.with_suffix(".json").read_text())
    for row in check(path):
        if row.op in ("CONV_2D", "FULLY_CONNECTED"):
            assert row.name == record["operators"][row.operators[-1]]["layer"]
            assert row.us is not None


@pytest.mark.external
@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.wide)])
def test_third_party_files_are_joined_completely(external_data, step):
    joined, refused = 0, []
    paths = sorted(pathlib.Path(external_data, "edgetpu").glob("*.tflite"))[::step]
    for path in paths:
        if any(operator.is_custom for operator in read_model(path).main.operators):
            continue
        try:
            joined += bool(check(path))
        except FileRefusedError as error:
            refused.append(str(error))
    # XNNPACK does not take the resizing of one pixel in one of them.
    assert joined > 0.75 * len(paths)
    assert all("failed to delegate RESIZE_BILINEAR" in message for message in refused)
    assert len(refused) <= 1


# Sums.


@pytest.fixture
def measured():
    return profile(
        layer("squeeze", 10.0, "pointwise", "reduce", "fire", 1_000_000),
        layer("expand", 20.0, "pointwise", "expand", "fire", 2_000_000),
        layer("expand2", 5.0, "pointwise", "expand", "fire2", 500_000),
        layer("conv", 30.0, "spatial", None, "fire", 9_000_000),
        layer("pool", 1.0, "pool"),
        layer("copy", 2.0, "other", None, "fire", None, op=None, operators=()),
        layer("flat", None, "reshape"),
        layer("custom", 3.0, "other", macs=None),
        overhead=-1.0,
    )


def test_sums_by_role(measured):
    sums = {subtotal.name: subtotal for subtotal in layer_times.sum_by_role(measured)}
    assert list(sums) == ["1x1 reduce", "1x1 expand", "spatial", "other", "runtime overhead"]
    expand, other = sums["1x1 expand"], sums["other"]
    assert (expand.rows, expand.us, expand.macs) == (2, 25.0, 2_500_000)
    assert expand.gmacs_per_s == pytest.approx(2_500_000 / 25e-6 / 1e9)
    assert (other.rows, other.us, other.macs, other.gmacs_per_s) == (4, 6.0, 0, None)
    assert sums["runtime overhead"].us == -1.0
    pointwise = layer_times.sum_pointwise(measured)
    assert (pointwise.name, pointwise.rows, pointwise.us) == ("1x1", 3, 35.0)
    assert pointwise.share == pytest.approx(35 / measured.total.median)
    assert layer_times.total_kernel_us(measured) == 71.0
    assert layer_times.sum_by_role(profile(overhead=None)) == ()


def test_sums_of_the_roles_stand_in_one_order_before_those_of_the_kinds():
    rows = [layer(role, 1.0, "pointwise", role) for role in tables.ROLES]
    sums = layer_times.sum_by_role(profile(layer("conv", 1.0, "spatial"), *rows, overhead=0.0))
    roles = ["1x1 reduce", "1x1 expand", "1x1 mix", "1x1 projection", "1x1 head"]
    assert {f"1x1 {role}" for role in tables.ROLES} == set(roles)
    assert [subtotal.name for subtotal in sums] == [*roles, "spatial", "runtime overhead"]


def test_sums_by_block_in_order_of_execution(measured):
    sums = layer_times.sum_by_block(measured)
    assert [subtotal.name for subtotal in sums] == ["fire", "fire2", "(no block)", "runtime overhead"]
    assert (sums[0].us, sums[0].macs) == (62.0, 12_000_000)


@pytest.mark.parametrize("function", [layer_times.sum_by_role, layer_times.sum_by_block])
def test_sums_add_up_to_the_run(measured, function):
    sums = function(measured)
    assert sum(subtotal.us for subtotal in sums) == pytest.approx(measured.total.median)
    assert sum(subtotal.share for subtotal in sums) == pytest.approx(1)
    assert sum(subtotal.rows for subtotal in sums) == len(measured.layers)
    assert sum(subtotal.macs for subtotal in sums) == sum(row.macs or 0 for row in measured.layers)
