"""How long records, segments and versions live in a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stream_cached.format.records import Entry

#: Seconds by which segments, indexes and versions outlive the record that depends on them.
MARGIN = 60.0

#: Seconds for which a key is remembered as one whose response can't be stored.
UNSTORABLE_TTL = 120.0

#: Seconds past its ttl for which an entry is kept that a validator may make fresh again.
KEPT_FOR_VALIDATOR = 24 * 60 * 60.0

#: Seconds that a version lives at least if the records that depend on it have different ttls: a
#: record with a short ttl must not end the life of the others.
LONGEST_DIFFERENT = 24 * 60 * 60.0


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long things live in the store, in seconds; None for ever."""

    ttl: float | None
    """Of a fresh entry."""
    longest_run: float
    """Bound of one run."""
    stale: float = 0.0
    """How long an entry is kept after its ttl."""
    dated: bool = False
    """Whether an entry has to tell how long it is still fresh."""
    differ: bool = False
    """Whether the ttls of the records that depend on one version differ."""
    left: Callable[[Entry], float] | None = None
    """How long an entry is still kept, where its answer told its ttl; None if `ttl` is that of all
    entries."""

    @property
    def is_told(self) -> bool:
        """Whether an entry tells when its ttl ends."""
        return self.dated or self.stale > 0 or self.left is not None

    @property
    def entry(self) -> float | None:
        """Of an entry, fresh and stale."""
        return None if self.ttl is None else self.ttl + self.stale

    @property
    def segments(self) -> float | None:
        """Of the segments of a committed entry, and of an index of variants."""
        return None if (entry := self.entry) is None else entry + MARGIN

    def segments_of(self, entry: Entry | None) -> float | None:
        """Of the segments of an entry that was found; None if it has gone since it was stored."""
        if self.left is None or (entry is not None and entry.fresh_until is None):
            return self.segments
        return MARGIN + (0.0 if entry is None else self.left(entry))

    def is_endless(self, entry: Entry) -> bool:
        """Whether an entry that was found never expires."""
        return entry.fresh_until is None and (self.ttl is None or self.is_told)

    @property
    def versions(self) -> float | None:
        """Of a version: it outlives each record that a run may still make under it."""
        if self.differ:
            # An entry that lives longer is a miss after that time.
            return max(self.entry or 0.0, LONGEST_DIFFERENT) + self.longest_run + MARGIN
        return None if (entry := self.entry) is None else entry + self.longest_run + MARGIN

    @property
    def unstorable(self) -> float:
        """Of the mark that a response can't be stored."""
        return UNSTORABLE_TTL if self.ttl is None else min(UNSTORABLE_TTL, self.ttl)
