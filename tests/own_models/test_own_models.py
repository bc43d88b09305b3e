"""Twelve networks of users through nine commands, with the results that docs/guides/your_own_model.md shows."""

import pathlib
import tomllib
from html.parser import HTMLParser

import pytest
from tiers import WIDE

from keras_nin.formatting import format_bytes, format_percent, format_us

COMMANDS = ("audit", "export", "verify", "benchmark", "edgetpu", "ethosu", "micro", "fit", "report")
EXPECTED = tomllib.loads(pathlib.Path(__file__).with_name("expected.toml").read_text())
EXTRAS = {"ethosu", "micro", "report"}
LARGE = {"nested_mobilenet", "mobilenet_96", "recurrent"}  # most of the time of all; their parts are tested elsewhere
# The extras are wide: files with the operators of other networks, and one whose 251 operators take longest.
FEW_COMMANDS = {"augmented_cnn", "regression", "subclassed", "custom_layers", "recurrent"}


def marks_of(name, command=None):
    """Return the pytest marks of a case."""
    if name in LARGE or (name in FEW_COMMANDS and command in EXTRAS):
        return WIDE
    return pytest.mark.slow


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


class FirstTable(HTMLParser):
    """The table of all files of a report: its rows of cells, each a list of lines; the first row are the headings."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.inside = ("class", "comparison") in attributes if tag == "table" else self.inside
        if self.inside and tag == "tr":
            self.rows.append([])
        elif self.inside and tag in ("th", "td"):
            self.rows[-1].append([])
        if self.inside and tag in ("th", "td", "span", "small"):
            self.rows[-1][-1].append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "table"

    def handle_data(self, text):
        if self.inside and self.rows and self.rows[-1] and text.strip():
            self.rows[-1][-1][-1] = f"{self.rows[-1][-1][-1]} {' '.join(text.split())}".strip()

    def cells(self):
        """The lines of each cell of the only file by the heading of the column."""
        headings, row = self.rows
        return {heading[0]: [line for line in lines if line] for heading, lines in zip(headings, row, strict=True)}


def figures_of_report(model):
    """Return what the other commands print of a file, as the first table of the report has it."""
    commands = ("export", "benchmark", "edgetpu", "ethosu", "micro", "fit")
    export, benchmark, edgetpu, ethosu, micro, fit = map(model.document, commands)
    verdicts = {
        check["item"]: "pass" if check["passed"] else "FAIL"
        for document in (fit, micro, ethosu)
        for check in document["checks"]
    }
    parity = export["files"][1]["parity"]
    top1 = parity["file_top1"]
    mapped = describe_edgetpu(model) if edgetpu["failure"] is None else "does not compile"
    return {
        "File": f"{model.name}_int8",
        "Size": f"{verdicts['flash']} {format_bytes(fit['results'][0]['file_bytes'])}",
        **({} if top1 is None else {"Top-1": format_percent(top1)}),
        "Latency": format_us(benchmark["results"][0]["total"]["us"]["median"]),
        "Edge TPU": f"{verdicts['edgetpu']} {mapped}",
        "Arena": f"{verdicts['arena']} {format_bytes(micro['arena']['bytes'])}",
        "Ethos-U": f"{verdicts['time']} {ethosu['results'][0]['us'] / 1000:,.3f} ms",
    }


def describe_report(model):
    figures, (status, _, err) = figures_of_report(model), model.run("report")
    cells = FirstTable((model.folder / "report.html").read_text()).cells()
    assert {heading: cells[heading][0] for heading in figures} == figures, err
    parity = model.document("export")["files"][1]["parity"]
    assert cells["Top-1" if "Top-1" in cells else "Scores"][1].endswith(f"parity {describe_parity(parity)[:4]}")
    verdict = cells["File"][1]
    assert verdict.startswith("FAIL" if status else "pass")
    return verdict


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
