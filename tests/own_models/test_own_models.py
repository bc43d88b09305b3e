"""Eleven networks of users through nine commands, with the results that docs/guides/your_own_model.md shows."""

import pathlib
import tomllib

import pytest

COMMANDS = ("audit", "export", "verify", "benchmark", "edgetpu", "ethosu", "micro", "fit", "report")
EXPECTED = tomllib.loads(pathlib.Path(__file__).with_name("expected.toml").read_text())
QUICK = {"audio"}  # also in the default tier, but for the commands that need an extra
EXTRAS = {"ethosu", "micro", "report"}


def marks_of(name, command=None):
    """Return the pytest marks of a case."""
    return () if name in QUICK and command not in EXTRAS else pytest.mark.slow


def describe(command, model):
    """Return the result of a command in a few words, as expected.toml has it."""
    status, out, err = model.run(command)
    if status == 2:
        return f"refused: {err.removeprefix('Error: ').strip()}"
    assert status in (0, 1), err
    return globals()[f"describe_{command}"](model)


def describe_audit(model):
    total = model.document("audit")["total"]
    return f"{total['params']:,} params, {total['macs']:,} MACs"


def describe_export(model):
    files = model.document("export")["files"]
    assert [file["scheme"] for file in files] == ["float32", "int8"]
    assert not any(file["float_operators"] for file in files)
    return ", ".join(f"{file['scheme']} {describe_parity(file['parity'])}" for file in files)


def describe_verify(model):
    document = model.document("verify")
    layers = [layer["layer"] for layer in document["layers"] if layer["snr_db"] is not None]
    assert document["worst_layer"] in layers
    assert model.name == "recurrent" or len(layers) > len(document["layers"]) / 2  # the others are parts of a layer
    return describe_parity(document["parity"])


def describe_parity(parity):
    failed = [check["name"] for check in parity["checks"] if not check["passed"]]
    return f"FAIL: {', '.join(failed)}" if failed else "pass"


def describe_benchmark(model):
    (result,) = model.document("benchmark")["results"]
    macs = sum(layer["macs"] or 0 for layer in result["layers"])
    strangers = [layer["kernel"] for layer in result["layers"] if not layer["joined"]]
    return f"{macs:,} MACs" + (f", without a layer: {', '.join(strangers)}" if strangers else "")


def describe_edgetpu(model):
    document = model.document("edgetpu")
    if document["failure"]:
        return f"does not compile: {document['failure']['message']}"
    return f"{document['total']['mapped']} of {document['total']['operators']}"


def describe_ethosu(model):
    (result,) = model.document("ethosu")["results"]
    cpu = {layer["op"] for layer in result["layers"] if layer["target"] not in ("NPU", "none")}
    return "all on the NPU" if not cpu else f"on the CPU: {', '.join(sorted(cpu))}"


def describe_micro(model):
    document = model.document("micro")
    if document["arena"] is None:
        return f"does not run: {document['finding']['kind']}"
    difference = document["comparison"]["max_abs_diff"]  # in places the kernels of the two runtimes round differently
    return f"{len(document['operators'])} kernels, outputs {'equal' if difference <= 1 else 'differ'}"


def describe_fit(model):
    checks = model.document("fit")["checks"]
    failed = [check["item"] for check in checks if check["verdict"] != "pass"]
    return f"FAIL: {', '.join(failed)}" if failed else "pass"


def describe_report(model):
    status, _, err = model.run("report")
    assert status == 0, err
    page = (model.folder / "report.html").read_text()
    assert f"{model.name}_int8" in page
    return "one page"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        pytest.param(name, command, marks=marks_of(name, command))
        for name in EXPECTED
        for command in COMMANDS
        if command in EXPECTED[name]
    ],
)
def test_a_network_of_a_user(own_model, name, command):
    model = own_model(name, tuple(EXPECTED[name].get("options", "").split()))
    assert describe(command, model) == EXPECTED[name][command]


@pytest.mark.parametrize("name", [pytest.param(n, marks=marks_of(n)) for n in EXPECTED if "verify" in EXPECTED[n]])
def test_it_learned(own_model, name):
    assert own_model(name, tuple(EXPECTED[name].get("options", "").split())).learned > 0.25
