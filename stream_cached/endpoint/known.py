"""The functions that were decorated, as they were before."""

from __future__ import annotations

import contextlib
from typing import Any
from weakref import WeakKeyDictionary

from stream_cached.events import Reporter

_reporters: WeakKeyDictionary[Any, Reporter] = WeakKeyDictionary()


def note_decorated(function: object, reporter: Reporter) -> None:
    """Note a function that is decorated. It is forgotten once it is gone."""
    # Not everything that can be called can be referred to weakly.
    with contextlib.suppress(TypeError):
        _reporters[function] = reporter


def reporter_of(function: object) -> Reporter | None:
    """Return the reporter of a function that was decorated; None for any other."""
    try:
        return _reporters.get(function)
    except TypeError:
        return None
