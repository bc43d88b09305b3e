"""The maps of the soft mask as a picture, with Pillow alone."""

import io

import numpy as np

from keras_nin.claims.softconv import SEED

_COLUMNS, _ROWS = 8, 4
_MAP_SCALE, _LARGE_SCALE = 2, 8  # 36 pixels become 72 and 288
_GAP, _HEAD = 6, 48
_TEXT, _PAPER = (20, 20, 20), (255, 255, 255)


def png(seen):
    """Return a PNG file, as bytes: the image, its 32 maps and the one projected map of `seen`, side by side.

    Every map is drawn from its lowest value (black) to its highest (white); the title gives the two of the mask.

    Args:
        seen: `keras_nin.claims.softconv.Maps`.
    """
    from PIL import Image, ImageDraw, ImageFont

    from_to = f"from {seen.mask.min():.2f} to {seen.mask.max():.2f}"
    panels = (
        (f"input\n{_short(seen.name)}", _enlarged(seen.image, _LARGE_SCALE)),
        (
            f"{seen.maps.shape[-1]} maps of the 3x3 layer (tanh)\neach from its lowest to its highest value",
            _grid(seen.maps),
        ),
        (
            f"one map of the 1x1 layer (sigmoid)\n{from_to}; random weights (seed {SEED})",
            _enlarged(_stretched(seen.mask), _LARGE_SCALE),
        ),
    )
    width = sum(panel.shape[1] + 2 * _GAP for _, panel in panels)
    height = max(panel.shape[0] for _, panel in panels) + _HEAD + 2 * _GAP
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw, font, left = ImageDraw.Draw(canvas), ImageFont.load_default(14), _GAP
    for title, panel in panels:
        draw.multiline_text((left, _GAP), title, fill=_TEXT, font=font)
        canvas.paste(Image.fromarray(panel), (left, _HEAD + _GAP))
        left += panel.shape[1] + 2 * _GAP
    out = io.BytesIO()
    canvas.save(out, "PNG")
    return out.getvalue()


def _enlarged(values, scale):
    """Return values from 0 to 1, (h, w) or (h, w, 3), as uint8 RGB with every pixel `scale` times as large."""
    pixels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., np.newaxis], 3, axis=2)
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def _grid(maps):
    height, width = (side * _MAP_SCALE for side in maps.shape[:2])
    shape = (_ROWS * (height + _GAP) - _GAP, _COLUMNS * (width + _GAP) - _GAP, 3)
    grid = np.full(shape, _PAPER[0], np.uint8)
    for index in range(maps.shape[-1]):
        row, column = divmod(index, _COLUMNS)
        top, left = row * (height + _GAP), column * (width + _GAP)
        grid[top : top + height, left : left + width] = _enlarged(_stretched(maps[..., index]), _MAP_SCALE)
    return grid


def _stretched(values):
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _short(name, length=36):
    return name if len(name) <= length else f"...{name[-length:]}"
