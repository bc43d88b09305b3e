"""The audit's JSON contract, its table, its Markdown and its CSV."""

import csv
import io
import json
import subprocess
import sys

import keras
import pytest

from keras_nin.audit import audit_model

L = keras.layers

ROW_KEYS = [
    *("name", "type", "kind", "role", "kernel", "input_shape", "output_shape", "params", "trainable_params", "macs"),
    *("weight_bytes", "activation_elements", "activation_bytes", "activation_evaluations", "receptive_field", "block"),
    *("arithmetic_intensity", "folds", "scope"),
]
TOTAL_KEYS = [
    *("params", "trainable_params", "non_trainable_params", "macs", "pointwise_params", "pointwise_macs"),
    *("activation_bytes", "peak_activation_bytes", "weight_bytes", "activation_evaluations"),
    *("peak_activation_bytes_int8", "arithmetic_intensity"),
]
BLOCK_KEYS = [
    *("name", "layers", "params", "trainable_params", "macs", "pointwise_params", "pointwise_macs"),
    *("weight_bytes", "activation_bytes"),
]


@pytest.fixture(scope="module")
def result():
    x = keras.Input((34, 34, 3))
    y = L.Conv2D(64, 3, name="odd|name[1]")(x)
    y = L.Lambda(lambda t: t * t, name="square")(L.Conv2D(16, 1, activation="relu", name="squeeze")(y))
    return audit_model(keras.Model(x, L.GlobalAveragePooling2D(name="pool")(y), name="small"))


def test_json_has_the_contracts_keys_and_plain_values(result):
    document = result.to_json()
    assert list(document) == ["schema", "model", "rows", "total", "blocks", "findings"]
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
    for part in ("small", "odd|name[1]", "squeeze", "reduce", "32x32x16", "1,048,576", "37.2%", "unknown"):
        assert part in text
    assert "Total: 2,832 params (2,832 trainable, 0 not), 2,818,048 MACs" in text
    assert "In 1x1 layers: 36.7% of params, 37.2% of MACs" in text
    # The squeeze layer's input and output are live: 32*32*(64 + 16) elements.
    assert "Peak activation memory: 320.0 KiB float32, 80.0 KiB int8" in text
    assert "MACs not known, so not in the total: square" in text
    assert "1 MAC = one multiply + one add; batch 1." in text
    assert text.isprintable() or "\x1b" not in text


def test_markdown_is_a_table_with_escaped_names(result):
    lines = result.to_markdown().splitlines()
    assert lines[0] == "| name | type | kind | role | kernel | output shape | params | MACs | share of MACs |"
    assert lines[1] == "| --- | --- | --- | --- | --- | --- | ---: | ---: | ---: |"
    assert lines[2].startswith("| odd\\|name[1] | Conv2D | spatial |  | 3x3 | 32x32x64 | 1,792 | 1,769,472 | 62.8% |")
    assert len([line for line in lines if line.startswith("| ")]) == 2 + len(result.rows)
    assert any(line.startswith("- Total: 2,832 params") for line in lines)


def test_csv_holds_raw_numbers(result):
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert [row["name"] for row in rows] == [row.name for row in result.rows]
    assert rows[1]["macs"] == "1048576"
    assert float(rows[1]["share_of_macs"]) == pytest.approx(1048576 / 2818048, abs=1e-6)
    assert (rows[2]["macs"], rows[2]["share_of_macs"]) == ("", "")
    assert sum(int(row["params"]) for row in rows) == result.total.params


def test_a_network_without_weights_renders():
    x = keras.Input((4, 4, 3))
    text = str(audit_model(keras.Model(x, L.MaxPooling2D(2)(x))))
    assert "In 1x1 layers: none of params, none of MACs" in text


def test_importing_the_audit_loads_neither_keras_nor_rich():
    code = (
        "import sys, keras_nin.audit as a; a.audit; a.Audit; "
        "print([m for m in ('keras', 'tensorflow', 'rich', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
