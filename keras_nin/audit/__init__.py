"""Exact audits: what every layer costs in parameters, MACs and activation memory, and how much of that is 1x1."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "api": ["audit_model", "compare_models"],
        "comparison": ["ModelComparison"],
        "records": ["Audit", "AuditBlock", "AuditRow", "AuditTotal", "Finding"],
    },
)
