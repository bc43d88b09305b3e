"""Documents made from many results: the HTML report, and the claims of articles."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_nin import files, schemas
from keras_nin.errors import InputError
from keras_nin.files import AnyPath
from keras_nin.results import CheckedResult
from keras_nin.workflows import SILENT, Progress
from keras_nin.workflows.backends import keras_for_structure, start_keras
from keras_nin.workflows.inputs import open_structure

if TYPE_CHECKING:
    from keras_nin.claims.claim import ClaimsResult

_DOCUMENTS = (".tflite", ".json", ".csv")
_HTML = (".html", ".htm")
SOFT_MASK_CLAIM = "demystified-softconv"


@dataclasses.dataclass(frozen=True, repr=False)
class ReportResult(CheckedResult):
    """The paths of the files that were written; `checks` are the limits on the files of the report."""

    paths: tuple[pathlib.Path, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON-ready dictionary (schema ``keras_nin.report/1``)."""
        return {"schema": schemas.REPORT, "paths": list(map(str, self.paths)), **self._checks_to_json()}

    def _summary(self) -> str:
        return ", ".join(map(str, self.paths))

    def _rows(self) -> list[dict[str, Any]]:
        return [{"path": str(path)} for path in self.paths]


def build_report(
    sources: Sequence[AnyPath],
    *,
    out: AnyPath | None = None,
    title: str | None = None,
    require: str | None = None,
    plot: AnyPath | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> ReportResult:
    """Write everything that is known of some files as one HTML page, and the figures as PNG files.

    Args:
        sources: .tflite files, JSON documents and CSV files of other commands, and models.
        out, title, plot: path of the HTML page, its heading, and folder for the figures.
        require: limits on every file, such as ``"cpu=5ms,edgetpu=full,arena=256KiB,top1=95%"``.
        force: replace files with different content.
        progress: what reports the progress.

    Raises:
        InputError: neither `out` nor `plot`, a source that cannot be read, limits without files, or nothing to plot.
    """
    from keras_nin.report.html import comparison
    from keras_nin.report.html.page import DEFAULT_TITLE, render_page, render_plots

    if out is None and plot is None:
        raise InputError("Pass `out` for an HTML page, `plot` for a folder of figures, or both", argument="out")
    page = None if out is None else pathlib.Path(out)
    if page is not None and (page.suffix.lower() not in _HTML or page.is_dir()):
        raise InputError(f"Expected `out` to name a .html file. Received: {str(page)!r}", argument="out", path=page)
    files.check_output_folder(page.parent if page else pathlib.Path(plot or ""))
    limits = comparison.parse_report_limits(require) if require else ()
    documents = [document for source in sources for document in _read_source(source, progress)]
    compared = comparison.compare_files(comparison.group_by_file(documents), limits)
    if limits and not compared.rows:
        raise InputError("`require` limits files, and the report has none", argument="require")
    contents: dict[pathlib.Path, bytes] = {}
    with progress.task("Drawing"):
        if page is not None:
            contents[page] = render_page(documents, title=title or DEFAULT_TITLE, comparison=compared).encode()
        if plot is not None:
            plots = render_plots(documents)
            if not plots:
                raise InputError("`plot` needs a benchmark with layers, or a sweep", argument="plot")
            contents |= {pathlib.Path(plot) / name: content for name, content in plots.items()}
    return ReportResult(tuple(files.write_files(contents, force)), checks=compared.checks)


def _read_source(source: AnyPath, progress: Progress) -> Sequence[Any]:
    """Return the documents in a file, or the audit of a model."""
    from keras_nin.report import documents

    if os.fspath(source).lower().endswith(_DOCUMENTS):
        return documents.read_documents(os.fspath(source))
    from keras_nin.audit.api import audit_model

    with open_structure(source, progress=progress) as (loaded,):
        return (documents.NamedAudit(loaded.name, audit_model(loaded.model, name=loaded.name)),)


def check_claims(
    ids: Sequence[str] = (),
    *,
    train: bool = False,
    data: str | None = None,
    epochs: int | None = None,
    seeds: int | None = None,
    activation: str | None = None,
    plot: AnyPath | None = None,
    image: AnyPath | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> ClaimsResult:
    """Reproduce claims of well-known articles about 1x1 convolution.

    Args:
        ids: of the claims; none takes all.
        train: whether to include the figures that need training.
        data, epochs, seeds: images of ten classes to train on, None takes digits; passes over them, None takes the
            claim's; runs of each network, None takes 3.
        activation: of the classifiers, ``"softmax"`` or ``"sigmoid"``; None takes softmax.
        plot, image: path for a PNG figure of the claim demystified-softconv, and its photograph; None takes one of
            scikit-learn's.
        force: replace a figure with different content.
        progress: what reports the progress.

    Raises:
        InputError: an unknown claim, or arguments that do not go together.
    """
    from keras_nin.claims import catalog, compute_soft_mask
    from keras_nin.claims.claim import ClaimsResult
    from keras_nin.claims.networks import ClaimTraining

    chosen = [catalog.get_claim(id) for id in dict.fromkeys(ids)] or list(catalog.CLAIMS.values())
    training = {"data": data, "epochs": epochs, "seeds": seeds, "activation": activation}
    training = {name: value for name, value in training.items() if value is not None}
    if training and not train:
        name = next(iter(training))
        raise InputError(f"`{name}` is for the trained figures; add `train`", argument=name)
    if train and all(claim.trained is None for claim in chosen):
        raise InputError("`train` is for paperspace-head and paperspace-relu; choose one of them", argument="train")
    if image is not None and plot is None:
        raise InputError("`image` is the photograph of the figure; add `plot`", argument="image")
    if plot is not None and SOFT_MASK_CLAIM not in [claim.id for claim in chosen]:
        raise InputError(f"`plot` draws the claim {SOFT_MASK_CLAIM}; choose it", argument="plot")
    path = None if plot is None else files.check_output_file(plot, ".png", argument="plot")
    is_counted = all(claim.counted for claim in chosen) and not train and plot is None
    if not is_counted:
        start_keras(progress)
    settings = ClaimTraining(**training, on_run=progress.line) if train else None
    figures_to_write = {}
    if path is not None:
        from keras_nin import figures

        with progress.task("Training the mask"):
            mask = compute_soft_mask(None if image is None else os.fspath(image), train=True)
        figures_to_write[path] = figures.render_png(mask.plot())
        files.needs_writing(path, figures_to_write[path], force)
    tracked = progress.track(chosen, "Reproducing", len(chosen))
    with keras_for_structure(progress):
        result = ClaimsResult(tuple(catalog.reproduce_claim(claim, settings) for claim in tracked))
    files.write_files(figures_to_write, force)
    return result
