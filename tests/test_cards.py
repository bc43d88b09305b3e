"""The shelf holds what `keras-nin cards` makes of the package's records."""

import json
import pathlib

import pytest

from keras_nin import models
from keras_nin.cli import main
from keras_nin.cli.models import build_cards

SHELF = pathlib.Path(__file__).parent.parent / "models"


@pytest.fixture(scope="module")
def made():
    return build_cards()


def test_the_shelf_is_up_to_date(made):
    there = {str(path.relative_to(SHELF)): path.read_text() for path in SHELF.rglob("*") if path.is_file()}
    assert there.keys() == made.keys()
    stale = [name for name, text in made.items() if there[name] != text]
    assert stale == [], "run keras-nin cards"


def test_every_model_has_a_card_and_an_audit(made):
    for name in models.list_models():
        spec = models.get_spec(name)
        assert f"{spec.params:,}" in made[f"{name}/README.md"]
        assert f"[{name}]({name}/README.md)" in made["README.md"]
        assert json.loads(made[f"{name}/audit.json"])["total"]["macs"] == spec.macs


def test_weights_that_ship_come_with_their_figures(made):
    assert "Top-1 99.16 % on the 359 test images" in made["nin_digits/README.md"]
    assert "none ship" in made["nin_cifar10/README.md"]


@pytest.mark.slow
def test_write_then_check(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("keras_nin.cli.models.build_cards", lambda: made)  # once is enough: it takes a while
    folder = tmp_path / "shelf"
    assert main.run(["cards", "--out", str(folder), "--check"]) == 1
    assert not folder.exists()
    assert main.run(["cards", "--out", str(folder)]) == 0
    assert main.run(["cards", "--out", str(folder), "--check"]) == 0
    (folder / "nin_digits" / "README.md").write_text("old")
    capsys.readouterr()
    assert main.run(["cards", "--out", str(folder), "--check", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["stale"] == ["nin_digits/README.md"]
