"""The sections of an audit: its table with the conventions, and its findings."""

from keras_nin.audit import tables as tables_module
from keras_nin.audit.tables import BLOCKS, DEFAULT_COLUMNS, LAYERS, AuditView, format_size
from keras_nin.plots import sweeps
from keras_nin.report import edge as edgetpu_text
from keras_nin.report import edge as ethosu_text
from keras_nin.report import edge as micro_text
from keras_nin.report import fit as fit_text
from keras_nin.report.accuracy import CHECK_NAMES, format_db, format_percent
from keras_nin.report.documents import base_name
from keras_nin.report.html import ItemList, Paragraph, Section, make_table, png_picture
from keras_nin.report.latency import describe_machine


def audit_section(audit, name):
    """Return the `Section` of an `Audit`: totals, blocks, layers, what the figures mean."""
    figures = tuple(Paragraph(line, "plain") for line in tables_module.list_totals(audit))
    tables = [_audit_table(audit, LAYERS, f"All {len(audit.rows)} layers")]
    if any(row.block is not None for row in audit.rows):
        tables.insert(0, _audit_table(audit, BLOCKS, "By block"))
    return Section(
        f"{name}-audit", "Audit", (*figures, *tables, Paragraph(" ".join(tables_module.list_conventions(audit))))
    )


def findings_section(audit, name):
    """Return the `Section` of what an `Audit` found worth changing."""
    items = tuple(
        (
            f"{each.rule}: {tables_module.format_names(each.layers)}",
            " ".join([each.message, *_savings_sentence(each.saves)]),
        )
        for each in audit.findings
    )
    parts = (ItemList(items),) if items else (Paragraph("Nothing was found that is worth changing.", "plain"),)
    return Section(f"{name}-findings", "Findings", parts)


def _audit_table(audit, depth, title):
    view = AuditView(depth)
    columns = view.chosen(DEFAULT_COLUMNS[depth])
    rows = [[column.text(record, audit.total) for column in columns] for record in view.records(audit)]
    right = [column.heading for column in columns if column.numeric]
    folded = title if depth == LAYERS else None
    return make_table(title, [column.heading for column in columns], rows, right=right, folded=folded)


def _savings_sentence(saves):
    saved = [_format_saving(key, value) for key, value in saves.items() if value]
    return [f"Saves {', '.join(saved)}."] if saved else []


def _format_saving(key, value):
    return format_size(value) if key == "bytes" else f"{value:,} {'MACs' if key == 'macs' else key}"


# MERGED The section of an export: how the file was made, and how it compares with its model.

_NOT_FINITE = "not a finite number"
_CHECK_COLUMNS = ("check", "value", "limit", "holds")


def parity_section(export_record, name):
    """Return the `Section` of a `Sidecar`."""
    made = f"Made of {export_record.model} as {export_record.scheme}; weights: {export_record.weights}. {_calibration_line(export_record)}"
    found = export_record.parity
    if found is None:
        return Section(
            f"{name}-parity", "Parity", (Paragraph(made), Paragraph("It was not compared with its model.", "plain"))
        )
    tone = "plain" if not found.checks else "good" if found.passed else "bad"
    lines = [
        Paragraph(f"Parity {parity_verdict(found)}.", tone),
        Paragraph(made),
        Paragraph(_output_difference_line(found)),
        *_top1_lines(found),
    ]
    if found.checks:
        lines.insert(1, _check_table(found))
    return Section(f"{name}-parity", "Parity", tuple(lines))


def parity_verdict(parity):
    """Return what the checks of a parity come to, in a word or two."""
    if not parity.checks:
        return "not judged"
    return "holds" if parity.passed else "FAILS"


def _check_table(found):
    rows = [
        (
            CHECK_NAMES.get(check.name, check.name),
            _format_check_value(check.value),
            _format_check_value(check.limit),
            _yes_or_no(check.passed),
        )
        for check in found.checks
    ]
    return make_table("What was judged", _CHECK_COLUMNS, rows, right=_CHECK_COLUMNS[1:3])


def _output_difference_line(found):
    return (
        f"Compared on {found.images:,} images ({found.source}). Outputs: largest difference {_format_check_value(found.max_abs_diff_lsb)} "
        f"steps of {_format_check_value(found.lsb)}, rms {_format_check_value(found.rms_diff_lsb)} steps, signal to noise "
        f"{format_db(found.snr_db, found.max_abs_diff_lsb == 0)}."
    )


def _top1_lines(found):
    if found.top1_match is None:
        return []
    top1 = f" Top-1: model {format_percent(found.model_top1)}, file {format_percent(found.file_top1)}."
    scored = "" if found.model_top1 is None else top1
    return [Paragraph(f"The same answer on {format_percent(found.top1_match)} of the images.{scored}")]


def _calibration_line(export_record):
    source = export_record.calibration
    return "" if source is None else f"Calibrated on {source.count:,} images ({source.source})."


def _format_check_value(value):
    return _NOT_FINITE if value is None else f"{value:.4g}"


def _yes_or_no(passed):
    return "yes" if passed else "NO"


# MERGED The sections of scores: what a file recognises, and what became of articles' claims.

_CLASS_COLUMNS = ("class", "images", "recall", "precision")
_FIGURE_COLUMNS = ("figure", "article", "ours", "agrees")
_CLAIM_COLUMNS = ("claim", "verdict", "reproduced")
_MAX_MATRIX_CLASSES = 20


def evaluation_section(scores, name):
    """Return the `Section` of `keras_nin.report.documents.EvaluateDocument`."""
    top5 = "" if scores.top5 is None else f", top-5 {format_percent(scores.top5)}"
    made = f" Weights: {scores.weights}." if scores.weights else ""
    rows = [
        (each.name, f"{each.images:,}", format_percent(each.recall), format_percent(each.precision))
        for each in scores.per_class
    ]
    folded = f"All {len(rows)} classes" if len(rows) > _MAX_MATRIX_CLASSES else None
    parts = [
        Paragraph(f"Top-1 {format_percent(scores.top1)}{top5} on {scores.images:,} images.", "plain"),
        Paragraph(f"{scores.data}, prepared as {scores.preprocessing.get('mode', 'not said')}.{made}"),
        make_table("Every class", _CLASS_COLUMNS, rows, right=_CLASS_COLUMNS[1:], folded=folded),
        *([_confusion_matrix_table(scores)] if 0 < len(rows) <= _MAX_MATRIX_CLASSES else []),
        *([_inference_speed_line(scores.speed)] if scores.speed else []),
    ]
    return Section(name, f"Accuracy: {base_name(scores.file)}", tuple(parts))


def _confusion_matrix_table(scores):
    names = [each.name for each in scores.per_class]
    heads = ("class", *map(str, scores.confusion.classes))
    rows = [
        (label, *(f"{count:,}" if count else "." for count in line))
        for label, line in zip(names, scores.confusion.matrix, strict=True)
    ]
    return make_table("Images of a class by the answer", heads, rows, right=heads[1:], folded="What is taken for what")


def _inference_speed_line(speed):
    threads = f"{speed.threads} thread{'' if speed.threads == 1 else 's'}"
    rate = f"{speed.images_per_second:,.0f}" if speed.images_per_second >= 100 else f"{speed.images_per_second:.4g}"
    return Paragraph(
        f"{rate} images per second, inference alone: {speed.runs:,} runs on {threads}, batch "
        f"{speed.batch}; {describe_machine(speed.host)}"
    )


def claims_section(found, name):
    """Return the `Section` of `keras_nin.report.documents.ClaimsDocument`: the verdicts, and each claim."""
    rows = [(each.id, each.verdict, _yes_or_no(each.reproduced)) for each in found.claims]
    sections = [_claim_section(each, f"{name}-{number}") for number, each in enumerate(found.claims, 1)]
    return Section(name, "Claims", (make_table("All claims", _CLAIM_COLUMNS, rows),), tuple(sections))


def _claim_section(claim, name):
    rows = [(each.name, each.article, each.ours, _article_match(each.agrees)) for each in claim.figures]
    parts = [
        Paragraph(claim.claim, "plain"),
        make_table("Figures", _FIGURE_COLUMNS, rows, right=_FIGURE_COLUMNS[1:3]),
        Paragraph(claim.why, "plain"),
        Paragraph(f"Source: {claim.source}"),
        *([_claim_timing_line(claim.measured)] if claim.measured else []),
        *([] if claim.reproduced else [Paragraph("A figure is not what the claim's definition declares.", "bad")]),
    ]
    return Section(name, f"{claim.id}: {claim.verdict}", tuple(parts))


def _claim_timing_line(timed):
    return Paragraph(
        f"Measured in {timed.processes:,} processes, in each {timed.runs:,} warm runs of every layer in turns; "
        f"{describe_machine(timed.host)}. In brackets the 95 % interval of the median, of cold runs the smallest and largest."
    )


def _article_match(agrees):
    return "-" if agrees is None else _yes_or_no(agrees)


# MERGED The sections of targets: all of them side by side, and of each file the Edge TPU, Ethos-U and TFLite Micro.

_MEMORY_COLUMNS = ("arena", "tensors", "persistent", "flash", "of it weights", "peak activations")
_ARENA_COLUMNS = ("part", "bytes")
_UNKNOWN = "-"


def fit_section(fit, name):
    """Return the `Section` of a `keras_nin.edge.fit.FitResult`: a column for each file, and how the figures were found."""
    grids = fit_text.fit_tables(fit, whole=True)
    tables = [
        make_table("Files by targets", ("figure", *grid.columns[1:]), grid.rows, right=grid.columns[1:])
        for grid in grids
    ]
    reasons = [Paragraph(line, "plain") for line in fit_text.fit_reason_lines(fit)]
    return Section(name, "Targets", (*tables, *reasons, *(Paragraph(line) for line in fit_text.fit_note_lines(fit))))


def edgetpu_section(predicted, name):
    """Return the `Section` of a `keras_nin.report.documents.EdgeTPUPrediction`."""
    verdict = predicted.verdict
    if verdict is None:
        return Section(f"{name}-edgetpu", "Edge TPU: not judged", (Paragraph(predicted.reason, "plain"),))
    rows = [edgetpu_text.edgetpu_row(each) for each in verdict.operators]
    every = make_table("Operators on the Edge TPU", edgetpu_text.EDGETPU_COLUMNS, rows, right=edgetpu_text.EDGETPU_COLUMNS[:1],
                  folded=f"All {len(rows)} operators")  # fmt: skip
    tone = "good" if verdict.fully_mapped else "plain" if verdict.compiles else "bad"
    first, *others = edgetpu_text.edgetpu_summary_lines(verdict)
    parts = (
        Paragraph(first, tone),
        *(Paragraph(line, "plain") for line in edgetpu_text.edgetpu_reason_lines(verdict)),
        *map(Paragraph, others),
        every,
    )
    return Section(f"{name}-edgetpu", f"Edge TPU: {_edgetpu_state(verdict)}", parts)


def _edgetpu_state(verdict):
    if verdict.failure:
        return f"does not compile: {verdict.failure.message}"
    return f"{verdict.mapped:,} of {verdict.kept:,} operators mapped"


def ethosu_section(sweep, name):
    """Return the `Section` of a `keras_nin.edge.ethosu.EthosUResult`: the accelerators side by side, and each by itself."""
    columns = ethosu_text.ETHOSU_SWEEP_COLUMNS
    parts = [
        make_table("Accelerators", columns, map(ethosu_text.ethosu_sweep_row, sweep.estimates), right=columns[1:-1])
    ]
    if len(sweep.estimates) > 1:
        parts.append(
            png_picture(sweeps.render_ethosu_sweep(sweep), "Time of a run on each accelerator, by 1x1 role and kind.")
        )
    parts += [Paragraph(f"{each.accelerator}: refused: {each.message}", "plain") for each in sweep.refusals]
    sections = [_estimate_section(each, f"{name}-{number}") for number, each in enumerate(sweep.estimates, 1)]
    return Section(name, "Ethos-U, as Vela expects it", tuple(parts), tuple(sections))


def _estimate_section(estimate, name):
    rows = ethosu_text.ethosu_layer_rows(estimate)
    groups = make_table("Layers by 1x1 role and kind", ethosu_text.ETHOSU_GROUP_COLUMNS, ethosu_text.ethosu_group_rows(estimate),
                   right=ethosu_text.ETHOSU_GROUP_COLUMNS[1:])  # fmt: skip
    every = make_table("Every layer", ethosu_text.ETHOSU_COLUMNS, rows, right=ethosu_text.ETHOSU_RIGHT,
                  folded=f"All {len(rows) - 1} layers")  # fmt: skip
    findings = [(each.rule, _finding_text(each)) for each in estimate.findings]
    parts = [
        Paragraph(ethosu_text.ethosu_headline(estimate)),
        groups,
        *([ItemList(tuple(findings))] if findings else []),
        every,
    ]
    return Section(name, estimate.accelerator, (*parts, *map(Paragraph, ethosu_text.ethosu_total_lines(estimate))))


def _finding_text(found):
    layers = f"{ethosu_text.names(found.layers)}: " if found.layers else ""
    return f"{layers}{found.message}"


def micro_section(found, name):
    """Return the `Section` of a `keras_nin.edge.micro.MicroResult`."""
    arena = found.arena
    sizes = (arena.bytes, arena.tensor_bytes, arena.persistent_bytes) if arena else (None,) * 3
    sizes = (*sizes, found.file_bytes, found.weight_bytes, found.peak_activation_bytes)
    row = tuple(_UNKNOWN if each is None else format_size(each) for each in sizes)
    lines = (*micro_text.micro_comparison_lines(found), *micro_text.micro_float_lines(found))
    rows = micro_text.micro_operator_rows(found)
    operators = make_table("Operators to register", micro_text.MICRO_COLUMNS, rows, right=micro_text.MICRO_COLUMNS[1:2],
                      folded=f"All {len(rows)} operators to register")  # fmt: skip
    parts = (
        make_table("Memory", _MEMORY_COLUMNS, [row], right=_MEMORY_COLUMNS),
        *_arena_parts(found),
        *(Paragraph(line, "plain") for line in lines),
        operators,
    )
    word = f"an arena of {format_size(arena.bytes)}" if arena else f"none works: {found.finding.kind}"
    return Section(f"{name}-micro", f"TFLite Micro: {word}", parts)


def _arena_parts(found):
    """Yield what the sizes of an arena mean, or why none works."""
    arena = found.arena
    if arena is None:
        yield Paragraph(f"No arena up to {format_size(found.max_arena)} works: {found.finding.message}", "bad")
        return
    yield Paragraph(
        f"The smallest arena that runs with tflite-micro {found.package} on a {arena.host_bits}-bit host, to "
        f"{arena.step} bytes. The persistent part has pointers: on a 32-bit microcontroller it is smaller. The program "
        "comes on top of the flash."
    )
    if arena.sections:
        rows = [(part.name, f"{part.bytes:,}") for part in arena.sections]
        yield make_table(
            "Persistent memory",
            _ARENA_COLUMNS,
            rows,
            right=_ARENA_COLUMNS[1:],
            folded="What the persistent part is for",
        )
