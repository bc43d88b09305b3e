"""What a rule is: a limit, where it comes from, what the compiler says of it, and what to do."""

import dataclasses
from collections.abc import Callable

DOCUMENT, REPORT, DATA = "document", "report", "data"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a rule comes from.

    Attributes:
        kind: "document" (the vendor's documentation), "report" (the vendor's issue tracker), or "data" (learned from
            files with the compiler's result).
        text: which page, report or evidence.
        learned_from: for data, the repositories whose files taught the rule.
        refuted_by: repositories whose files show that a documented limit does not hold.
    """

    kind: str
    text: str
    learned_from: tuple[str, ...] = ()
    refuted_by: tuple[str, ...] = ()

    def holds(self, without=None):
        """Return whether the rule applies for one who has not seen the files of the repository `without`."""
        refuted = any(repository != without for repository in self.refuted_by)
        known = self.kind != DATA or any(repository != without for repository in self.learned_from)
        return known and not refuted


@dataclasses.dataclass(frozen=True)
class Rule:
    """A limit of some operators.

    Attributes:
        name: of the rule.
        operators: names of the operators; empty for all.
        breaks: from a `Use` to what breaks the limit, or None.
        limit: the limit as a sentence.
        status: the compiler's words.
        fix: what to do.
        source: `Source`.
    """

    name: str
    operators: tuple[str, ...]
    breaks: Callable
    limit: str
    status: str
    fix: str
    source: Source

    def why(self, use):
        """Return why the rule refuses an operator, None where it does not."""
        if self.operators and use.op not in self.operators:
            return None
        broken = self.breaks(use)
        return f"{broken}: {self.limit}" if broken else None
