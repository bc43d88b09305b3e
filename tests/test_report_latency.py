"""Latency as text, Markdown, CSV and node data of Model Explorer."""

import csv
import io
import json

import pytest
from latency_records import HOST, layer, profile
from tflite_writer import operator, tensor, write

from keras_nin.benchmark.comparison import LatencyRatio
from keras_nin.benchmark.records import SINGLE_OPERATORS, BenchmarkResult
from keras_nin.errors import InputError
from keras_nin.report import latency


@pytest.fixture
def measured():
    return profile(
        layer("squeeze", 10.0, "pointwise", "reduce", "fire1", 1_000_000),
        layer("conv", 30.0, "spatial", None, "fire1", 9_000_000),
        layer("expand|", 20.0, "pointwise", "expand", "fire2", 2_000_000),
        layer("flat\n", None, "reshape", note="reads its input in place"),
        layer("odd", 1.0, "other", None, op=None, operators=(), macs=None, joined=False),
    )


def benchmark(*profiles, **fields):
    return BenchmarkResult(HOST, profiles, **fields)


def cells(text, first):
    """Return the cells of the only line of a text table that begins with `first`."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(first)]
    return [cell.strip() for cell in line.strip().split("   ") if cell.strip()]


def test_a_latency_is_never_without_machine_threads_and_runs(measured):
    line = latency.latency_headline(measured)
    assert line == (
        "net_int8.tflite: median 65.0 us (95% interval 64.5 to 65.5), p90 67.0 us, 2,500 runs, 1 thread on Some CPU"
    )
    assert latency.format_benchmark(benchmark(measured)).startswith("Some CPU, 4 cores, Linux 6 x86_64, LiteRT 2.3.0\n")
    record = next(csv.DictReader(io.StringIO(latency.format_benchmark_csv(benchmark(measured)))))
    assert (record["cpu"], record["threads"], record["runs"]) == ("Some CPU", "1", "2500")


def test_the_rows_of_layers(measured):
    text = latency.format_layer_table(measured)
    share = f"{0.1:.1%}"
    assert cells(text, "squeeze") == [
        *("squeeze", "10.0", share, "1,000,000", "100.0", "64", "pointwise", "reduce", "Kernel of squeeze")
    ]
    assert cells(text, "flat")[-1] == "(reads its input in place)"
    assert cells(text, "odd")[-1] == "Kernel of odd (not joined)"
    assert cells(text, "runtime overhead") == ["runtime overhead", "4.0", f"{4 / 65:.1%}"]
    assert text.splitlines()[-1].split() == ["total", "65.0", "100.0%"]


@pytest.mark.parametrize(
    ("view", "names"),
    [
        ({}, ["squeeze", "conv", "expand|", r"flat\n", "odd"]),
        ({"sort": "us"}, ["conv", "expand|", "squeeze", "odd", r"flat\n"]),
        ({"sort": "macs", "top": 2}, ["conv", "expand|"]),
        ({"only": ("pointwise",)}, ["squeeze", "expand|"]),
        ({"only": ("reduce", "spatial"), "sort": "bytes"}, ["squeeze", "conv"]),
    ],
)
def test_views_add_up_to_the_run(measured, view, names):
    lines = latency.format_layer_table(measured, latency.LayerView(**view)).splitlines()[2:]
    left = len(measured.layers) - len(names)
    assert [line.split("   ")[0].strip() for line in lines[: len(names)]] == names
    assert len(lines) == len(names) + (left > 0) + 2
    values = [cell for line in lines[:-1] for cell in line[line.index("   ") :].split()[:1] if "." in cell]
    assert sum(map(float, values)) == pytest.approx(65)
    assert (f"({left} other rows)" in lines[len(names)]) == (left > 0)


def test_bad_views():
    for view in ({"sort": "name"}, {"top": 0}, {"top": "3"}):
        with pytest.raises(InputError, match="Expected") as caught:
            latency.LayerView(**view)
        assert caught.value.argument in view


def test_the_whole_text(measured):
    text = latency.format_benchmark(benchmark(measured, warnings=("the machine is busy",)))
    assert "Warning: the machine is busy" in text
    assert "1x1 layers: 2 rows, 30.0 us, 46.2% of the run" in text
    assert cells(text, "1x1 expand") == ["1x1 expand", "1", "20.0", f"{20 / 65:.1%}", "2,000,000", "100.0"]
    assert cells(text, "fire2")[:3] == ["fire2", "1", "20.0"]
    assert "profiler's clock" in " ".join(text.split())
    assert text.count("net_int8.tflite") == 1  # no summary of one file


def test_single_operators_are_labelled(measured):
    alone = profile(*measured.layers, method=SINGLE_OPERATORS, notes=("the profiler is not known in 9.9",))
    text = " ".join(latency.format_benchmark(benchmark(alone)).split())
    assert "the profiler is not known in 9.9" in text
    assert "each operator alone" in text
    assert "profiler's clock" not in text


def test_a_profile_without_layers():
    text = latency.format_benchmark(benchmark(profile(overhead=None)))
    assert "median 10.0 us" in text
    assert "GMAC" not in text


def test_several_files_have_a_summary_first(measured):
    other = profile(layer("conv", 30.0, "spatial"), file="b.tflite", threads=2)
    text = latency.format_benchmark(benchmark(measured, other))
    assert cells(text.split("\n\n")[1], "net_int8.tflite") == [
        *("net_int8.tflite", "1", "65.0", "64.5 to 65.5", "67.0", "2,500", "1.5", "50.0", f"{30 / 65:.1%}")
    ]
    assert "2 threads on Some CPU" in text


def test_markdown_has_tables_and_items(measured):
    text = latency.format_benchmark_markdown(benchmark(measured))
    assert "| expand\\| | 20.0 |" in text
    assert "| runtime overhead | 4.0 |" in text
    assert "- net_int8.tflite: median 65.0 us" in text


def test_csv_has_raw_numbers(measured):
    rows = list(csv.DictReader(io.StringIO(latency.format_benchmark_csv(benchmark(measured)))))
    assert [row["name"] for row in rows] == [
        "squeeze",
        "conv",
        "expand|",
        "flat\\n",
        "odd",
        "runtime overhead",
        "total",
    ]
    assert (rows[0]["us"], rows[0]["median_us"], rows[0]["macs"], rows[0]["joined"]) == (
        "10.0",
        "10.0",
        "1000000",
        "True",
    )
    assert (rows[3]["us"], rows[3]["kernel"], rows[3]["note"]) == ("", "", "reads its input in place")
    assert sum(float(row["us"] or 0) for row in rows[:-1]) == pytest.approx(float(rows[-1]["us"]))


def test_ratios_name_their_baseline():
    ratio = LatencyRatio("b.tflite", "a.tflite", 2, 0.51234, 0.5, 0.525)
    row = ["b.tflite", "2", "a.tflite", "0.512", "0.500 to 0.525"]
    assert cells(latency.format_ratio_table([ratio]), "b.tflite") == row


@pytest.fixture
def network(tmp_path):
    tensors = [tensor(name, [1, 4], "FLOAT32") for name in ("in", "a", "b", "out")]
    operators = [operator("RELU", [0], [1]), operator("LOGISTIC", [1], [2]), operator("RELU", [2], [3])]
    return write(tmp_path / "net.tflite", tensors, operators)


NODES = (
    layer("first", 3.25, "activation", op="LOGISTIC", operators=(0, 1)),  # operator 0 is fused into 1
    layer("second", 0.5, "activation", op="LOGISTIC", operators=(1,)),  # a second kernel of the same operator
    layer("inserted", 9.0, "other", op=None, operators=()),  # by the runtime
    layer("missing", None, "activation", op="RELU", operators=(2,)),
)


def test_times_for_model_explorer_belong_to_operators_by_index(network):
    document = latency.model_explorer_data(profile(*NODES, threads=2), network)
    assert list(document) == ["main"]
    assert document["main"]["results"] == {"1": {"value": 3.75}}
    assert document["main"]["name"].startswith("us, Some CPU, 2 threads, ")
    with pytest.raises(InputError, match="'net_int8.tflite' was only timed as a whole") as caught:
        latency.model_explorer_data(profile(overhead=None), network)
    assert caught.value.argument == "layers"


def test_model_explorer_reads_it(network):
    """Graph and nodes are named as Model Explorer's own TFLite adapter names them."""
    adapter = pytest.importorskip("ai_edge_model_explorer_adapter", reason="Model Explorer is not installed")
    builder = pytest.importorskip("model_explorer.node_data_builder", reason="Model Explorer is not installed")
    ((name, data),) = latency.model_explorer_data(profile(*NODES), network).items()
    results = {key: builder.NodeDataResult(**value) for key, value in data["results"].items()}
    gradient = [builder.GradientItem(**item) for item in data["gradient"]]
    graph = builder.GraphNodeData(results, data["name"], gradient=gradient)
    again = json.loads(builder.ModelNodeData({name: graph}).to_json_string())
    assert data.items() <= again[name].items()
    converted = adapter.ConvertFlatbufferDirectlyToJson(adapter.VisualizeConfig(), str(network))
    (first,) = json.loads(converted)[0]["subgraphs"]
    labels = {node["id"]: node["label"] for node in first["nodes"]}
    assert (first["id"], labels["1"]) == (name, "logistic")
