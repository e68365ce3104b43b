"""When two values are the same for a key: equal alone is not enough, since 1 == True == 1.0."""

from __future__ import annotations

import math
from typing import Any


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types all the way down, and in the same order."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, frozenset):
        return len(one) == len(other) and all(any(same(a, b) for b in other) for a in one)
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, other) and one == other
    return bool(one == other)
