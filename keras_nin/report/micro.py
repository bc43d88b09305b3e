"""A file on TFLite Micro, as text."""

from keras_nin.audit.render.notes import size
from keras_nin.edge.micro.records import TOO_SMALL
from keras_nin.tables import printable, text_table

COLUMNS = ("operator", "count", "method")


def text(micro, results=()):
    """Return what was found as text.

    Args:
        micro: `keras_nin.edge.micro.records.Micro`.
        results: `keras_nin.edge.micro.budget.Result` records.
    """
    lines = [
        f"{printable(micro.file)} on TFLite Micro {micro.package}",
        f"Flash: {_bytes(micro.file_bytes)}, of it weights {_bytes(micro.weight_bytes)}; the program comes on top",
        *_arena(micro),
        *comparison_lines(micro),
        *float_lines(micro),
        "",
        text_table(COLUMNS, operator_rows(micro), right=COLUMNS[1:2]),
        "",
        micro.resolver,
        *([""] if results else []),
        *map(_result, results),
    ]
    return "\n".join(lines)


def _arena(micro):
    arena = micro.arena
    if arena is None:
        more = ". Let it try more with --max-arena" if micro.finding.kind == TOO_SMALL else ""
        yield f"Arena: none works, {micro.finding.kind}: {printable(micro.finding.message)}{more}"
        if micro.peak_activation_bytes is not None:
            yield f"Peak activation memory, by the audit: {_bytes(micro.peak_activation_bytes)}"
        return
    yield (
        f"Arena: {_bytes(arena.bytes)} is the smallest that runs, to {arena.step} bytes ({arena.tries} tries up to "
        f"{size(micro.max_arena)}), on this {arena.host_bits}-bit host:"
    )
    peak = micro.peak_activation_bytes
    beside = "" if peak is None else f" (peak activation memory, by the audit: {_bytes(peak)})"
    yield f"  tensors      {_bytes(arena.tensor_bytes)}{beside}"
    yield f"  persistent   {_bytes(arena.persistent_bytes)}, with pointers: less on a 32-bit microcontroller"
    for part in arena.parts:
        yield f"    {printable(part.name)}: {part.bytes:,}"


def comparison_lines(micro):
    """Yield how the outputs compare with those of LiteRT, where they could be compared."""
    compared, finding = micro.comparison, micro.comparison_finding
    if finding is not None:
        yield f"Not compared with LiteRT: {printable(finding.message)}"
    if compared is None:
        return
    what = f"{compared.outputs:,} outputs on {compared.samples} x {printable(compared.source)}"
    inputs = " (random numbers)" if compared.noise else ""
    if compared.differing:
        yield (
            f"Differs from LiteRT's reference kernels in {compared.differing:,} of {what}{inputs}, by at most "
            f"{compared.largest:g}"
        )
    else:
        yield f"Bit for bit as LiteRT's reference kernels: {what}{inputs}"


def float_lines(micro):
    """Yield how much of the file is no integers, where that is anything."""
    total = sum(use.count for use in micro.operators)
    if micro.float_operators:
        yield f"Not all integers: {micro.float_operators} of {total} operators read or write floating point"


def operator_rows(micro):
    """Return the rows of the operators that a resolver must register, under `COLUMNS`."""
    uses = micro.operators
    return [[use.op, str(use.count), use.method or ("AddCustom" if use.is_custom else "none")] for use in uses]


def _result(result):
    figure = "none works" if result.figure is None else _bytes(result.figure)
    verdict = "holds" if result.holds else "exceeded"
    return f"Budget {result.limit.item}: {figure}, at most {_bytes(result.limit.bytes)}: {verdict}"


def _bytes(count):
    return f"{count:,} bytes ({size(count)})"
