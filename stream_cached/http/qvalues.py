"""Lists of names with weights, as in Accept-Encoding (RFC 9110, section 12.4.2)."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Sequence

_MEMBER = re.compile(
    r"([!#$%&'*+.^_`|~0-9a-z-]+)(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?"
)

#: Types of media that are compressed in themselves, or that come in small parts: those that
#: compressing middleware and proxies leave alone.
_LEFT_ALONE = re.compile(
    "|".join(
        map(
            fnmatch.translate,
            (
                "application/grpc",
                "application/*gzip",
                "application/zip",
                "application/zstd",
                "audio/*",
                "font/woff*",
                "image/avif",
                "image/gif",
                "image/jpeg",
                "image/png",
                "image/webp",
                "text/event-stream",
                "video/*",
            ),
        )
    )
)


def weighted(lines: Sequence[bytes]) -> list[tuple[str, float]] | None:
    """Return names in lower case, and their weights; None if a member is malformed."""
    found = []
    for member in b",".join(lines).decode("latin-1").lower().split(","):
        if not member.strip(" \t"):
            continue
        match = _MEMBER.fullmatch(member.strip(" \t"))
        if match is None:
            return None
        found.append((match[1], 1.0 if match[2] is None else float(match[2])))
    return found


#: Bytes of a line for which what was made of it is kept. A client may send long ones.
_KEPT = 200


def accepts_coding(lines: Sequence[bytes]) -> bool:
    """Whether a request accepts another content coding than identity (section 12.5.3)."""
    if not lines:
        return False
    is_kept = len(lines) == 1 and len(lines[0]) <= _KEPT
    return _accepts_coding(lines[0]) if is_kept else _accepts_coding.__wrapped__(b",".join(lines))


@functools.lru_cache(maxsize=256)
def _accepts_coding(line: bytes) -> bool:
    found = weighted([line])
    # What can't be read may be read otherwise by what compresses.
    return found is None or any(weight > 0 for name, weight in found if name != "identity")


@functools.lru_cache(maxsize=256)
def is_left_alone(media_type: bytes) -> bool:
    """Whether what compresses responses leaves those of a type alone."""
    plain = media_type.decode("latin-1").partition(";")[0].strip().lower()
    return _LEFT_ALONE.fullmatch(plain) is not None
