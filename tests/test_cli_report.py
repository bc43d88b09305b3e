"""`keras-nin report`: what it reads, what it writes, and what it refuses in one line."""

import dataclasses
import json
import subprocess
import sys

import pytest
import report_profiles
import tflite_writer

from keras_nin import figures, files
from keras_nin.benchmark import comparison

SIDECAR = {
    "schema": "keras_nin.export_file/1", "file": "net.tflite", "sha256": "", "bytes": 1000, "model": "net",
    "weights": "random (seed 0)", "scheme": "int8",
    "calibration": {"source": "random", "count": 10, "latency_only": True},
    "parity": {
        "source": "digits", "images": 10, "lsb": 0.1, "max_abs_diff_lsb": None, "rms_diff_lsb": 0.1, "top1_match": 0.9,
        "model_top1": None, "file_top1": None, "model_top5": None, "file_top5": None, "passed": False,
        "checks": [{"name": "max_abs_diff_lsb", "value": None, "limit": 0.06, "passed": False}],
    },
}  # fmt: skip


@pytest.fixture
def net(tmp_path):
    """A .tflite file of one 1x1 convolution, its export's record and a benchmark of it."""
    tensors = [
        tflite_writer.tensor("input", (1, 4, 4, 8), "FLOAT32"),
        tflite_writer.tensor("kernel", (16, 1, 1, 8), "FLOAT32", 1),
        tflite_writer.tensor("output", (1, 4, 4, 16), "FLOAT32"),
    ]
    path = tmp_path / "net.tflite"
    options = {"options": "Conv2DOptions", "strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
    tflite_writer.write(path, tensors, [tflite_writer.operator("CONV_2D", [0, 1], [2], **options)])
    sha256 = files.sha256(path.read_bytes())
    path.with_suffix(".json").write_text(json.dumps(SIDECAR | {"sha256": sha256}))
    profile = report_profiles.profile("net.tflite", sha256, peaks=report_profiles.PEAKS)
    document = report_profiles.benchmark(profile).to_json() | {"warnings": ["the machine is busy"]}
    (tmp_path / "bench.json").write_text(json.dumps(document))
    return path


@pytest.mark.slow
def test_a_file_its_record_and_its_benchmark_are_one_section(cli, net, tmp_path):
    ran = cli("report", net, "bench.json", "-o", "new/report.html", "--plot", "plots")
    assert (ran.status, ran.out) == (0, "")
    page = (tmp_path / "new" / "report.html").read_text()
    assert page.count("<h2") == 2  # all files, the file
    for text in (
        "pointwise",
        '<span class="outcome bad">FAIL',
        "not finite",
        "weights: random (seed 0)",
        "the machine is busy",
    ):
        assert text in page
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == [f"1_net_1t_{plot}.png" for plot in ("layers", "roofline", "shares")]


def test_limits_decide_the_exit_status_and_the_page_is_written(cli, net, tmp_path):
    words = ("report", net, "bench.json", "-o", "report.html", "--title", "Gate <camera>", "--force")
    ran = cli(*words, "--require", "cpu=1s", "--require", "flash=1MiB")
    assert (ran.status, ran.out, ran.err) == (0, "", "written: report.html\n")
    page = (tmp_path / "report.html").read_text()
    assert "<title>Gate &lt;camera&gt;</title>" in page
    assert "<h1>Gate &lt;camera&gt;</h1>" in page
    assert "1 of 1 file within all limits" in page
    ran = cli(*words, "--require", "cpu=1us,top1=90%")
    assert ran.status == 1
    assert "net.tflite (1 thread, Test CPU): cpu" in ran.err
    assert "net.tflite: top1 unknown, limit at least 90%: FAIL, unknown (not measured" in ran.err
    assert "0 of 1 file within all limits" in (tmp_path / "report.html").read_text()


def test_another_page_is_replaced_with_force_alone(cli, net, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    ran = cli("report", net, "-o", "report.html")
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert "--force" in ran.err
    assert (tmp_path / "report.html").read_text() == "mine"
    assert cli("report", net, "-o", "report.html", "--force").status == 0
    assert cli("report", net, "-o", "report.html").status == 0  # the same page again


def test_a_record_of_another_file_is_not_taken_for_it(cli, net, tmp_path):
    net.with_suffix(".json").write_text(json.dumps(SIDECAR | {"sha256": "00"}))
    assert cli("report", net, "-o", "report.html").status == 0
    assert "Parity" not in (tmp_path / "report.html").read_text()


def test_what_audit_prints_can_be_reported(cli, net, tmp_path):
    (tmp_path / "audit.json").write_text(cli("audit", net, "--json").out)
    assert cli("report", "audit.json", "-o", "report.html").status == 0
    page = (tmp_path / "report.html").read_text()
    assert "Audit" in page
    assert "2,048 MACs" in page  # 4 x 4 x 8 x 16


def test_a_comparison_and_a_sweep_are_sections_of_their_own(cli, tmp_path):
    from keras_nin.benchmark import sweep_results
    from keras_nin.benchmark.sweep import ConvLayer, SweepPoint

    benchmark = report_profiles.benchmark()
    compared = comparison.compare_runs(benchmark, benchmark).to_json()
    (tmp_path / "runs.json").write_text(json.dumps(compared))
    points = [SweepPoint(ConvLayer(7, 8, 8, kernel), "int8", 1) for kernel in (1, 3)]
    rows = [sweep_results.SweepRow(point, 5.0 * point.layer.kernel, kernel_us=3.0, runs=100) for point in points]
    (tmp_path / "sweep.csv").write_text(
        sweep_results.format_sweep_csv(rows, sweep_results.identify_machine(report_profiles.HOST))
    )
    assert cli("report", "runs.json", "sweep.csv", "-o", "report.html", "--plot", "plots").status == 0
    page = (tmp_path / "report.html").read_text()
    assert "Before and after" in page
    assert "Sweep: sweep.csv" in page
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["1_sweep_sweep.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a JSON file"),
        ("[]", "without a schema"),
        ('{"schema": "keras_nin.weights/1"}', "of the schema 'keras_nin.weights/1'"),
        ('{"schema": 7}', "without a schema"),
        ('{"schema": "keras_nin.benchmark/1", "host": {}, "results": [{}], "warnings": []}', "damaged"),
        ('{"schema": "keras_nin.benchmark/1", "host": [], "results": [], "warnings": []}', "damaged"),
        ('{"schema": "keras_nin.audit/1", "model": "a", "rows": 3}', "damaged"),
        ('{"schema": "keras_nin.export/1"}', "damaged"),
        ("[" * 100_000, "a JSON file"),
    ],
)
def test_what_is_no_result_is_refused_in_one_line(cli, tmp_path, content, message):
    (tmp_path / "given.json").write_text(content)
    ran = cli("report", "given.json", "-o", "report.html")
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert message in ran.err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.json", "-o", "a.html"], "readable file"),
        (["none.tflite", "-o", "a.html"], "readable file"),
        (["none.csv", "-o", "a.html"], "readable file"),
        (["file.csv", "-o", "a.html"], "sweep"),
        (["nin_digit", "-o", "a.html"], "Did you mean nin_digits"),
        (["file.csv"], "Pass --out for an HTML page, --plot for a folder"),
        (["file.csv", "-o", "a.txt"], "--out to name a .html file"),
        (["file.csv", "-o", "file.csv/a.html"], "is not writable"),
        (["file.csv", "--plot", "file.csv"], "is not writable"),
        (["audit.json", "--plot", "plots"], "--plot needs a benchmark with layers"),
        (["audit.json", "-o", "a.html", "--require", "cpu=1ms"], "--require limits files, and the report has none"),
        (["audit.json", "-o", "a.html", "--require", "time=1ms"], "Expected --require"),
    ],
)
def test_bad_use_is_refused_in_one_line(cli, tmp_path, words, message):
    (tmp_path / "file.csv").write_text("a,b\n1,2\n")
    document = report_profiles.audit().to_json()
    (tmp_path / "audit.json").write_text(json.dumps(document))
    ran = cli("report", *words)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert message in ran.err


def test_help_and_files_need_neither_keras_nor_tensorflow(net):
    code = (
        "import sys; from keras_nin.cli import main\n"
        "assert main.run(['report', '--help']) == 0\n"
        "assert not {'matplotlib', 'numpy', 'jinja2', 'keras'} & set(sys.modules)\n"
        f"assert main.run(['report', {str(net)!r}, '-o', {str(net.parent / 'r.html')!r}]) == 0\n"
        "sys.exit(' '.join({'keras', 'tensorflow', 'sklearn', 'matplotlib.pyplot'} & set(sys.modules)) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_profiles_that_differ_in_the_threads_have_plots_of_their_own(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "render_png", lambda figure: b"a picture")  # drawn, but not written as PNG: it is slow
    first = report_profiles.profile()
    both = report_profiles.benchmark(first, dataclasses.replace(first, threads=2))
    (tmp_path / "b.json").write_text(json.dumps(both.to_json()))
    assert cli("report", "b.json", "--plot", "p").status == 0
    assert len(list((tmp_path / "p").iterdir())) == 4
