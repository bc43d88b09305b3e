"""One session builds, trains and exports each of the networks once; all commands read those files."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parent
FIT_LIMITS = "edgetpu=full,flash=1MiB"
REPORT_LIMITS = f"{FIT_LIMITS},arena=256KiB,ethosu=50ms"
TARGETS = ("benchmark", "edgetpu", "ethosu", "micro", "fit")  # whose results a report shows


@dataclasses.dataclass
class OwnModel:
    """A network in a folder of its own, and what the commands print of it as JSON."""

    name: str
    folder: pathlib.Path
    options: tuple[str, ...] = ()  # what this network needs: --import, --preprocessing
    learned: float = 0.0
    results: dict[str, tuple[int, str, str]] = dataclasses.field(default_factory=dict)

    def words(self, command: str) -> list[str]:
        """Return the words of a command on the command line."""
        model, data, file = f"{self.name}.keras", f"{self.name}.npz", f"exported/{self.name}_int8.tflite"
        imports = [word for option, word in zip(self.options, self.options[1:], strict=False) if option == "--import"]
        imports = [word for path in imports for word in ("--import", path)]
        outputs = [f"{target}.json" for target in TARGETS]
        return {
            "audit": ["audit", model, *imports],
            "export": ["export", model, "--calibration", data, "--runs", "20", *self.options],
            "verify": ["verify", model, file, "--data", data, "--per-layer", *imports],
            "benchmark": ["benchmark", file, "--runs", "20"],
            "edgetpu": ["edgetpu", file],
            "ethosu": ["ethosu", file, "--require", "time=50ms"],
            "micro": ["micro", file, "--require", "arena=256KiB"],
            "fit": ["fit", file, "--targets", "cpu,edgetpu", "--seconds", "0.05", "--require", FIT_LIMITS],
            "report": ["report", file, *outputs, "--out", "report.html", "--require", REPORT_LIMITS],
        }[command]

    def run(self, command: str) -> tuple[int, str, str]:
        """Return exit status, stdout and stderr of a command, run once."""
        if command not in self.results:
            self.results[command] = self._run(command)
        return self.results[command]

    def _run(self, command: str) -> tuple[int, str, str]:
        from keras_nin.cli import main

        if command == "report":
            for target in TARGETS:
                self.run(target)
        elif command not in ("audit", "export"):
            self.run("export")
        words = self.words(command) + (["--json"] if command != "report" else [])
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(io.StringIO()) as out:
            with contextlib.redirect_stderr(io.StringIO()) as err:
                status = main.run(words)
            pathlib.Path(f"{command}.json").write_text(out.getvalue())
        return status, out.getvalue(), err.getvalue()

    def document(self, command: str) -> dict:
        """Return what a command prints as JSON."""
        return json.loads(self.run(command)[1])


@pytest.fixture(scope="session")
def own_model(tmp_path_factory):
    """A function that returns the `OwnModel` of a name."""
    models = {}

    def get(name: str, options: tuple[str, ...] = ()) -> OwnModel:
        if name not in models:
            import networks

            folder = tmp_path_factory.mktemp(name)
            learned = networks.write(name, folder)
            os.symlink(FOLDER / "custom.py", folder / "custom.py")
            models[name] = OwnModel(name, folder, options, learned)
        return models[name]

    return get
