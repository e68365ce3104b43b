"""References that do not keep an object alive, where the object allows that."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

#: Returns an object, or None once it is gone.
Reference = Callable[[], object]


def reference_to(value: object, gone: Callable[[Any], object] | None = None) -> Reference:
    """
    Return a reference to an object.

    Args:
        value: The object. One that can't be referred to weakly lives as long as the reference.
        gone: Called once the object is gone.
    """
    try:
        return weakref.ref(value, gone)
    except TypeError:
        return lambda: value
