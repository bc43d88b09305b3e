"""Every claim without training is reproduced, and a reproduction can fail."""

import dataclasses
import json

import numpy as np
import pytest
import speed_samples

from keras_nin import claims, layers
from keras_nin.claims import convnet, networks
from keras_nin.claims.claim import (
    Above,
    AtMost,
    ClaimFigure,
    ClaimResult,
    ClaimsResult,
    DeclaredFigure,
    Interval,
    value_from_json,
)
from keras_nin.errors import InputError
from keras_nin.report.claims import format_claims, format_claims_markdown

VERDICTS = {
    "paperspace-params": "holds",
    "paperspace-speed": "does not hold",
    "paperspace-relu-512": "holds",
    "paperspace-relu": "partly holds",
    "paperspace-head": "holds",
    "paperspace-weighting": "holds",
    "robaita-params": "holds",
    "robaita-nonlinearity": "partly holds",
    "demystified-shape": "holds",
    "demystified-inception": "holds",
    "demystified-softconv": "holds",
    "lecun-fc": "partly holds",
    "transwikia-one-channel": "holds",
    "nin-mlpconv": "partly holds",
    "squeezenet-fire": "holds",
}
TRUNK = (3 * 3 * 1 * 3 + 3) + (3 * 3 * 3 * 64 + 64)
LINEAR_HEAD, POINTWISE_HEAD = (7 * 7 * 64 * 100 + 100) + (100 * 10 + 10), (64 * 32 + 32) + (32 * 10 + 10)
# Weights of Inception 3a, with and without its reductions.
REDUCED = 192 * 64 + (192 * 96 + 3 * 3 * 96 * 128) + (192 * 16 + 5 * 5 * 16 * 32) + 192 * 32
UNREDUCED = 192 * 64 + 3 * 3 * 192 * 128 + 5 * 5 * 192 * 32
PROJECTED = UNREDUCED + 192 * 32


def mlpconv(kernel, *channels):
    """Parameters of a convolution and the 1x1 layers after it; `channels` from the input's to the output's."""
    kernels = (kernel, *[1] * (len(channels) - 2))
    return sum(k * k * a * b + b for k, a, b in zip(kernels, channels[:-1], channels[1:], strict=True))


def fire(channels, squeeze, expand):
    return mlpconv(1, channels, squeeze, expand) + mlpconv(3, squeeze, expand)


FIRE3_TO_5 = fire(128, 16, 64) + fire(128, 32, 128) + fire(256, 32, 128)
FIRE6_TO_9 = fire(256, 48, 192) + fire(384, 48, 192) + fire(384, 64, 256) + fire(512, 64, 256)
AFTER_FIRE2 = FIRE3_TO_5 + FIRE6_TO_9 + mlpconv(1, 512, 1000)
# The figures of the articles by arithmetic.
ARTICLES = {
    "paperspace-params": [512 * 32 * 1 * 1 + 32, 512 * 32 * 3 * 3 + 32],
    "paperspace-relu-512": [512 * 512 + 512],
    "paperspace-relu": [3 * 3 * 1 * 3 + 3, 3 * 3 * 3 * 8 + 8, 8 * 8 + 8, AtMost(1e-5)],
    "paperspace-head": [LINEAR_HEAD, TRUNK + LINEAR_HEAD, POINTWISE_HEAD, TRUNK + POINTWISE_HEAD],
    "paperspace-speed": [0.01297 / 0.00056] * 2,
    "paperspace-weighting": [0],
    "robaita-params": [(3 * 3 * 3 + 1) * 2, (6 - 2, 6 - 2, 2), (1 * 1 * 3 + 1) * 2, (6, 6, 2)],
    "robaita-nonlinearity": [4 * 4, 6 * 6, True],
    "demystified-inception": [
        REDUCED,
        28 * 28 * REDUCED,
        UNREDUCED,
        28 * 28 * UNREDUCED,
        PROJECTED,
        28 * 28 * PROJECTED,
    ],
    "demystified-softconv": [(3 * 3 * 3 * 32 + 32) + (32 * 1 + 1), 32, (36, 36, 1), True],
    "lecun-fc": [(1, 1), (1, 1), AtMost(1e-5)],
    "transwikia-one-channel": [1],
    "nin-mlpconv": [
        mlpconv(5, 3, 192, 160, 96) + mlpconv(5, 96, 192, 192, 192) + mlpconv(3, 192, 192, 192, 10),
        *("5x5 1x1 1x1 5x5 1x1 1x1 3x3 1x1 1x1", 9, 0, 1, 10.41, 8.81),
    ],
    "squeezenet-fire": [
        *("96 to 16", "16 to 64", "16 to 64", fire(96, 16, 64)),
        *(mlpconv(7, 3, 96) + fire(96, 16, 64) + AFTER_FIRE2, mlpconv(3, 3, 64) + fire(64, 16, 64) + AFTER_FIRE2),
    ],
}


@pytest.fixture(scope="module")
def results():
    """The result of every claim, times from `speed_samples`."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        speed_samples.use(monkeypatch)
        return {id: claims.reproduce_claim(claims.get_claim(id)) for id in claims.list_claims()}


def test_claims_of_one_article_stand_together():
    assert sorted(claims.list_claims()) == sorted(VERDICTS)
    sources = [claim.source for claim in claims.CLAIMS.values()]
    changes = [after for before, after in zip([None, *sources], sources, strict=False) if before != after]
    assert changes == list(dict.fromkeys(sources))


def test_every_claim_is_reproduced(results):
    assert {id: result.verdict for id, result in results.items()} == VERDICTS
    for result in results.values():
        assert [figure.name for figure in result.figures if not figure.reproduced] == []
        assert len({figure.name for figure in result.figures}) == len(result.figures)
        assert any(figure.ours is not None for figure in result.figures)


def test_the_declared_figures_are_the_arithmetic_of_the_articles():
    for id, figures in ARTICLES.items():
        assert [figure.article for figure in claims.get_claim(id).figures if figure.article is not None] == figures, id
    assert claims.get_claim("squeezenet-fire").figures[-2].article == 1_248_424
    assert claims.get_claim("nin-mlpconv").figures[0].article == 966_986


def test_a_figure_that_is_declared_wrong_is_noticed(results):
    for id, name, wrong in (
        ("paperspace-params", "1x1 layer, parameters", 512 * 32),
        ("robaita-nonlinearity", "the 1x1 kernel causes the difference", True),
        ("robaita-params", "3x3 layer, output", (6, 6, 2)),
        ("demystified-shape", "F = 16: role", "expand"),
        ("lecun-fc", "28x28 images, largest relative difference", Above(1e-5)),
        ("transwikia-one-channel", "1x1 layer, rank of the 16 outputs without bias", 2),
        ("paperspace-speed", "MACs of 3x3 over 1x1", 23),
    ):
        claim = claims.get_claim(id)
        figures = tuple(
            dataclasses.replace(figure, ours=wrong) if figure.name == name else figure for figure in claim.figures
        )
        measured = {figure.name: figure.ours for figure in results[id].figures}
        result = claims.reproduce_claim(dataclasses.replace(claim, figures=figures, measure=lambda m=measured: m))
        assert [figure.name for figure in result.figures if not figure.reproduced] == [name]
        text = format_claims(ClaimsResult((result,)))
        assert "(declared: " in text
        assert f"Not reproduced: {id}" in text


def test_a_wrong_layer_is_noticed(monkeypatch):
    real = layers.conv1x1
    monkeypatch.setattr(layers, "conv1x1", lambda x, filters, **options: real(x, filters + 1, **options))
    assert not claims.reproduce_claim(claims.get_claim("demystified-shape")).reproduced


def test_an_unknown_claim_is_refused():
    with pytest.raises(InputError, match="paperspace-params") as caught:
        claims.get_claim("paperspace-parms")
    assert (caught.value.argument, caught.value.received) == ("claim", "paperspace-parms")


def result_of(*figures):
    return ClaimResult("x", "an article", "a claim", "a reason", figures)


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([(1, 1), ((2, 2), (2, 2)), (None, 5)], "holds"),
        ([(1, 1), (2, 3)], "partly holds"),
        ([(1, 1), (2, None)], "partly holds"),
        ([(1, 2), (2, 3), (3, None)], "does not hold"),
        ([(1, None), (None, 5)], "not measured"),
        ([(True, 1)], "does not hold"),
        ([(AtMost(1e-5), 1e-6)], "holds"),
        ([(AtMost(1e-5), float("nan"))], "does not hold"),
        ([(AtMost(1e-5), "0")], "does not hold"),
        ([(Above(1.0), 1.0)], "does not hold"),
        ([(23, Interval(20, 19, 23.5))], "holds"),
        ([(23, Interval(9, 8.5, 9.5))], "does not hold"),
        ([(23, Interval(30, 23.5, 40)), (23, Interval(20, 19, 23.5))], "partly holds"),
    ],
)
def test_verdicts(pairs, verdict):
    figures = (ClaimFigure(f"figure {n}", article, None, ours) for n, (article, ours) in enumerate(pairs))
    assert result_of(*figures).verdict == verdict


def test_the_declared_figure_is_the_articles_unless_said_otherwise():
    assert DeclaredFigure("n", 5).ours == 5
    assert DeclaredFigure("n", 5, None).ours is None
    assert [ClaimFigure("n", 5, *pair).reproduced for pair in ((5, None), (None, 6), (6, 6))] == [False, True, True]


def test_a_measurement_of_an_undeclared_figure_is_a_defect():
    claim = claims.Claim("x", "s", "t", (DeclaredFigure("a", 1),), lambda: {"a": 1, "b": 2}, "w")
    with pytest.raises(ValueError, match="b"):
        claims.reproduce_claim(claim)


def test_text_markdown_and_json():
    figures = (
        ClaimFigure("count", 16_416, 16_416, 16_416),
        ClaimFigure("shape", (1, 2), (3, 4), (3, 4)),
        ClaimFigure("time", 2.5, None, None),
    )
    result = ClaimsResult((result_of(*figures), result_of(*figures)))
    text = format_claims(result)
    lines = [line.split() for line in text.splitlines()]
    assert text.startswith("x: partly holds\n")
    assert ["count", "16,416", "16,416"] in lines
    assert ["shape", "1x2", "3x4"] in lines
    assert ["time", "2.5", "not", "measured"] in lines
    assert text.endswith("2 claims (partly holds: 2). Every declared figure is reproduced.")
    table = format_claims_markdown(result).splitlines()
    assert table[0] == "| id | source | claim | article's figures | our figures | verdict | why |"
    assert table[2] == table[3]
    assert table[2].startswith(
        "| x | an article | a claim | count: 16,416; shape: 1x2; time: 2.5 | count: 16,416; shape: 3x4;"
    )
    document = json.loads(json.dumps(result.to_json()))
    assert document["schema"] == "keras_nin.claims/1"
    assert document["claims"][0]["figures"][1] == {
        **{"name": "shape", "article": [1, 2], "declared": [3, 4], "ours": [3, 4]},
        **{"matches_article": False, "reproduced": True},
    }
    linked = dataclasses.replace(result_of(*figures), url="https://example.org/a")
    linked = ClaimsResult((linked,))
    assert "| [an article](https://example.org/a) |" in format_claims_markdown(linked)
    assert "  Source: an article\n    https://example.org/a\n" in format_claims(linked)
    assert (linked.to_json()["claims"][0]["url"], document["claims"][0]["url"]) == ("https://example.org/a", None)
    assert repr(result).startswith("<ClaimsResult: 2 claims (partly holds: 2)")
    assert "<td>partly holds</td>" in result._repr_html_()


def test_figures_come_back_from_json(results):
    for result in results.values():
        for figure in result.figures:
            document = json.loads(json.dumps(figure.to_json()))
            assert [value_from_json(document[key]) for key in ("article", "declared", "ours")] == [
                figure.article,
                figure.declared,
                figure.ours,
            ]


def test_only_timed_claims_have_conditions(results):
    untimed, timed = results["paperspace-params"], results["paperspace-speed"]
    assert (untimed.conditions, timed.conditions["threads"]) == (None, [1, 2])
    assert "measured" not in untimed.to_json()
    assert "Measured:" not in format_claims(ClaimsResult((untimed,)))
    assert "Measured:" in format_claims(ClaimsResult((timed,)))


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


def test_random_weights_have_biases_and_repeat():
    import keras

    def build():
        return networks.build_network(lambda x: keras.layers.Conv2D(2, 3, name="a")(x), (5, 5, 1), "n")

    first, second = (networks.randomize_weights(build()).get_weights() for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.all(first[1] != 0)
