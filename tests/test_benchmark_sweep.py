"""Grids of single convolutions: their order, their rows, what they show, and how a sweep goes on."""

import dataclasses
import random

import pytest

from keras_nin import InputError
from keras_nin.benchmark import sweep, sweep_results
from keras_nin.benchmark.records import BenchmarkResult, KernelTime, LatencyStatistics, LayerTime, Profile
from keras_nin.benchmark.sweep import ConvLayer, SweepGrid, SweepPoint
from keras_nin.benchmark.sweep_results import SweepRow
from keras_nin.report import comparisons as report
from keras_nin.tflite import reader

HOST = {"cpu": "a processor", "cores": 2, "litert": "2.3.0", "state": {"load_average": 0.5, "governor": None}}
WHO = {"cpu": "a processor", "cores": "2", "litert": "2.3.0", "keras_nin": "0"}
GRID = SweepGrid(size=(4, 6), cin=(8, 16), cout=(7, 8, 9), kernel=(1, 3), scheme=("float32", "int8"), threads=(1, 2))


def point(size=14, cin=64, cout=64, kernel=1, scheme="int8", threads=1):
    return SweepPoint(ConvLayer(size, cin, cout, kernel), scheme, threads)


def rows_of(*rows):
    return {row.point: row for row in rows}


# grids


def test_a_grid_is_every_combination_once():
    points = GRID.points()
    assert len(points) == len(set(points)) == 2 * 2 * 3 * 2 * 2 * 2
    assert points == sorted(points)
    assert SweepGrid((4, 4), (8,), (8,), (1,), ("int8",), (1,)).points() == [
        SweepPoint(ConvLayer(4, 8, 8, 1), "int8", 1)
    ]


def test_macs():
    assert ConvLayer(12, 512, 32, 3).macs == 12 * 12 * 3 * 3 * 512 * 32


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kernel": (1, 2)}, "odd"),
        ({"size": ()}, "size"),
        ({"cin": (0,)}, "cin"),
        ({"cout": (9000,)}, "8192"),
        ({"threads": (True, 1.5)}, "threads"),
        ({"scheme": ("int4",)}, "int4"),
    ],
)
def test_grids_that_make_no_sense(wrong, message):
    with pytest.raises(InputError, match=message):
        SweepGrid(**{"size": (4,), "cin": (8,), "cout": (8,)} | wrong)


@pytest.mark.parametrize(
    ("channels", "multiple"), [(1, 8), (3, 8), (8, 8), (11, 8), (12, 16), (63, 64), (64, 64), (65, 64), (67, 64)]
)
def test_the_multiple_beside_a_channel_count(channels, multiple):
    assert sweep.nearest_aligned(channels) == multiple


def test_what_is_compared_is_in_one_group():
    points = GRID.points()
    sites = sweep.order_sites(points, seed=1)
    groups = [group for site in sites for group in site]
    assert sorted(point for group in groups for point in group) == points
    # 7, 8 and 9 filters and both kernels together; the rest apart.
    assert {len(group) for group in groups} == {3 * 2}
    for group in groups:
        assert len({(each.layer.size, each.layer.cin, each.scheme, each.threads) for each in group}) == 1
    for site in sites:
        assert len({(each.layer.size, each.layer.cin) for group in site for each in group}) == 1


def test_the_order_is_random_and_comes_again():
    points = GRID.points()
    mixed = random.Random(3).sample(points, len(points))
    assert sweep.order_sites(mixed, seed=1) == sweep.order_sites(points, seed=1) != sweep.order_sites(points, seed=2)
    sizes = [site[0][0].layer.size for seed in range(8) for site in sweep.order_sites(points, seed)[:1]]
    assert len(set(sizes)) == 2


# rows


ROW = SweepRow(point(), 12.5, 12.0, 13.0, 7.25, "GEMM, of 64", 100, True, 0.5, 3)
FAILED = SweepRow(point(cout=65), error="Expected a file that runs. Received: 'a,b'\n")


def test_rows_come_back_from_the_file(tmp_path):
    path = tmp_path / "sweep.csv"
    path.write_text(sweep_results.format_sweep_csv([FAILED, ROW], WHO))
    assert sweep_results.read_sweep(path, WHO) == rows_of(ROW, FAILED)
    assert sweep_results.read_sweep(tmp_path / "none.csv", WHO) == {}
    head, first, *_ = path.read_text().splitlines()
    assert head.split(",") == list(sweep_results.CSV_COLUMNS)
    assert first.startswith("14,64,64,1,int8,1,12.5,12,13,7.25,")
    values = dict(zip(head.split(","), first.replace('"GEMM, of 64"', "GEMM").split(","), strict=True))
    assert int(values["macs"]) == 14 * 14 * 64 * 64
    assert float(values["gmacs_per_s"]) == pytest.approx(14 * 14 * 64 * 64 / 7.25 / 1000, rel=1e-5)


@pytest.mark.parametrize("other", [{"cpu": "another"}, {"litert": "2.4.0"}, {"keras_nin": "1"}, {"cores": "4"}])
def test_rows_of_another_machine_are_refused(other, tmp_path):
    path = tmp_path / "sweep.csv"
    path.write_text(sweep_results.format_sweep_csv([ROW], WHO | other))
    with pytest.raises(InputError, match="--force"):
        sweep_results.read_sweep(path, WHO)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "a,b\n1,2\n",
        lambda text: "",
        lambda text: text[:-40],
        lambda text: text.replace("int8,1,12.5", "int8,1,fast"),
        lambda text: text.replace("14,64,64,1", "14,64,64,"),
        lambda text: text + "14,64\n",
    ],
)
def test_a_damaged_file_is_refused(damage, tmp_path):
    path = tmp_path / "sweep.csv"
    path.write_text(damage(sweep_results.format_sweep_csv([ROW], WHO)))
    with pytest.raises(InputError, match="sweep.csv"):
        sweep_results.read_sweep(path, WHO)


# findings


def timed(us, turn=0, kernel_us=None, **where):
    return SweepRow(point(**where), us, us, us, kernel_us, "GEMM", 100, True, 0.5, turn)


def test_kernels_are_compared_with_1x1():
    rows = rows_of(
        timed(10, kernel_us=5), timed(80, kernel_us=50, kernel=3), timed(240, kernel=5),
        timed(9, cout=32, kernel=3), timed(9, turn=1, scheme="float32"), timed(90, turn=2, scheme="float32", kernel=3),
    )  # fmt: skip
    found = sweep_results.compute_kernel_ratios(rows)
    # 32 filters have no 1x1 layer, and what was measured at other times is not compared.
    assert [(each.point.layer.kernel, each.macs, each.time, each.whole) for each in found] == [
        (3, 9, 10.0, 8.0), (5, 25, None, 24.0),
    ]  # fmt: skip


def test_the_cost_of_a_channel():
    rows = rows_of(
        timed(10, kernel_us=6.4), timed(99, kernel_us=6.3, cout=63), timed(13, kernel_us=6.5 * 1.5, cout=65),
        timed(20, cin=60), FAILED,
    )  # fmt: skip
    rows |= rows_of(timed(13, kernel_us=6.5 * 1.5, cout=65))
    found = {(each.axis, each.channels): each.cost for each in sweep_results.compute_alignment_costs(rows)}
    assert found == {
        ("cout", 63): pytest.approx(1.0), ("cout", 65): pytest.approx(1.5), ("cin", 60): pytest.approx(2 * 64 / 60)
    }  # fmt: skip


def test_summaries_and_sentences():
    rows = rows_of(
        *(timed(10, size=size) for size in (7, 14, 28)),
        *(timed(10 * ratio, size=size, kernel=3) for size, ratio in ((7, 6), (14, 8), (28, 13))),
        timed(20, size=7, cout=63),
    )
    (summary,) = sweep_results.summarize_ratios(
        sweep_results.compute_kernel_ratios(rows), lambda each: each.macs, lambda each: each.whole
    )
    assert summary == sweep_results.RatioSummary(9, 3, 8.0, 6.0, 13.0)
    lines = list(sweep_results.format_findings(rows))
    assert lines == [
        "int8, 1 thread, 3x3 against 1x1: 9 times the MACs, 8.0 times the time of a whole run "
        "(median of 3 pairs, 6.0 to 13.0)",
        "int8, 1 thread, 1x1: 1 fewer channels out than a multiple of 8: +103% time for each "
        "(median of 1 pair, +103% to +103%)",
    ]
    assert list(sweep_results.format_findings(rows_of(FAILED))) == []


def test_the_table_shows_all_and_says_where():
    text = report.format_sweep(rows_of(ROW, FAILED), HOST)
    assert "14x14" in text
    assert "a processor, 2 cores, LiteRT 2.3.0" in text
    assert "for latency only" in text
    assert "Not measured: 1x1, 64 to 65 at 14x14, int8: Expected a file that runs" in text
    assert "not known to 1 %" not in text
    assert "1 of 1 medians" in report.format_sweep(rows_of(dataclasses.replace(ROW, converged=False)), HOST)
    document = report.sweep_to_json(rows_of(ROW, FAILED), HOST)
    assert [row["error"] is None for row in document["rows"]] == [True, False]
    assert document["rows"][0]["us"] == {"median": 12.5, "low": 12.0, "high": 13.0}


# sweeping


def profile(path, us):
    times = KernelTime(us, us, us, us)
    layer = LayerTime("conv", "CONV_2D", (0,), "GEMM", "pointwise", None, None, times, None, None, None, 0)
    inserted = dataclasses.replace(layer, name="Copy", kernel="Copy", us=KernelTime(0.5, 0.5, 0.5, 0.5))
    total = LatencyStatistics(us + 2, us, us, us, us, us, us, us)
    fixed = (path.name, "0", 0, HOST, 1, 100, True, total, 0.0, 0.0, 0, 0, "compiled_model")
    return Profile(*fixed, layers=(layer, inserted))


@pytest.fixture
def fake(monkeypatch):
    """Measure nothing and export nothing; the attributes say what was asked for, and which layers are bad."""

    class Fake:
        def __init__(self):
            self.exported, self.groups, self.bad_export, self.bad_file = [], [], None, None

        def export(self, layer, schemes, folder, seed):
            self.exported.append(layer)
            if layer == self.bad_export:
                return dict.fromkeys(((layer, scheme) for scheme in schemes), InputError("no such network"))
            made = {(layer, scheme): folder / f"{layer.kernel}_{layer.cout}_{scheme}.tflite" for scheme in schemes}
            for path in made.values():
                path.write_text(repr(layer))
            return made

        def measure(self, paths, *, threads, seconds, interleave, run):
            assert interleave
            self.groups.append([path.read_text() for path in paths])
            if self.bad_file and repr(self.bad_file) in self.groups[-1]:
                raise InputError("it does not run")
            return BenchmarkResult(HOST, tuple(profile(path, 10.0 * int(path.name.split("_")[0])) for path in paths))

    made = Fake()
    monkeypatch.setattr(sweep, "_export_layer", made.export)
    monkeypatch.setattr(sweep, "measure_files", made.measure)
    return made


def test_a_sweep_measures_every_point_once(fake, tmp_path):
    done = []
    rows = sweep.measure_sweep(GRID.points(), tmp_path / "sweep.csv", WHO, on_group=done.append)
    assert sorted(rows) == GRID.points()
    assert sum(done) == len(rows)
    assert len(fake.exported) == len(set(fake.exported)) == len(rows) / 4
    assert sweep_results.read_sweep(tmp_path / "sweep.csv", WHO) == rows
    assert rows[point(4, 8, 7, 3)].us == 32.0
    assert rows[point(4, 8, 7, 3)].kernel_us == 30.5
    assert rows[point(4, 8, 7, 3)].kernel_name == "GEMM"
    assert len({row.turn for row in rows.values()}) == len(fake.groups)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.csv"]


def test_an_interrupted_sweep_goes_on(fake, tmp_path):
    path, points = tmp_path / "sweep.csv", GRID.points()
    calls = []

    def stop(count):
        calls.append(count)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.measure_sweep(points, path, WHO, on_group=stop)
    kept = sweep_results.read_sweep(path, WHO)
    assert len(kept) == 5 * 6
    assert sum(len(group) for site in sweep.pending_sites(points, kept) for group in site) == len(points) - len(kept)
    rows = sweep.measure_sweep(points, path, WHO, rows=kept)
    assert {key: rows[key] for key in kept} == kept
    assert len(fake.groups) == len(points) / 6
    assert len({row.turn for row in rows.values()}) == len(fake.groups)
    before = path.read_bytes()
    assert sweep.measure_sweep(points, path, WHO, rows=rows) == rows
    assert path.read_bytes() == before
    assert sweep.pending_sites(points, rows) == []


def test_a_larger_grid_measures_whole_groups(fake, tmp_path):
    path = tmp_path / "sweep.csv"
    small = SweepGrid((4,), (8,), (8,), (1,), ("int8",), (1,)).points()
    rows = sweep.measure_sweep(small, path, WHO)
    larger = SweepGrid((4,), (8,), (8,), (1, 3), ("int8",), (1,)).points()
    rows = sweep.measure_sweep(larger, path, WHO, rows=rows)
    # The 1x1 layer is measured again beside the 3x3 layer: only so can they be compared.
    assert {row.turn for row in rows.values()} == {1}
    assert len(sweep_results.compute_kernel_ratios(rows)) == 1


def test_a_point_that_cannot_be_made_or_run_spoils_no_other(fake, tmp_path):
    fake.bad_export, fake.bad_file = ConvLayer(4, 8, 8, 3), ConvLayer(4, 8, 9, 1)
    rows = sweep.measure_sweep(
        SweepGrid((4,), (8,), (7, 8, 9), (1, 3), ("int8",), (1,)).points(), tmp_path / "a.csv", WHO
    )
    assert {point.layer: row.error for point, row in rows.items() if row.error} == {
        fake.bad_export: "no such network", fake.bad_file: "it does not run",
    }  # fmt: skip
    assert len(rows) == 6
    assert sweep_results.read_sweep(tmp_path / "a.csv", WHO) == rows
    assert sweep.pending_sites(list(rows), rows) == []


def test_models_are_the_layers_that_they_are_called(tmp_path):
    layer = ConvLayer(6, 3, 5, 3)
    made = sweep._export_layer(layer, ["float32", "int8"], tmp_path, seed=1)
    assert sorted(made) == [(layer, "float32"), (layer, "int8")]
    for (_, scheme), path in made.items():
        main = reader.read_model(path).main
        (operator,) = main.operators
        assert (operator.op, operator.options["padding"]) == ("CONV_2D", "SAME")
        assert main.tensors[operator.inputs[1]].shape == (5, 3, 3, 3)
        assert [main.tensors[index].dtype for index in (*main.inputs, *main.outputs)] == [scheme] * 2
        assert main.tensors[main.outputs[0]].shape == (1, 6, 6, 5)
    first = made[layer, "float32"].read_bytes()
    assert sweep._export_layer(layer, ["float32"], tmp_path, seed=2)[layer, "float32"].read_bytes() != first
