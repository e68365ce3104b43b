"""How a stream ended: a value that every reader reaches."""

from __future__ import annotations

from dataclasses import dataclass
from types import AsyncGeneratorType


@dataclass(frozen=True, slots=True)
class Complete:
    """The source ended by itself."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The source raised."""

    cause: BaseException


@dataclass(frozen=True, slots=True)
class Aborted:
    """The run was given up."""

    reason: str


End = Complete | Failed | Aborted

#: How a stream ends whose run is cut off without another reason, for example by the event loop.
CANCELLED = Aborted("cancelled")


def is_exhausted(iterable: object) -> bool:
    """Whether it is an async generator that has run to its end, and so cleaned up itself."""
    return isinstance(iterable, AsyncGeneratorType) and iterable.ag_frame is None
