"""From .tflite files to a `Fit`: read them all, and only then ask the targets one after another."""

import dataclasses
import os
from dataclasses import dataclass, field

from keras_nin import files
from keras_nin.audit import build, tflite_reader
from keras_nin.edge.fit import targets as ask
from keras_nin.edge.fit.records import CPU, EDGETPU, ETHOSU, MICRO, TARGETS, FileFit, Fit, NoFigure, Settings
from keras_nin.errors import InputError, one_of, unknown_name
from keras_nin.tflite import graph as tflite_graph

_TITLES = {CPU: "this CPU", EDGETPU: "Edge TPU", ETHOSU: "Ethos-U", MICRO: "TFLite Micro"}


def fit(paths, targets=TARGETS, settings=None, progress=None):
    """Return the `Fit` of .tflite files: what each costs, and what each target makes of it.

    Args:
        paths: of the files.
        targets: of `TARGETS`; whatever their order, the CPU is measured first.
        settings: `Settings`; None takes its defaults.
        progress: function of a line of text that says what is being done, or None.

    Raises:
        InputError: no files, an unknown target or accelerator, an arena out of range, or a file that is not valid;
            before anything is measured. What fails on a target is in the result.
    """
    settings = settings or Settings()
    _check(paths, targets, settings)
    paths = [os.fspath(path) for path in paths]
    results = [_read(path) for path in paths]
    asking = _Asking(settings, ask.Vela() if ETHOSU in targets else None)
    chosen = tuple(target for target in TARGETS if target in targets)
    for target in chosen:
        for place, path in enumerate(paths):
            if progress is not None:
                progress(f"{os.path.basename(path)}: {_TITLES[target]}")
            results[place] = _with(results[place], target, asking.ask(target, path))
    return Fit(chosen, settings, asking.host, tuple(results), tuple(_once(asking.warnings)))


def _check(paths, targets, settings):
    """Refuse what cannot be asked."""
    if not paths:
        raise InputError("Expected `paths` to name at least one file. Received: none")
    for target in targets:
        one_of("target", target, TARGETS)
    if ETHOSU in targets:
        from keras_nin.edge.ethosu import accelerators

        if settings.accelerator not in accelerators.ACCELERATORS:
            raise unknown_name("accelerator", settings.accelerator, accelerators.ACCELERATORS)
    if MICRO in targets:
        from keras_nin.edge.micro import examining

        examining.check_arena(settings.max_arena)


def _read(path):
    """Return the `FileFit` of a file that no target was asked about yet."""
    graph = tflite_graph.read(path)
    about = {"sha256": files.sha256(graph.content), "file_bytes": graph.size_bytes}
    try:
        made = build.audit_graph(tflite_reader.read(path))
    except InputError:  # valid, but with an open axis: it has no MACs
        return FileFit(os.path.basename(path), params=None, macs=None, pointwise_macs=None, macs_known=False, **about)
    total = made.total
    return FileFit(
        os.path.basename(path),
        params=total.params,
        macs=total.macs,
        pointwise_macs=total.pointwise_macs,
        macs_known=not made.unknown,
        **about,
    )


def _with(result, target, answer):
    if isinstance(answer, NoFigure):
        return dataclasses.replace(result, missing=(*result.missing, answer))
    return dataclasses.replace(result, **{target: answer})


@dataclass
class _Asking:
    """How the targets are asked, and what they say beside their figures."""

    settings: Settings
    vela: ask.Vela | None
    host: dict | None = None
    warnings: list[str] = field(default_factory=list)

    def ask(self, target, path):
        """Return the figures of a target, or `NoFigure`."""
        if target == CPU:
            answer, host = ask.cpu(path, self.settings, self.warnings)
            self.host = self.host or host
            return answer
        if target == EDGETPU:
            return ask.edgetpu(path)
        return self.vela(path, self.settings) if target == ETHOSU else ask.micro(path, self.settings)


def _once(warnings):
    """Return warnings of several measurements, the last alone of those that are about the machine in the same way."""
    return {each.split(":")[0] if each.startswith("the machine") else each: each for each in warnings}.values()
