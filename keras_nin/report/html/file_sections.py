"""The sections of a file: audit, parity, scores, and the edge targets; and those of targets and claims side by side."""

from collections.abc import Iterator, Mapping

from keras_nin.audit import tables
from keras_nin.audit.api import Audit
from keras_nin.claims.claim import ClaimResult, ClaimsResult
from keras_nin.edge.ethosu.records import EthosUEstimate, EthosUResult
from keras_nin.edge.fit import FitResult
from keras_nin.edge.micro.records import MicroResult
from keras_nin.formatting import format_bytes, format_count, format_names, format_percent
from keras_nin.plots import sweeps
from keras_nin.report import accuracy, claims, edge, fit
from keras_nin.report.documents import EdgeTPUPrediction, EvaluateDocument, ExportDocument, ParityDocument, base_name
from keras_nin.report.html import HtmlTable, ItemList, Paragraph, Part, Section, make_table, png_picture

_CHECK_COLUMNS = ("check", "value", "limit", "result")
_CLASS_COLUMNS = ("class", "images", "recall", "precision")
_FIGURE_COLUMNS = ("figure", "article", "ours", "matches article")
_CLAIM_COLUMNS = ("claim", "verdict", "reproduced")
_MEMORY_COLUMNS = ("arena", "tensors", "persistent", "flash", "weights in flash", "peak activations")
_ARENA_COLUMNS = ("section", "bytes")
_MISSING = "-"


def audit_section(audit: Audit, id: str) -> Section:
    """Return the section of an audit: totals, blocks, layers, counting rules."""
    totals = (Paragraph(line, "plain") for line in tables.list_totals(audit))
    layers = _audit_table(audit, tables.LAYERS, f"All {format_count(len(audit.rows), 'layer')}")
    has_blocks = any(row.block is not None for row in audit.rows)
    blocks = [_audit_table(audit, tables.BLOCKS, "By block")] if has_blocks else []
    rules = Paragraph(" ".join(tables.list_conventions(audit)))
    return Section(f"{id}-audit", "Audit", (*totals, *blocks, layers, rules))


def findings_section(audit: Audit, id: str) -> Section:
    """Return the section of an audit's findings."""
    items = tuple(
        (f"{finding.rule}: {format_names(finding.layers)}", f"{finding.message}{_savings_sentence(finding.saves)}")
        for finding in audit.findings
    )
    part = ItemList(items) if items else Paragraph("No findings.", "plain")
    return Section(f"{id}-findings", "Findings", (part,))


def _audit_table(audit: Audit, depth: int, title: str) -> HtmlTable:
    view = tables.AuditView(depth)
    columns = view.select_columns(tables.DEFAULT_COLUMNS[depth])
    rows = [[column.text(record, audit.total) for column in columns] for record in view.select_records(audit)]
    right = [column.heading for column in columns if column.numeric]
    headings = [column.heading for column in columns]
    return make_table(title, headings, rows, right=right, folded=title if depth == tables.LAYERS else None)


def _savings_sentence(saves: Mapping[str, float]) -> str:
    saved = [
        format_bytes(value) if key == "bytes" else f"{value:,} {'MACs' if key == 'macs' else key}"
        for key, value in saves.items()
        if value
    ]
    return f" Saves {', '.join(saved)}." if saved else ""


def parity_section(record: ExportDocument, id: str) -> Section:
    """Return the section of an export: how the file was made, and how it compares with its model."""
    source = record.calibration
    calibration = f" Calibrated on {format_count(source.count, 'image')} ({source.source})." if source else ""
    origin = Paragraph(f"Exported from {record.model} as {record.scheme}; weights: {record.weights}.{calibration}")
    parity = record.parity
    if parity is None:
        return Section(f"{id}-parity", "Parity", (origin, Paragraph("Not compared with its model.", "plain")))
    verdict = accuracy.parity_verdict(parity)
    tone = "plain" if not parity.checks else "good" if parity.passed else "bad"
    checks = [_check_table(parity)] if parity.checks else []
    lines = map(Paragraph, _parity_sentences(parity))
    return Section(f"{id}-parity", "Parity", (Paragraph(f"Parity: {verdict}", tone), *checks, origin, *lines))


def _check_table(parity: ParityDocument) -> HtmlTable:
    rows = [
        (accuracy.CHECK_NAMES.get(check.name, check.name), *accuracy.format_check_values(check), _result(check.passed))
        for check in parity.checks
    ]
    return make_table("Checks", _CHECK_COLUMNS, rows, right=_CHECK_COLUMNS[1:3])


def _result(passed: bool) -> str:
    return "pass" if passed else "FAIL"


def _parity_sentences(parity: ParityDocument) -> Iterator[str]:
    yield (
        f"Compared on {format_count(parity.images, 'image')} ({parity.source}): max abs diff "
        f"{accuracy.format_lsb(parity.max_abs_diff_lsb)} LSB, RMS {accuracy.format_lsb(parity.rms_diff_lsb)}, SNR "
        f"{accuracy.format_db(parity.snr_db, parity.max_abs_diff_lsb == 0)}. {accuracy.LSB_NOTE}."
    )
    if parity.top1_match is not None:
        model, file = format_percent(parity.model_top1), format_percent(parity.file_top1)
        top1 = "" if parity.model_top1 is None else f" Top-1: model {model}, file {file}."
        yield f"Top-1 match {format_percent(parity.top1_match)}.{top1}"


def evaluation_section(scores: EvaluateDocument, id: str) -> Section:
    """Return the section of an evaluation."""
    top5 = "" if scores.top5 is None else f", top-5 {format_percent(scores.top5)}"
    weights = f" Weights: {scores.weights}." if scores.weights else ""
    rows = [
        (score.name, f"{score.images:,}", format_percent(score.recall), format_percent(score.precision))
        for score in scores.per_class
    ]
    is_long = len(rows) > accuracy.MAX_MATRIX_CLASSES
    folded = f"All {format_count(len(rows), 'class', 'classes')}" if is_long else None
    speed = [Paragraph(accuracy.inference_speed_line(vars(scores.speed)))] if scores.speed else []
    parts = (
        Paragraph(f"Top-1 {format_percent(scores.top1)}{top5} on {format_count(scores.images, 'image')}.", "plain"),
        Paragraph(f"{scores.data}, preprocessing: {scores.preprocessing.get('mode', 'unknown')}.{weights}"),
        make_table("Classes", _CLASS_COLUMNS, rows, right=_CLASS_COLUMNS[1:], folded=folded),
        *([_confusion_table(scores)] if rows and not is_long else []),
        *speed,
    )
    return Section(id, f"Accuracy: {base_name(scores.file)}", parts)


def _confusion_table(scores: EvaluateDocument) -> HtmlTable:
    columns = ("class", *map(str, scores.confusion.classes))
    label = "Confusion matrix (rows: true class, columns: predicted)"
    return make_table(label, columns, accuracy.confusion_rows(scores), right=columns[1:], folded="Confusion matrix")


def claims_section(result: ClaimsResult, id: str) -> Section:
    """Return the section of reproduced claims: their verdicts, then each claim."""
    rows = [(claim.id, claim.verdict, _yes_or_no(claim.reproduced)) for claim in result.claims]
    sections = tuple(_claim_section(claim, f"{id}-{number}") for number, claim in enumerate(result.claims, 1))
    return Section(id, "Claims", (make_table("All claims", _CLAIM_COLUMNS, rows),), sections)


def _claim_section(claim: ClaimResult, id: str) -> Section:
    rows = [
        (
            figure.name,
            claims.format_figure(figure.article),
            claims.format_measured_figure(figure),
            _MISSING if figure.matches_article is None else _yes_or_no(figure.matches_article),
        )
        for figure in claim.figures
    ]
    conditions = [Paragraph(f"Measured: {claims.conditions_line(claim.conditions)}")] if claim.conditions else []
    missed = (
        [] if claim.reproduced else [Paragraph("A figure differs from what the claim's definition declares.", "bad")]
    )
    parts = (
        Paragraph(claim.text, "plain"),
        make_table("Figures", _FIGURE_COLUMNS, rows, right=_FIGURE_COLUMNS[1:3]),
        Paragraph(claim.why, "plain"),
        Paragraph(f"Source: {claim.source}"),
        *conditions,
        *missed,
    )
    return Section(id, f"{claim.id}: {claim.verdict}", parts)


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "NO"


def fit_section(result: FitResult, id: str) -> Section:
    """Return the section of files by targets: a column for each file, and how the figures were obtained."""
    grids = [
        make_table("Files by targets", ("figure", *table.columns[1:]), table.rows, right=table.columns[1:])
        for table in fit.fit_tables(result, full_names=True)
    ]
    reasons = (Paragraph(line, "plain") for line in fit.fit_reason_lines(result))
    return Section(id, "Targets", (*grids, *reasons, *map(Paragraph, fit.fit_note_lines(result))))


def edgetpu_section(prediction: EdgeTPUPrediction, id: str) -> Section:
    """Return the section of an Edge TPU verdict."""
    result = prediction.result
    if result is None:
        return Section(f"{id}-edgetpu", "Edge TPU: no verdict", (Paragraph(prediction.reason or "", "plain"),))
    operators = make_table(
        "Operators on the Edge TPU",
        edge.EDGETPU_COLUMNS,
        map(edge.edgetpu_row, result.operators),
        right=edge.EDGETPU_COLUMNS[:1],
        folded=f"All {format_count(len(result.operators), 'operator')}",
    )
    first, *others = edge.edgetpu_summary_lines(result)
    tone = "good" if result.fully_mapped else "plain" if result.compiles else "bad"
    reasons = (Paragraph(line, "plain") for line in edge.edgetpu_reason_lines(result))
    state = f"{result.mapped:,} of {format_count(result.kept, 'operator')} mapped"
    if result.failure:
        state = f"does not compile: {result.failure.message}"
    parts = (Paragraph(first, tone), *reasons, *map(Paragraph, others), operators)
    return Section(f"{id}-edgetpu", f"Edge TPU: {state}", parts)


def ethosu_section(result: EthosUResult, id: str) -> Section:
    """Return the section of Ethos-U estimates: the accelerators side by side, then each of them."""
    columns, estimates = edge.ETHOSU_SWEEP_COLUMNS, result.estimates
    parts: list[Part] = [
        make_table("Accelerators", columns, map(edge.ethosu_sweep_row, estimates), right=columns[1:-1])
    ]
    if len(estimates) > 1:
        figure = sweeps.plot_accelerators(result)
        parts.append(png_picture(figure, "Time of a run on each accelerator, by 1x1 role and kind."))
    for refusal in result.refusals:
        parts.append(Paragraph(f"{refusal.accelerator}: refused: {refusal.message}", "plain"))
    sections = tuple(_estimate_section(estimate, f"{id}-{number}") for number, estimate in enumerate(estimates, 1))
    return Section(id, "Ethos-U, estimated by Vela", tuple(parts), sections)


def _estimate_section(estimate: EthosUEstimate, id: str) -> Section:
    columns, rows = edge.ETHOSU_GROUP_COLUMNS, edge.ethosu_group_rows(estimate)
    layers = make_table(
        "Every layer",
        edge.ETHOSU_COLUMNS,
        edge.ethosu_layer_rows(estimate),
        right=edge.ETHOSU_RIGHT,
        folded=f"All {format_count(len(estimate.layers), 'layer')}",
    )
    findings = tuple((finding.rule, edge.finding_text(finding)) for finding in estimate.findings)
    parts = (
        Paragraph(edge.ethosu_headline(estimate)),
        make_table("Layers by 1x1 role and kind", columns, rows, right=columns[1:]),
        *([ItemList(findings)] if findings else []),
        layers,
        *map(Paragraph, edge.ethosu_total_lines(estimate)),
    )
    return Section(id, estimate.accelerator, parts)


def micro_section(micro: MicroResult, id: str) -> Section:
    """Return the section of a file on TFLite Micro."""
    arena = micro.arena
    sizes = (arena.bytes, arena.tensor_bytes, arena.persistent_bytes) if arena else (None,) * 3
    sizes = (*sizes, micro.file_bytes, micro.weight_bytes, micro.peak_activation_bytes)
    memory = [_MISSING if size is None else format_bytes(size) for size in sizes]
    lines = (*edge.micro_comparison_lines(micro), *edge.micro_float_lines(micro))
    operators = make_table(
        "Operators to register",
        edge.MICRO_COLUMNS,
        edge.micro_operator_rows(micro),
        right=edge.MICRO_COLUMNS[1:2],
        folded=f"{format_count(len(micro.operators), 'operator')} to register",
    )
    parts = (
        make_table("Memory", _MEMORY_COLUMNS, [memory], right=_MEMORY_COLUMNS),
        *_arena_parts(micro),
        *(Paragraph(line, "plain") for line in lines),
        operators,
    )
    failure = micro.finding.kind if micro.finding else ""
    state = f"arena of {format_bytes(arena.bytes)}" if arena else f"no arena works: {failure}"
    return Section(f"{id}-micro", f"TFLite Micro: {state}", parts)


def _arena_parts(micro: MicroResult) -> Iterator[Part]:
    """Yield what the sizes of an arena mean, or why none works."""
    arena = micro.arena
    if arena is None:
        message = micro.finding.message if micro.finding else ""
        yield Paragraph(f"No arena up to {format_bytes(micro.max_arena)} works: {message}", "bad")
        return
    yield Paragraph(
        f"The smallest arena that runs with tflite-micro {micro.package} on a {arena.host_bits}-bit host, to "
        f"{arena.step} bytes. The persistent section contains pointers: it is smaller on a 32-bit microcontroller. The "
        "program needs flash in addition."
    )
    if arena.sections:
        rows = [(part.name, f"{part.bytes:,}") for part in arena.sections]
        yield make_table(
            "Persistent memory", _ARENA_COLUMNS, rows, right=_ARENA_COLUMNS[1:], folded="Persistent memory"
        )
