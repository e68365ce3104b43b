"""A memory of this process, bounded in bytes, and the partitions of one.

It evicts the least recently used keys. The segments of one run are evicted together, because a body
with a missing segment can't be served.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stream_cached.keys.names import segment_group
from stream_cached.stores.sizes import size_of

#: Bytes that a key costs beside its characters and its value: the dict slots and the objects.
_OVERHEAD = 200

#: Seconds between two searches for expired keys. Only a full memory is searched.
_SWEEP_INTERVAL = 10.0


@dataclass(slots=True, weakref_slot=True)
class Item:
    """A value, the time of its expiry, and its size in bytes. One that is taken out has expired."""

    value: Any
    deadline: float | None
    size: int
    group: str = ""


class BoundedMemory:
    """A thread-safe dict with expiry, which evicts the least recently used group of keys.

    Its bound in bytes includes the keys and an allowance for the objects."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self.changes = 0
        """How many keys were set, taken out, or given another ttl."""
        self._clock = clock
        self._next_sweep = clock()
        self._items: dict[str, Item] = {}
        self._groups: OrderedDict[str, dict[str, None]] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def lock(self) -> threading.RLock:
        """What makes several operations one."""
        return self._lock

    def get(self, key: str) -> Any:
        with self._lock:
            item = self._live(key)
            return None if item is None else item.value

    def get_many(self, keys: Sequence[str]) -> list[Any]:
        # A call of `_live` for each key would cost as much as all the rest.
        items, now = self._items, self._clock()
        found: list[Any] = []
        with self._lock:
            for key in keys:
                item = items.get(key)
                if item is None:
                    found.append(None)
                elif item.deadline is None or item.deadline > now:
                    self._groups.move_to_end(item.group)
                    found.append(item.value)
                else:
                    self.delete(key)
                    found.append(None)
        return found

    def held(self, values: Mapping[str, Any], starts: Mapping[str, bytes]) -> HeldItems | None:
        """Return what tells whether keys still have these values, and others some that begin so;
        None if one has another."""
        with self._lock:
            found = {key: self._items.get(key) for key in [*values, *starts]}
            items = tuple(item for item in found.values() if item is not None)
            have = {key: None if item is None else item.value for key, item in found.items()}
        if any(have[key] is not value for key, value in values.items()):
            return None
        if any((have[key] or b"")[: len(start)] != start for key, start in starts.items()):
            return None
        groups = dict.fromkeys(item.group for item in items)
        absent = tuple(key for key, item in found.items() if item is None)
        return HeldItems(weakref.ref(self), tuple(map(weakref.ref, items)), tuple(groups), absent)

    def use(self, groups: Sequence[str]) -> None:
        """Let the keys of some groups be used now, as far as they are there."""
        with self._lock:
            for group in groups:
                if group in self._groups:
                    self._groups.move_to_end(group)

    def set(self, key: str, value: Any, ttl: float | None) -> bool:
        """Set the key; return False if the value alone exceeds the bound."""
        with self._lock:
            return self._put(key, value, self._deadline(ttl))

    def add(self, key: str, value: Any, ttl: float | None) -> bool:
        with self._lock:
            return self._live(key) is None and self._put(key, value, self._deadline(ttl))

    def compare_and_set(self, key: str, expected: Any, value: Any, ttl: float | None) -> bool:
        with self._lock:
            item = self._live(key)
            if item is None or item.value != expected:
                return False
            return self._put(key, value, self._deadline(ttl))

    def compare_and_delete(self, key: str, expected: Any) -> bool:
        with self._lock:
            item = self._live(key)
            return item is not None and bool(item.value == expected) and self.delete(key)

    def increment(self, key: str, delta: int) -> int:
        """Add to a number and keep its ttl; a missing key counts as 0."""
        with self._lock:
            item = self._live(key)
            value = delta + (0 if item is None else int(item.value))
            self._put(key, value, None if item is None else item.deadline)
            return value

    def touch(self, key: str, ttl: float | None) -> bool:
        with self._lock:
            item = self._live(key)
            if item is not None:
                item.deadline = self._deadline(ttl)
                self.changes += 1
            return item is not None

    def delete(self, key: str) -> bool:
        with self._lock:
            item = self._items.pop(key, None)
            if item is None:
                return False
            self.used -= item.size
            self.changes += 1
            item.deadline = -math.inf
            group = self._groups[item.group]
            del group[key]
            if not group:
                del self._groups[item.group]
            return True

    def clear(self, prefix: str) -> None:
        with self._lock:
            for key in [key for key in self._items if key.startswith(prefix)]:
                self.delete(key)

    def fits(self, key: str, value: Any) -> bool:
        return _cost(key, value) <= self.max_bytes

    def sizes(self) -> dict[str, int]:
        with self._lock:
            self._sweep()
            keys = [key for group in self._groups.values() for key in group]
            return {key: size_of(self._items[key].value) for key in keys}

    def _deadline(self, ttl: float | None) -> float | None:
        return self._clock() + ttl if ttl else None

    def _live(self, key: str) -> Item | None:
        item = self._items.get(key)
        if item is None:
            return None
        if item.deadline is not None and item.deadline <= self._clock():
            self.delete(key)
            return None
        self._groups.move_to_end(item.group)
        return item

    def _put(self, key: str, value: Any, deadline: float | None) -> bool:
        self.delete(key)
        size = _cost(key, value)
        if size > self.max_bytes:
            return False
        name = _group_name(key)
        if name in self._groups:
            self._groups.move_to_end(name)
        if self.used + size > self.max_bytes and not self._make_room(size, name):
            return False
        self.used += size
        self.changes += 1
        self._items[key] = Item(value, deadline, size, name)
        self._groups.setdefault(name, {})[key] = None
        return True

    def _make_room(self, size: int, name: str) -> bool:
        """Evict the least recently used groups; return False if the named group is evicted."""
        if self._clock() >= self._next_sweep:
            self._next_sweep = self._clock() + _SWEEP_INTERVAL
            self._sweep()
        while self.used + size > self.max_bytes:
            oldest, keys = next(iter(self._groups.items()))
            for key in list(keys):
                self.delete(key)
            if oldest == name:
                return False
        return True

    def _sweep(self) -> None:
        now = self._clock()
        for key, item in list(self._items.items()):
            if item.deadline is not None and item.deadline <= now:
                self.delete(key)


@dataclass(slots=True)
class HeldItems:
    """Values that a memory had, which this does not keep alive."""

    memory: weakref.ref[BoundedMemory]
    items: Sequence[weakref.ref[Item]]
    groups: Sequence[str]
    """Those of the items, which are used together."""
    absent: Sequence[str]
    """The keys that had no value."""
    changes: int = -1
    """How many changes of the memory there were when they were last looked at."""
    until: float = -math.inf
    """When they are no longer what they were, unless the memory is changed."""

    def are_there(self) -> bool:
        """Whether the memory still has all of them, and no others; they are then used."""
        memory = self.memory()
        if memory is None:
            return False
        if memory.changes != self.changes:
            self._look_again(memory)
        if memory._clock() >= self.until:
            return False
        # What was used last matters only where something may be evicted soon.
        if memory.used * 4 > memory.max_bytes:
            memory.use(self.groups)
        return True

    def _look_again(self, memory: BoundedMemory) -> None:
        """Look at each of them, because the memory was changed."""
        with memory._lock:
            self.changes, self.until = memory.changes, -math.inf
            items = [reference() for reference in self.items]
            if None in items or any(key in memory._items for key in self.absent):
                return
            deadlines = [item.deadline for item in items if item and item.deadline is not None]
            self.until = min(deadlines, default=math.inf)


class Partition(BoundedMemory):
    """A part of a memory with keys of its own. The bound is that of the whole."""

    def __init__(self, memory: BoundedMemory, name: str) -> None:
        self.max_bytes = memory.max_bytes
        self._memory = memory
        # No name of another partition begins with this one and its colon.
        self._prefix = f"{name}:"

    @property
    def lock(self) -> threading.RLock:
        return self._memory.lock

    def get(self, key: str) -> Any:
        return self._memory.get(self._prefix + key)

    def get_many(self, keys: Sequence[str]) -> list[Any]:
        return self._memory.get_many([self._prefix + key for key in keys])

    def held(self, values: Mapping[str, Any], starts: Mapping[str, bytes]) -> HeldItems | None:
        return self._memory.held(
            {self._prefix + key: value for key, value in values.items()},
            {self._prefix + key: start for key, start in starts.items()},
        )

    def set(self, key: str, value: Any, ttl: float | None) -> bool:
        return self._memory.set(self._prefix + key, value, ttl)

    def add(self, key: str, value: Any, ttl: float | None) -> bool:
        return self._memory.add(self._prefix + key, value, ttl)

    def compare_and_set(self, key: str, expected: Any, value: Any, ttl: float | None) -> bool:
        return self._memory.compare_and_set(self._prefix + key, expected, value, ttl)

    def compare_and_delete(self, key: str, expected: Any) -> bool:
        return self._memory.compare_and_delete(self._prefix + key, expected)

    def increment(self, key: str, delta: int) -> int:
        return self._memory.increment(self._prefix + key, delta)

    def touch(self, key: str, ttl: float | None) -> bool:
        return self._memory.touch(self._prefix + key, ttl)

    def delete(self, key: str) -> bool:
        return self._memory.delete(self._prefix + key)

    def clear(self, prefix: str) -> None:
        self._memory.clear(self._prefix + prefix)

    def fits(self, key: str, value: Any) -> bool:
        return self._memory.fits(self._prefix + key, value)

    def sizes(self) -> dict[str, int]:
        """Return the sizes of its own values by their keys."""
        sizes = self._memory.sizes().items()
        return {k.removeprefix(self._prefix): n for k, n in sizes if k.startswith(self._prefix)}


def _group_name(key: str) -> str:
    return segment_group(key) or key


def _cost(key: str, value: object) -> int:
    return _OVERHEAD + len(key) + size_of(value)
