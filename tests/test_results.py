"""What a result offers in a notebook."""

import dataclasses
import sys

import pytest

from keras_nin import InputError
from keras_nin.results import Result


@dataclasses.dataclass(frozen=True, repr=False)
class Layers(Result):
    names: tuple[str, ...]

    def to_json(self):
        return {"names": list(self.names)}

    def _summary(self):
        return f"{len(self.names)} layers"

    def _rows(self):
        return [{"name": name, "shape": (1, 2), "macs": 1000 * index} for index, name in enumerate(self.names)]


def test_repr_is_one_short_line():
    assert repr(Layers(("a",) * 500)) == "<Layers: 500 layers>"


def test_html_is_escaped_and_of_limited_length():
    text = Layers(("<script>", *["a"] * 99))._repr_html_()
    assert "&lt;script&gt;" in text
    assert "<script>" not in text
    assert text.count("<tr>") == 1 + 60
    assert "and 40 more rows" in text
    assert "<td>1,000</td>" in text
    assert "<table>" not in Layers(())._repr_html_()


def test_data_frame():
    frame = Layers(("a", "b")).to_dataframe()
    assert list(frame.columns) == ["name", "shape", "macs"]
    assert frame["macs"].tolist() == [0, 1000]


def test_a_data_frame_needs_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"^to_dataframe\(\) needs .* pip install 'keras-nin\[notebook\]'$"):
        Layers(("a",)).to_dataframe()
