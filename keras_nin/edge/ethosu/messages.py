"""What Vela prints, as findings: warnings by what they are about, and whatever else it says as it stands."""

import re

from keras_nin.edge.ethosu.records import Finding

_UNSUPPORTED = re.compile(r"Warning \(supported operators\) operator: (?P<op>\S+), ofm: '(?P<tensor>.*)'")
# The name of the operator's own tensor, in brackets: with it no two reasons would be the same.
_TENSOR = re.compile(r"(?<=DataType )(\w+) \(.*\)$")
_DEFAULTS = re.compile(
    r"Warning: No (?P<what>[\w ]+) specified\. Using a default of (?P<value>.+?)\. Compilation may be .*"
)
_SUMMARY_STARTS = "Network summary for "
_SUMMARY = re.compile(
    r"(Accelerator (configuration|clock)|System configuration|Memory mode|Design peak .+|Total .+ used"
    r"|(CPU|NPU) operators|(Average|Input|Weight|Output|Total) .+ bandwidth|Neural network macs)\s"
)
_QUOTED = re.compile(r"'[^']*'")
_HINTS = {"configuration file": "--config", "system configuration": "--system-config", "memory mode": "--memory-mode"}
_LIST = "[]'\""


def findings(log, computed):
    """Return the `Finding`s of what Vela printed; every line is in one of them, or part of its summary.

    Args:
        log: the text.
        computed: dictionary from the name of a tensor to the names of the layers that compute it, in the file's order.
    """
    reasons, assumed, others = {}, {}, {}
    for lines in _paragraphs(log):
        unsupported = _UNSUPPORTED.fullmatch(lines[0])
        if unsupported:
            reason = _reason(lines[1:])
            names = computed.get(unsupported["tensor"], (unsupported["tensor"],))
            reasons.setdefault(reason, {}).update(dict.fromkeys(names))
            continue
        for line in lines:
            default = _DEFAULTS.fullmatch(line)
            if default:
                assumed[default["what"]] = default["value"]
            else:
                others.setdefault(_QUOTED.sub("''", line), []).append(line)
    return (*_assumed(assumed), *_unsupported(reasons, computed), *_others(others))


def _paragraphs(log):
    """Return the lines of each message: an unsupported operator's go on to the next empty line, others are single."""
    found, in_summary, open_ = [], False, False
    for line in map(str.rstrip, log.splitlines()):
        in_summary = in_summary or line.startswith(_SUMMARY_STARTS)
        if not line or (in_summary and (line.startswith(_SUMMARY_STARTS) or _SUMMARY.match(line))):
            open_ = False
        elif open_ and not _UNSUPPORTED.fullmatch(line):
            found[-1].append(line)
        else:
            found.append([line])
            open_ = bool(_UNSUPPORTED.fullmatch(line))
    return found


def _reason(lines):
    text = "; ".join(_TENSOR.sub(r"\1", line) for line in lines)
    return text.removeprefix("Reason: ") or "Vela gives no reason"


def _assumed(assumed):
    """Yield one finding for all that Vela took its own defaults for; the file of the sections by its name alone."""
    if assumed:
        values = ", ".join(f"{what} {value.rpartition('/')[2].strip(_LIST)}" for what, value in assumed.items())
        hints = ", ".join(_HINTS[what] for what in assumed if what in _HINTS)
        yield Finding("assumed", f"Vela's defaults: {values}; give those of the chip with {hints}")


def _unsupported(reasons, computed):
    """Yield a finding for each reason; Vela goes from the outputs to the inputs, the findings in the file's order."""
    order = {name: place for place, name in enumerate(name for names in computed.values() for name in names)}
    for reason, names in reasons.items():
        yield Finding("cpu", reason, tuple(sorted(names, key=lambda name: order.get(name, len(order)))))


def _others(others):
    for lines in others.values():
        more = f" (and {len(lines) - 1:,} more such lines)" if len(lines) > 1 else ""
        yield Finding("vela", f"{lines[0]}{more}")
