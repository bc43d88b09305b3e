"""Grids of single convolutions: their order, their rows, what they show, and how a sweep continues."""

import random

import pytest
from latency_records import HOST, layer
from latency_records import profile as make_profile

from keras_nin.benchmark import BenchmarkResult, sweep
from keras_nin.benchmark import sweep_results as results
from keras_nin.benchmark.sweep import SweepGrid, measure_sweep, pending_sites
from keras_nin.benchmark.sweep_results import ConvLayer, SweepPoint, SweepRow, format_sweep_csv, read_sweep
from keras_nin.errors import InputError
from keras_nin.tflite.reader import read_model

MACHINE = {"cpu": "a processor", "cores": "2", "litert": "2.3.0", "keras_nin": "0"}
GRID = SweepGrid(size=(4, 6), cin=(8, 16), cout=(7, 8, 9), kernel=(1, 3), scheme=("float32", "int8"), threads=(1, 2))


def point(size=14, cin=64, cout=64, kernel=1, scheme="int8", threads=1):
    return SweepPoint(ConvLayer(size, cin, cout, kernel), scheme, threads)


def by_point(*rows):
    return {row.point: row for row in rows}


def test_a_grid_is_every_combination_once():
    points = GRID.points()
    assert len(points) == len(set(points)) == 2 * 2 * 3 * 2 * 2 * 2
    assert points == sorted(points)
    assert SweepGrid((4, 4), (8,), (8,), (1,), ("int8",), (1,)).points() == [point(4, 8, 8)]
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
    with pytest.raises(InputError, match=message) as caught:
        SweepGrid(**{"size": (4,), "cin": (8,), "cout": (8,)} | wrong)
    assert caught.value.argument == next(iter(wrong))


def test_the_nearest_multiple_of_a_channel_count():
    nearest = {1: 8, 3: 8, 8: 8, 11: 8, 12: 16, 63: 64, 64: 64, 65: 64, 67: 64}
    assert {channels: results.nearest_aligned(channels) for channels in nearest} == nearest


def test_what_is_compared_is_in_one_group():
    points = GRID.points()
    sites = pending_sites(points, {}, seed=1)
    groups = [group for site in sites for group in site]
    assert sorted(point for group in groups for point in group) == points
    # 7, 8 and 9 filters and both kernels together; the rest apart.
    assert {len(group) for group in groups} == {3 * 2}
    for group in groups:
        assert len({(p.layer.size, p.layer.cin, p.scheme, p.threads) for p in group}) == 1
    for site in sites:
        assert len({(p.layer.size, p.layer.cin) for group in site for p in group}) == 1


def test_the_order_is_random_and_reproducible():
    points = GRID.points()
    mixed = random.Random(3).sample(points, len(points))
    assert pending_sites(mixed, {}, seed=1) == pending_sites(points, {}, seed=1) != pending_sites(points, {}, seed=2)
    sizes = [site[0][0].layer.size for seed in range(8) for site in pending_sites(points, {}, seed)[:1]]
    assert len(set(sizes)) == 2


# Rows.

ROW = SweepRow(point(), 12.5, 12.0, 13.0, 7.25, "GEMM, of 64", 100, True, 0.5, 3)
FAILED = SweepRow(point(cout=65), error="Expected a file that runs. Received: 'a,b'\"")


def test_rows_come_back_from_the_file(tmp_path):
    path = tmp_path / "sweep.csv"
    path.write_text(format_sweep_csv([FAILED, ROW], MACHINE))
    assert read_sweep(path, MACHINE) == by_point(ROW, FAILED)
    assert read_sweep(tmp_path / "none.csv", MACHINE) == {}
    head, first, *_ = path.read_text().splitlines()
    assert head.split(",") == list(results.CSV_COLUMNS)
    assert first.startswith("14,64,64,1,int8,1,12.5,12,13,7.25,")
    values = dict(zip(head.split(","), first.replace('"GEMM, of 64"', "GEMM").split(","), strict=True))
    assert int(values["macs"]) == 14 * 14 * 64 * 64
    assert float(values["gmacs_per_s"]) == pytest.approx(14 * 14 * 64 * 64 / 7.25 / 1000, rel=1e-5)


@pytest.mark.parametrize("name", ["cpu", "litert", "keras_nin", "cores"])
def test_rows_of_another_machine_are_refused(name, tmp_path):
    path = tmp_path / "sweep.csv"
    path.write_text(format_sweep_csv([ROW], MACHINE | {name: "other"}))
    with pytest.raises(InputError, match="`force`"):
        read_sweep(path, MACHINE)


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
    path.write_text(damage(format_sweep_csv([ROW], MACHINE)))
    with pytest.raises(InputError, match="sweep.csv"):
        read_sweep(path, MACHINE)


# Findings.


def timed(us, turn=0, kernel_us=None, **where):
    return SweepRow(point(**where), us, us, us, kernel_us, "GEMM", 100, True, 0.5, turn)


def test_kernels_are_compared_with_1x1():
    rows = by_point(
        timed(10, kernel_us=5), timed(80, kernel_us=50, kernel=3), timed(240, kernel=5),
        timed(9, cout=32, kernel=3), timed(9, turn=1, scheme="float32"), timed(90, turn=2, scheme="float32", kernel=3),
    )  # fmt: skip
    ratios = results.compute_kernel_ratios(rows)
    # 32 filters have no 1x1 layer, and what was measured at other times is not compared.
    assert [(ratio.point.layer.kernel, ratio.macs, ratio.time, ratio.whole) for ratio in ratios] == [
        (3, 9, 10.0, 8.0), (5, 25, None, 24.0),
    ]  # fmt: skip


def test_the_cost_of_a_channel():
    rows = by_point(
        timed(10, kernel_us=6.4), timed(99, kernel_us=6.3, cout=63), timed(13, kernel_us=6.5 * 1.5, cout=65),
        timed(20, cin=60),
    )  # fmt: skip
    costs = {(cost.axis, cost.channels): cost.cost for cost in results.compute_alignment_costs(rows)}
    assert costs == {
        ("cout", 63): pytest.approx(1.0), ("cout", 65): pytest.approx(1.5), ("cin", 60): pytest.approx(2 * 64 / 60)
    }  # fmt: skip


def test_findings_in_words():
    rows = by_point(
        *(timed(10, size=size) for size in (7, 14, 28)),
        *(timed(10 * ratio, size=size, kernel=3) for size, ratio in ((7, 6), (14, 8), (28, 13))),
        timed(20, size=7, cout=63),
    )
    assert list(results.format_findings(rows)) == [
        "int8, 1 thread, 3x3 vs 1x1: 9 times the MACs, 8.0 times the time of a whole run "
        "(median of 3 pairs, 6.0 to 13.0)",
        "int8, 1 thread, 1x1: 1 output channel fewer than a multiple of 8: +103% time per channel "
        "(median of 1 pair, +103% to +103%)",
    ]
    assert list(results.format_findings(by_point(FAILED))) == []


# Measuring.


class Fake:
    """Measures and exports nothing; the attributes say what was asked for, and which layers are bad."""

    def __init__(self):
        self.exported, self.groups, self.bad_export, self.bad_file = [], [], None, None

    def export_layer(self, layer, schemes, folder, seed):
        self.exported.append(layer)
        if layer == self.bad_export:
            raise InputError("no such network")
        paths = {scheme: folder / f"{layer.kernel}_{layer.cout}_{scheme}.tflite" for scheme in schemes}
        for path in paths.values():
            path.write_text(repr(layer))
        return paths

    def measure_files(self, paths, *, threads, seconds, interleave, run):
        assert interleave
        self.groups.append([path.read_text() for path in paths])
        if self.bad_file and repr(self.bad_file) in self.groups[-1]:
            raise InputError("it does not run")
        profiles = (profile(10.0 * int(path.name.split("_")[0])) for path in paths)
        return BenchmarkResult(HOST, tuple(profiles))

    def sweep(self, points, path, **options):
        return measure_sweep(points, path, MACHINE, export_layer=self.export_layer, **options)


def profile(us):
    return make_profile(layer("conv", us, kernel="GEMM"), layer("Copy", 0.5, kernel="Copy"), overhead=1.5)


@pytest.fixture
def fake(monkeypatch):
    fake = Fake()
    monkeypatch.setattr(sweep, "measure_files", fake.measure_files)
    return fake


def test_a_sweep_measures_every_point_once(fake, tmp_path):
    done = []
    rows = fake.sweep(GRID.points(), tmp_path / "sweep.csv", on_group=done.append)
    assert sorted(rows) == GRID.points()
    assert sum(done) == len(rows)
    assert len(fake.exported) == len(set(fake.exported)) == len(rows) / 4
    assert read_sweep(tmp_path / "sweep.csv", MACHINE) == rows
    row = rows[point(4, 8, 7, 3)]
    assert (row.us, row.kernel_us, row.kernel_name) == (32.0, 30.5, "GEMM")
    assert len({row.turn for row in rows.values()}) == len(fake.groups)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.csv"]


def test_an_interrupted_sweep_continues(fake, tmp_path):
    path, points = tmp_path / "sweep.csv", GRID.points()
    calls = []

    def stop(count):
        calls.append(count)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fake.sweep(points, path, on_group=stop)
    kept = read_sweep(path, MACHINE)
    assert len(kept) == 5 * 6
    assert sum(len(group) for site in pending_sites(points, kept) for group in site) == len(points) - len(kept)
    rows = fake.sweep(points, path, rows=kept)
    assert {key: rows[key] for key in kept} == kept
    assert len(fake.groups) == len(points) / 6
    assert len({row.turn for row in rows.values()}) == len(fake.groups)
    before = path.read_bytes()
    assert fake.sweep(points, path, rows=rows) == rows
    assert path.read_bytes() == before
    assert pending_sites(points, rows) == []


def test_a_larger_grid_measures_whole_groups(fake, tmp_path):
    path = tmp_path / "sweep.csv"
    rows = fake.sweep(SweepGrid((4,), (8,), (8,), (1,), ("int8",), (1,)).points(), path)
    rows = fake.sweep(SweepGrid((4,), (8,), (8,), (1, 3), ("int8",), (1,)).points(), path, rows=rows)
    # The 1x1 layer is measured again beside the 3x3 layer: only so can they be compared.
    assert {row.turn for row in rows.values()} == {1}
    assert len(results.compute_kernel_ratios(rows)) == 1


def test_a_point_that_cannot_be_exported_or_run_spoils_no_other(fake, tmp_path):
    fake.bad_export, fake.bad_file = ConvLayer(4, 8, 8, 3), ConvLayer(4, 8, 9, 1)
    rows = fake.sweep(SweepGrid((4,), (8,), (7, 8, 9), (1, 3), ("int8",), (1,)).points(), tmp_path / "a.csv")
    assert {point.layer: row.error for point, row in rows.items() if row.error} == {
        fake.bad_export: "no such network", fake.bad_file: "it does not run",
    }  # fmt: skip
    assert len(rows) == 6
    assert read_sweep(tmp_path / "a.csv", MACHINE) == rows
    assert pending_sites(list(rows), rows) == []


@pytest.mark.slow
def test_exported_layers_are_the_layers_they_are_called(tmp_path):
    from keras_nin.workflows.sweep import export_layer

    layer = ConvLayer(6, 3, 5, 3)
    paths = export_layer(layer, ["float32", "int8"], tmp_path, seed=1)
    for scheme, path in paths.items():
        main = read_model(path).main
        (operator,) = main.operators
        assert (operator.op, operator.options["padding"]) == ("CONV_2D", "SAME")
        assert main.tensors[operator.inputs[1]].shape == (5, 3, 3, 3)
        assert [main.tensors[index].dtype for index in (*main.inputs, *main.outputs)] == [scheme] * 2
        assert main.tensors[main.outputs[0]].shape == (1, 6, 6, 5)
    first = paths["float32"].read_bytes()
    assert export_layer(layer, ["float32"], tmp_path, seed=2)["float32"].read_bytes() != first
    assert list(paths) == ["float32", "int8"]
