"""`keras-nin claims`."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import speed_samples

from keras_nin import claims, data
from keras_nin.claims import catalog, equalities
from keras_nin.claims.claim import ClaimResult
from keras_nin.cli import main


@dataclasses.dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _no_timing(monkeypatch):
    speed_samples.use(monkeypatch)


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        status = main.run(["claims", *map(str, words)])
        return Ran(status, *capsys.readouterr())

    return run


def test_text(cli):
    ran = cli("robaita-params", "paperspace-speed", "robaita-params")
    assert (ran.status, ran.err) == (0, "")
    heads = [line for line in ran.out.splitlines() if line and not line.startswith(" ")]
    assert heads[:-1] == ["robaita-params: holds", "paperspace-speed: does not hold"]
    assert heads[-1] == "2 claims (holds: 1, does not hold: 1). Every declared figure is reproduced."


def test_without_an_id_all_claims(cli, monkeypatch):
    """How each is reproduced is tested in `test_claims`."""
    monkeypatch.setattr(
        catalog,
        "reproduce_claim",
        lambda claim, training: ClaimResult(claim.id, claim.source, claim.text, claim.why, ()),
    )
    document = json.loads(cli("--json").out)
    assert document["schema"] == "keras_nin.claims/1"
    assert [row["id"] for row in document["claims"]] == claims.list_claims()


def test_markdown(cli):
    ran = cli("robaita-params", "--markdown")
    assert ran.status == 0
    assert ran.out.splitlines()[2].startswith("| robaita-params |")


def test_a_claim_that_is_refuted_is_no_failure_but_a_regression_is(cli, monkeypatch):
    assert cli("robaita-nonlinearity").status == 0
    row = claims.get_claim("robaita-nonlinearity")
    wrong = tuple(dataclasses.replace(figure, ours=7) if figure.ours == 16 else figure for figure in row.figures)
    monkeypatch.setitem(catalog.CLAIMS, row.id, dataclasses.replace(row, figures=wrong))
    ran = cli("robaita-params", "robaita-nonlinearity")
    assert ran.status == 1
    assert "Not reproduced: robaita-nonlinearity." in ran.out


@pytest.mark.slow
@pytest.mark.wide
def test_the_picture(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(equalities, "_MASK_STEPS", 2)  # what they lead to is tested in `test_plots`
    monkeypatch.setattr(equalities, "train_soft_mask", equalities.train_soft_mask.__wrapped__)
    words = ("demystified-softconv", "--plot", "new/maps.png")
    assert cli(*words).status == 0
    made = (tmp_path / "new" / "maps.png").read_bytes()
    assert made.startswith(b"\x89PNG")
    assert cli(*words).status == 0  # the same file again
    ran = cli(*words, "--image", "new/maps.png")
    assert (ran.status, ran.out) == (2, "")
    assert "--force" in ran.err
    assert (tmp_path / "new" / "maps.png").read_bytes() == made
    assert cli(*words, "--image", "new/maps.png", "--force").status == 0
    assert (tmp_path / "new" / "maps.png").read_bytes() != made


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["robaita-parms"], "Did you mean robaita-params"),
        (["--json", "--markdown"], "--json and --markdown exclude each other"),
        (["robaita-params", "--epochs", "3"], "--epochs is for the trained figures; add --train"),
        (["robaita-params", "--train"], "--train is for paperspace-head and paperspace-relu"),
        (["paperspace-head", "--train", "--epochs", "0"], "epochs"),
        (["paperspace-head", "--train", "--data", "nowhere"], "known name"),
        (["robaita-params", "--plot", "a.png"], "--plot draws the claim demystified-softconv"),
        (["--image", "a.png"], "--image is the photograph of the figure"),
        (["--plot", "a.jpg"], "--plot to name a .png file"),
        (["--plot", "file/a.png"], "is not writable"),
        (["demystified-softconv", "--plot", "a.png", "--image", "none.png"], "readable file"),
        (["demystified-softconv", "--plot", "a.png", "--image", "file"], "readable image"),
    ],
)
def test_bad_input(cli, tmp_path, words, message):
    (tmp_path / "file").write_text("no folder, no image")
    ran = cli(*words)
    assert ran.status == 2
    assert message in (json.loads(ran.out)["error"]["message"] if "--json" in words else ran.err)
    assert "--json" in words or (ran.out, ran.err.count("\n")) == ("", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unknown_id_is_refused_before_keras_starts():
    code = (
        "import sys; from keras_nin.cli import main\n"
        "assert main.run(['claims', 'nope']) == 2\n"
        "sys.exit(' '.join({'keras', 'tensorflow', 'sklearn'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.slow
def test_train(cli):
    arrays, source = {}, data.open_dataset("digits")
    for split, count in (("train", 100), ("test", 40)):
        chosen = source.select(split, count)
        arrays |= {f"x_{split}": source.images[chosen], f"y_{split}": source.labels[chosen]}
    np.savez("set.npz", **arrays)
    ran = cli("paperspace-head", "--train", "--data", "set.npz", "--epochs", 1, "--seeds", 1, "--json")
    assert (ran.status, ran.err) == (0, "")
    (row,) = json.loads(ran.out)["claims"]
    assert any("test accuracy" in figure["name"] and figure["ours"] for figure in row["figures"])
