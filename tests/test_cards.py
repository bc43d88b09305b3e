"""The folder models/: every card and the table say what the records beside them hold, and records can be measured."""

import dataclasses
import json
import pathlib
import shutil

import pytest
import yaml

from keras_nin import models
from keras_nin.audit.records import AuditTotal
from keras_nin.errors import InputError
from keras_nin.report import cards
from keras_nin.report.card_records import (
    Accuracy,
    CardRecord,
    FileMeasurement,
    ImageSet,
    LatencyRow,
    Measurement,
    Score,
    compare_cards,
    read_card,
)
from keras_nin.workflows.cards import build_cards, describe_network, format_card, read_cards

FOLDER = pathlib.Path(__file__).parent.parent / "models"


def stale(contents):
    """The files that are not in the folder with this text."""
    paths = {name: FOLDER / name for name in contents}
    return [name for name, path in paths.items() if not path.is_file() or path.read_text() != contents[name]]


def metadata(card):
    """The metadata at the head of a card, as YAML reads them."""
    head, separator, _ = card.removeprefix("---\n").partition("---\n")
    assert card.startswith("---\n")
    assert separator
    return yaml.safe_load(head)


def test_every_card_and_the_table_say_what_the_records_hold():
    contents = read_cards(FOLDER)
    assert {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()} == contents.keys()
    assert stale(contents) == [], "run keras-nin cards"
    for name in models.list_models():
        spec, record = models.get_spec(name), read_card(FOLDER / name / "card.json")
        assert (record.counts.params, record.counts.macs) == (spec.params, spec.macs)
        assert tuple(weights.name for weights in record.weights) == spec.bundled_weights
        assert not record.outdated, f"run keras-nin cards --measure {name}"
        for weights in record.weights:
            path = models.weight_files.find_weights(name, weights.name)
            assert weights.bytes == path.stat().st_size
        assert record.measurement or not record.weights, f"run keras-nin cards --measure {name}"


def test_a_card_is_a_model_card_of_hugging_face():
    """The fields of github.com/huggingface/hub-docs, modelcard.md: those that it calls required are there."""
    for name in models.list_models():
        head = metadata((FOLDER / name / "README.md").read_text())
        assert head["license"] == "apache-2.0"
        assert head["library_name"] == "keras"
        assert set(head) <= {"license", "library_name", "pipeline_tag", "tags", "datasets", "metrics", "model-index"}
        assert ("model-index" in head) == (read_card(FOLDER / name / "card.json").measurement is not None)
        for model in head.get("model-index", ()):
            assert model["name"] == name
            for result in model["results"]:
                assert result["task"]["type"] == head["pipeline_tag"] == "image-classification"
                assert {"type", "name"} <= set(result["dataset"]) <= {"type", "name", "config", "split", "revision"}
                for metric in result["metrics"]:
                    assert set(metric) == {"type", "value", "name"}
                    assert 0 < metric["value"] <= 1
    tested = metadata((FOLDER / "nin_cifar10" / "README.md").read_text())["model-index"][0]["results"][0]["dataset"]
    assert tested["type"] == "cifar10_test_jpeg"  # a JPEG copy is not CIFAR-10
    for name, images in (("nin_cifar10", 449), ("squeezenet_cifar10", 1303)):  # int16x8 is slow, and tested on a sample
        (result,) = metadata((FOLDER / name / "README.md").read_text())["model-index"][0]["results"]
        samples = [metric["name"] for metric in result["metrics"] if " of the images" in metric["name"]]
        assert samples == [f"{rank}, int16x8, {images:,} of the images" for rank in ("Top-1", "Top-5")]
    digits = metadata((FOLDER / "nin_digits" / "README.md").read_text())["model-index"][0]["results"][0]["metrics"]
    recorded = read_card(FOLDER / "nin_digits" / "card.json").measurement
    assert {"type": "accuracy", "value": round(recorded.model.top1.share, 4), "name": "Top-1, Keras"} in digits


@pytest.mark.parametrize(
    "value", ["no", "a: b", "- c", "# d", '"quoted"', "back\\slash", "null", "1.0", "é {x} [y] %!&*", "tab\tline\n", ""]
)
def test_text_survives_yaml(value):
    document = {"text": value, "items": [value, {"key": value, "n": 0.9916, "flag": True}], "map": {"inner": [value]}}
    shown = value.encode("unicode_escape").decode() if not value.isprintable() else value
    expected = json.loads(json.dumps(document).replace(json.dumps(value), json.dumps(shown)))
    assert yaml.safe_load(cards.format_yaml(document)) == expected


def test_the_interval_of_an_accuracy_is_that_of_wilson():
    from scipy.stats import binomtest

    for correct, images in ((356, 359), (359, 359), (0, 10), (8831, 10_000), (1, 2)):
        expected = binomtest(correct, images).proportion_ci(method="wilson")
        assert Score(correct, images).interval == pytest.approx((expected.low, expected.high), abs=1e-6)


HERE = {"cpu": "A chip", "cores": 2, "litert": "2.3.0"}
IMAGES = ImageSet("digits", 1000, "aa")


def measurement(int8=990, latency=30.0, host=HERE, **changes):
    top5 = Score(1000, 1000)
    files = (FileMeasurement("int8", "f1", 69_840, Accuracy(Score(int8, 1000), top5), 1.0, 41.3, True, None, "d", {}),)
    rows = (LatencyRow("int8", "f1", latency, None, 100, 1, host, "d", {"keras-nin": "1"}),)
    model = Accuracy(Score(991, 1000), top5)
    made = Measurement("digits", "w", "v", None, IMAGES, ImageSet("digits", 100, "bb"), model, files, rows, None)
    return dataclasses.replace(made, **changes)


def record(measured):
    return CardRecord("nin_digits", "apache-2.0", "use", (), AuditTotal(1, 1, 0, 2, 0, 0, 0, 0), (), measured)


def test_rows_of_another_host_stay_and_those_of_the_same_are_replaced():
    there = {**HERE, "cpu": "Another"}
    merged = measurement().extend(measurement(host=there)).extend(measurement(latency=20.0))
    assert [(row.host["cpu"], row.median_us) for row in merged.latencies] == [("A chip", 20.0), ("Another", 30.0)]
    other_weights = measurement(host=there).extend(measurement(weights_sha256="x", files=()))
    assert (len(other_weights.latencies), other_weights.files) == (2, ())


def test_files_that_were_not_measured_again_stay():
    int8 = measurement().files[0]
    newer = measurement(files=(dataclasses.replace(int8, scheme="qat", sha256="q"),), calibration=None)
    merged = measurement().extend(newer)
    assert [file.scheme for file in merged.files] == ["int8", "qat"]
    assert merged.calibration == measurement().calibration


@pytest.mark.parametrize(
    ("again", "items"),
    [
        ({}, []),
        ({"int8": 989}, []),  # one image
        ({"int8": 988}, ["int8 top-1"]),
        ({"latency": 44.0}, []),
        ({"latency": 46.0}, ["int8 latency"]),
        ({"latency": 300.0, "host": {**HERE, "cpu": "Another"}}, []),
        ({"test": ImageSet("digits", 1000, "other"), "int8": 100}, ["test"]),
        ({"weights_sha256": "x"}, ["weights sha256"]),
        ({"model": Accuracy(Score(985, 1000), None)}, ["Keras model top-1", "Keras model top-5"]),
    ],
)
def test_a_check_reports_what_leaves_its_tolerance(again, items):
    assert [found.item for found in compare_cards(record(measurement()), record(measurement(**again)))] == items


def test_other_weights_than_those_measured_show_no_figures():
    spec, stored = models.get_spec("nin_digits"), read_card(FOLDER / "nin_digits" / "card.json")
    replaced = dataclasses.replace(stored.measurement, weights_file_sha256="other")
    outdated = dataclasses.replace(stored, measurement=replaced)
    assert outdated.outdated
    assert "model-index" not in cards.card_metadata(spec, outdated)
    assert "99.16%" not in cards.format_card_index([(spec, outdated)])


def test_a_damaged_record_is_named(tmp_path):
    document = json.loads((FOLDER / "nin_digits" / "card.json").read_text())
    document["measurement"]["model"]["top1"]["correct"] = 360
    path = tmp_path / "card.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="correct answers among images"):
        read_card(path)


def test_a_network_without_weights_is_counted_and_has_no_accuracy(cli, tmp_path):
    ran = cli("cards", "conv1x1_3to2", "--measure", "--out", "made", "--json")
    assert ran.status == 0
    assert ran.json["stale"] == [f"{name}" for name in ("README.md", *(f"conv1x1_3to2/{file}" for file in
                                 ("README.md", "card.json", "audit.json")))]  # fmt: skip
    for file in ("README.md", "card.json", "audit.json"):
        assert (tmp_path / "made" / "conv1x1_3to2" / file).read_text() == (FOLDER / "conv1x1_3to2" / file).read_text()
    assert cli("cards", "conv1x1_3to2", "--check", "--out", "made").status == 0
    card = tmp_path / "made" / "conv1x1_3to2" / "card.json"
    card.write_text(card.read_text().replace('"macs": 216', '"macs": 217'))
    checked = cli("cards", "conv1x1_3to2", "--check", "--out", "made")
    assert checked.status == 1
    assert "macs: 217 recorded, 216 measured (has to be equal)" in checked.out


@pytest.mark.slow
def test_a_model_of_the_zoo_can_be_reported(cli, tmp_path):
    assert cli("report", "nin_digits", "-o", "report.html").status == 0
    assert "nin_digits" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("structure_only")
def test_counts_of_all_networks_are_those_of_the_records():
    from keras_nin.audit import audit_model

    for name in models.list_models():
        spec, stored = models.get_spec(name), read_card(FOLDER / name / "card.json")
        audit = audit_model(models.build_model(name))
        assert stale(format_card(spec, describe_network(spec, audit, stored), audit)) == [], "run keras-nin cards"


@pytest.fixture
def elsewhere(tmp_path):
    """The path of a copy of the record of `nin_digits` whose latencies are another machine's: none is compared."""
    shutil.copytree(FOLDER / "nin_digits", tmp_path / "models" / "nin_digits")
    path = tmp_path / "models" / "nin_digits" / "card.json"
    document = json.loads(path.read_text())
    for row in document["measurement"]["latencies"]:
        row["host"]["cpu"] = "Another chip"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.slow
def test_a_further_measurement_adds_a_row_and_keeps_the_files(cli, elsewhere):
    """Measured anew, the scores are those of the repository."""
    document = json.loads(elsewhere.read_text())
    measured = cli("cards", "--measure", "nin_digits", "--scheme", "float32", "--out", "models")
    assert measured.status == 0
    before, after = document["measurement"], json.loads(elsewhere.read_text())["measurement"]
    assert after["latencies"][:-1] == before["latencies"]
    assert after["latencies"][-1]["scheme"] == "float32"
    assert [file["scheme"] for file in after["files"]] == [file["scheme"] for file in before["files"]]
    assert (after["model"], after["test"], after["targets"]) == (before["model"], before["test"], before["targets"])


@pytest.mark.slow
@pytest.mark.wide
@pytest.mark.usefixtures("elsewhere")
def test_digits_are_checked(cli):
    assert cli("cards", "nin_digits", "--out", "models").status == 0
    checked = cli("cards", "--check", "nin_digits", "--scheme", "int8", "--out", "models", "--json")
    assert (checked.status, checked.json["differences"], checked.json["stale"]) == (0, [], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": ["nin_digit"]}, "Did you mean nin_digits"),
        ({"models": ["nin_digits"], "measure": True, "check": True}, "choose one"),
        ({"measure": True}, "needs the names"),
        ({"models": ["nin_digits"], "scheme": "int8"}, "add `measure` or `check`"),
        ({"check": True, "test": "digits"}, "for single networks"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        build_cards(**arguments, folder=tmp_path / "models")
    assert not (tmp_path / "models").exists()
