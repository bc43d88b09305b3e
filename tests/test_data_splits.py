import numpy as np
import pytest

from keras_nin.data.dataset import draw_indices, seeded_generator, take_every
from keras_nin.errors import InputError


def test_every_takes_from_the_first_and_leaves_the_rest_in_order():
    taken, rest = take_every(12, 5)
    assert taken.tolist() == [0, 5, 10]
    assert rest.tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 11]
    assert take_every(12, 5, limit=2)[0].tolist() == [0, 5]


def test_draw_is_a_seeded_partition():
    taken, rest = draw_indices(50, 10, seed=3)
    assert len(taken) == 10
    assert sorted([*taken, *rest]) == list(range(50))
    assert np.all(np.diff(taken) > 0)
    np.testing.assert_array_equal(taken, draw_indices(50, 10, seed=3)[0])
    assert taken.tolist() != draw_indices(50, 10, seed=4)[0].tolist()


def test_a_seed_gives_these_numbers_for_ever():
    assert seeded_generator(0).permutation(10).tolist() == [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "0", None, True])
def test_a_seed_outside_the_range_is_refused(seed):
    with pytest.raises(InputError, match="Expected `seed`"):
        seeded_generator(seed)
