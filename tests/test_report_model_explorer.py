"""Node data for Model Explorer."""

import dataclasses
import json

import pytest
from tflite_writer import operator, tensor, write

from keras_nin import InputError
from keras_nin.benchmark.records import KernelTime, LatencyStatistics, LayerTime, Profile
from keras_nin.report import latency


@pytest.fixture
def network(tmp_path):
    tensors = [tensor(name, [1, 4], "FLOAT32") for name in ("in", "a", "b", "out")]
    operators = [operator("RELU", [0], [1]), operator("LOGISTIC", [1], [2]), operator("RELU", [2], [3])]
    return write(tmp_path / "net.tflite", tensors, operators)


def layer(op, operators, us):
    times = None if us is None else KernelTime(us, us, us, us)
    return LayerTime("x", op, operators, "kernel", "other", None, None, times, 0.1, None, None, 0)


@pytest.fixture
def profile():
    host = {"cpu": "A processor"}
    total = LatencyStatistics(10.0, 10.0, 10.0, 10.0, 10.0, 10.0)
    layers = (
        layer("LOGISTIC", (0, 1), 3.25),  # the first is fused into it
        layer("LOGISTIC", (1,), 0.5),  # a second kernel for the same operator
        layer(None, (), 9.0),  # the runtime's own
        layer("RELU", (2,), None),  # no kernel found
    )
    return Profile(
        "net.tflite", "", 0, host, 2, 100, True, total, 0, 0, 0, 0, "compiled_model", "profiler", 77, layers, 1.0
    )


def test_times_belong_to_operators_by_index(profile, network):
    document = latency.model_explorer_data(profile, network)
    assert list(document) == ["main"]
    assert document["main"]["results"] == {"1": {"value": 3.75}}
    assert document["main"]["name"] == "us, A processor, 2 threads, 77 runs"
    assert [item["stop"] for item in document["main"]["gradient"]] == [0, 0.25, 1]


def test_without_layers_there_is_nothing_to_show(profile, network):
    with pytest.raises(InputError, match="times of layers for Model Explorer. Received: none of 'net.tflite'"):
        latency.model_explorer_data(dataclasses.replace(profile, layers=()), network)


def test_model_explorer_reads_it(profile, network):
    """Graph and nodes are named as Model Explorer's own TFLite adapter names them."""
    adapter = pytest.importorskip("ai_edge_model_explorer_adapter", reason="Model Explorer is not installed")
    builder = pytest.importorskip("model_explorer.node_data_builder", reason="Model Explorer is not installed")
    document = latency.model_explorer_data(profile, network)
    ((name, data),) = document.items()
    results = {key: builder.NodeDataResult(**value) for key, value in data["results"].items()}
    gradient = [builder.GradientItem(**each) for each in data["gradient"]]
    graph = builder.GraphNodeData(results, data["name"], gradient=gradient)
    again = json.loads(builder.ModelNodeData({name: graph}).to_json_string())
    assert data.items() <= again[name].items()
    converted = adapter.ConvertFlatbufferDirectlyToJson(adapter.VisualizeConfig(), str(network))
    (first,) = json.loads(converted)[0]["subgraphs"]
    labels = {node["id"]: node["label"] for node in first["nodes"]}
    assert (first["id"], labels["1"]) == (name, "logistic")
