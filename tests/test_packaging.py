"""What is installed, and what an import loads."""

import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SLOW_PACKAGES = ("keras", "tensorflow", "sklearn", "ai_edge_litert", "tf_keras")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "exported", "runs", "*.egg-info")
    shutil.copytree(ROOT, folder / "tree", ignore=ignored)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "tree"]
    subprocess.run(command, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_only_the_package_is_installed(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"keras_nin"}


def test_weights_and_their_metrics_are_installed(wheel):
    names = set(wheel.namelist())
    assert "keras_nin/models/weights/nin_digits.digits.weights.h5" in names
    assert "keras_nin/models/weights/nin_digits.digits.json" in names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "keras_nin").rglob("*.py")}
    assert modules <= names


def test_the_templates_of_the_report_are_installed(wheel):
    templates = (ROOT / "keras_nin" / "report" / "html" / "templates").iterdir()
    assert {str(path.relative_to(ROOT)) for path in templates} <= set(wheel.namelist())


def test_the_command_and_the_licence_are_installed(wheel):
    names = wheel.namelist()
    entry_points = next(name for name in names if name.endswith("entry_points.txt"))
    assert "keras-nin = keras_nin.cli.main:main" in wheel.read(entry_points).decode()
    assert any(name.endswith("LICENSE") for name in names)


def test_shipped_weights_are_small():
    assert sum(path.stat().st_size for path in (ROOT / "keras_nin" / "models" / "weights").iterdir()) < 1_000_000


def loaded_by(code):
    """Return the names of the slow packages that running `code` in a new process loads."""
    check = f"{code}\nimport sys; print(','.join(p for p in {SLOW_PACKAGES} if p in sys.modules))"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    return out.splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "import keras_nin; keras_nin.models.list_models(); keras_nin.data.list_datasets(); keras_nin.export.SCHEMES",
        "from keras_nin.cli import main\nfor words in (['--help'], ['export', '--help'], ['list']): main.run(words)",
        "from keras_nin.tflite import graph",
    ],
)
def test_what_needs_no_framework_loads_none(code):
    assert loaded_by(code) == ""


def test_the_check_above_can_fail():
    assert loaded_by("import sklearn") == "sklearn"


def test_running_a_file_loads_no_framework():
    assert loaded_by("from keras_nin.tflite import run; run.host()") == ""


@pytest.mark.parametrize("words", [["--help"], ["export", "--help"]])
def test_help_loads_little(words):
    """Help takes under 0.3 s, which benchmarks/startup.py measures, as long as it loads no numerical package."""
    code = f"import sys; from keras_nin.cli import main; main.run({words}); print('numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False"


@pytest.mark.parametrize("script", ["to_tflite.py", "to_edgetpu.py", "verify.py", "benchmark.py"])
def test_scripts_are_the_commands(script):
    path = ROOT / "export" / script
    out = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=True).stdout
    assert out.startswith(f"Usage: {script} ")
    code = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(code) <= 10
