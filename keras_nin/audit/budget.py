"""Budgets: what a network may cost, and whether an audit shows that it keeps to them."""

from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

from keras_nin.formatting import format_names
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, parse_limits

if TYPE_CHECKING:
    from keras_nin.audit.api import Audit

# By the name of the item, the field of `AuditTotal`.
_COUNTS = {"params": "params", "trainable_params": "trainable_params", "macs": "macs"}
_BYTES = {
    **{"weights": "weight_bytes", "peak": "peak_activation_bytes", "peak_int8": "peak_activation_bytes_int8"},
    **{"activations": "activation_bytes"},
}
_SHARES = {"pointwise_share": "macs", "pointwise_params_share": "params"}
ITEMS = tuple(
    LimitItem(name, unit)
    for names, unit in ((_COUNTS, Unit.COUNT), (_BYTES, Unit.BYTES), (_SHARES, Unit.SHARE))
    for name in names
)


def parse_audit_limits(text: str, *, argument: str = "require") -> tuple[Limit, ...]:
    """Return the limits of a text such as ``"params=1.3M,peak=2MiB,pointwise_share=0.4.."``; see `keras_nin.limits`."""
    return parse_limits(text, ITEMS, argument=argument)


def check_audit_limits(audit: "Audit", limits: Iterable[Limit]) -> tuple[LimitCheck, ...]:
    """Return the check of each limit, on one of `ITEMS`. A limit on what is unknown does not pass."""
    return tuple(_check_item(audit, limit) for limit in limits)


def _check_item(audit: "Audit", limit: Limit) -> LimitCheck:
    has_unknown = limit.name in ("macs", "pointwise_share") and audit.unknown
    unknown = f"MACs unknown: {format_names(audit.unknown)}" if has_unknown else None
    if limit.name not in _SHARES:
        value = getattr(audit.total, (_COUNTS | _BYTES)[limit.name])
        return check_limit(limit, value, bounds=(value, None if unknown else value), reason=unknown)
    whole = getattr(audit.total, _SHARES[limit.name])
    if not whole:
        reason = "the network has none to take a share of"
        return check_limit(limit, None, bounds=(Fraction(0), Fraction(1)), reason=reason)
    share = Fraction(getattr(audit.total, f"pointwise_{_SHARES[limit.name]}"), whole)
    # More MACs elsewhere only lower the share.
    return check_limit(limit, share, bounds=(Fraction(0) if unknown else share, share), reason=unknown)
