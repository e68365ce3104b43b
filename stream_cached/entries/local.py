"""Entries that this process keeps decoded and checked, in memory of a bounded size.

What is kept is used only where the store holds the very bytes that it was made of. So it stands in
for the decoding, and for nothing else: times, marks and versions are those that the store has now.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from stream_cached.entries.chunks import merged
from stream_cached.entries.found import Hit
from stream_cached.format.envelope import head_edge
from stream_cached.format.records import Entry, Index, Record, Segment
from stream_cached.stores.protocol import Held

#: Bytes that a kept entry costs beside what it holds: its objects, and the slots for them. Half of
#: them are for what is ready to answer with it.
_OVERHEAD = 5_500

Place = tuple[int, str]


@dataclass(frozen=True, slots=True, eq=False)
class LocalBody:
    """A whole body under keys of its own, as it is kept."""

    entry: Entry
    starts: Mapping[str, bytes]
    """How the values of its segments begin: with their generation, their length and their checksum.
    Empty if they are an object, which never changes."""
    parts: Sequence[Segment]
    """The segments, joined into parts that are sent at once."""


@dataclass(slots=True, eq=False)
class Sight:
    """What a look-up has found: where the same values are read again, it finds the same."""

    needs: Sequence[str]
    """The keys of the versions that every record of the resource depends on."""
    keys: Sequence[str]
    """Of all that is read: of the record, unless it is long, and of the versions."""
    starts: Mapping[str, bytes]
    """How the values of other keys begin: of the body's, and of a record that is long."""
    versions: Sequence[bytes | None]
    """The values of the versions."""
    hit: Hit
    held: Held | None
    """Tells whether all of it is as it was, where nothing has to be read for that."""
    ready: object = None
    """Keeps what is ready to answer with the entry."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class Kept:
    """A record as the store held it, and what it was decoded to."""

    record: Record
    length: int
    """Bytes of the record in the store."""
    head: bytes
    """Its prefix and its head. The rest is the body, as the record has it."""
    value: bytes | None
    """The record itself, where the store is in this process and holds the same object."""
    body: LocalBody | None = None
    size: int = 0
    was_read: bool = False
    """Whether its body was read before."""
    filling: weakref.ref[Filling] | None = None
    """What takes the body; a dead reference where that was dropped before its end."""
    sight: Sight | None = None
    """The last look-up that found it current, with its body."""

    def drop_body(self, place: Place) -> None:
        """Give back the room of a body that is kept, or was to be."""
        if self.body is not None or self.filling is not None:
            _memory.resize(place, self, -cast(Entry, self.record).length)
        self.body = self.filling = self.sight = None

    def is_of(self, value: bytes) -> bool:
        """Whether a record in the store is the one that was decoded."""
        if value is self.value:
            return True
        record = self.record
        body = (record.coded or record.body) if isinstance(record, Entry) else b""
        return len(value) == self.length and value.startswith(self.head) and value.endswith(body)


@dataclass(slots=True)
class _Memory:
    """What the process keeps for all stores; the least recently used goes first."""

    max_bytes: int = 0
    used: int = 0
    kept: OrderedDict[Place, Kept] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, place: Place, kept: Kept) -> None:
        with self.lock:
            self._drop(place)
            if kept.size <= self.max_bytes:
                self.kept[place] = kept
                self.used += kept.size
                self._make_room(place)

    def resize(self, place: Place, kept: Kept, size: int) -> bool:
        """Let what is kept take more room, or less; return False if there is none."""
        with self.lock:
            if self.kept.get(place) is not kept or kept.size + size > self.max_bytes:
                return False
            kept.size += size
            self.used += size
            self.kept.move_to_end(place)
            self._make_room(place)
            return True

    def _make_room(self, place: Place) -> None:
        while self.used > self.max_bytes:
            self._drop(next(iter(self.kept)))

    def _drop(self, place: Place) -> None:
        gone = self.kept.pop(place, None)
        if gone is not None:
            self.used -= gone.size
            # Others may still refer to it.
            gone.sight = None


_memory = _Memory()

_numbers = itertools.count()


def allow(max_bytes: int) -> None:
    """Let the process keep so much; the largest of several bounds counts."""
    _memory.max_bytes = max(_memory.max_bytes, max_bytes)


class LocalEntries:
    """
    What is kept of the entries in one store.

    Args:
        in_process: Whether the store is in this process, and returns the objects that it was given.
    """

    def __init__(self, *, in_process: bool = False) -> None:
        self._number = next(_numbers)
        self.in_process = in_process

    def kept(self, key: str) -> Kept | None:
        """Return what is kept of a record, to be used if the store holds the same."""
        place = self._number, key
        with _memory.lock:
            found = _memory.kept.get(place)
            if found is not None:
                _memory.kept.move_to_end(place)
        return found

    def keep(self, key: str, value: bytes, record: Record) -> None:
        """Keep a record that was decoded and checked."""
        if not isinstance(record, Entry | Index):
            return
        head = value[: head_edge(value)]
        whole = value if self.in_process else None
        size = _OVERHEAD + len(key) + len(head) * 2 + len(value) * (1 + self.in_process)
        if isinstance(record, Entry) and record.coded:
            size += len(record.body)
        _memory.put((self._number, key), Kept(record, len(value), head, whole, size=size))

    # -- bodies under keys of their own -----------------------------------------------------

    def begin(self, key: str, entry: Entry, keys: Sequence[str]) -> Filling | None:
        """Return what takes the body of an entry while it is read; None if it is not wanted."""
        place, kept = (self._number, key), self.kept(key)
        if kept is None or kept.record is not entry or (kept.filling and kept.filling()):
            return None
        if not kept.was_read:
            # What is asked for once must not push out what is asked for again and again.
            kept.was_read = True
            return None
        kept.drop_body(place)
        if not _memory.resize(place, kept, entry.length):
            return None
        filling = Filling(place, kept, entry, keys)
        kept.filling = weakref.ref(filling)
        return filling


class Filling:
    """A body that is read, and kept once it is whole. Its bytes count from the beginning."""

    def __init__(self, place: Place, kept: Kept, entry: Entry, keys: Sequence[str]) -> None:
        self._place = place
        self._kept = kept
        self._entry = entry
        self._keys = keys
        self._left = len(entry.segments)
        self._starts: list[bytes] = []
        self._parts: list[Segment] = []

    def add(self, segments: Sequence[Segment], part: Segment) -> None:
        """Take the next segments, and what they are joined to."""
        self._left -= len(segments)
        if self._keys:
            self._starts += [segment.start for segment in segments]
        self._parts.append(part)

    def end(self, *, whole: bool) -> None:
        """Keep the body if it is whole."""
        if whole and not self._left:
            starts = dict(zip(self._keys, self._starts, strict=True))
            body = LocalBody(self._entry, starts, list(merged(self._parts)))
            self._kept.body, self._kept.filling = body, None
        else:
            self._kept.drop_body(self._place)
