"""The caches of a project, as its settings have them."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from stream_cached.checks import require
from stream_cached.decorator import stream_cached
from stream_cached.django.entry import loop_here, run_here
from stream_cached.limits import LIMITS
from stream_cached.stream_cache import _OF_ONE, StreamCache

#: The name of the setting.
SETTING = "STREAM_CACHED"

#: The keys of a cache in the settings, lower-cased.
OPTIONS = frozenset(
    {"url", "namespace", *inspect.signature(stream_cached.__init__).parameters, *LIMITS}
) - {"self", "kwargs", *_OF_ONE}


class Cache:
    """
    One cache of the settings.

    Args:
        options: The options, by their names in the decorator `stream_cached`.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.streams = StreamCache(**options)

    def clear(self) -> bool:
        """
        Invalidate all entries of this cache, those of other processes with its namespace included.

        Returns:
            True if it was carried out, False if it waits for the store's return.

        Raises:
            StoreError: The store refused; old responses may still be served.
        """
        return run_here(self.streams.clear(), loop_here())

    async def aclear(self) -> bool:
        """Do the same as `clear`."""
        return await self.streams.clear()

    def invalidate_tags(self, *tags: str, soft: bool = False) -> bool:
        """
        Invalidate all entries that have one of these tags, of all views and processes.

        Args:
            tags: The tags, as `"item:7"`.
            soft: Whether the entries become stale instead: they are served within the windows of
                `stale_while_revalidate` and `stale_if_error`.

        Returns:
            True if it was carried out, False if it waits for the store's return.

        Raises:
            StoreError: The store refused; old responses may still be served.
            ConfigurationError: A tag is no text.
        """
        coroutine = self.streams.invalidate_tags(*tags, soft=soft)
        return run_here(coroutine, loop_here())

    async def ainvalidate_tags(self, *tags: str, soft: bool = False) -> bool:
        """Do the same as `invalidate_tags`."""
        return await self.streams.invalidate_tags(*tags, soft=soft)


def options_of(alias: str, given: Any) -> dict[str, Any]:
    """
    Return the options of one cache in the settings.

    Raises:
        ConfigurationError: There is no such option.
    """
    place = f"{SETTING}[{alias!r}]"
    require(
        isinstance(given, Mapping),
        f'{place}={given!r}: write a dictionary, {{"URL": "redis://localhost/0", "TTL": 60}}',
    )
    for name in given:
        require(
            isinstance(name, str) and name.isupper() and name.lower() in OPTIONS,
            f"{place} has {name!r}, which is no option: write one of "
            f"{', '.join(sorted(map(str.upper, OPTIONS)))}",
        )
    options = {name.lower(): value for name, value in given.items()}
    url = options.get("url", "")
    require(isinstance(url, str), f'{place} has the URL {url!r}: write a text, "redis://…"')
    return options


class Caches:
    """The caches by their names in the settings."""

    def __init__(self) -> None:
        self._made: dict[str, Cache] = {}
        self._lock = threading.Lock()
        self.number = 0
        """Grows with each change of the settings."""

    def __getitem__(self, alias: str) -> Cache:
        """
        Return one cache.

        Raises:
            ConfigurationError: The settings have none of that name, or no valid one.
        """
        cache = self._made.get(alias)
        if cache is None:
            with self._lock:
                cache = self._made.get(alias) or self._make(alias)
        return cache

    def _make(self, alias: str) -> Cache:
        given = getattr(settings, SETTING, {"default": {}})
        require(
            isinstance(given, Mapping),
            f'{SETTING} is no dictionary: write {SETTING} = {{"default": {{"URL": "redis://…"}}}}',
        )
        require(
            alias in given or alias == "default",
            f"{SETTING} has no cache {alias!r}: add it, or use one of {', '.join(given)}",
        )
        cache = self._made[alias] = Cache(options_of(alias, given.get(alias, {})))
        return cache

    def __iter__(self) -> Iterator[str]:
        return iter(getattr(settings, SETTING, {"default": {}}))

    def forget(self) -> None:
        self._made = {}
        self.number += 1


caches = Caches()


def _changed(*, setting: str, **kwargs: object) -> None:
    if setting == SETTING:
        caches.forget()


setting_changed.connect(_changed, dispatch_uid="stream_cached")
