"""Bodies that say themselves which request they answer: no two runs have the same.

A body begins with a line that names its path and its run, and goes on with bytes that follow from
this line. So a test that has a body, or its beginning, can tell whether it is what one run made,
in whatever process, without keeping any.
"""

from __future__ import annotations

import os
import random
import zlib
from functools import cache

CHUNK = 100_000

_LARGEST = 4_000_000
_PLACES = 4_000_037


def size_of(path: str) -> int:
    """Return how long the bodies of a path are: `/1000/any/thing` has a thousand bytes."""
    return int(path.split("/")[1])


def new_body(path: str) -> bytes:
    """Make the body of another run."""
    return _body(f"{path} {os.urandom(8).hex()}\n".encode(), size_of(path))


def _body(line: bytes, size: int) -> bytes:
    assert len(line) < size <= _LARGEST, "too short to tell anything, or too long"
    noise, start = _noise(), zlib.crc32(line) % _PLACES
    rest = size - len(line)
    return line + noise[start : start + rest] + noise[: max(0, start + rest - _PLACES)]


@cache
def _noise() -> bytes:
    """Return what all bodies are cut from, as from a ring, each at a place of its own."""
    return random.Random(1).randbytes(_PLACES)


def chunks_of(body: bytes) -> list[bytes]:
    """Cut a body into what an endpoint yields."""
    return [body[start : start + CHUNK] for start in range(0, len(body), CHUNK)]


def flaw(path: str, body: bytes, *, whole: bool) -> str | None:
    """
    Say what is wrong with a body; None where nothing is.

    Args:
        path: What was asked for.
        body: What came.
        whole: Whether it was to be complete; otherwise it may be the beginning of one.
    """
    line, end, _ = body.partition(b"\n")
    beginning = path.encode() + b" "
    if not (line + end).startswith(beginning[: len(body)]):
        return f"it is of another request: {body[:60]!r}"
    if not end:
        return "it ends in its first line" if whole or len(body) > 200 else None
    expected = _body(line + end, size_of(path))
    if len(body) > len(expected) or (whole and len(body) < len(expected)):
        return f"it has {len(body)} bytes of {len(expected)}"
    if expected.startswith(body):
        return None
    differs = next(i for i, (a, b) in enumerate(zip(body, expected, strict=False)) if a != b)
    return f"it is another one from byte {differs} on"
