"""The `keras-nin` command: its help, how it maps arguments to options, and how it ends."""

import dataclasses
import inspect
import os
import pathlib
import signal
import subprocess
import sys

import click
import pytest
from edge_networks import chain
from tiers import by_tier

import keras_nin
from keras_nin import InputError, files
from keras_nin.cli import main, options, output

COMMANDS = list(main.COMMANDS)


def command(name):
    return main.cli.get_command(click.Context(main.cli), name)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_the_command_accepts(cli, name):
    ran = cli(name, "--help")
    assert ran.status == 0
    example = command(name).epilog.removeprefix("Example: ").split()
    assert f"Example: {' '.join(example)}" in " ".join(ran.out.split())  # long ones are wrapped
    assert example[:2] == ["keras-nin", name]
    command(name).make_context(name, example[2:])
    assert "--debug" in ran.out


@pytest.mark.parametrize("name", COMMANDS)
def test_options_have_one_name_in_every_command(name):
    flags = {flag for param in command(name).params for flag in param.opts}
    assert not flags & {"--time-limit", "--png", "--budget", "--min-agreement"}


def test_no_command_shows_the_help(cli):
    ran = cli()
    assert ran.status == 2
    assert "Usage: keras-nin" in ran.out
    assert all(f"\n  {name} " in ran.out for name in COMMANDS)


def test_help_loads_no_framework():
    code = (
        "import sys; from keras_nin.cli import main\n"
        f"for name in {COMMANDS!r}: assert main.run([name, '--help']) == 0\n"
        "assert not {'numpy', 'fractions', 'keras_nin.files', 'keras_nin.workflows.inputs'} & set(sys.modules)\n"
        "assert main.run(['list']) == 0 and main.run(['audit', 'nope']) == 2\n"
        "assert main.run(['sweep', '--kernel', '2']) == 2 and main.run(['claims', 'nope']) == 2\n"
        "slow = {'keras', 'tensorflow', 'sklearn', 'ai_edge_litert', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {slow}' if slow else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_commands_on_files_import_no_network_and_no_images(tmp_path):
    """They take under 0.4 s, which benchmarks/startup.py measures, as long as they load neither NumPy nor the zoo."""
    path = str(chain(tmp_path / "net.tflite", "RELU", "TANH"))
    code = (
        "import sys; from keras_nin.cli import main\n"
        f"for words in (['audit'], ['check'], ['compare', {path!r}], ['edgetpu']): main.run([*words, {path!r}])\n"
        "zoo = [f'keras_nin.{name}' for name in ('models.registry', 'data.dataset', 'export.parity', 'keras_graph')]\n"
        "slow = {'keras', 'tensorflow', 'ai_edge_litert', 'numpy', 'subprocess', *zoo} & set(sys.modules)\n"
        "sys.exit(f'loaded: {slow}' if slow else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert all(text in ran.stdout for text in ("TANH", "no problems", "on the Edge TPU"))


def test_version(cli):
    ran = cli("--version")
    assert ran.status == 0
    assert ran.out.startswith("keras-nin, version ")


@pytest.mark.skipif(os.name != "posix", reason="pipes as POSIX has them")
def test_a_reader_that_stops_early():
    code = "from keras_nin.cli import main; main.main(['list'])"
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, "")


# the process: its streams, its signals, its folder and its disk


def python(code, *, folder=None, **options):
    """Run the command line in a process of its own, which closes or fills what `code` says first."""
    prelude = "import os, resource, signal, sys, time; from keras_nin.cli.main import main\n"
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    command = [sys.executable, "-c", prelude + code]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, **options)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this machine has no /dev/full")
@pytest.mark.parametrize(("words", "line"), [
    pytest.param("list", "Error: Expected an output that can be written to. Received: No space left on device\n",
                 marks=pytest.mark.slow),
    ("audit nope.tflite --json", "Error: Expected a readable file. Received: 'nope.tflite' (No such"
     " file or directory)\n"),
])  # fmt: skip
def test_a_full_disk_under_stdout(words, line, tmp_path):
    ran = python(f"os.dup2(os.open('/dev/full', os.O_WRONLY), 1); main({words.split()})", folder=tmp_path)
    assert (ran.returncode, ran.stderr) == (2, line)


@pytest.mark.skipif(os.name != "posix", reason="standard streams as POSIX has them")
def test_closed_standard_streams(tmp_path):
    """What opens next must not take their numbers, and what captures output finds no stream."""
    path = chain(tmp_path / "net.tflite", "RELU")
    checks = (
        "import io; sys.stdin = sys.stdout = sys.stderr = None\n"
        "from keras_nin.output_capture import capture_output; from keras_nin.cli import main as cli\n"
        f"cli._open_missing_streams(); opened = os.open({str(path)!r}, os.O_RDONLY); assert opened > 2\n"
        "with capture_output() as captured: os.write(1, b'x')\n"
        f"assert captured.text == 'x' and cli.run(['audit', {str(path)!r}]) == 0 and cli.run(['audit', 'nope']) == 2"
    )
    assert python(f"[os.close(number) for number in range(3)]\n{checks}").returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("number", by_tier(("SIGINT", "SIGTERM", "SIGHUP"), default=("SIGTERM",)))
def test_signals_end_a_command_in_one_line_and_nothing_stays(number, tmp_path):
    """Also where the signal comes in a callback of the garbage collector, out of which no exception gets."""
    code = (
        "import click, gc; from keras_nin import files\n"
        f"signal.signal(signal.{number}, signal.default_int_handler if {number!r} == 'SIGINT' else signal.SIG_DFL)\n"
        f"sent = []\n"
        f"def collected(phase, _): sent or (sent.append(1), os.kill(os.getpid(), signal.{number}))\n"
        "@click.command()\ndef work():\n"
        "  with files.temporary_folder():\n"
        "    gc.callbacks.append(collected); exec('gc.collect(); time.sleep(5)')\n"
        "main([], work)"
    )
    ran = python(f"os.environ['TMPDIR'] = {str(tmp_path)!r}\n{code}")
    word = "interrupted" if number == "SIGINT" else "terminated"
    assert (ran.returncode, ran.stderr.strip()) == (128 + getattr(signal, number), f"Error: {word}")
    assert os.listdir(tmp_path) == []


def test_a_working_directory_that_was_removed(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    ran = python("os.rmdir(os.getcwd()); main(['list'])", folder=folder)
    assert (ran.returncode, ran.stderr) == (2, "Error: The working directory no longer exists. Change to another one\n")


def test_no_folder_for_temporary_files(monkeypatch):
    def refuse():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", refuse)
    with pytest.raises(InputError, match="for temporary files .* Set TMPDIR"), files.temporary_folder():
        pass


@pytest.mark.parametrize(("error", "line"), [
    (OSError(30, "Read-only file system", "/a"), "Error: Expected access to '/a'. Received: Read-only file system\n"),
    (OSError(28, "No space left on device"),
     "Error: Expected an output that can be written to. Received: No space left on device\n"),
])  # fmt: skip
def test_disks_and_folders_are_the_caller_s(failing, error, line):
    assert failing(error) == (2, line)


def test_a_truncated_file_is_no_interrupt(failing):
    status, err = failing(EOFError("Compressed file ended"))
    assert status == 70
    assert "Error: unexpected EOFError: Compressed file ended" in err


# errors


@pytest.fixture
def failing(capsys):
    """A function that runs a command which raises an exception, and returns its status and stderr."""

    def run(error, *words):
        @click.command("fail", cls=options.Command)
        @click.option("--test-count", type=int)
        @click.option("--data", "test")
        @click.argument("model", required=False)
        def fail(**_):
            raise error

        status = main.run(list(words), fail, "fail")
        return status, capsys.readouterr().err

    return run


def test_errors_name_options_not_arguments(failing):
    error = InputError("Pass `test` and `test_count` for `model`, not `other`.\n  In one line.", argument="test")
    assert failing(error) == (2, "Error: Pass --data and --test-count for MODEL, not `other`. In one line.\n")


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError(), OSError(5, "no")])
def test_an_unexpected_exception_is_one_line_and_status_70(failing, error):
    status, err = failing(error)
    assert (status, err.count("\n")) == (70, 1)
    assert err.startswith(f"Error: unexpected {type(error).__name__}")
    assert err.endswith("Run it again with --debug for the traceback\n")
    status, err = failing(error, "--debug")
    assert status == 70
    assert "Traceback (most recent call last)" in err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c(failing, error):
    status, err = failing(error)
    assert (status, err.strip()) == (130, "Error: interrupted")


def test_errors_while_options_are_read_name_options_too(cli):
    ran = cli("export", "nin_digits", "--preprocessing", "cafe")
    assert ran.status == 2
    assert ran.err.startswith(
        "Error: Expected --preprocessing to be a known name. Received: 'cafe'. Did you mean caffe"
    )


# output


def test_progress_is_shown_on_a_terminal_alone(capfd, monkeypatch):
    progress = output.TerminalProgress()

    def work():
        assert list(progress.track(range(3), "Counting", 3)) == [0, 1, 2]
        with progress.task("Working") as update:
            if update is not None:
                update("Still working")
        progress.epochs("net", 2)(1, dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), 0.5))

    work()
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    work()
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "0 s: Counting" in shown.err
    assert "net: epoch 1/2: loss 0.5000" in shown.err


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["a=1", "b-c=ceil"], {"a": 1, "b_c": "ceil"}),
        (["a=true", "b=none", "c=x,y", "d=(1, 2)"], {"a": True, "b": None, "c": ["x", "y"], "d": (1, 2)}),
    ],
)
def test_arguments_of_a_builder(words, arguments):
    option = click.Option(["--set", "builder_arguments"])
    assert options.parse_builder_arguments(click.Context(main.cli), option, words) == arguments


LIBRARY = {
    "audit": "audit_model", "compare": "compare_models", "export": "export_model", "verify": "verify_model",
    "evaluate": "evaluate_model", "train": "train_model", "benchmark": "benchmark_models",
    "sweep": "sweep_convolutions", "edgetpu": "check_edgetpu", "ethosu": "estimate_ethosu", "micro": "measure_micro",
    "fit": "check_fit", "import-weights": "import_weights", "claims": "check_claims", "report": "build_report",
}  # fmt: skip


OWN_DEFAULTS = {
    ("export", "scheme"): None,
    ("export", "out"): "exported",
    ("ethosu", "accelerators"): ("ethos-u55-128",),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_defaults_are_those_of_the_library(name):
    """A default of an option is that of the function or record that takes the value."""
    parameters = inspect.signature(getattr(keras_nin, LIBRARY[name])).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters}
    for record in (keras_nin.Tuning, keras_nin.ParityLimits):
        defaults |= {field.name: field.default for field in dataclasses.fields(record)}
    example = command(name).epilog.removeprefix("Example: ").split()
    with command(name).make_context(name, example[2:]) as context:
        for parameter, value in context.params.items():
            if parameter in defaults and value not in ((), {}) and not options.is_set(context, parameter):
                assert value == OWN_DEFAULTS.get((name, parameter), defaults[parameter]), parameter


def test_only_the_command_line_imports_the_command_line():
    root = pathlib.Path(main.__file__).parents[1]
    sources = [path for path in root.rglob("*.py") if path.parent.name != "cli" and path.name != "__main__.py"]
    assert [path for path in sources if "keras_nin.cli" in path.read_text()] == []
