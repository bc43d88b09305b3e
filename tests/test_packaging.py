"""What is installed, and what an import loads."""

import ast
import pathlib
import re
import runpy
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
    templates = (ROOT / "keras_nin" / "report" / "templates").iterdir()
    assert {str(path.relative_to(ROOT)) for path in templates} <= set(wheel.namelist())


def test_the_command_and_the_license_are_installed(wheel):
    names = wheel.namelist()
    entry_points = next(name for name in names if name.endswith("entry_points.txt"))
    assert "keras-nin = keras_nin.cli.main:main" in wheel.read(entry_points).decode()
    assert any(name.endswith("LICENSE") for name in names)


def test_shipped_weights_are_small():
    size = sum(path.stat().st_size for path in (ROOT / "keras_nin" / "models" / "weights").iterdir())
    assert size < 7 * 2**20  # of the 8 MiB that the wheel may have


CORE = {
    "ai_edge_litert": "ai-edge-litert",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "tensorflow_model_optimization": "tensorflow-model-optimization",
}
# What is imported where it is needed, with an error that names the extra, what comes with TensorFlow, and what is
# imported where Keras runs on it.
OPTIONAL = {"litert_converter": "litert", "pandas": "notebook", "tflite_micro": "micro"}
WITH_TENSORFLOW = {"ml_dtypes"}
OTHER_BACKENDS = {"jax", "torch"}


def imported_packages():
    """Return the top-level packages that keras_nin imports, other than the standard library's and itself."""
    packages = set()
    for path in (ROOT / "keras_nin").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                packages |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                packages.add(str(node.module).split(".")[0])
    return packages - set(sys.stdlib_module_names) - {"keras_nin"}


def test_what_is_imported_is_required_or_an_extra(wheel):
    """CI installs all extras: a package that only tests require would be missing after `pip install keras-nin`."""
    metadata = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    lines = [line for line in wheel.read(metadata).decode().splitlines() if line.startswith("Requires-Dist: ")]
    required = {
        re.split(r"[^A-Za-z0-9_.-]", line.split(": ")[1])[0].lower() for line in lines if "extra ==" not in line
    }
    others = set(OPTIONAL) | WITH_TENSORFLOW | OTHER_BACKENDS
    imported = {CORE.get(name, name).lower() for name in imported_packages() - others}
    assert imported <= {name.replace("-", "_") for name in required} | required
    for name in OPTIONAL.values():
        assert any(f'extra == "{name}"' in line for line in lines)


def test_type_checkers_see_the_annotations(wheel):
    assert "keras_nin/py.typed" in wheel.namelist()


def run(code):
    """Run code in a new process and return the last line that it prints."""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return out.splitlines()[-1]


@pytest.mark.parametrize(
    ("code", "packages"),
    [
        (
            "import keras_nin; keras_nin.list_models(); keras_nin.data.list_datasets(); keras_nin.export.SCHEMES",
            SLOW_PACKAGES,
        ),
        ("from keras_nin.tflite import reader, runner; from keras_nin.tflite.host import describe_host", SLOW_PACKAGES),
        ("from keras_nin.cli import main; main.run(['list'])", (*SLOW_PACKAGES, "numpy")),
        # Help takes under 0.15 s, which benchmarks/startup.py measures, as long as it loads little.
        (
            "from keras_nin.cli import main\nfor words in (['--help'], ['export', '--help']): main.run(words)",
            (*SLOW_PACKAGES, "numpy", "fractions", "tempfile", "keras_nin.files", "keras_nin.limits"),
        ),
    ],
    ids=["package", "tflite", "list", "help"],
)
def test_what_needs_no_framework_loads_none(code, packages):
    check = f"{code}\nimport json, sys\nprint('json' in sys.modules, [p for p in {packages} if p in sys.modules])"
    assert run(check) == "True []"


@pytest.mark.parametrize("script", ["to_tflite.py", "to_edgetpu.py", "verify.py", "benchmark.py"])
def test_scripts_are_the_commands(script, monkeypatch, capsys):
    path = ROOT / "export" / script
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(f"Usage: {script} ")
    code = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(code) <= 10
