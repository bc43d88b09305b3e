"""Parameters: what fits into the chip's memory, and what is streamed from the host at every inference."""

from keras_nin.edge.edgetpu.records import Memory

MIB = 1 << 20
# Of the chip's 8 MiB the program and the activations take their part. "Used" plus "remaining" for parameters in ten
# published outputs of compilers 2.1 to 16.0: 1.1, 1.9, 6.1, 6.2, 6.9, 7.0, 7.0, 7.2, 7.7, 8.2 MiB.
LEAST, MOST = int(1.1 * MIB), int(8.2 * MIB)
USUAL = int(6.9 * MIB)


def parameters(uses, mapped):
    """Return the `Memory` that the constants of the mapped operators take.

    Args:
        uses: `Use` records.
        mapped: indexes of the mapped operators.
    """
    constants = {}
    for use in uses:
        if use.operator.index in mapped:
            shapes = {tensor.index for tensor in use.shape_operands}
            for tensor in use.inputs:
                if tensor is not None and tensor.is_constant and tensor.index not in shapes:
                    constants[tensor.buffer] = tensor.buffer_bytes
    total = sum(constants.values())
    if total <= LEAST:
        return Memory(total, "on-chip", 0)
    if total <= USUAL:
        return Memory(total, "usually on-chip", 0)
    return Memory(total, "streamed" if total > MOST else "usually streamed", max(0, total - MOST))
