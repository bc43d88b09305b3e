"""What stands below an audit's table: totals, what is shown of them, what is not known, findings, conventions."""

import textwrap

from keras_nin.tables import printable

_NAMES_SHOWN = 5
_FLOAT32_BYTES = 4

COUNTING = (
    "1 MAC = one multiply + one add; batch 1. Bias, activation, pooling, resizing, merges, normalisations and scaling "
    "element by element count 0; a transposed convolution counts input positions x k x k x Cin x Cout.",
    "1x1 layers: convolutions with a 1x1 kernel in one group, and Dense on a map.",
)
_PEAK = (
    "Peak activation memory: the largest sum of live tensors in execution order. Activations and BatchNormalization "
    "are fused into what they follow, Flatten and Reshape share their input's memory, Concatenate and ZeroPadding do "
    "not."
)


def figures(audit, rows=None):
    """Return the totals of `audit` as lines, before them the sums over `rows` where a part of it is shown."""
    total = audit.total
    return [
        *([] if rows is None else [_shown(audit, rows)]),
        f"Total: {total.params:,} params ({total.trainable_params:,} trainable, {total.non_trainable_params:,} not), "
        f"{total.macs:,} MACs",
        f"In 1x1 layers: {percent(total.pointwise_params, total.params)} of params, "
        f"{percent(total.pointwise_macs, total.macs)} of MACs",
        _peak(audit),
        *([f"MACs not known, so not in the total: {names(audit.unknown)}"] if audit.unknown else []),
    ]


def _peak(audit):
    peak = audit.total.peak_activation_bytes
    if not in_float32(audit):
        return f"Peak activation memory: {size(peak)} at the file's own types"
    return f"Peak activation memory: {size(peak)} float32, {size(audit.total.peak_activation_bytes_int8)} int8"


def _shown(audit, rows):
    params, macs = sum(row.params for row in rows), sum(row.macs or 0 for row in rows)
    total = audit.total
    return (
        f"Shown: {len(rows):,} of {len(audit.rows):,} layers, {params:,} params ({percent(params, total.params)}), "
        f"{macs:,} MACs ({percent(macs, total.macs)})"
    )


def findings(audit):
    """Return the findings of `audit` as lines: the rule, the layers, one sentence, what it saves."""
    return [_finding(finding) for finding in audit.findings]


def _finding(finding):
    saved = [_saved(key, value) for key, value in finding.saves.items() if value]
    return f"{finding.rule}: {names(finding.layers)}: {finding.message}" + (
        f" Saves {', '.join(saved)}." if saved else ""
    )


def _saved(key, value):
    return size(value) if key == "bytes" else f"{value:,} {'MACs' if key == 'macs' else key}"


def conventions(audit):
    """Return what the figures of `audit` mean, as paragraphs."""
    if in_float32(audit):
        types = "Bytes of activations are at float32, bytes of weights at the weights' own types."
    else:
        types = "Bytes are those of the file's own types."
    return [*COUNTING, _PEAK, types]


def in_float32(audit):
    """Whether the bytes of activations are at float32: of every Keras model, and of files that hold float32 alone."""
    return all(row.activation_bytes == _FLOAT32_BYTES * row.activation_elements for row in audit.rows)


def names(layers):
    """Return the first few of `layers` as text, and how many more there are."""
    more = len(layers) - _NAMES_SHOWN
    return ", ".join(layers[:_NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def size(count):
    """Return `count` bytes in KiB, or in MiB from one MiB on: ``"959.1 KiB"``."""
    return f"{count / 2**20:,.2f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


def percent(part, whole):
    """Return a share as ``"40.5%"``, or "none" where there is no whole."""
    return f"{part / whole:.1%}" if whole else "none"


def wrap(line, width, indent="  "):
    """Return `line` as printable lines of at most `width` characters, all but the first indented."""
    return textwrap.wrap(printable(line), width, subsequent_indent=indent, break_on_hyphens=False)
