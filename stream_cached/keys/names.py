"""The names of everything that a store holds for one key."""

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


@functools.lru_cache(maxsize=1024)
def readable(text: str) -> str:
    """Return the end of a name, in characters that any store takes."""
    return _UNREADABLE.sub("_", text)[-_HEAD_LENGTH:]


def segment_key(key: str, generation: bytes, index: int) -> str:
    """Return the chunk key of a segment: two runs never share one."""
    return f"{key}:{generation.hex()}:{index}"


def segment_group(key: str) -> str | None:
    """Return what the chunk keys of one run have in common, or None for any other key."""
    # It is asked at each access to the memory.
    group, _, index = key.rpartition(":")
    if not index.isdecimal():
        return None
    _, colon, generation = group.rpartition(":")
    return group if colon and _GENERATION.fullmatch(generation) else None


def is_segment_key(key: str) -> bool:
    """Whether it is the chunk key of a segment, in whatever namespace."""
    return segment_group(key) is not None


def variant_key(key: str, generation: bytes, variant: str) -> str:
    """Return the key of one variant, as selected by the index of `generation`."""
    return f"{key}:v:{generation.hex()}:{variant}"


def version_key(endpoint: str) -> str:
    """Return the key of an endpoint's version, which all of its entries depend on."""
    return f"{readable(endpoint)}:version:{digest(endpoint)}"


def tag_key(prefix: str, tag: str) -> str:
    """Return the key of a tag's version, which all that bears the tag depends on."""
    return f"{prefix}stream_cached:tag:{digest(tag)}"


def is_internal(key: str) -> bool:
    """Whether a key that somebody made could be one that another key needs."""
    return _INTERNAL.fullmatch(key) is not None


def lease_key(key: str, versions: Mapping[str, bytes], variant: tuple[Sequence[str], str]) -> str:
    """
    Return the key that says who runs an endpoint, for all processes.

    Args:
        key: The key of the resource.
        versions: Those that the run is made under: one that was invalidated holds up nobody.
        variant: The names of the headers that select the response, and the digest of their values.
    """
    return f"{key}:lease:{digest((sorted(versions.items()), variant))}"


def progress_key(key: str, generation: bytes) -> str:
    """Return the key that says what one run has come to."""
    return f"{key}:{generation.hex()}:progress"


def followed_key(key: str, generation: bytes) -> str:
    """Return the key that says that one run is read in other processes, too."""
    return f"{key}:{generation.hex()}:followed"


def revocation_key(key: str) -> str:
    """Return the key that holds when one resource was last invalidated by its key."""
    return f"{key}:revoked"


def holds_address(key: str) -> bool:
    """Whether a key holds the address of an object, which the next process (or call) uses again."""
    return _ADDRESS.search(key) is not None
