"""The table of claims: every untrained one is reproduced, and a reproduction can fail."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import speed_samples

from keras_nin import InputError, claims, layers
from keras_nin.claims import convnet, equalities, networks
from keras_nin.claims.claim import Above, AtMost, Claim, ClaimFigure, ClaimResult, DeclaredFigure, Interval
from keras_nin.plots import sweeps
from keras_nin.report import claims as claims_module

VERDICTS = {
    "paperspace-params": "holds",
    "paperspace-speed": "does not hold",
    "paperspace-relu-512": "holds",
    "paperspace-relu": "holds in part",
    "paperspace-head": "holds",
    "paperspace-weighting": "holds",
    "robaita-params": "holds",
    "robaita-nonlinearity": "holds in part",
    "demystified-shape": "holds",
    "demystified-inception": "holds",
    "demystified-softconv": "holds",
    "lecun-fc": "holds in part",
    "transwikia-one-channel": "holds",
    "nin-mlpconv": "holds in part",
    "squeezenet-fire": "holds",
}
# Numbers that the definitions give as arithmetic, as the articles print them.
PRINTED = {
    "paperspace-params": [16_416, 147_488],
    "paperspace-relu-512": [262_656],
    "paperspace-relu": [30, 224, 72],
    "paperspace-head": [314_710, 316_532, 2_410, 4_232],
    "robaita-params": [56, (4, 4, 2), 8, (6, 6, 2)],
    "robaita-nonlinearity": [16, 36, True],
    "demystified-inception": [163_328, 128_049_152, 387_072, 303_464_448, 393_216, 308_281_344],
    "demystified-softconv": [929, 32, (36, 36, 1), True],
    "nin-mlpconv": [966_986, "5x5 1x1 1x1 5x5 1x1 1x1 3x3 1x1 1x1", 9, 0, 1, 10.41, 8.81],
    "squeezenet-fire": ["96 to 16", "16 to 64", "16 to 64", 11_920, 1_248_424, 1_235_496],
}


@pytest.fixture(autouse=True)
def _no_timing(monkeypatch):
    speed_samples.use(monkeypatch)


def test_the_table_is_complete():
    assert sorted(claims.list_claims()) == sorted(VERDICTS)
    sources = [claim.source for claim in claims.CLAIMS.values()]
    assert [sources[0]] + [b for a, b in zip(sources, sources[1:], strict=False) if a != b] == list(
        dict.fromkeys(sources)
    )


@pytest.mark.parametrize("id", VERDICTS)
def test_every_claim_is_reproduced(id):
    result = claims.reproduce_claim(claims.get_claim(id))
    assert [figure.name for figure in result.figures if not figure.reproduced] == []
    assert result.verdict == VERDICTS[id]
    assert len({figure.name for figure in result.figures}) == len(result.figures)
    measured = [figure for figure in result.figures if figure.ours is not None]
    assert measured
    json.dumps(claims_module.claims_to_json([result]))


@pytest.mark.parametrize("id", PRINTED)
def test_the_declared_arithmetic_gives_the_printed_figures(id):
    given = [row.article for row in claims.get_claim(id).figures if row.article is not None]
    assert given[: len(PRINTED[id])] == PRINTED[id]


@pytest.mark.parametrize(
    ("id", "name", "wrong"),
    [
        ("paperspace-params", "1x1 layer, parameters", 512 * 32),
        ("robaita-nonlinearity", "it is the 1x1 kernel that makes them more", True),
        ("robaita-params", "3x3 layer, output", (6, 6, 2)),
        ("demystified-shape", "F = 16: role", "expand"),
        ("lecun-fc", "28x28 images, largest relative difference", Above(1e-5)),
        ("transwikia-one-channel", "1x1 layer, rank of the 16 outputs without bias", 2),
        ("paperspace-speed", "MACs of 3x3 over 1x1", 23),
    ],
)
def test_a_figure_that_is_declared_wrong_is_seen(id, name, wrong):
    row = claims.get_claim(id)
    figures = tuple(
        dataclasses.replace(figure, ours=wrong) if figure.name == name else figure for figure in row.figures
    )
    result = claims.reproduce_claim(dataclasses.replace(row, figures=figures))
    assert not result.reproduced
    assert [figure.name for figure in result.figures if not figure.reproduced] == [name]
    assert "(declared: " in claims_module.format_claims([result])
    assert f"Not reproduced: {id}" in claims_module.format_claims([result])


def test_a_wrong_layer_is_seen(monkeypatch):
    real = layers.conv1x1
    monkeypatch.setattr(layers, "conv1x1", lambda x, filters, **options: real(x, filters + 1, **options))
    assert not claims.reproduce_claim(claims.get_claim("demystified-shape")).reproduced


def test_unknown_id():
    with pytest.raises(InputError, match="paperspace-params"):
        claims.get_claim("paperspace-parms")


# verdicts


def result_of(*figures):
    return ClaimResult("x", "an article", "a claim", "a reason", figures)


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([(1, 1), ((2, 2), (2, 2))], "holds"),
        ([(1, 1), (2, 3)], "holds in part"),
        ([(1, 1), (2, None)], "holds in part"),
        ([(1, 2), (2, 3)], "does not hold"),
        ([(1, 2), (2, None)], "does not hold"),
        ([(1, None)], "not measured"),
        ([(None, 5)], "not measured"),
        ([(1, 1), (None, 5)], "holds"),
        ([(True, 1)], "does not hold"),
        ([(AtMost(1e-5), 1e-6)], "holds"),
        ([(23, Interval(20, 19, 23.5))], "holds"),
        ([(23, Interval(9, 8.5, 9.5))], "does not hold"),
        ([(23, Interval(30, 23.5, 40)), (23, Interval(20, 19, 23.5))], "holds in part"),
        ([(AtMost(1e-5), float("nan"))], "does not hold"),
        ([(AtMost(1e-5), "0")], "does not hold"),
    ],
)
def test_verdicts(pairs, verdict):
    result = result_of(*(ClaimFigure(f"figure {n}", article, None, ours) for n, (article, ours) in enumerate(pairs)))
    assert result.verdict == verdict


def test_what_is_declared_is_the_article_unless_said_otherwise():
    assert DeclaredFigure("n", 5).ours == 5
    assert DeclaredFigure("n", 5, None).ours is None
    assert ClaimFigure("n", 5, 5, None).reproduced is False
    assert ClaimFigure("n", 5, None, 6).reproduced is True
    assert ClaimFigure("n", 5, 6, 6).reproduced is True


def test_a_measurement_of_what_is_not_declared_is_a_defect():
    row = Claim("x", "s", "t", (DeclaredFigure("a", 1),), lambda: {"a": 1, "b": 2}, "w")
    with pytest.raises(ValueError, match="b"):
        claims.reproduce_claim(row)


# text, Markdown and JSON


def test_rendering():
    result = result_of(
        ClaimFigure("count", 16_416, 16_416, 16_416),
        ClaimFigure("shape", (1, 2), (3, 4), (3, 4)),
        ClaimFigure("time", 2.5, None, None),
    )
    text = claims_module.format_claims([result])
    lines = text.splitlines()
    assert lines[0] == "x: holds in part"
    assert any(line.split() == ["count", "16,416", "16,416"] for line in lines)
    assert any(line.split() == ["shape", "1x2", "3x4"] for line in lines)
    assert any(line.split() == ["time", "2.5", "not", "measured"] for line in lines)
    assert lines[-1] == "1 claim (holds in part: 1). Every declared figure is reproduced."
    table = claims_module.format_claims_markdown([result, result]).splitlines()
    assert table[0] == "| id | claim | the article's figure | our figure | verdict | why |"
    assert table[2] == table[3]
    assert table[2].startswith("| x | a claim | count: 16,416; shape: 1x2; time: 2.5 | count: 16,416; shape: 3x4;")
    (document,) = claims_module.claims_to_json([result])["claims"]
    assert document["figures"][1] == {
        "name": "shape", "article": [1, 2], "declared": [3, 4], "ours": [3, 4], "agrees": False, "reproduced": True,
    }  # fmt: skip


# what the reproductions compute with


def test_composed_convolutions_are_the_product():
    rng = np.random.default_rng(0)
    first, second = (
        (rng.normal(size=(*kernel, a, b)), rng.normal(size=b)) for kernel, a, b in (((3, 3), 2, 5), ((1, 1), 5, 4))
    )
    kernel, bias = networks.compose_convolutions(first, second)
    assert kernel.shape == (3, 3, 2, 4)
    patch = rng.normal(size=(3, 3, 2))
    middle = np.einsum("hwc,hwcd->d", patch, first[0]) + first[1]
    np.testing.assert_allclose(np.einsum("hwc,hwcd->d", patch, kernel) + bias, middle @ second[0][0, 0] + second[1])


def test_the_relu_decides_what_the_third_layer_merges_with():
    images = networks.random_input(4, 28, 28, 1)
    linear = networks.randomize_weights(convnet.build_relu_classifier(convnet.WITHOUT_RELU))
    relu = networks.randomize_weights(convnet.build_relu_classifier(convnet.WITH_RELU))
    assert convnet.merge_into_next_layer(linear, images) < 1e-5
    assert convnet.merge_into_next_layer(relu, images) > 1e-2
    assert convnet.merge_into_previous_layer(linear, images) > 1e-2
    assert convnet.merge_adjacent_layers(linear, images) < 1e-5


def test_relative_difference():
    assert networks.relative_difference(np.array([1.0, 2.5]), np.array([1.0, -5.0])) == 1.5
    with pytest.raises(ValueError, match="shapes"):
        networks.relative_difference(np.zeros(2), np.zeros((2, 1)))


def test_random_weights_have_biases_and_come_again():
    def build():
        return networks.build_network(lambda x: keras.layers.Conv2D(2, 3, name="a")(x), (5, 5, 1), "n")

    first, second = (networks.randomize_weights(build()).get_weights() for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.all(first[1] != 0)


def test_the_picture_shows_input_maps_and_mask():
    seen = equalities.compute_soft_mask()
    shown = [np.asarray(axes.images[0].get_array()) for axes in sweeps.plot_soft_mask(seen).axes if axes.images]
    for pixels in (seen.photograph, seen.image, seen.maps[..., 0], seen.maps[..., 31], seen.mask):
        assert any(np.array_equal(pixels, each) for each in shown)
