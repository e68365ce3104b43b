"""What a look-up in a store can find."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

from stream_cached.format.items import is_of_items
from stream_cached.format.records import Entry, Segment
from stream_cached.http.sent import SentHead, sending_of


@dataclass
class Hit:
    """A complete and sound entry."""

    key: str
    """The key of its record: the resource's, or its variant's."""
    entry: Entry
    stale_since: float | None = None
    """Seconds since the epoch, if a soft invalidation has made it stale."""
    body: Sequence[Segment] | None = field(default=None, compare=False)
    """Its body, where the record has it, or this process keeps it and the store still holds the
    same."""

    @functools.cached_property
    def head(self) -> SentHead:
        """Its headers, as they are sent."""
        return sending_of(self.entry.headers, self.entry.status, self.entry.etag)

    @functools.cached_property
    def is_whole_response(self) -> bool:
        """Whether it is a response, and not the items of a generator, and its body is here."""
        return self.body is not None and not is_of_items(self.entry.media_type)

    @property
    def whole_body(self) -> bytes:
        """Its body in one piece."""
        # One piece is not copied.
        return b"".join([part.payload for part in self.body or ()])


@dataclass(frozen=True, slots=True)
class Miss:
    """Nothing that can be served."""

    varied: bool = False
    """Whether there is an index of variants without this variant."""


@dataclass(frozen=True, slots=True)
class Unstorable:
    """A mark: the last response could not be stored (hit-for-miss)."""

    detail: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """A value that this library did not write: one for the serializer."""


@dataclass(frozen=True, slots=True)
class StoredValue:
    """A plain value that `Resource.publish_value` published."""

    payload: bytes
    """The output of the cache's serializer."""
    text: bool
    """Whether the serializer returned text, which is encoded in `payload`."""


Found = Hit | Miss | Unstorable | Foreign | StoredValue
