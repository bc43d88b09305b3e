"""Budgets: what a network may cost, and whether an audit shows that it keeps to them."""

from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

from keras_nin.formatting import format_names
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, parse_limits

if TYPE_CHECKING:
    from keras_nin.audit.api import Audit

ITEMS = (
    LimitItem("params", Unit.COUNT),
    LimitItem("trainable_params", Unit.COUNT),
    LimitItem("macs", Unit.COUNT),
    LimitItem("weights", Unit.BYTES),
    LimitItem("peak", Unit.BYTES),
    LimitItem("peak_int8", Unit.BYTES),
    LimitItem("activations", Unit.BYTES),
    LimitItem("pointwise_share", Unit.SHARE),
    LimitItem("pointwise_params_share", Unit.SHARE),
)


def parse_audit_limits(text: str, *, argument: str = "require") -> tuple[Limit, ...]:
    """Return the limits of a text such as ``"params=1.3M,peak=2MiB,pointwise_share=0.4.."``; see `keras_nin.limits`.

    Raises:
        InputError: an unknown item, a number or unit that its item does not take, or an empty range.
    """
    return parse_limits(text, ITEMS, argument=argument)


def check_audit_limits(audit: "Audit", limits: Iterable[Limit]) -> tuple[LimitCheck, ...]:
    """Return the check of each limit, on one of `ITEMS`. A limit on what is unknown does not pass."""
    return tuple(_check_item(audit, limit) for limit in limits)


def _check_item(audit: "Audit", limit: Limit) -> LimitCheck:
    total = audit.total
    exact = {
        "params": total.params,
        "trainable_params": total.trainable_params,
        "weights": total.weight_bytes,
        "peak": total.peak_activation_bytes,
        "peak_int8": total.peak_activation_bytes_int8,
        "activations": total.activation_bytes,
    }
    if limit.name in exact:
        return check_limit(limit, exact[limit.name])
    unknown = f"MACs unknown: {format_names(audit.unknown)}" if audit.unknown else None
    if limit.name == "macs":  # at least the known ones
        return check_limit(limit, total.macs, bounds=(total.macs, None if unknown else total.macs), reason=unknown)
    part, whole = {
        "pointwise_share": (total.pointwise_macs, total.macs),
        "pointwise_params_share": (total.pointwise_params, total.params),
    }[limit.name]
    if not whole:
        reason = "the network has none to take a share of"
        return check_limit(limit, None, bounds=(Fraction(0), Fraction(1)), reason=reason)
    share = Fraction(part, whole)
    if unknown and limit.name == "pointwise_share":  # more MACs elsewhere only lower the share
        return check_limit(limit, share, bounds=(Fraction(0), share), reason=unknown)
    return check_limit(limit, share)
