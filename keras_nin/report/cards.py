"""The model cards of the zoo and their table, as Markdown, from records; the head of a card is that of Hugging Face."""

import collections
import functools
import json
import pathlib
import tomllib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin.data import get_preset
from keras_nin.formatting import (
    Markdown,
    escape_unprintable,
    format_host,
    format_markdown_table,
    format_ratio_percent,
)
from keras_nin.report.card_records import CardRecord, FileMeasurement, LatencyRow, Measurement, Score
from keras_nin.report.rendering import make_table, render_text

if TYPE_CHECKING:
    from keras_nin.audit.api import Audit
    from keras_nin.models.model_spec import ModelSpec

_TASK = {"type": "image-classification", "name": "Image Classification"}
_TABLE_SCHEMES = ("float32", "int8")


@functools.cache
def read_texts() -> dict[str, Any]:
    """Return the texts of the cards, from ``templates/cards.toml``."""
    return tomllib.loads((pathlib.Path(__file__).parent / "templates" / "cards.toml").read_text(encoding="utf-8"))


def describe_use(spec: "ModelSpec", *, trained: bool) -> tuple[str, tuple[str, ...]]:
    """Return the intended use of a network, and its limitations."""
    texts, dataset = read_texts(), _dataset(spec.dataset)
    kind = "trained" if trained else "map" if spec.classes is None else "untrained"
    limitations = []
    if trained:
        limitations += [texts["limitations"]["trained"], *texts["networks"].get(spec.name, ()), *dataset["limitations"]]
        limitations += [texts["limitations"]["classes"].format(classes=spec.classes)]
    elif spec.classes is not None:
        limitations += [texts["limitations"]["untrained"]]
    return texts["use"][kind].format(dataset=dataset["title"]), tuple(limitations)


def _dataset(name: str | None) -> dict[str, Any]:
    """Return title, id on the Hugging Face Hub and limitations of a dataset."""
    return read_texts()["datasets"].get(name, {"title": name or "its own images", "hub": "", "limitations": []})


def format_card_index(entries: Sequence[tuple["ModelSpec", CardRecord]]) -> str:
    """Return the table of all networks."""
    host = _find_table_host([record for _, record in entries])
    rows = [_index_row(spec, record, host) for spec, record in entries]
    shown = [row["latency"] for row in rows if row["latency"]]
    table = make_table("models", rows).format(format_markdown_table)
    return render_text("cards.j2", "index", table, shown, format_host(shown[0].host) if shown else "") + "\n"


def _index_row(spec: "ModelSpec", record: CardRecord, host: tuple[Any, ...] | None) -> dict[str, Any]:
    measured = None if record.outdated else record.measurement
    files: dict[str, FileMeasurement | None] = {}
    for scheme in _TABLE_SCHEMES:
        files[scheme] = measured.file(scheme) if measured else None
    rows = [row for row in measured.latencies if row.key == ("int8", 1, host)] if measured else []
    edgetpu = measured.targets.edgetpu if measured and measured.targets else None
    latency = rows[0] if rows else None
    return {"spec": spec, "counts": record.counts, **files, "latency": latency, "edgetpu": edgetpu}


def _find_table_host(records: Iterable[CardRecord]) -> tuple[Any, ...] | None:
    """Return the host that has timed the int8 files of most networks, so that the rows of the table compare."""
    rows = [row for record in records if record.measurement for row in record.measurement.latencies]
    counts = collections.Counter(row.machine for row in rows if row.scheme == "int8" and row.threads == 1)
    return counts.most_common(1)[0][0] if counts else None


def format_card(spec: "ModelSpec", record: CardRecord, audit: "Audit") -> str:
    """Return the card of a network: a head with its metadata, then Markdown."""
    counts, shape = record.counts, "x".join(map(str, spec.input_shape))
    params = format_ratio_percent(counts.pointwise_params, counts.params)
    macs = format_ratio_percent(counts.pointwise_macs, counts.macs)
    facts = {
        "Source": spec.paper,
        "Input": f"{shape}, preprocessing: {get_preset(spec.preprocessing)}",
        "Classes": "none: the output is a map" if spec.classes is None else str(spec.classes),
        "Dataset": _dataset(spec.dataset)["title"] if spec.dataset else Markdown("not bundled: pass `--data`"),
        "Parameters": f"{counts.params:,} ({params} in 1x1 layers)",
        "MACs": f"{counts.macs:,} ({macs} in 1x1 layers)",
        "Weights": spec.describe_weights(),
    }
    for name, download in spec.downloads.items():
        scores = f"top-1 {download.top1:.2f}%, top-5 {download.top5:.2f}% on ImageNet's validation images"
        facts[Markdown(f"Weights `{name}`")] = (
            f"{download.publisher} states {scores}; not measured here. {download.license}"
        )
    facts["License"] = "Apache-2.0" if record.license == "apache-2.0" else "of the weights, see below"
    measured = None if record.outdated else record.measurement
    tables = _measurement_tables(measured) if measured else {}
    layers = audit.to_markdown().strip()
    facts_table = format_markdown_table(("", ""), list(facts.items()))
    text = render_text("cards.j2", "card", spec, record, measured, facts_table, tables, layers)
    return f"---\n{format_yaml(card_metadata(spec, record))}---\n\n{text}\n"


def _measurement_tables(measured: Measurement) -> dict[str, str]:
    """Return the tables of accuracy and of latency."""
    model = {"name": "(Keras model)", "accuracy": measured.model, "row": None}
    files = [{"name": file.scheme, "accuracy": file.accuracy, "row": file} for file in measured.files]
    latencies = sorted(measured.latencies, key=_latency_order(measured))
    return {
        "accuracy": make_table("card_accuracy", [model, *files]).format(format_markdown_table),
        "latency": make_table("card_latency", latencies).without_empty_columns().format(format_markdown_table),
    }


def _latency_order(measured: Measurement) -> Any:
    """Return the key that sorts rows by host, as the hosts came, then by threads and scheme."""
    machines = list(dict.fromkeys(row.machine for row in measured.latencies))
    schemes = [file.scheme for file in measured.files]

    def order(row: LatencyRow) -> tuple[int, int, int]:
        scheme = schemes.index(row.scheme) if row.scheme in schemes else len(schemes)
        return machines.index(row.machine), row.threads, scheme

    return order


def card_metadata(spec: "ModelSpec", record: CardRecord) -> dict[str, Any]:
    """Return the metadata of a card, as the Hugging Face Hub documents them.

    See https://huggingface.co/docs/hub/model-cards and github.com/huggingface/hub-docs, modelcard.md: `model-index`
    has results, each with a task, a dataset and metrics. Accuracies are shares, 0 to 1.
    """
    classifies = spec.classes is not None
    metadata: dict[str, Any] = {"license": record.license, "library_name": "keras"}
    if classifies:
        metadata["pipeline_tag"] = _TASK["type"]
    metadata["tags"] = ["keras-nin", "tflite", "1x1-convolution"]
    measured = None if record.outdated else record.measurement
    if measured is None:
        return metadata
    dataset = _dataset(spec.dataset)
    if dataset["hub"]:
        metadata["datasets"] = [dataset["hub"]]
    metrics = [
        {"type": "accuracy", "value": round(score.share, 4), "name": f"{rank}, {name}{_sample(score, measured)}"}
        for name, accuracy in [("Keras", measured.model), *((file.scheme, file.accuracy) for file in measured.files)]
        for rank, score in (("Top-1", accuracy.top1), ("Top-5", accuracy.top5))
        if score is not None
    ]
    results = [{"task": _TASK, "dataset": _tested_on(spec, measured), "metrics": metrics}]
    return metadata | {"metrics": ["accuracy"], "model-index": [{"name": spec.name, "results": results}]}


def _sample(score: Score, measured: Measurement) -> str:
    """Return on how many images a score is, where these are not all of the test images."""
    return f", {score.images:,} of the images" if score.images < measured.test.images else ""


def _tested_on(spec: "ModelSpec", measured: Measurement) -> dict[str, str]:
    """Return the dataset of the results. Images from elsewhere go by their own name, and not by that of the dataset."""
    dataset, name = _dataset(spec.dataset), measured.test.name
    if name == spec.dataset:
        return {"type": dataset["hub"] or name, "name": dataset["title"], "split": "test"}
    return {"type": pathlib.PurePath(name).stem, "name": f"{dataset['title']}, images of {name}", "split": "test"}


def format_yaml(document: dict[str, Any], indent: str = "") -> str:
    """Return a dictionary of plain values, lists and dictionaries as YAML.

    Keys stand as they are; text is in double quotes, with JSON's escapes, which YAML shares.
    """
    lines = []
    for key, value in document.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:\n", format_yaml(value, indent + "  ")]
        elif isinstance(value, list):
            lines += [f"{indent}{key}:\n", *(_format_yaml_item(item, indent) for item in value)]
        else:
            lines.append(f"{indent}{key}: {_format_yaml_scalar(value)}\n")
    return "".join(lines)


def _format_yaml_item(item: Any, indent: str) -> str:
    if isinstance(item, dict):  # its first line takes the place of two of the spaces
        return f"{indent}- {format_yaml(item, f'{indent}  ').removeprefix(f'{indent}  ')}"
    return f"{indent}- {_format_yaml_scalar(item)}\n"


def _format_yaml_scalar(value: str | float | bool) -> str:
    return json.dumps(escape_unprintable(value) if isinstance(value, str) else value, ensure_ascii=False)
