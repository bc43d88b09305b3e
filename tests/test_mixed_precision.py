"""The scheme mixed: targets, stretches of operators, the file, the search, and the export that repeats it."""

import itertools
import json
import pathlib

import numpy as np
import pytest
from tiers import by_tier

from keras_nin.errors import InputError
from keras_nin.export import mixed_precision, mixed_stretches
from keras_nin.export.mixed_precision import MixedPoint, expected_accuracy, mark_front, parse_target
from keras_nin.export.mixed_stretches import Cut, Stretches, find_cuts, merge_cuts
from keras_nin.report.mixed_precision import describe_operators
from keras_nin.tflite.reader import read_model

FIRST = ("mlpconv1_conv3x3", "mlpconv1_conv1x1a")


@pytest.mark.parametrize(
    ("target", "fragment"),
    [
        ("match=200%", "a share from 0 to 1"),
        ("match=0", "not every file reaches"),
        ("top1_drop=100pp", "not every file reaches"),
        ("match=..98%", "at least"),
        ("match=98%,match=99%", "each item once"),
        ("slowdown=1.2x", "limit one of match, top1_drop, snr"),
        ("match=98%,slowdown=0", "some time and size"),
        ("accuracy=98%", "known name"),
        ("98", "known name"),
        (98, "limits such as match=98%"),
    ],
)
def test_a_target_that_is_none_is_refused(target, fragment):
    with pytest.raises(InputError, match=fragment):
        parse_target(target)


def random_stretches(seed, units=6):
    random = np.random.RandomState(seed)
    costs, noise = random.uniform(-20, 100, units), random.uniform(0, 1, units)
    cuts = tuple(Cut(position, 10) for position in range(units + 1))
    entry = (0.0, *random.uniform(0, 0.5, units))
    return Stretches(
        cuts, tuple(costs), tuple(random.uniform(1, 30, units + 1)), tuple(noise), entry, True, seed % 2 == 0
    )


@pytest.mark.parametrize("seed", range(4))
def test_proposals_are_the_best_of_all_choices(seed):
    stretches, weights = random_stretches(seed), np.geomspace(1, 1e4, 9)

    for weight in weights:
        costs = {
            choice: stretches.predict_us(choice) + weight * stretches.predict_noise(choice)
            for choice in itertools.product((False, True), repeat=6)
        }
        assert costs[stretches._cheapest(weight)] == pytest.approx(min(costs.values()))
    proposals = stretches.proposals(100.0)
    assert len(set(proposals)) == len(proposals)
    assert proposals[-1] == (True,) * 6
    smaller = stretches.smaller_choices((True,) * 6)
    assert len(smaller) == 6
    assert list(map(stretches.predict_noise, smaller)) == sorted(map(stretches.predict_noise, smaller))


def test_noise_between_cuts_comes_from_two_curves():
    # Rounding the values at cut 1 alone adds 1, which is in both curves.
    stretches = Stretches.from_curves(
        tuple(Cut(position, 100) for position in range(3)), (0, 3, 6), (6, 4, 0), (5, 7), 0.01, True, True
    )
    assert stretches.noise == (3, 3)
    assert stretches.entry_noise == (0, 1, 0)
    assert stretches.operators((False, True)) == {1}
    assert stretches.predict_us((False, True)) == 7 + 2 * 1  # two casts of 100 elements
    assert stretches.predict_us((True, True)) == 12
    assert [stretches.predict_noise(choice) for choice in ((False, False), (False, True), (True, False))] == [6, 3, 4]


def test_expected_accuracy_is_a_bound_for_other_images():
    random = np.random.RandomState(0)
    matches, gains = [], []
    for _ in range(100):  # draws of 100 calibration images
        reference = random.normal(size=(100, 2))
        values = reference + random.normal(scale=0.03, size=(100, 2))
        match, gain = expected_accuracy(reference, values, reference.argmax(axis=1))
        matches.append(match)
        gains.append(gain)
    others = random.normal(size=(10**6, 2))
    share = np.mean(others.argmax(axis=1) == (others + random.normal(scale=0.03, size=others.shape)).argmax(axis=1))
    assert 0.985 < share < 0.992
    assert np.mean(np.array(matches) <= share) >= 0.95
    assert np.mean(matches) > 1 - 2 * (1 - share)  # and no further away than it has to be
    np.testing.assert_allclose(gains, np.array(matches) - 1)  # every class was right


def test_expected_accuracy_knows_of_images_that_were_not_drawn():
    leads = np.linspace(0.3, 3, 100)  # none is near another class, though any lead would do
    reference = np.stack([leads, np.zeros(100)], axis=1)
    values = reference + np.random.RandomState(0).normal(scale=0.07, size=reference.shape)
    assert np.all(values.argmax(axis=1) == 0)
    match, gain = expected_accuracy(reference, values, np.zeros(100, int))
    assert 0.96 < match < 0.99
    assert gain == pytest.approx(match - 1)
    assert expected_accuracy(reference, values) == (match, None)
    assert expected_accuracy(reference, reference, np.zeros(100, int)) == (1.0, 0.0)
    assert expected_accuracy(reference[:1], reference[:1]) == (1.0, None)
    assert expected_accuracy(reference[:, :1], values[:, :1]) == (1.0, None)  # one class


def test_only_what_is_near_the_largest_score_decides():
    reference = np.array([[9.0, 8, 7, 6, 5, 0]])
    assert mixed_precision.decision_noise(reference, reference + 2) == 0  # the same on all
    assert mixed_precision.decision_noise(reference, reference + [[0, 0, 0, 0, 0, 3]]) == 0
    assert mixed_precision.decision_noise(reference, reference + [[1, 0, 0, 0, 0, 0]]) == pytest.approx(4 / 30)


def test_the_front_has_what_nothing_beats():
    def point(match, us, size):
        return MixedPoint((), size, 30.0, match, match, latency_us=us, slowdown=us / 10)

    points = mark_front([point(0.95, 10, 10), point(0.97, 12, 12), point(0.96, 13, 12), point(0.97, 12, 20)])
    assert [entry.on_front for entry in points] == [True, True, False, False]
    check = points[0].check(parse_target("match=95%,flash=10B,slowdown=1x")[0])
    assert check.passed
    assert not points[0].check(parse_target("match=95.1%")[0]).passed


def choose(target, *points):
    names = ("match", "slowdown", "bytes", "slowdown_low", "slowdown_high")
    records = [
        MixedPoint((), snr_db=30.0, expected_match=values[0], **dict(zip(names, values, strict=False)))
        for values in points
    ]
    return mixed_precision.choose_point(records, parse_target(target), target)


def test_the_fastest_point_that_reaches_the_target_is_chosen():
    int8 = (0.95, 1.0, 100)
    assert choose("match=98%", int8, (0.98, 1.2, 150), (0.99, 1.1, 300)) == 2
    assert choose("match=98%", int8, (0.98, 1.11, 150), (0.99, 1.1, 300)) == 1  # as fast, and smaller
    assert choose("match=98%", int8, (0.98, 1.2, 150, 1.05, 1.3), (0.99, 1.1, 300, 1.0, 1.15)) == 1  # not measurably
    assert choose("match=90%", int8, (0.98, 0.7, 150), (0.94, 0.5, 120)) == 1  # never less accurate than int8
    assert choose("match=98%,flash=200B", int8, (0.98, 1.2, 150), (0.99, 1.1, 300)) == 1


def test_an_unreachable_target_names_the_best(cli, monkeypatch):
    points = (0.95, 1.0, 100), (0.975, 1.2, 150), (1.0, 1.5, 400)
    with pytest.raises(mixed_precision.UnreachableTargetError) as caught:
        choose("match=98%,slowdown=1.25x", *points)
    message = str(caught.value)
    assert "match 97.5%, limit at least 98%: FAIL, not reached; slowdown 1.2x, limit at most 1.25x: pass" in message
    with pytest.raises(mixed_precision.UnreachableTargetError, match="no file keeps to .*; slowdown 1x, limit"):
        choose("match=98%,slowdown=0.5x", *points)

    def fail(*arguments, **options):
        raise caught.value

    monkeypatch.setattr("keras_nin.workflows.export.export_model", fail)
    ran = cli("export", "nin_digits", "--scheme", "mixed", "--target", "match=98%,slowdown=1.25x")
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert "a --target that a file of the search reaches" in ran.err


def test_an_unknown_operator_is_named():
    network = mixed_precision.MixedNetwork(b"", b"", ("conv1", "conv2"), lambda content, tensors: content)
    assert network.indexes(["conv2"]) == {1}
    with pytest.raises(InputError, match="Received: 'conv'. Did you mean conv"):
        network.indexes(["conv"])


def test_operators_are_shown_as_ranges():
    names = ("a", "b", "c", "d", "e")
    assert describe_operators(names, ("a", "b", "c", "e")) == "a to c, e (4 of 5)"
    assert describe_operators(names, ()) == "none"
    assert describe_operators(names, names) == "all 5"


def test_cuts_lie_between_blocks(digits_export):
    main = read_model(digits_export / "nin_digits_float32.tflite").main
    cuts = find_cuts(main, len(main.operators))
    assert [cut.position for cut in cuts] == list(range(len(main.operators) + 1))  # a chain
    assert cuts[0].elements == 64
    assert cuts[-1].elements == 10
    times = [1.0] * 30
    many = [Cut(position, 1) for position in range(31)]
    merged = merge_cuts(many, times)
    assert len(merged) == mixed_stretches._MAX_CUTS
    assert (merged[0], merged[-1]) == (many[0], many[-1])


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ("--scheme mixed", "The scheme mixed needs a --target"),
        ("--scheme int8 --target match=98%", "--target is for the scheme mixed"),
        ("--scheme mixed --target match=200%", "a share from 0 to 1"),
        pytest.param("--scheme mixed --target match=98% --weights random", "trained weights", marks=pytest.mark.slow),
        pytest.param(
            "--scheme mixed --target match=98% --calibration random", "Received: noise", marks=pytest.mark.slow
        ),
        ("--scheme mixed --target match=98% --task regression", "scores of classes"),
        ("--scheme mixed --target top1_drop=1pp --calibration unlabeled.npz", "labels of the calibration images"),
        pytest.param("--scheme mixed --target match=98% --batch 2", "--batch to be 1", marks=pytest.mark.slow),
    ],
)
def test_bad_input_is_one_line(cli, words, fragment):
    np.savez("unlabeled.npz", images=np.random.RandomState(0).randint(0, 255, (4, 8, 8, 1), np.uint8))
    ran = cli("export", "nin_digits", *words.split())
    (line,) = ran.err.splitlines()
    assert ran.status == 2, line
    assert fragment in line
    assert not pathlib.Path("exported").exists()


@pytest.mark.parametrize("command", ["benchmark nin_digits", "cards --measure nin_digits"])
def test_commands_without_a_target_say_what_to_do(cli, command):
    ran = cli(*command.split(), "--scheme", "float32,mixed")
    (line,) = ran.err.splitlines()
    assert ran.status == 2
    assert "Expected schemes without a target. Received: mixed" in line
    assert "Export the model first" in line


@pytest.fixture(scope="module")
def named_export(make_once):
    """The folder of an export that names its operators in float."""

    def export(folder):
        import keras_nin

        keras_nin.export_model("nin_digits", "mixed", float_operators=FIRST, out=folder / "files", runs=1)

    return make_once("mixed_named", export) / "files"


@pytest.mark.slow
def test_a_file_computes_in_float_what_was_named(named_export):
    from keras_nin.models import load_model

    tflite = read_model(named_export / "nin_digits_mixed.tflite")
    kernels = [
        tflite.main.stored_constant(operator.inputs[1])
        for operator in tflite.main.operators
        if operator.op == "CONV_2D"
    ]
    assert [kernel.dtype for kernel in kernels] == ["float32"] * 2 + ["int8"] * 7
    for kernel, name in zip(kernels, FIRST, strict=False):  # the model's own weights, not those that were rounded
        expected = load_model("nin_digits").model.get_layer(name).kernel.numpy()
        np.testing.assert_array_equal(tflite.data(kernel), expected.transpose(3, 0, 1, 2))
    record = json.loads((named_export / "nin_digits_mixed.json").read_text())
    assert record["options"]["float_operators"] == list(FIRST)
    assert "mixed" not in record


@pytest.fixture
def short_measurements(monkeypatch):
    """Let a search measure latencies for a short time."""
    from keras_nin.workflows import mixed_precision as search

    monkeypatch.setattr(search, "_POINT_SECONDS", 0.05)
    monkeypatch.setattr(search, "_PROFILE_SECONDS", 0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("short_measurements")
def test_a_search_chooses_records_and_repeats(cli):
    words = "export nin_digits --scheme mixed --out exported --runs 1"
    ran = cli(*words.split(), "--target", "match=99%,slowdown=5x", "--json")
    assert ran.status == 0, ran.err
    (record,) = ran.json["files"]
    search = record["mixed"]
    chosen = search["points"][search["chosen"]]
    assert record["options"]["float_operators"] == chosen["float_operators"]
    assert search["points"][0]["float_operators"] == []
    assert search["points"][0]["slowdown"] == 1
    assert set(search["points"][-1]["float_operators"]) <= set(search["operators"])
    reaching = [point for point in search["points"] if min(point["match"], point["expected_match"]) >= 0.99]
    fastest = min(reaching, key=lambda point: point["slowdown"])
    assert chosen["bytes"] <= fastest["bytes"]
    assert chosen in reaching
    assert {row["name"] for row in search["sensitivities"]} < set(search["operators"])
    assert pathlib.Path("exported/nin_digits_mixed.png").read_bytes().startswith(b"\x89PNG")

    ran = cli(*words.split(), "--target", "match=99%")
    assert ran.status == 2
    assert "a new search may choose other operators" in ran.err
    ran = cli("export", "--from", "exported/nin_digits_mixed.json", "--runs", 1)
    assert ran.status == 0, ran.err
    assert "Reproduced" in ran.out
    assert "up to date" in ran.out

    ran = cli("verify", "nin_digits", "exported/nin_digits_mixed.tflite")
    assert ran.status == 0, ran.err


@pytest.mark.slow
@pytest.mark.parametrize("command", by_tier(["edgetpu", "fit", "report"], wide=["fit"]))
def test_other_commands_take_the_file(cli, named_export, command):
    path = named_export / "nin_digits_mixed.tflite"
    ran = cli(command, path) if command != "report" else cli("report", path, "--out", "report.html")
    assert ran.status in (0, 1), ran.err
