"""An audit as JSON, text, Markdown and CSV: the contracts, the views, and what stands below a table."""

import csv
import dataclasses
import io
import json
import re
import subprocess
import sys

import audits
import keras
import pytest

from keras_nin.audit import audit_model
from keras_nin.audit.tables import AuditView
from keras_nin.errors import InputError

L = keras.layers

ROW_KEYS = [
    *("name", "type", "kind", "role", "kernel", "input_shape", "output_shape", "params", "trainable_params", "macs"),
    *("weight_bytes", "activation_elements", "activation_bytes", "activation_evaluations", "receptive_field", "block"),
    *("arithmetic_intensity", "folds", "scope"),
]
TOTAL_KEYS = [
    *("params", "trainable_params", "non_trainable_params", "macs", "pointwise_params", "pointwise_macs"),
    *("activation_bytes", "peak_activation_bytes", "weight_bytes", "activation_evaluations"),
    *("peak_activation_bytes_int8", "arithmetic_intensity", "macs_unknown"),
]
BLOCK_KEYS = [
    *("name", "layers", "params", "trainable_params", "macs", "pointwise_params", "pointwise_macs"),
    *("weight_bytes", "activation_bytes", "macs_unknown"),
]


@pytest.fixture(scope="module")
def result():
    x = keras.Input((34, 34, 3))
    y = L.Conv2D(64, 3, name="odd|name[1]")(x)
    y = L.Lambda(lambda t: t * t, name="square")(L.Conv2D(16, 1, activation="relu", name="squeeze")(y))
    return audit_model(keras.Model(x, L.GlobalAveragePooling2D(name="pool")(y), name="small"))


def test_json_has_the_contracts_keys_and_plain_values(result):
    document = result.to_json()
    assert list(document) == ["schema", "model", "batch", "rows", "total", "blocks", "findings"]
    assert (document["schema"], document["model"], document["findings"]) == ("keras_nin.audit/1", "small", [])
    assert all(list(row) == ROW_KEYS for row in document["rows"])
    assert list(document["total"]) == TOTAL_KEYS
    assert [list(block) for block in document["blocks"]] == [BLOCK_KEYS]
    assert json.loads(json.dumps(document)) == document
    assert document["rows"][1] == {
        "name": "squeeze",
        "type": "Conv2D",
        "kind": "pointwise",
        "role": "reduce",
        "kernel": [1, 1],
        "input_shape": [1, 32, 32, 64],
        "output_shape": [1, 32, 32, 16],
        "params": 64 * 16 + 16,
        "trainable_params": 64 * 16 + 16,
        "macs": 32 * 32 * 64 * 16,
        "weight_bytes": (64 * 16 + 16) * 4,
        "activation_elements": 32 * 32 * 16,
        "activation_bytes": 32 * 32 * 16 * 4,
        "activation_evaluations": 32 * 32 * 16,
        "receptive_field": [3, 3],
        "block": None,
        "arithmetic_intensity": 32 * 32 * 64 * 16 / (4 * 32 * 32 * (64 + 16) + (64 * 16 + 16) * 4),
        "folds": None,
        "scope": "",
    }


def test_totals_are_the_sums_of_the_rows(result):
    rows, total = result.rows, result.total
    assert total.params == sum(row.params for row in rows) == (3 * 3 * 3 * 64 + 64) + (64 * 16 + 16)
    assert total.macs == sum(row.macs or 0 for row in rows) == 32 * 32 * (3 * 3 * 3 * 64 + 64 * 16)
    assert total.weight_bytes == 4 * total.params
    assert total.activation_evaluations == sum(row.activation_evaluations for row in rows) == 32 * 32 * 16
    assert total.peak_activation_bytes == 4 * total.peak_activation_bytes_int8
    assert total.activation_bytes == sum(row.activation_bytes for row in rows)
    assert (total.pointwise_params, total.pointwise_macs) == (64 * 16 + 16, 32 * 32 * 64 * 16)


def test_the_printed_table_has_every_row_the_totals_and_the_conventions(result):
    text = str(result)
    for part in ("small", "odd|name[1]", "squeeze", "reduce", "32x32x16", "1,048,576", "<= 37.2%", "unknown"):
        assert part in text
    assert "Total: 2,832 params (2,832 trainable, 0 not), at least 2,818,048 MACs" in text
    assert "In 1x1 layers: 36.7% of params, at most 37.2% of MACs" in text
    # The squeeze layer's input and output are live: 32*32*(64 + 16) elements.
    assert "Peak activation memory: 320.0 KiB float32, 80.0 KiB int8" in text
    assert "MACs unknown, so not in the total: square" in text
    assert "1 MAC = one multiply + one add; batch 1." in text
    assert text.isprintable() or "\x1b" not in text


def test_markdown_is_a_table_with_escaped_names(result):
    lines = result.to_markdown().splitlines()
    assert lines[0] == "| name | type | kind | role | kernel | output shape | params | MACs | share of MACs |"
    assert lines[1] == "| --- | --- | --- | --- | --- | --- | ---: | ---: | ---: |"
    assert lines[2].startswith(
        "| odd\\|name[1] | Conv2D | spatial |  | 3x3 | 32x32x64 | 1,792 | 1,769,472 | <= 62.8% |"
    )
    assert len([line for line in lines if line.startswith("| ")]) == 2 + len(result.rows)
    assert any(line.startswith("- Total: 2,832 params") for line in lines)


def test_csv_holds_raw_numbers(result):
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert list(rows[0]) == [*ROW_KEYS, "share_of_params", "share_of_macs"]
    assert (rows[1]["kernel"], rows[1]["output_shape"]) == ("1x1", "32x32x16")
    assert [row["name"] for row in rows] == [row.name for row in result.rows]
    assert rows[1]["macs"] == "1048576"
    assert float(rows[1]["share_of_params"]) == pytest.approx(1040 / 2832, abs=1e-6)
    assert {row["share_of_macs"] for row in rows} == {""}  # shares of a total that leaves out a layer
    assert (rows[2]["macs"], rows[2]["share_of_macs"]) == ("", "")
    assert sum(int(row["params"]) for row in rows) == result.total.params


def test_a_network_without_weights_renders():
    x = keras.Input((4, 4, 3))
    text = str(audit_model(keras.Model(x, L.MaxPooling2D(2)(x))))
    assert "In 1x1 layers: none of params, none of MACs" in text


def test_importing_the_audit_loads_neither_keras_nor_rich():
    code = (
        "import sys, keras_nin.audit as a; a.audit_model; a.Audit; "
        "print([m for m in ('keras', 'tensorflow', 'rich', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def small():
    return audits.small()


# Piped


def test_piped_bytes_do_not_depend_on_the_surroundings(small, monkeypatch):
    before = str(small)
    for name, value in (("COLUMNS", "40"), ("FORCE_COLOR", "1"), ("TERM", "dumb"), ("LANG", "C")):
        monkeypatch.setenv(name, value)
    assert str(small) == before
    assert "\x1b" not in before


def test_findings_and_unknown_layers_are_told_everywhere(small):
    line = "collapse: layer0, layer1, layer2, layer3, layer4 and 2 more: They are one. Saves 5 params, 2.0 KiB."
    warning = "MACs unknown, so not in the total: odd[red]"
    for text in (str(small), small.to_markdown()):
        assert line in " ".join(text.split())
        assert warning in text
    assert "Findings" not in str(dataclasses.replace(small, findings=()))


def test_depth(small):
    totals = small.to_text(depth=0)
    assert totals.startswith("small\n\nTotal: 100 params")
    blocks = small.to_text(depth=1).splitlines()
    assert blocks[1].split() == ["name", "layers", "params", "share", "of", "params", "MACs", "share", "of", "MACs"]
    assert [line.split() for line in blocks[3:6]] == [
        ["a", "2", "70", "70.0%", "700", "<=", "70.0%"],
        ["(no", "block)", "1", "0", "0.0%", "unknown"],
        ["b", "1", "30", "30.0%", "300", "<=", "30.0%"],
    ]


def test_only_keeps_the_totals_and_adds_what_is_shown(small):
    text = small.to_text(only=("pointwise", "other"))
    assert "Shown: 3 of 4 layers, 40 params (40.0%), 400 MACs (at most 40.0%)" in text
    assert "at least 1,000 MACs" in text
    assert "a_3x3" not in text
    assert [row.name for row in AuditView(only="reduce,head").select_rows(small)] == ["a_1x1", "b_1x1"]
    assert "Shown" not in str(small)
    assert AuditView(only="dense").select_records(small) == []
    assert "Shown: 0 of 4 layers" in small.to_text(only="dense")


def test_sort(small):
    def order(key):
        return [row.name for row in AuditView(sort=key).select_records(small)]

    assert order("macs") == ["a_3x3", "b_1x1", "a_1x1", "odd[red]|x"]  # not known: last
    assert order("share_of_params") == ["a_3x3", "b_1x1", "a_1x1", "odd[red]|x"]
    assert order("kind") == ["odd[red]|x", "a_1x1", "b_1x1", "a_3x3"]
    assert order("kernel")[0] == "a_3x3"
    assert [block.name for block in AuditView(depth=1, sort="layers").select_records(small)] == ["a", None, "b"]


def test_shapes_of_one_and_of_several_tensors_sort_together():
    rows = [
        audits.row("one"),
        audits.row("two", input_shape=((1, 9, 9, 4), (1, 5, 5, 4))),
        audits.row("n", input_shape=None),
    ]
    assert [row.name for row in AuditView(sort="input_shape").select_records(audits.audit(rows))] == ["two", "one", "n"]


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({"columns": "name,mac"}, "Expected `columns` to be a known name. Received: 'mac'. Did you mean macs"),
        ({"sort": "parms"}, "Received: 'parms'. Did you mean params"),
        ({"only": "pointwize"}, "Received: 'pointwize'. Did you mean pointwise"),
        ({"only": ("pool,",)}, "Received: ''"),
        ({"only": (1,)}, "Expected `only` to be names"),
        ({"columns": "name,name"}, "each column once"),
        ({"columns": ()}, "each column once"),
        ({"depth": 3}, "Expected `depth` to be one of 0, 1, 2. Received: 3"),
        ({"depth": 0, "sort": "macs"}, "0 shows totals alone"),
        ({"depth": 1, "columns": "kernel"}, "Received: 'kernel'"),
    ],
)
def test_bad_views(view, message):
    with pytest.raises(InputError, match=re.escape(message)):
        AuditView(**view)


# CSV and Markdown


def test_a_notebook_shows_one_line_and_a_table(small):
    assert repr(small) == "<Audit: small, 4 layers, 100 params, at least 1,000 MACs>"
    assert "<td>a_3x3</td>" in small._repr_html_()


def test_csv_and_markdown_take_views(small):
    assert small.to_csv(columns="name,macs", sort="macs", only="pointwise") == "name,macs\nb_1x1,300\na_1x1,100\n"
    assert small.to_csv(columns="macs", only="other") == 'macs\n""\n'
    lines = small.to_markdown(depth=1, columns=("name", "macs")).splitlines()
    assert lines[:3] == ["| name | MACs |", "| --- | ---: |", "| a | 700 |"]
    with pytest.raises(InputError, match="`depth` to be 1 or 2 for CSV"):
        small.to_csv(depth=0)
    with pytest.raises(TypeError):
        small.to_csv(dept=1)


def test_markdown_without_a_table(small):
    assert small.to_markdown(depth=0).startswith("- Total: 100 params")
    assert "odd[red]\\|x" in small.to_markdown()


# Bytes


def test_bytes_of_a_file_are_those_of_its_own_types():
    whole = audits.audit([audits.row("a", activation_bytes=100)])
    mixed = audits.audit([audits.row("a", activation_bytes=100), audits.row("b")])
    for result in (whole, mixed):
        assert "Peak activation memory: 0.8 KiB at the file's own types\n" in str(result)
        assert "Bytes are those of the file's own types." in str(result)
    plain = str(audits.audit([audits.row("a")]))
    assert "Peak activation memory: 0.8 KiB float32, 0.2 KiB int8" in plain
    assert "Bytes of activations are at float32" in plain


def test_the_figure_has_the_shares_of_each_kind_and_role(small):
    (axes,) = small.plot().axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1x1 reduce", "1x1 head", "spatial"]
    assert [round(bar.get_width(), 6) for bar in axes.patches] == [10, 10, 30, 30, 60, 60]
    assert "Total: 100 params, at least 1,000 MACs" in small.plot().get_supxlabel()
    assert audits.audit([audits.row("pool", kind="pool", role=None, params=0, macs=0)]).plot().axes
