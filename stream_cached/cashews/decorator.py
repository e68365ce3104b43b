"""The front door for cashews: `stream_cached` with the parameters of cashews' decorators."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Any

from cashews import Cache, Command
from cashews._typing import TTL, CacheCondition, Tags
from cashews.key import get_cache_key
from cashews.validation import _INVALIDATE_FURTHER

from stream_cached import decorator
from stream_cached.cashews.addresses import KeyCheck
from stream_cached.cashews.hooks import CashewsHooks
from stream_cached.cashews.ttls import ttl_in_seconds
from stream_cached.checks import require
from stream_cached.http.reasons import BypassError
from stream_cached.limits import LIMITS

#: Options of cashews' own decorators that have no effect on a stream.
_PLAIN_VALUE_OPTIONS = ("lock", "protected", "upper", "time_condition")

#: Options of the aiocache decorator that configure the cache.
_CACHE_OPTIONS = ("alias", "namespace", "plugins", "serializer")

_PARAMETERS = inspect.signature(decorator.stream_cached.__init__).parameters

#: The keyword arguments that are passed on to the aiocache decorator.
_OPTIONS = frozenset({*_PARAMETERS, *LIMITS}) - {"self", "kwargs", *_CACHE_OPTIONS}


class stream_cached(decorator.stream_cached):  # noqa: N801
    """
    Cache the response of an endpoint in a cashews cache while it is streamed to its first client.

    Put the decorator directly over the function, below the route decorator. The parameters below
    mean what they mean in cashews' own decorators, all others what they mean in
    `stream_cached.stream_cached`. With `key` or `values="aiocache"`, a result that is no response
    is stored as `cache.set` does.

    Args:
        cache: The cache that stores the entries; it may be set up after decoration.
        ttl: How long an entry is fresh: seconds, a `timedelta`, a text such as `"1h30m"`, None for
            ever, or a function of the arguments, and of `result=` if it has that parameter.
        key: A template of the key, such as `"report:{user.id}:{fmt}"`. Without it, the key is
            built from the request and the arguments.
        tags: Templates of tags, or a function of the arguments, or of the `response`, that returns
            tags. `cache.delete_tags` invalidates the entries with these tags, and the runs that
            would store such an entry.
        condition: Called with the result, the arguments, the keyword arguments and `key=`. If it
            returns false, the result is not stored. cashews' own conditions are accepted, too.
        prefix: Text before each key, followed by a colon.
        options: The keyword arguments of `stream_cached.stream_cached` that do not configure the
            cache, such as `vary=`, `limits=` and `max_body=`.

    Raises:
        ConfigurationError: A parameter is unknown or has no valid value; the message says what to
            write.
    """

    def __init__(
        self,
        cache: Cache,
        ttl: TTL,
        key: str | None = None,
        *,
        tags: Tags | Callable[..., Iterable[str]] = (),
        condition: CacheCondition = None,
        prefix: str = "",
        **options: Any,
    ) -> None:
        require(
            isinstance(cache, Cache),
            f"cache={cache!r} is no cache of cashews: pass the one that is set up, as in "
            "@stream_cached(cache, ttl=60)",
        )
        _check_names(options)
        require(
            not isinstance(tags, str), f"tags={tags!r} is one text: pass a list of them, [{tags!r}]"
        )
        if callable(tags):
            options["tags"] = tags
        makes_ttl = callable(ttl) and not isinstance(ttl, type)
        super().__init__(
            ttl=None if makes_ttl else ttl_in_seconds(ttl), cache="memory://", **options
        )
        self.hooks: CashewsHooks = CashewsHooks(
            self, cache, ttl, key=key, tags=tags, condition=condition, prefix=prefix
        )

    async def decorator(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Answer one call of `f`: from the cache, or by running it and recording its answer."""
        if _INVALIDATE_FURTHER.get() or self.hooks.is_disabled(Command.GET):
            kwargs["cache_read"] = False
        if self.hooks.is_disabled(Command.SET):
            kwargs["cache_write"] = False
        return await super().decorator(f, *args, **kwargs)

    def get_cache_key(
        self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        """Return the key of a call; if there is a template, cashews fills it in."""
        template = self.hooks.template_of(f)
        if template is None:
            return super().get_cache_key(f, args, kwargs)
        if findings := KeyCheck(f, template, is_default=False).findings(args, kwargs):
            raise BypassError(*findings)
        return get_cache_key(f, template, args, kwargs)


def _check_names(options: Collection[str]) -> None:
    """Check the names of the options, because aiocache's decorator accepts any name."""
    for name in options:
        require(
            name not in _PLAIN_VALUE_OPTIONS,
            f"{name}= is for plain values: concurrent requests for one stream cause one run "
            "anyway; leave it out",
        )
        require(
            name not in _CACHE_OPTIONS,
            f"{name}= configures a cache of aiocache, and this one is set up by cashews: pass it "
            "to cache.setup() if cashews has such an option; prefix= stands before each key",
        )
        require(
            name in _OPTIONS,
            f"unknown parameter {name!r}: the decorator has no such parameter. Options of the "
            "cache belong in cache.setup()",
        )
