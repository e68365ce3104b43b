"""Parse the URL of a store of bodies."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from stream_cached.bodies.files import FileBodies
from stream_cached.bodies.protocol import BodyStore
from stream_cached.checks import parse_size
from stream_cached.errors import ConfigurationError

_by_url: dict[str, BodyStore] = {}


def bodies_from_url(url: str) -> BodyStore:
    """
    Return the store of a URL: one per process for equal URLs.

    Raises:
        ConfigurationError: It is no URL of a store of bodies.
    """
    if url not in _by_url:
        _by_url[url] = _make(url)
    return _by_url[url]


def _make(url: str) -> BodyStore:
    parts = urlsplit(url)
    maker = _MAKERS.get(parts.scheme)
    shown = without_secrets(url)
    if maker is None:
        raise ConfigurationError(
            f"bodies={shown!r} has an unknown scheme: use {', '.join(f'{s}://' for s in _MAKERS)}"
        )
    try:
        return maker(parts, dict(parse_qsl(parts.query, keep_blank_values=True)))
    except ValueError as exc:
        raise ConfigurationError(f"bodies={shown!r}: {exc}") from None


def without_secrets(url: str) -> str:
    """Return a URL without a password, and without the values of options that may be secret."""
    return re.sub(r"//.*@", "//***@", re.sub(r"((?:key|secret|token)[a-z_]*=)[^&]*", r"\1***", url))


def _files(parts: SplitResult, query: dict[str, str]) -> BodyStore:
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.strip("/"):
        raise ValueError("write an absolute path: file:///var/cache/app")
    unknown = sorted(query.keys() - {"max_bytes"})
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}: use max_bytes")
    size = query.get("max_bytes")
    return FileBodies(path, max_bytes=None if size is None else parse_size(size))


def _bucket(parts: SplitResult, query: dict[str, str]) -> BodyStore:
    try:
        from stream_cached.bodies.buckets import bucket_from_url
    except ImportError:
        raise ValueError(
            'the client library is missing: pip install "stream-cached[bodies]"'
        ) from None
    return bucket_from_url(parts, query)


_MAKERS: dict[str, Callable[[SplitResult, dict[str, str]], BodyStore]] = {
    "file": _files,
    "s3": _bucket,
    "gs": _bucket,
    "az": _bucket,
}
