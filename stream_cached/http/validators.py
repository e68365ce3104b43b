"""What a function of the application says of a response: is it still the same (RFC 9110, 8.8)?"""

from __future__ import annotations

import datetime
import re

from stream_cached.keys.digest import digest

#: The text of an entity tag, without spaces and quotes (section 8.8.3), and short.
_PLAIN = re.compile(r"[!#-~]{1,128}")

#: What a function may say: an entity tag, the time of the last change, or both.
Said = str | datetime.date | tuple[object, ...] | list[object] | None


def opaque_of(said: Said) -> str | None:
    """
    Return the text that is the same as long as nothing has changed; None if that is not known.

    Raises:
        TypeError: It is no entity tag and no time.
    """
    if said is None:
        return None
    parts = said if isinstance(said, tuple | list) else (said,)
    return "@".join([_text(part) for part in parts if part is not None]) or None


def _text(part: object) -> str:
    if isinstance(part, datetime.datetime) and part.tzinfo is not None:
        part = part.astimezone(datetime.UTC)
    if isinstance(part, datetime.date):
        return part.isoformat()
    if not isinstance(part, str):
        raise TypeError(f"a validator returns a str, a datetime or both, not {type(part).__name__}")
    tag = part.removeprefix("W/")
    if len(tag) > 1 and tag[0] == tag[-1] == '"':
        tag = tag[1:-1]
    return tag if _PLAIN.fullmatch(tag) else digest(part)


def weak_tag(opaque: str, variant: str = "") -> bytes:
    """Return the weak ETag for it; `variant` tells variants of one URL apart."""
    return f'W/"{opaque}{variant and f"@{variant}"}"'.encode("ascii")
