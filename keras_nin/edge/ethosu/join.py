"""From the operations that Vela made to the operators of the file and the layers of the network."""

from collections import Counter

from keras_nin.edge.ethosu import accelerators
from keras_nin.edge.ethosu.records import BOTH, CPU, NOWHERE, NPU, Layer


def layers(rows, operations, accelerator):
    """Return the `Layer` records of a file: one for each operator, in its order, then what belongs to none.

    Every operation is in exactly one of them, so that their sums are those over the operations.

    Args:
        rows: the audit's, one for each operator of the file.
        operations: `Operation` records.
        accelerator: its name.
    """
    joined, others = {}, {}
    for operation in operations:
        group = others if operation.source is None else joined
        group.setdefault(operation.name if operation.source is None else operation.source, []).append(operation)
    most = accelerators.macs_per_cycle(accelerator)
    whole = sum(operation.cycles for operation in operations)
    known = [
        _layer(joined.get(index, ()), whole, most, index=index, name=row.name, op=row.type, kind=row.kind,
               role=row.role, block=row.block, network_macs=row.macs)
        for index, row in enumerate(rows)
    ]  # fmt: skip
    unknown = [
        _layer(members, whole, most, index=None, name=name, op=None, kind="other", role=None, block=None,
               network_macs=None)
        for name, members in others.items()
    ]  # fmt: skip
    return (*known, *unknown)


def _layer(operations, whole, most, **known):
    cycles, macs = sum(each.cycles for each in operations), sum(each.macs for each in operations)
    return Layer(
        **known,
        target=_target(operations),
        operations=len(operations),
        cycles=cycles,
        npu_cycles=sum(each.npu_cycles for each in operations),
        share=cycles / whole if whole else None,
        macs=macs,
        product_macs=sum(each.macs for each in operations if each.is_product),
        utilisation=macs / (cycles * most) if cycles else None,
        bound=_bound(operations),
        **{name: added(operations, name) for name in ("access_cycles", "read", "written")},
    )


def added(records, name):
    """Return the sums of an attribute of `records` that is a dictionary of numbers."""
    sums = Counter()
    for record in records:
        sums.update(getattr(record, name))
    return dict(sums)


def _target(operations):
    placed = {each.on_cpu for each in operations}
    return {frozenset(): NOWHERE, frozenset({False}): NPU, frozenset({True}): CPU}.get(frozenset(placed), BOTH)


def _bound(operations):
    """Return what most of the cycles go to: for each operation the NPU, or the memory that keeps it longest."""
    cycles = Counter()
    for each in operations:
        waits = each.cycles > each.npu_cycles and each.access_cycles
        cycles[max(each.access_cycles, key=each.access_cycles.get) if waits else NPU] += each.cycles
    ((bound, most),) = cycles.most_common(1) or [(None, 0)]
    return bound if most else None
