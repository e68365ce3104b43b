"""The keys of all values that a store holds for one key."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

from stream_cached.keys.digest import digest

_HEAD_LENGTH = 72
_UNREADABLE = re.compile(r"[^A-Za-z0-9._/-]+")
_GENERATION = re.compile(r"[0-9a-f]{32}")
_INTERNAL = re.compile(
    r".*(?::revoked|:(?:version|lease):[0-9a-f]{32}|stream_cached:tag:[0-9a-f]{32}"
    r"|:v:[0-9a-f]{32}:[0-9a-f]{32}|:[0-9a-f]{32}:(?:\d+|progress|followed))",
    re.DOTALL,
)
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
_END_OF_OBJECT = re.compile(r" at 0x[0-9a-fA-F]{6,}[^<>]{0,200}>")


@functools.lru_cache(maxsize=1024)
def readable(text: str) -> str:
    """Return the end of a name in characters that every store accepts."""
    return _UNREADABLE.sub("_", text)[-_HEAD_LENGTH:]


def segment_key(key: str, generation: bytes, index: int) -> str:
    return f"{key}:{generation.hex()}:{index}"


def segment_group(key: str) -> str | None:
    """Return the common prefix of a run's segment keys; None for another key."""
    # Called at each access to the memory store, hence no regular expression for the whole key.
    group, _, index = key.rpartition(":")
    if not index.isdecimal():
        return None
    _, colon, generation = group.rpartition(":")
    return group if colon and _GENERATION.fullmatch(generation) else None


def is_segment_key(key: str) -> bool:
    """Whether the key is that of a segment, in any namespace."""
    return segment_group(key) is not None


def variant_key(key: str, generation: bytes, variant: str) -> str:
    return f"{key}:v:{generation.hex()}:{variant}"


def version_key(endpoint: str) -> str:
    """Return the key of the version on which all entries of an endpoint depend."""
    return f"{readable(endpoint)}:version:{digest(endpoint)}"


def tag_key(prefix: str, tag: str) -> str:
    """Return the key of the version on which all entries with this tag depend."""
    return f"{prefix}stream_cached:tag:{digest(tag)}"


def argument_key(endpoint: str, argument: str, value: str) -> str:
    """Return the key of the version of all entries whose argument has a value with this digest."""
    return f"{readable(endpoint)}:version:{digest([endpoint, argument, value])}"


def is_internal(key: str) -> bool:
    """Whether a user's key could collide with a key derived from another key."""
    return _INTERNAL.fullmatch(key) is not None


def lease_key(key: str, versions: Mapping[str, bytes], variant: tuple[Sequence[str], str]) -> str:
    # The versions are part of the key, so that an invalidated run does not delay the next run.
    return f"{key}:lease:{digest((sorted(versions.items()), variant))}"


def progress_key(key: str, generation: bytes) -> str:
    return f"{key}:{generation.hex()}:progress"


def followed_key(key: str, generation: bytes) -> str:
    """Return the key whose existence says that another process follows the run."""
    return f"{key}:{generation.hex()}:followed"


def revocation_key(key: str) -> str:
    """Return the key of the version that `invalidate(key=...)` replaces."""
    return f"{key}:revoked"


def holds_address(key: str) -> bool:
    """Whether a key contains an object's address, which Python reuses."""
    return _ADDRESS.search(key) is not None


def shows_object(text: str) -> bool:
    """Whether a text that a client may have written contains an object's text with its address."""
    return " at 0x" in text and "<" in text and _END_OF_OBJECT.search(text) is not None
