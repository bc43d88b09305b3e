"""The model cards of the zoo, and their index, as Markdown."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from keras_nin.data import get_preset
from keras_nin.formatting import format_markdown_table, format_ratio_percent
from keras_nin.report.rendering import make_table, render_text

if TYPE_CHECKING:
    from keras_nin.audit.api import Audit
    from keras_nin.models.model_spec import ModelSpec


def format_card_index(entries: "Iterable[tuple[ModelSpec, Audit]]") -> str:
    """Return the table of all models."""
    table = make_table("models", [{"spec": spec, "total": audit.total} for spec, audit in entries])
    return render_text("cards.j2", "index", table.format(format_markdown_table)) + "\n"


def format_card(spec: "ModelSpec", audit: "Audit", metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the card of a model.

    Args:
        spec: the model.
        audit: its audit at the default input.
        metrics: the record of the training of each of its bundled weights, by name.
    """
    total, shape = audit.total, "x".join(map(str, spec.input_shape))
    params = format_ratio_percent(total.pointwise_params, total.params)
    macs = format_ratio_percent(total.pointwise_macs, total.macs)
    facts = {
        "Source": spec.paper,
        "Input": f"{shape}, preprocessing: {get_preset(spec.preprocessing)}",
        "Classes": "none: the output is a map" if spec.classes is None else str(spec.classes),
        "Dataset": spec.dataset or "not bundled: pass `--data`",
        "Parameters": f"{total.params:,} ({params} in 1x1 layers)",
        "MACs": f"{total.macs:,} ({macs} in 1x1 layers)",
        "Weights": ", ".join(spec.bundled_weights) or "not bundled",
    }
    table = format_markdown_table(("", ""), list(facts.items()))
    return render_text("cards.j2", "card", spec, table, metrics, audit.to_markdown().strip()) + "\n"
