"""One file on one target: its figures, or why there are none. What fails on a target ends nothing else."""

from keras_nin.audit.render.notes import size
from keras_nin.edge.fit.records import CPU, EDGETPU, ETHOSU, MICRO, Cpu, EdgeTpu, EthosU, Micro, NoFigure
from keras_nin.errors import InputError


def cpu(path, settings, warnings):
    """Return (`Cpu`, host) of a file that is run here, or (`NoFigure`, None); adds to the list of `warnings`."""
    from keras_nin.benchmark import measure, subtotals

    try:
        made = measure([path], threads=(settings.threads,), seconds=settings.seconds)
    except InputError as error:
        return NoFigure(CPU, "does not run", str(error)), None
    warnings += made.warnings
    (profile,) = made.profiles
    total = profile.total
    share = subtotals.pointwise(profile).share if profile.layers else None
    figures = Cpu(total.median, total.low, total.high, profile.threads, profile.runs, profile.converged, share)
    return figures, made.host


def edgetpu(path):
    """Return the `EdgeTpu` of a file, or `NoFigure` where there is nothing to judge."""
    from keras_nin.edge.edgetpu import judge

    try:
        verdict = judge(path)
    except InputError as error:
        return NoFigure(EDGETPU, "not judged", str(error))
    failure = verdict.failure
    return EdgeTpu(
        compiles=verdict.compiles,
        failure=failure.message if failure else None,
        why=(failure.why if failure else "; ".join(verdict.obstacles)) or None,
        fix=failure.fix if failure else None,
        mapped=verdict.mapped,
        operators=verdict.kept,
        parameter_bytes=verdict.memory.parameter_bytes,
        parameters=verdict.memory.state,
    )


class Vela:
    """Vela, looked for once for all files."""

    def __init__(self):
        from keras_nin.edge.ethosu import vela

        self.tool, self.missing = None, None
        try:
            self.tool = vela.find()
        except InputError as error:
            self.missing = NoFigure(ETHOSU, "needs the extra ethosu", str(error))

    def __call__(self, path, settings):
        """Return the `EthosU` of a file, or `NoFigure` without Vela or where that refuses the file."""
        from keras_nin.edge.ethosu import estimate

        if self.missing:
            return self.missing
        try:
            made = estimate(path, settings.accelerator, limit=settings.time_limit, tool=self.tool)
        except InputError as error:
            return NoFigure(ETHOSU, "refused by Vela", str(error))
        operators = sum(layer.index is not None for layer in made.layers)
        left = sum(layer.index is not None for layer in made.left_to_cpu)
        return EthosU(
            accelerator=made.accelerator,
            system_config=made.system_config,
            memory_mode=made.memory_mode,
            vela=made.vela,
            clock_hz=made.clock_hz,
            us=made.us,
            sram_bytes=made.used("SRAM"),
            on_npu=operators - left,
            operators=operators,
        )


def micro(path, settings):
    """Return the `Micro` of a file, or `NoFigure` without the package or where no arena works."""
    from keras_nin.edge.micro import examining, records

    try:
        examining.require_package()
    except InputError as error:
        return NoFigure(MICRO, "needs the extra micro", str(error))
    try:  # one sample is compared: the reference kernels are slow
        found = examining.examine(path, max_arena=settings.max_arena, seconds=0, limit=settings.time_limit)
    except InputError as error:
        return NoFigure(MICRO, "not tried", str(error))
    if found.arena is None:
        kind = found.finding.kind
        word = f"over {size(settings.max_arena)}" if kind == records.TOO_SMALL else kind
        return NoFigure(MICRO, word, found.finding.message)
    arena = found.arena
    return Micro(
        arena_bytes=arena.bytes,
        tensor_bytes=arena.tensor_bytes,
        persistent_bytes=arena.persistent_bytes,
        host_bits=arena.host_bits,
        package=found.package,
        same=None if found.comparison is None else found.comparison.differing == 0,
    )
