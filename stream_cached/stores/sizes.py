"""The size of a value in memory, which bounds go by."""

from __future__ import annotations

import sys
from types import ModuleType


def size_of(value: object) -> int:
    if isinstance(value, bytes):
        return len(value)
    size, seen, pending = 0, set(), [value]
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        size += sys.getsizeof(item)
        if isinstance(item, dict):
            pending.extend((*item.keys(), *item.values()))
        elif isinstance(item, list | tuple | set | frozenset):
            pending.extend(item)
        elif not isinstance(item, type | ModuleType):
            pending.extend(getattr(item, "__dict__", {}).values())
    return size
