"""Layers against what the machine can do, as text."""

from keras_nin.benchmark import roofline
from keras_nin.tables import text_table

_COLUMNS = ("layer", "1x1", "us", "GMAC/s", "MACs/byte", "roof GMAC/s", "of roof", "of peak", "bound")
_SHARES = ("kind", "layers", "us", "GMAC/s", "of roof", "of peak")
_WORDS = {"pointwise": "1x1"}


def text(profile):
    """Return the table of a `Profile` with peaks: its layers on the roofline, and the 1x1 layers beside the others."""
    placed = roofline.place(profile)
    if not placed:
        return f"{profile.file}: no layer with MACs, a time and a measured peak: nothing to set against the roofline."
    rows = [_row(each) for each in placed]
    shares = [_share(each) for each in roofline.shares(placed)]
    unplaced = [layer.name for layer in profile.layers if layer.macs and layer not in [each.layer for each in placed]]
    return "\n".join(
        [
            *_heading(profile),
            text_table(_COLUMNS, rows, right=_COLUMNS[2:8]),
            "",
            text_table(_SHARES, shares, right=_SHARES[1:]),
            *([f"Not placed (no time, or a data type without a peak): {', '.join(unplaced)}"] if unplaced else []),
            *_notes(placed),
        ]
    )


def _heading(profile):
    host = profile.host
    yield (
        f"{profile.file} against this machine: {host['cpu']}, {profile.threads} "
        f"thread{'s' if profile.threads > 1 else ''}, LiteRT {host['litert']}, {profile.runs} runs"
    )
    for peak in profile.peaks:
        ridge = peak.gmacs_per_s / peak.gbytes_per_s
        yield (
            f"{peak.dtype}: {peak.gmacs_per_s:.1f} GMAC/s at most, memory {peak.gbytes_per_s:.1f} GB/s; compute bounds "
            f"from {ridge:.1f} MACs/byte on"
        )


def _row(each):
    layer = each.layer
    rate = layer.macs / layer.us.typical / 1000
    return [
        layer.name,
        (layer.role or "1x1") if layer.kind == "pointwise" else "",
        f"{layer.us.typical:,.1f}",
        f"{rate:.1f}",
        f"{each.intensity:.1f}",
        f"{each.attainable_gmacs_per_s:.1f}",
        f"{each.efficiency:.0%}",
        f"{each.of_peak:.0%}",
        each.bound,
    ]


def _share(share):
    return [
        _WORDS.get(share.name, share.name),
        str(share.layers),
        f"{share.us:,.1f}",
        f"{share.macs / share.us / 1000:.1f}",
        f"{share.efficiency:.0%}",
        f"{share.of_peak:.0%}",
    ]


def _notes(placed):
    cached = sum(each.bound == roofline.CACHE for each in placed)
    if cached:
        yield (
            f"cache: {cached} layer{'s' if cached > 1 else ''} ran faster than memory could feed it: the data came "
            "from the caches, and only the peak bounds it."
        )
