"""What a build server needs of every command: errors as JSON, --quiet, limits, a config file, shell completion."""

import json
import os
import subprocess
import sys

import click
import pytest
import report_profiles
from edge_networks import chain

from keras_nin.benchmark.records import BenchmarkResult
from keras_nin.cli import main

NETWORK = "whole.tflite"


@pytest.fixture
def network(tmp_path):
    """A file that the Edge TPU would run whole, in the current folder."""
    return chain(tmp_path / NETWORK, "RELU", "TANH")


# errors under --json


@pytest.mark.parametrize(
    ("words", "status", "fields"),
    [
        ("audit nin_digit --json", 2, {"type": "InputError", "received": "nin_digit"}),
        ("audit nin_digit --format=json", 2, {"received": "nin_digit"}),
        ("edgetpu none.tflite --json", 2, {"path": "none.tflite", "argument": None, "status": None}),
        ("fit whole.tflite --json --require ethosu=fast", 2, {"argument": "require", "received": "ethosu=fast"}),
        ("fit whole.tflite --seconds nan --json", 2, {"type": "BadParameter", "argument": "seconds"}),
        ("micro --json", 2, {"type": "MissingParameter", "argument": "model"}),
        ("list --what --json", 2, {"type": "NoSuchOption"}),
        ("frobnicate --json", 2, {"type": "NoSuchCommand"}),
        ("benchmark none.tflite --json", 2, {"path": "none.tflite"}),
        ("compare-runs a.json b.json --json", 2, {"path": "a.json"}),
        ("evaluate none.tflite --require top1=95% --json", 2, {"path": "none.tflite"}),
        ("verify nin_digits none.tflite --require snr=fast --json", 2, {"argument": "require"}),
        ("export nin_digits --require latency=1 --json", 2, {"argument": "require"}),
        ("sweep --require latency=1 --json", 2, {"argument": "require"}),
    ],
)
@pytest.mark.usefixtures("network")
def test_an_error_is_a_document_on_stdout(cli, words, status, fields):
    ran = cli(*words.split())
    error = ran.json["error"]
    assert list(ran.json) == ["error"]
    assert (ran.status, error["exit_status"]) == (status, status)
    assert ran.err == f"Error: {error['message']}\n"
    assert {"message", "type", "argument", "path", "status", "received", "exit_status"} == set(error)
    assert {name: error[name] for name in fields} == fields
    assert cli(*[word for word in words.split() if "json" not in word or "." in word]).out == ""


def test_an_unexpected_error_too(cli, monkeypatch):
    from keras_nin import models

    monkeypatch.setattr(models, "list_models", lambda: 1 / 0)
    ran = cli("list", "--json")
    assert (ran.status, ran.json["error"]["type"], ran.json["error"]["exit_status"]) == (70, "ZeroDivisionError", 70)


def test_a_file_that_does_not_run_beside_one_that_does(cli, network, tmp_path):
    (tmp_path / "bad.tflite").write_bytes(network.read_bytes()[:300])
    ran = cli("benchmark", NETWORK, "bad.tflite", "--runs", 3, "--no-layers", "--json")
    assert ran.status == 2
    assert [each["file"] for each in ran.json["results"]] == [NETWORK]
    assert [failure["path"] for failure in ran.json["failures"]] == ["bad.tflite"]
    assert cli("benchmark", "bad.tflite", "--runs", 3, "--json").json["error"]["path"] == "bad.tflite"


# --quiet


@pytest.mark.usefixtures("network")
def test_quiet_leaves_errors_and_failed_checks(cli):
    ran = cli("edgetpu", NETWORK, "--require", "full", "--quiet")
    assert (ran.status, ran.out, ran.err) == (0, "", "")
    ran = cli("fit", NETWORK, "--targets", "edgetpu", "-q", "--require", "flash=1B,edgetpu=full")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("whole.tflite: flash ")
    assert ran.err.count("\n") == 1
    assert cli("fit", NETWORK, "--targets", "edgetpu", "-q", "--json").json["results"]
    assert cli("audit", NETWORK, "-q", "--markdown").out == ""
    assert cli("edgetpu", "none.tflite", "-q").err.startswith("Error: ")
    ran = cli("report", NETWORK, "-o", "page.html", "-q")
    assert (ran.status, ran.out, ran.err) == (0, "", "")


def test_every_command_has_it():
    for name in main.COMMANDS:
        command = main.cli.get_command(click.Context(main.cli), name)
        assert {"quiet", "debug"} <= {param.name for param in command.params}, name


# limits in every command that has some


def test_limits_of_a_benchmark(cli, network):
    ran = cli("benchmark", NETWORK, "--runs", 3, "--no-layers", "--require", "latency=1s,p90=0.000001us", "--json")
    assert ran.status == 1
    assert [(check["item"], check["passed"]) for check in ran.json["checks"]] == [("latency", True), ("p90", False)]
    assert ran.err.startswith("whole.tflite on 1 thread: p90 ")
    ran = cli("benchmark", NETWORK, "--runs", 3, "--no-layers", "--require", "latency=1s")
    assert (ran.status, ran.out.rstrip().endswith("limit at most 1,000.000 ms: pass")) == (0, True)


def test_limits_of_a_comparison_are_those_of_max_regression(cli, tmp_path):
    for name, us in (("a", 100.0), ("b", 110.0)):
        profile = report_profiles.profile()
        total = profile.total.__class__(**{**vars(profile.total), "median": us, "low": us - 1, "high": us + 1})
        document = BenchmarkResult(report_profiles.HOST, (profile.__class__(**{**vars(profile), "total": total}),))
        (tmp_path / f"{name}.json").write_text(json.dumps(document.to_json()))
    ran = cli("compare-runs", "a.json", "b.json", "--require", "regression=5%", "--json")
    (check,) = ran.json["checks"]
    assert (ran.status, check["passed"], round(check["value"], 3)) == (1, False, 0.1)
    assert cli("compare-runs", "a.json", "b.json", "--max-regression", "5%").status == 1
    assert cli("compare-runs", "a.json", "b.json", "--require", "regression=20%").status == 0
    assert "to give what regression is at most" in cli("compare-runs", "a.json", "b.json", "--require",
                                                       "regression=5%..").err  # fmt: skip


def test_limits_of_a_verification(cli, digits_export):
    file = digits_export / "nin_digits_int8.tflite"
    limits = "top1_match=95%,snr=30dB,top1_drop=1pp,flash=100KiB,rms=100LSB"
    ran = cli("verify", "nin_digits", file, "--test-count", 40, "--require", limits, "--require", "max_error=0.5LSB")
    assert ran.status == 1
    lines = [line for line in ran.out.splitlines() if "limit at" in line]
    assert [line.endswith(": pass") for line in lines] == [True] * 5 + [False]
    assert "max_error" in lines[-1]
    ran = cli("evaluate", file, "--test-count", 40, "--require", "top1=90%,top5=100%", "--json")
    assert [check["item"] for check in ran.json["checks"]] == ["top1", "top5"]
    assert ran.json["checks"][0]["value"] == ran.json["top1"]


def test_what_is_not_measured_does_not_pass(cli, digits_export):
    file = digits_export / "nin_digits_float32.tflite"
    ran = cli("verify", "nin_digits", file, "--weights", "random", "--test-count", 10, "--require", "top1_match=0%")
    assert ran.status == 1
    assert "top1_match unknown, limit at least 0%: FAIL, unknown (not checked: " in ran.out


# the config file


@pytest.mark.usefixtures("network")
def test_limits_from_the_nearest_pyproject(cli, tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text(
        '[tool.keras-nin.fit]\ntargets = ["edgetpu"]\nrequire = ["flash=1B", "edgetpu=full"]\n[tool.other]\nx = 1\n'
    )
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    monkeypatch.chdir(inner)
    ran = cli("fit", "../whole.tflite", "--json")
    assert (ran.status, ran.json["targets"]) == (1, ["edgetpu"])
    assert [check["passed"] for check in ran.json["checks"]] == [False, True]
    ran = cli("fit", "../whole.tflite", "--require", "flash=1MiB", "--json")  # the command line's instead
    assert (ran.status, ran.json["targets"], len(ran.json["checks"])) == (0, ["edgetpu"], 1)
    (inner / "ci.toml").write_text('[edgetpu]\nrequire = "full"\nmultiple_subgraphs = true\n')
    ran = cli("--config", "ci.toml", "edgetpu", "../whole.tflite", "--json")
    assert (ran.status, ran.json["multiple_subgraphs"], len(ran.json["checks"])) == (0, True, 1)
    assert len(cli("edgetpu", "../whole.tflite", "--json").json.get("checks", [])) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[fitt]\n", "Expected commands of keras-nin in 'ci.toml'. Received: 'fitt'. Did you mean fit"),
        (
            "[fit]\nrequires = 1\n",
            "Expected options of keras-nin fit in 'ci.toml'. Received: 'requires'. Did you mean ",
        ),
        ("[fit]\nmodels = 'a'\n", "Received: 'models'"),
        ("[fit]\njson = true\n", "Received: 'json'"),
        ("fit = 1\n", "Expected a table of options as 'fit' in 'ci.toml'. Received: 1"),
        ("[fit]\nallow-float = 1\n", "Expected --allow-float in 'ci.toml' as true or false. Received: 1"),
        ("[fit]\nthreads = true\n", "Expected --threads in 'ci.toml' as text, a number or a list of them"),
        ("[fit]\nthreads = 0\n", "Invalid value for '--threads': 0 is not in the range x>=1. ('ci.toml')"),
        (
            "[fit]\nrequire = 'cpu'\n",
            "Expected --require as ITEM=LIMIT, such as cpu=500us. Received: 'cpu' ('ci.toml')",
        ),
        ("[fit\n", "Expected a TOML file. Received: 'ci.toml': "),
        (None, "Expected a readable file. Received: 'ci.toml'"),
    ],
)
@pytest.mark.usefixtures("network")
def test_a_config_that_is_none(cli, tmp_path, text, message):
    if text is not None:
        (tmp_path / "ci.toml").write_text(text)
    ran = cli("--config", "ci.toml", "fit", NETWORK)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert message in ran.err
    assert cli("--config", "ci.toml", "fit", "--help").status == 0


@pytest.mark.usefixtures("network")
def test_options_of_exports_do_not_apply_to_files(cli, tmp_path):
    (tmp_path / "ci.toml").write_text('[edgetpu]\ncalibration = "random"\ncalibration-count = 8\n')
    assert cli("--config", "ci.toml", "edgetpu", NETWORK).status == 0
    assert cli("--config", "ci.toml", "edgetpu", NETWORK, "--calibration", "random").status == 2


# shell completion


def test_bash_completes_commands_and_options(tmp_path):
    script = tmp_path / "keras-nin"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m keras_nin "$@"\n')
    script.chmod(0o755)
    lines = ['eval "$(_KERAS_NIN_COMPLETE=bash_source keras-nin)"']
    for words in ("keras-nin bench", "keras-nin fit --req", "keras-nin export --io in", "keras-nin audit nin_d"):
        count = len(words.split()) - 1
        lines += [
            f"COMP_WORDS=({words}); COMP_CWORD={count}; COMPREPLY=(); _keras_nin_completion keras-nin",
            'echo "${COMPREPLY[@]}"',
        ]
    lines.append("COMP_WORDS='keras-nin fit some/f' COMP_CWORD=2 _KERAS_NIN_COMPLETE=bash_complete keras-nin")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ran = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, env=environment)
    assert ran.stdout.splitlines() == ["benchmark", "--require", "int8", "nin_digits", "file,some/f"], ran.stderr
