"""The folder of model cards holds what `keras-nin cards` makes of the package's records."""

import json
import pathlib

import pytest

from keras_nin import models
from keras_nin.audit import audit_model
from keras_nin.cli import main
from keras_nin.models.weight_files import read_bundled_metrics
from keras_nin.report.cards import format_card, format_card_index
from keras_nin.workflows import reports

FOLDER = pathlib.Path(__file__).parent.parent / "models"


def test_a_card_is_up_to_date(build):
    spec, audit = models.get_spec("nin_digits"), audit_model(build("nin_digits"))
    card = format_card(spec, audit, {"digits": read_bundled_metrics("nin_digits", "digits")})
    assert card == (FOLDER / "nin_digits" / "README.md").read_text(), "run keras-nin cards"
    assert "Top-1 99.16% on 359 test images" in card
    (row,) = [line for line in format_card_index([(spec, audit)]).splitlines() if "nin_digits" in line]
    assert row in (FOLDER / "README.md").read_text()


@pytest.fixture(scope="module")
def cards():
    return reports.format_cards()


@pytest.mark.slow
def test_every_card_is_up_to_date(cards):
    present = {str(path.relative_to(FOLDER)): path.read_text() for path in FOLDER.rglob("*") if path.is_file()}
    assert present.keys() == cards.keys()
    stale = [name for name, text in cards.items() if present[name] != text]
    assert stale == [], "run keras-nin cards"
    for name in models.list_models():
        spec = models.get_spec(name)
        assert f"{spec.params:,}" in cards[f"{name}/README.md"]
        assert f"[{name}]({name}/README.md)" in cards["README.md"]
        assert json.loads(cards[f"{name}/audit.json"])["total"]["macs"] == spec.macs
    assert "not bundled" in cards["nin_cifar10/README.md"]


@pytest.mark.slow
def test_write_then_check(cards, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reports, "format_cards", lambda progress: cards)  # once is enough: it takes a while
    folder = tmp_path / "cards"
    assert main.run(["cards", "--out", str(folder), "--check"]) == 1
    assert not folder.exists()
    assert main.run(["cards", "--out", str(folder)]) == 0
    assert main.run(["cards", "--out", str(folder), "--check"]) == 0
    (folder / "nin_digits" / "README.md").write_text("old")
    capsys.readouterr()
    assert main.run(["cards", "--out", str(folder), "--check", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["stale"] == ["nin_digits/README.md"]
