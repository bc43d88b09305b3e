"""The folder models/ holds what `keras-nin cards` makes of the package's records."""

import json
import pathlib

import pytest

from keras_nin import models
from keras_nin.cli import main
from keras_nin.workflows.reports import format_card, format_cards

FOLDER = pathlib.Path(__file__).parent.parent / "models"


def stale(contents):
    """The files that are not in the folder with this text."""
    paths = {name: FOLDER / name for name in contents}
    return [name for name, path in paths.items() if not path.is_file() or path.read_text() != contents[name]]


@pytest.mark.parametrize("name", ["nin_digits", "squeezenet_v1_1", "conv1x1_3to2"])
def test_a_card_is_up_to_date(name):
    spec, (_, texts) = models.get_spec(name), format_card(name)
    assert stale(texts) == [], "run keras-nin cards"
    assert f"{spec.params:,}" in texts[f"{name}/README.md"]
    assert json.loads(texts[f"{name}/audit.json"])["total"]["macs"] == spec.macs
    assert f"[{name}]({name}/README.md)" in (FOLDER / "README.md").read_text()


def test_bundled_weights_come_with_their_accuracy():
    assert "Top-1 99.16%" in (FOLDER / "nin_digits" / "README.md").read_text()
    assert "not bundled" in (FOLDER / "nin_cifar10_bn" / "README.md").read_text()


def test_a_model_of_the_zoo_can_be_reported(cli, tmp_path):
    assert cli("report", "nin_digits", "-o", "report.html").status == 0
    assert "nin_digits" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("structure_only")
def test_all_cards_are_up_to_date_and_can_be_written(tmp_path, capsys, monkeypatch):
    contents = format_cards()
    assert {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()} == contents.keys()
    assert stale(contents) == [], "run keras-nin cards"
    monkeypatch.setattr("keras_nin.workflows.reports.format_cards", lambda *_: contents)  # once is enough: it is slow
    folder = tmp_path / "cards"
    assert main.run(["cards", "--out", str(folder), "--check"]) == 1
    assert not folder.exists()
    assert main.run(["cards", "--out", str(folder)]) == 0
    assert main.run(["cards", "--out", str(folder), "--check"]) == 0
    (folder / "nin_digits" / "README.md").write_text("old")
    capsys.readouterr()
    assert main.run(["cards", "--out", str(folder), "--check", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["stale"] == ["nin_digits/README.md"]
