"""The judge of all that clients are given: whole, or visibly broken where that is allowed."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.support.bodies import flaw

FALLBACK = '; detail="fallback"'


@dataclass(slots=True)
class Answer:
    """What one client was given. Times are in seconds since it asked."""

    path: str
    status: int = 0
    cache_status: str = ""
    body: bytes = b""
    complete: bool = False
    """The body ended, and as long as announced."""
    error: str | None = None
    first_at: float | None = None
    """When the first bytes of the body came."""
    ended_at: float = 0.0
    may_break: bool = False
    """Its store failed while it was read from there."""
    left: bool = False
    """The client did not wait for its end."""

    @property
    def is_hit(self) -> bool:
        """Whether it came from a cache."""
        return self.cache_status.startswith("stream-cached; hit")

    @property
    def is_joined(self) -> bool:
        """Whether it came from a run that another request had begun."""
        return "; collapsed" in self.cache_status

    @property
    def of_fallback(self) -> bool:
        """Whether the memory of the process stood in for the store."""
        return self.cache_status.endswith(FALLBACK)

    def __str__(self) -> str:
        state = "complete" if self.complete else "left" if self.left else f"broken ({self.error})"
        return (
            f"{self.path}: {self.status} [{self.cache_status}], {len(self.body)} bytes, {state}, "
            f"first after {self.first_at}, ended after {self.ended_at}"
        )


@dataclass(slots=True)
class Oracle:
    """
    Judges answers.

    Args:
        first_within: Seconds within which the first bytes have to come, None where that is not
            looked at.
        ended_within: Seconds within which an answer has to end.
        may_bypass: Whether an answer may go past the cache.
    """

    first_within: float | None = None
    ended_within: float | None = None
    may_bypass: bool = False
    objections: list[str] = field(default_factory=list)
    judged: int = 0

    def judge(self, answer: Answer) -> Answer:
        """Look at one answer."""
        self.judged += 1
        if found := self._objection(answer):
            self.objections.append(f"{found} -- {answer}")
        return answer

    def _objection(self, answer: Answer) -> str | None:
        if not answer.complete and not answer.left and not answer.may_break:
            return "it is broken, and must not be"
        if answer.status != 200 and (answer.complete or answer.status != 0):
            return "it is an error"
        if "fwd=bypass" in answer.cache_status and not self.may_bypass:
            return "it went past the cache"
        if found := flaw(answer.path, answer.body, whole=answer.complete):
            return found
        return self._delay(answer)

    def _delay(self, answer: Answer) -> str | None:
        first = answer.ended_at if answer.first_at is None else answer.first_at
        if self.first_within is not None and first > self.first_within:
            return "its first bytes came late"
        if self.ended_within is not None and answer.ended_at > self.ended_within:
            return "it ended late"
        return None
