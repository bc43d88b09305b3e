"""The smallest size that works."""

STEP = 16  # bytes: what the runtime aligns tensors to


def smallest(works, most, guess):
    """Return the smallest multiple of `STEP` that works.

    A size that works makes every larger one work. From the guess it goes in doubling steps until the answer is between
    two sizes, and then halves what is between them: two tries where the guess is right, and few where it is near.

    Args:
        works: function of a size, whether it works.
        most: a multiple of `STEP` that is known to work.
        guess: where to begin.
    """
    low, high = 0, most  # `low` does not work, `high` does
    near, reach, grows = -(-guess // STEP) * STEP, STEP, None
    while low < near < high:
        fits = works(near)
        low, high = (low, near) if fits else (near, high)
        if grows is None:
            grows = not fits
        elif fits == grows:
            break
        near += reach if grows else -reach
        reach *= 2
    while high - low > STEP:
        middle = (low + high) // 2 // STEP * STEP
        low, high = (low, middle) if works(middle) else (middle, high)
    return high
