"""The picture of the soft mask: what it shows is what the layers gave."""

import io

import numpy as np
import pytest

from keras_nin.claims import equalities
from keras_nin.plots import sweeps


@pytest.fixture(scope="module")
def seen():
    return equalities.compute_soft_mask()


@pytest.fixture(scope="module")
def drawn(seen):
    return sweeps.plot_soft_mask(seen)


def pictures(part):
    """The pixels of each picture in a part of the figure, with its title."""
    return [(axes.get_title(), np.asarray(axes.images[0].get_array())) for axes in part.axes if axes.images]


def test_the_photograph_is_beside_what_the_network_sees_of_it(seen, drawn):
    (title, photograph), (_, image) = pictures(drawn.subfigs[0])
    assert "scikit-learn's china.jpg" in title
    np.testing.assert_array_equal(image, seen.image)
    # The same part of the photograph, only finer: 8x8 pixels of it for each of the input.
    coarse = photograph.reshape(36, 8, 36, 8, 3).mean((1, 3))
    assert np.corrcoef(coarse.ravel(), image.ravel())[0, 1] > 0.98


def test_the_maps_are_there_in_the_order_of_their_weights_on_one_scale(seen, drawn):
    shown = pictures(drawn.subfigs[1])
    assert [title for title, _ in shown] == [f"{weight:+.3f}" for weight in sorted(seen.weights, reverse=True)]
    for (_, pixels), index in zip(shown, np.argsort(-seen.weights, kind="stable"), strict=True):
        np.testing.assert_array_equal(pixels, seen.maps[..., index])
    assert {axes.images[0].get_clim() for axes in drawn.subfigs[1].axes} == {(-1, 1)}


def test_the_mask_is_the_sigmoid_of_the_shown_sum(seen, drawn):
    mask = next(pixels for _, pixels in pictures(drawn.subfigs[2]) if pixels.shape == (36, 36))
    total = sum(weight * seen.maps[..., index] for index, weight in enumerate(seen.weights)) + seen.bias
    np.testing.assert_allclose(mask, 1 / (1 + np.exp(-total)), rtol=1e-5)


def test_it_says_that_nothing_was_learned(drawn):
    assert "not trained: its weights are random (seed 0)" in drawn.get_supxlabel()


def test_the_file_is_a_png_and_comes_again(seen):
    from PIL import Image

    first = sweeps.render_soft_mask(seen)
    assert first == sweeps.render_soft_mask(seen)
    assert Image.open(io.BytesIO(first)).size == (2400, 896)
