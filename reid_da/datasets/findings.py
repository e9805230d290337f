"""What a check of a data set has to say."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["problem", "warning", "note"]
"""A problem makes ``data check`` fail; a warning and a note do not."""
SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "note")
"""From the gravest: what makes results wrong, what may surprise, what is good to know."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of thing that was found in a data set.

    Attributes:
        severity: one of :data:`SEVERITIES`.
        code: what was found, in words that programs can rely on, e.g. ``truncated-images``.
        message: one line for people: what it is, what follows from it, what to do.
        count: how many files, identities, cameras or queries it concerns.
        examples: all of them, paths first, in the order of the data set; empty where there is nothing to name.
    """

    severity: Severity
    code: str
    message: str
    count: int
    examples: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The finding as values that JSON can hold."""
        return asdict(self)


def found(severity: Severity, code: str, message: str, examples: Sequence[str]) -> list[Finding]:
    """The finding of these examples as a list of one, or an empty list where there are none."""
    if not examples:
        return []
    return [Finding(severity=severity, code=code, message=message, count=len(examples), examples=tuple(examples))]
