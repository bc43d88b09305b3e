"""What an estimate shows that its reader must know, beyond what Vela says itself."""

from keras_nin.edge.ethosu import accelerators
from keras_nin.edge.ethosu.records import CPU, NOWHERE, NPU, Finding

_SPLIT = 100  # operations of one operator: a softmax becomes about 30
_SPLIT_SHARE = 0.05


def findings(layers, accelerator, system_config, explained):
    """Yield `Finding`s.

    Args:
        layers: `Layer` records.
        accelerator, system_config: their names.
        explained: names of the layers for which Vela said why they are on the CPU.
    """
    cpu = [layer.name for layer in layers if layer.target not in (NPU, NOWHERE)]
    silent = tuple(name for name in cpu if name not in explained)
    if silent:
        yield Finding("cpu", "Vela gives no reason", silent)
    if cpu:
        yield _untimed(layers, cpu)
    for layer in layers:
        if layer.operations >= _SPLIT and (layer.share or 0) >= _SPLIT_SHARE:
            yield _split(layer)
    named = [each for each in ("u55", "u65", "u85") if each in system_config.lower()]
    if named and accelerators.family(accelerator) not in named:
        message = (
            f"system configuration {system_config} is of another family than {accelerator}: its clock and memories"
        )
        yield Finding("other-family", f"{message} may be none that this accelerator comes with")


def _untimed(layers, cpu):
    if all(layer.target in (CPU, NOWHERE) for layer in layers):
        return Finding(
            "nothing-on-npu", "all operators are left to the CPU; an int8 file (--scheme int8) runs on the NPU"
        )
    message = (
        f"{len(cpu):,} operators are left to the CPU, for which Vela has no time: the run takes longer than it says"
    )
    return Finding("time-without-cpu", message)


def _split(layer):
    return Finding(
        "split",
        f"becomes {layer.operations:,} operations that take {layer.share:.0%} of all cycles at {layer.utilisation:.1%} of "
        "the MACs that the accelerator can do: Vela cuts a convolution of a stride above 3 into one for each position",
        (layer.name,),
    )
