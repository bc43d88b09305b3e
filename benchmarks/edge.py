"""What the Edge TPU, Ethos-U and TFLite Micro make of int8 files, in one table; and Vela's MACs against the audit's.

python benchmarks/edge.py FILE.tflite...     prints Markdown; exit status 1 where the MACs of a convolution differ

Needs the extras ethosu and micro.
"""

import pathlib
import sys

from keras_nin import InputError
from keras_nin.edge import edgetpu, ethosu, micro
from keras_nin.formatting import format_markdown_table

ACCELERATORS = ("ethos-u55-128", "ethos-u85-256")
MAX_ARENA = 2 * 2**20
_SECONDS = 5.0  # of comparing outputs
_MIB = 2**20
_PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
COLUMNS = ("file", "Edge TPU: mapped", "parameters", *ACCELERATORS, "Micro: arena")


def row(path, sweep):
    """Return the cells of a file: the verdict, what Vela expects, and the smallest arena or why there is none."""
    verdict = edgetpu.check_edgetpu(path)
    memory = verdict.memory
    return [
        pathlib.Path(path).name,
        verdict.failure.message if verdict.failure else f"{verdict.mapped} of {verdict.kept}",
        f"{memory.parameter_bytes / _MIB:.2f} MiB, {memory.state}",
        *map(_expected, sweep.estimates),
        _arena(micro.measure_micro(path, max_arena=MAX_ARENA, seconds=_SECONDS)),
    ]


def _expected(estimate):
    cpu = f", {len(estimate.cpu_layers)} on the CPU" if estimate.cpu_layers else ""
    used = estimate.used_bytes("SRAM") / 1024
    return f"{estimate.us / 1000:.2f} ms, {estimate.utilization:.1%} of the MACs, SRAM {used:,.1f} KiB{cpu}"


def _arena(found):
    if found.finding:
        return f"none: {found.finding.kind}: {found.finding.message}"
    compared = found.comparison
    outputs = f"{compared.differing:,} of {compared.outputs:,} outputs differ" if compared else "not compared"
    return f"{found.arena.bytes:,} B ({found.arena.tensor_bytes:,} tensors); {outputs}"


def mac_rows(estimate):
    """Return how many products Vela and the audit count alike, and a line for every row where they do not."""
    same, others = 0, []
    for layer in estimate.layers:
        if layer.product_macs == layer.network_macs:
            same += layer.op in _PRODUCTS
        else:
            others.append(
                f"{estimate.file} on {estimate.accelerator}: {layer.name} ({layer.op}): {layer.product_macs:,} MACs "
                f"as Vela counts, {layer.network_macs:,} as the audit does"
            )
    wrong = any(each.op in _PRODUCTS and each.product_macs != each.network_macs for each in estimate.layers)
    return same, others, wrong


def main(paths):
    """Print all of it; return the exit status."""
    rows, lines, same, wrong = [], [], 0, False
    for path in paths:
        sweep = ethosu.estimate_ethosu(path, ACCELERATORS)
        if sweep.refusals:
            raise InputError(sweep.refusals[0].message)
        rows.append(row(path, sweep))
        for estimate in sweep.estimates:
            alike, others, differs = mac_rows(estimate)
            same, lines, wrong = same + alike, lines + others, wrong or differs
    print(format_markdown_table(COLUMNS, rows))
    print(f"\nRows of convolutions and products whose MACs Vela and the audit count alike: {same:,}. Other rows:\n")
    print("\n".join(f"- {line}" for line in lines) or "None.")
    return int(wrong)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
