"""`keras-nin sweep`."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from keras_nin.benchmark import single_operators, sweep_results
from keras_nin.tflite.host import describe_host
from keras_nin.workflows import sweep as workflow

SMALL = ("sweep", "--size", "4", "--cin", "8", "--cout", "7,8", "--scheme", "float32", "--seconds", "0.02")


@pytest.mark.slow
def test_a_sweep_from_grid_to_picture(cli, tmp_path):
    ran = cli(*SMALL, "--plot", "new/sweep.png", "--json")
    assert ran.status == 0
    rows = ran.json["rows"]
    assert ran.json["schema"] == "keras_nin.sweep/1"
    assert ran.json["host"]["litert"] == describe_host()["litert"]
    assert len(rows) == 2 * 2
    for row in rows:
        assert row["error"] is None
        assert row["us"]["median"] > 0
        assert row["runs"] > 0
        assert row["macs"] == 4 * 4 * 8 * row["cout"] * row["kernel"] ** 2
    assert any("3x3 vs 1x1: 9 times the MACs" in line for line in ran.json["findings"])
    assert any("1x1: 1 output channel fewer than a multiple of 8" in line for line in ran.json["findings"])
    assert (tmp_path / "new" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    before = (tmp_path / "sweep.csv").read_bytes()
    again = cli(*SMALL)
    assert (again.status, again.err) == (0, "nothing to do: all points are in sweep.csv\n")
    assert (tmp_path / "sweep.csv").read_bytes() == before
    assert "GMAC/s" in again.out


@pytest.fixture
def quick_export(monkeypatch):
    """Let layers be written as files of one operator, without Keras and the converter."""

    def export_layer(layer, schemes, folder, seed):
        paths = {scheme: folder / f"{layer.kernel}_{layer.cin}_{layer.cout}_{scheme}.tflite" for scheme in schemes}
        for path in paths.values():
            path.write_bytes(single_operators.build_matmul(layer.size**2, layer.cin, layer.cout, "float32"))
        return paths

    monkeypatch.setattr(workflow, "export_layer", export_layer)
    monkeypatch.setattr("keras_nin.workflows.backends.start_keras", lambda progress: None)


def test_the_next_call_goes_on(cli, tmp_path, quick_export):
    words = ("sweep", "--size", "4", "--cin", "8", "--cout", "8", "--kernel", "1", "--seconds", "0.02")
    assert cli(*words, "--scheme", "float32").status == 0
    first = sweep_results.read_sweep(tmp_path / "sweep.csv", sweep_results.identify_machine(describe_host()))
    ran = cli(*words, "--scheme", "float32,int8")
    assert "continued: 1 of 2 points were in sweep.csv" in ran.err
    rows = sweep_results.read_sweep(tmp_path / "sweep.csv", sweep_results.identify_machine(describe_host()))
    assert len(rows) == 2
    assert rows.items() >= first.items()


def test_rows_of_another_machine_are_not_mixed(cli, tmp_path, quick_export):
    path = tmp_path / "sweep.csv"
    words = ("sweep", "--size", "4", "--cin", "8", "--cout", "8", "--kernel", "1", "--scheme", "float32")
    content = (
        sweep_results.format_sweep_csv([], {}) + "4,8,8,1,float32,1,5,,,4,GEMM,9,True,0,0,,1,1,another,2,2.3.0,0\n"
    )
    path.write_text(content)
    ran = cli(*words)
    assert (ran.status, ran.out) == (2, "")
    assert "another" in ran.err
    assert path.read_text() == content
    assert cli(*words, "--force", "--seconds", "0.02").status == 0
    assert "another" not in path.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "7,x"], "positive numbers"),
        (["--kernel", "2"], "to be odd"),
        (["--scheme", "int4"], "float32, int8"),
        (["--cin", "100000"], "8192"),
        (["--out", "sweep.txt"], ".csv"),
        (["--plot", "sweep.jpg"], ".png"),
        (["--out", "file/sweep.csv"], "is not writable"),
        (["--seconds", "nan"], "number"),
        (["--out", "other.csv"], "other columns"),
    ],
)
def test_bad_input(cli, tmp_path, words, message):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    ran = cli("sweep", *words)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other.csv"]


def test_bad_input_is_refused_before_keras_starts():
    code = (
        "import sys; from keras_nin.cli import main\n"
        "assert main.run(['sweep', '--kernel', '2']) == 2\n"
        "sys.exit(' '.join({'keras', 'tensorflow', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.wide
def test_an_interrupt_keeps_what_was_measured(cli, tmp_path):
    words = ["sweep", "--size", "4,5", "--cin", "8", "--cout", "8", "--kernel", "1"]
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "keras_nin", *words, "--seconds", "2"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # What runs these tests in the background lets them ignore it, and so their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    path = tmp_path / "sweep.csv"
    end = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, errors
    assert b"repeat the command to continue sweep.csv" in errors
    rows = sweep_results.read_sweep(path, sweep_results.identify_machine(describe_host()))
    assert 0 < len(rows) < 4
    assert [each.name for each in tmp_path.iterdir()] == ["sweep.csv"]
    done = cli(*words, "--seconds", "0.02", "--json")
    assert done.status == 0, done.err
    made = done.json["rows"]
    assert len(made) == 4
    assert {row.us for row in rows.values()} <= {row["us"]["median"] for row in made}
