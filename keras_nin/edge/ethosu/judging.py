"""What an estimate shows that its reader must know, beyond what Vela says itself."""

from keras_nin.edge.ethosu import accelerators
from keras_nin.edge.ethosu.records import CPU, NOWHERE, NPU, Finding

_SPLIT = 100  # operations of one operator: a softmax becomes about 30
_SPLIT_SHARE = 0.05
_FAMILIES = tuple(dict.fromkeys(map(accelerators.family, accelerators.ACCELERATORS)))


def findings(layers, accelerator, system_config, said):
    """Yield `Finding`s.

    Args:
        layers: `Layer` records.
        accelerator, system_config: their names.
        said: `Finding`s of what Vela printed.
    """
    cpu = [layer.name for layer in layers if layer.target not in (NPU, NOWHERE)]
    explained = {name for finding in said for name in finding.layers}
    silent = tuple(name for name in cpu if name not in explained)
    if silent:
        yield Finding("cpu", "Vela gives no reason", silent)
    if cpu:
        yield _untimed(layers, cpu, said)
    for layer in layers:
        if layer.operations >= _SPLIT and (layer.share or 0) >= _SPLIT_SHARE:
            yield _split(layer)
    products = [layer for layer in layers if layer.target == NPU and layer.network_macs]
    others = tuple(layer.name for layer in products if layer.product_macs != layer.network_macs)
    if others:
        yield Finding("macs", "Vela counts other MACs than the audit", others)
    yield from _of_other_family(accelerator, system_config)


def number_of(operators):
    """Return how many there are, as the subject of a sentence: ``"1 operator is"``."""
    return f"{len(operators):,} operator{' is' if len(operators) == 1 else 's are'}"


def _untimed(layers, cpu, said):
    if any(layer.target not in (CPU, NOWHERE) for layer in layers):
        left = f"{number_of(cpu)} left to the CPU, for which Vela has no time"
        return Finding("time-without-cpu", f"{left}: the run takes longer than it says")
    floating = any("Float" in finding.message for finding in said)
    hint = ", since it computes in floating point; an int8 file (export --scheme int8) runs on the NPU"
    return Finding("nothing-on-npu", f"the whole network is left to the CPU{hint if floating else ''}")


def _split(layer):
    taken = f"{layer.share:.0%} of all cycles at {layer.utilisation:.1%} of the MACs that the accelerator can do"
    why = "Vela cuts what the accelerator does not do at once, such as a stride above 3"
    return Finding("split", f"becomes {layer.operations:,} operations that take {taken}: {why}", (layer.name,))


def _of_other_family(accelerator, system_config):
    named = [each for each in _FAMILIES if each in system_config.lower()]
    if named and accelerators.family(accelerator) not in named:
        meant = f"system configuration {system_config} is of another family than {accelerator}"
        yield Finding("other-family", f"{meant}, which may not come with its clock and memories")
