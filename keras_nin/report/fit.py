"""Files by targets as tables: a column for each file, so that four of them fit beside their names."""

from dataclasses import dataclass

from keras_nin.audit.render.notes import size
from keras_nin.edge.fit.records import CPU, EDGETPU, ETHOSU, MICRO
from keras_nin.report.conditions import machine
from keras_nin.report.parity import microseconds, percent
from keras_nin.tables import printable, text_table

MOST_FILES = 4  # of a table
_ENDING = ".tflite"
_WIDTH, _LABEL, _GAP = 119, 19, 3  # characters; a line begins with a space


@dataclass(frozen=True)
class Grid:
    """A table of up to `MOST_FILES` files: headings, rows of text, and the whole names of headings that were cut."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]


def text(fit, results=()):
    """Return a `Fit` as text: the tables, why figures are missing, how all was found, and what became of limits.

    Args:
        fit: `keras_nin.edge.fit.Fit`.
        results: `keras_nin.edge.fit.limits.Result` records.
    """
    made = grids(fit)
    tables = [text_table(grid.columns, grid.rows, right=grid.columns[1:]) for grid in made]
    whole = [f"Whole name: {printable(name)}" for grid in made for name in grid.names]
    blocks = [*(["\n".join(whole)] if whole else []), "\n".join(reasons(fit)), "\n".join(notes(fit))]
    judged = "\n".join(map(printable, map(str, results)))
    return "\n\n".join(filter(None, [*tables, *blocks, judged]))


def grids(fit, whole=False):
    """Return the `Grid`s of a `Fit`; `whole` leaves the files' names uncut."""
    parts = [fit.results[start : start + MOST_FILES] for start in range(0, len(fit.results), MOST_FILES)]
    return tuple(_grid(fit, part, whole) for part in parts)


def _grid(fit, results, whole):
    names = [result.file.removesuffix(_ENDING) for result in results]
    rows = [row for row in ((label, *map(cell, results)) for label, cell in _lines(fit)) if any(row[1:])]
    cells = list(zip(*rows, strict=True))[1:]
    wide = _LABEL + sum(_GAP + max(map(len, (name, *column))) for name, column in zip(names, cells, strict=True))
    room = max(map(len, names)) + 2 if whole or wide <= _WIDTH else (_WIDTH - _LABEL) // len(results) - _GAP
    cut = tuple(result.file for result, name in zip(results, names, strict=True) if len(name) > room)
    return Grid(("", *_heads(names, room)), tuple(rows), cut)


def _heads(names, room):
    """Return headings of at most so many characters; with a number before each where two are alike."""
    heads = [_cut(name, room) for name in names]
    if len(set(heads)) == len(heads):
        return heads
    return [f"{place} {_cut(name, room - 2)}" for place, name in enumerate(names, 1)]


def _cut(name, room):
    """Return a name with its middle left out where there is no room for it: the ends tell files apart."""
    start = (room - 3) // 2
    return name if len(name) <= room else f"{name[:start]}...{name[start + 3 - room :]}"


def _lines(fit):
    """Yield (label, function of a `FileFit` that returns its cell) of every line; an empty cell says nothing."""
    yield "size", lambda each: size(each.file_bytes)
    yield "parameters", lambda each: "" if each.params is None else f"{each.params:,}"
    yield "MACs", _macs
    yield "MACs in 1x1", lambda each: percent(each.pointwise_macs / each.macs) if each.macs else ""
    of = {CPU: _cpu, EDGETPU: _edgetpu, ETHOSU: _ethosu, MICRO: _micro}
    for target in fit.targets:
        (first, figure), *others = of[target](fit.settings)
        yield first, _or_word(target, figure)
        for label, cell in others:
            yield label, _or_word(target, cell, "")


def _macs(each):
    if each.macs is None:
        return "not known"
    return f"{each.macs:,}" if each.macs_known else f">= {each.macs:,}"


def _or_word(target, cell, word=None):
    """Return the function of a `FileFit`: the cell of its figures on a target, or why there are none."""

    def shown(each):
        figures, missing = getattr(each, target), each.why_not(target)
        if figures is not None:
            return cell(figures)
        return (missing.word if word is None else word) if missing else ""

    return shown


def _cpu(settings):
    threads = f"{settings.threads} thread{'' if settings.threads == 1 else 's'}"
    yield f"this CPU, {threads}", lambda cpu: microseconds(cpu.median_us)
    yield "CPU 95 % interval", _interval
    yield "CPU runs", lambda cpu: f"{cpu.runs:,}"
    yield "CPU time in 1x1", lambda cpu: "" if cpu.pointwise_share is None else percent(cpu.pointwise_share)


def _interval(cpu):
    if cpu.low_us is None or cpu.high_us is None:
        return "too few runs"
    unit, name = (1000, "ms") if cpu.median_us >= 1000 else (1, "us")
    return f"{cpu.low_us / unit:.2f} to {cpu.high_us / unit:.2f} {name}"


def _edgetpu(_):
    yield "Edge TPU", _edgetpu_state
    yield "Edge TPU operators", lambda each: f"{each.mapped:,} of {each.operators:,}" if each.compiles else ""
    yield "Edge TPU parameters", lambda each: size(each.parameter_bytes) if each.mapped else ""
    yield "Edge TPU memory", lambda each: each.parameters if each.mapped else ""


def _edgetpu_state(each):
    if not each.compiles:
        return each.failure if len(each.failure) <= _LABEL else "does not compile"
    return "all mapped" if each.mapped == each.operators else "in part" if each.mapped else "nothing mapped"


def _ethosu(settings):
    yield settings.accelerator, _npu_time
    yield "Ethos-U clock", lambda each: f"{each.clock_hz / 1e6:,.0f} MHz" if each.on_npu else ""
    yield "Ethos-U operators", lambda each: f"{each.on_npu:,} of {each.operators:,}"
    yield "Ethos-U SRAM", lambda each: size(each.sram_bytes) if each.on_npu else ""


def _npu_time(each):
    if not each.on_npu:
        return "nothing on the NPU"
    return f"{each.us / 1000:,.3f} ms" + (" + CPU" if each.left_to_cpu else "")


def _micro(settings):
    yield "TFLite Micro arena", lambda each: size(each.arena_bytes)
    yield "of it tensors", lambda each: size(each.tensor_bytes)
    yield "Micro and LiteRT", lambda each: "" if each.same is None else "bit for bit" if each.same else "differ"


def reasons(fit):
    """Yield a line for every figure that is missing or not whole, with the reason; files that share it in one."""
    said = {}
    for each in fit.results:
        for line in _reasons(each):
            said.setdefault(line, []).append(each.file)
    for (title, reason), names in said.items():
        which = "all" if len(names) == len(fit.results) > 1 else ", ".join(names)
        yield printable(f"{title}, {which}: {reason}")


def _reasons(each):
    titles = {CPU: "this CPU", EDGETPU: "Edge TPU", ETHOSU: "Ethos-U", MICRO: "TFLite Micro"}
    if each.edgetpu is not None and not each.edgetpu.compiles:
        found = each.edgetpu
        yield (
            "Edge TPU",
            f"does not compile: {found.failure}: {found.why}" + (f". Fix: {found.fix}" if found.fix else ""),
        )
    elif each.edgetpu is not None and each.edgetpu.why:
        yield "Edge TPU", f"on the CPU: {each.edgetpu.why}"
    for missing in each.missing:
        yield titles[missing.target], f"{missing.word}: {missing.reason}"


def _no_compilation(found):
    return f"does not compile: {found.failure}: {found.why}" + (f". Fix: {found.fix}" if found.fix else "")


def notes(fit):
    """Yield how the figures were found: what is measured, predicted, estimated, and on what."""
    measured = [each.cpu for each in fit.results if each.cpu]
    if measured and fit.host is not None:
        threads = f"{fit.settings.threads} thread{'' if fit.settings.threads == 1 else 's'}"
        yield f"CPU: measured, median at batch 1 on {threads}; {printable(machine(fit.host))}"
    if any(each.edgetpu for each in fit.results):
        yield "Edge TPU: predicted for compiler 16.0 from the file alone, nothing was compiled"
    estimates = [each.ethosu for each in fit.results if each.ethosu]
    for vela, config, mode in dict.fromkeys((each.vela, each.system_config, each.memory_mode) for each in estimates):
        yield f"Ethos-U: estimated by Vela {vela} ({config}, {mode}), without the time of what is left to the CPU"
    for package, bits in dict.fromkeys(
        (each.micro.package, each.micro.host_bits) for each in fit.results if each.micro
    ):
        yield f"TFLite Micro: the smallest arena that runs, found with tflite-micro {package} on this {bits}-bit host"
    yield from (printable(f"Warning: {line}") for line in fit.warnings)
