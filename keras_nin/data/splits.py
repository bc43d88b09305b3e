"""Which images are for what: reproducible draws, and every n-th image of a list."""

import numbers

import numpy as np

from keras_nin.errors import InputError

SPLITS = ("train", "calibration", "test")


def generator(seed):
    """Return the random generator of `seed` (0 to 2**32 - 1); `InputError` for any other seed.

    RandomState and not `default_rng`: NumPy promises that its numbers never change between versions (NEP 19), so a
    published calibration set or accuracy names the same images for ever.
    """
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise InputError(f"Expected `seed` to be a whole number from 0 to 4294967295. Received: {seed!r}")
    return np.random.RandomState(int(seed))


def every(count, step, limit=None):
    """Return (taken, rest) of the indices 0 to `count` - 1: 0, `step`, 2 * `step`, ..., at most `limit` of them."""
    indices = np.arange(count, dtype=np.int64)
    taken = indices[::step][:limit]
    return taken, np.setdiff1d(indices, taken)


def draw(count, number, seed):
    """Return (taken, rest), both sorted: `number` of the indices 0 to `count` - 1 at random, without repetition."""
    shuffled = generator(seed).permutation(count).astype(np.int64)
    return np.sort(shuffled[:number]), np.sort(shuffled[number:])
