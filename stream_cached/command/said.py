"""One thing that a command says: a word, a sentence and the fix."""

from __future__ import annotations

from dataclasses import dataclass

from stream_cached.http.reasons import Finding


@dataclass(frozen=True)
class Said:
    """One thing that a command says."""

    reason: str
    text: str
    fix: str

    @classmethod
    def of(cls, finding: Finding) -> Said:
        """Say what the cache says of a request."""
        return cls(finding.reason.word, str(finding), finding.fix or finding.reason.fix)

    @classmethod
    def warned(cls, text: str, reason: str) -> Said:
        """Say what a message says: the fix stands behind its last colon."""
        problem, separator, fix = text.rpartition(": ")
        return cls(reason, problem, fix) if separator else cls(reason, text, "")
