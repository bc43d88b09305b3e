"""The sections of targets: all of them side by side, and of each file the Edge TPU, Ethos-U and TFLite Micro."""

from keras_nin.audit.render import size
from keras_nin.report import edgetpu as edgetpu_text
from keras_nin.report import ethosu as ethosu_text
from keras_nin.report import ethosu_plot
from keras_nin.report import fit as fit_text
from keras_nin.report import micro as micro_text
from keras_nin.report.html.parts import Items, Line, Section, png_picture, table

_MICRO = ("arena", "tensors", "persistent", "flash", "of it weights", "peak activations")
_PARTS = ("part", "bytes")
_UNKNOWN = "-"


def targets(fit, name):
    """Return the `Section` of a `keras_nin.edge.fit.Fit`: a column for each file, and how the figures were found."""
    grids = fit_text.grids(fit, whole=True)
    tables = [
        table("Files by targets", ("figure", *grid.columns[1:]), grid.rows, right=grid.columns[1:]) for grid in grids
    ]
    reasons = [Line(line, "plain") for line in fit_text.reasons(fit)]
    return Section(name, "Targets", (*tables, *reasons, *(Line(line) for line in fit_text.notes(fit))))


def edgetpu(predicted, name):
    """Return the `Section` of a `keras_nin.report.edge_documents.Predicted`."""
    verdict = predicted.verdict
    if verdict is None:
        return Section(f"{name}-edgetpu", "Edge TPU: not judged", (Line(predicted.reason, "plain"),))
    rows = [edgetpu_text.cells(each) for each in verdict.operators]
    every = table("Operators on the Edge TPU", edgetpu_text.COLUMNS, rows, right=edgetpu_text.COLUMNS[:1],
                  folded=f"All {len(rows)} operators")  # fmt: skip
    tone = "good" if verdict.full else "plain" if verdict.compiles else "bad"
    first, *others = edgetpu_text.summary(verdict)
    parts = (
        Line(first, tone),
        *(Line(line, "plain") for line in edgetpu_text.reasons(verdict)),
        *map(Line, others),
        every,
    )
    return Section(f"{name}-edgetpu", f"Edge TPU: {_state(verdict)}", parts)


def _state(verdict):
    if verdict.failure:
        return f"does not compile: {verdict.failure.message}"
    return f"{verdict.mapped:,} of {verdict.kept:,} operators mapped"


def ethosu(sweep, name):
    """Return the `Section` of a `keras_nin.edge.ethosu.Sweep`: the accelerators side by side, and each by itself."""
    columns = ethosu_text.SWEEP_COLUMNS
    parts = [table("Accelerators", columns, map(ethosu_text.sweep_row, sweep.estimates), right=columns[1:-1])]
    if len(sweep.estimates) > 1:
        parts.append(png_picture(ethosu_plot.png(sweep), "Time of a run on each accelerator, by 1x1 role and kind."))
    parts += [Line(f"{each.accelerator}: refused: {each.message}", "plain") for each in sweep.refusals]
    sections = [_estimate(each, f"{name}-{number}") for number, each in enumerate(sweep.estimates, 1)]
    return Section(name, "Ethos-U, as Vela expects it", tuple(parts), tuple(sections))


def _estimate(estimate, name):
    rows = ethosu_text.layer_rows(estimate)
    groups = table("Layers by 1x1 role and kind", ethosu_text.GROUP_COLUMNS, ethosu_text.group_rows(estimate),
                   right=ethosu_text.GROUP_COLUMNS[1:])  # fmt: skip
    every = table("Every layer", ethosu_text.COLUMNS, rows, right=ethosu_text.RIGHT,
                  folded=f"All {len(rows) - 1} layers")  # fmt: skip
    findings = [(each.rule, _finding(each)) for each in estimate.findings]
    parts = [Line(ethosu_text.head(estimate)), groups, *([Items(tuple(findings))] if findings else []), every]
    return Section(name, estimate.accelerator, (*parts, *map(Line, ethosu_text.totals(estimate))))


def _finding(found):
    layers = f"{ethosu_text.names(found.layers)}: " if found.layers else ""
    return f"{layers}{found.message}"


def micro(found, name):
    """Return the `Section` of a `keras_nin.edge.micro.Micro`."""
    arena = found.arena
    sizes = (arena.bytes, arena.tensor_bytes, arena.persistent_bytes) if arena else (None,) * 3
    sizes = (*sizes, found.file_bytes, found.weight_bytes, found.peak_activation_bytes)
    row = tuple(_UNKNOWN if each is None else size(each) for each in sizes)
    lines = (*micro_text.comparison_lines(found), *micro_text.float_lines(found))
    rows = micro_text.operator_rows(found)
    operators = table("Operators to register", micro_text.COLUMNS, rows, right=micro_text.COLUMNS[1:2],
                      folded=f"All {len(rows)} operators to register")  # fmt: skip
    parts = (
        table("Memory", _MICRO, [row], right=_MICRO),
        *_arena(found),
        *(Line(line, "plain") for line in lines),
        operators,
    )
    word = f"an arena of {size(arena.bytes)}" if arena else f"none works: {found.finding.kind}"
    return Section(f"{name}-micro", f"TFLite Micro: {word}", parts)


def _arena(found):
    """Yield what the sizes of an arena mean, or why none works."""
    arena = found.arena
    if arena is None:
        yield Line(f"No arena up to {size(found.max_arena)} works: {found.finding.message}", "bad")
        return
    yield Line(
        f"The smallest arena that runs with tflite-micro {found.package} on a {arena.host_bits}-bit host, to "
        f"{arena.step} bytes. The persistent part has pointers: on a 32-bit microcontroller it is smaller. The program "
        "comes on top of the flash."
    )
    if arena.parts:
        rows = [(part.name, f"{part.bytes:,}") for part in arena.parts]
        yield table("Persistent memory", _PARTS, rows, right=_PARTS[1:], folded="What the persistent part is for")
