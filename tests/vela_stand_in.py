"""A stand-in for Vela: it answers with files that Vela 5.2.0 wrote for the int8 export of nin_digits."""

import pathlib
import sys

from keras_nin.edge.ethosu import vela

RECORDED = pathlib.Path(__file__).parent / "vela_nin_digits"
COMPILED = b"the compiled file"
# The layers of nin_digits with the MACs that the audit counts, and the cycles that Vela expects on ethos-u55-128.
MACS = {
    "mlpconv1_conv3x3": 8 * 8 * 48 * 9,
    "mlpconv1_conv1x1a": 8 * 8 * 48 * 32,
    "mlpconv1_conv1x1b": 8 * 8 * 32 * 24,
    "mlpconv2_conv3x3": 4 * 4 * 24 * 48 * 9,
    "mlpconv2_conv1x1a": 4 * 4 * 48 * 48,
    "mlpconv2_conv1x1b": 4 * 4 * 48 * 48,
    "mlpconv3_conv3x3": 2 * 2 * 48 * 64 * 9,
    "mlpconv3_conv1x1a": 2 * 2 * 64 * 64,
    "mlpconv3_conv1x1b": 2 * 2 * 64 * 10,
}
_START = """
import json, os, pathlib, shutil, sys, time
with open({calls!r}, "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1:] == ["--version"]:
    print({version!r})
    sys.exit()
recorded = pathlib.Path({recorded!r})

def answer(database=None):
    shutil.copytree(recorded, "out")
    pathlib.Path("out/network_vela.tflite").write_bytes({compiled!r})
    if database is not None:
        pathlib.Path("out/network_debug.xml").write_text(database)
    print((recorded / "log.txt").read_text())

"""


def install(folder, monkeypatch, body="answer()", version="5.2.0"):
    """Make a script of Python code the Vela that is found; return the path of the JSON lines of its calls."""
    calls = folder / "calls"
    script = folder / "vela.py"
    known = {"calls": str(calls), "version": version, "recorded": str(RECORDED), "compiled": COMPILED}
    script.write_text(_START.format(**known) + body)
    monkeypatch.setattr(vela, "_command", lambda: [sys.executable, str(script)])
    return calls


def exported(folder):
    """Export nin_digits to int8, and return the path of the file."""
    from keras_nin import data, export, models

    model = models.build("nin_digits", weights="digits")
    images = data.load("digits")
    calibration = images.images[images.select("calibration", 20)] / 255
    made = export.export(model, "int8", calibration.astype("float32"), name="nin_digits")
    return made.save(folder)
