"""The front door for cashews: its words, and the engine underneath."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cashews import Cache, Command
from cashews._typing import TTL, CacheCondition, Tags
from cashews.key import get_cache_key
from cashews.validation import _INVALIDATE_FURTHER

from stream_cached import decorator
from stream_cached.cashews.hooks import CashewsHooks, ttl_in_seconds
from stream_cached.checks import require

#: Options of cashews' own decorators that a stream does not need.
_NEEDLESS = ("lock", "protected", "upper", "time_condition")


class stream_cached(decorator.stream_cached):  # noqa: N801
    """
    Cache the response of an endpoint in a cashews cache while it is streamed to its first client.

    When, where and for how long is said in the words of cashews, all else in those of
    `stream_cached.stream_cached`. A result that is no response is stored as `cache.set` does.

    Args:
        cache: The cache that entries are stored in; it may be set up after decoration.
        ttl: How long an entry is fresh: seconds, a `timedelta`, a text such as `"1h30m"`, None for
            ever, or a function of the arguments, and of `result=` if it has that parameter.
        key: A template of the key, such as `"report:{user.id}:{fmt}"`. Without it, the key is
            built from the request and the arguments.
        tags: Templates of tags. `cache.delete_tags` invalidates what bears them, runs included.
        condition: Called with the result, the arguments, the keyword arguments and `key=`. If it
            returns false, the result is not stored. The conditions of cashews are taken, too.
        prefix: Text before each key, followed by a colon.
        options: The keyword arguments of `stream_cached.stream_cached` that are not about the
            cache, such as `vary=` and `limits=`.

    Raises:
        ConfigurationError: A parameter has no valid value; the message says what to write.
    """

    def __init__(
        self,
        cache: Cache,
        ttl: TTL,
        key: str | None = None,
        *,
        tags: Tags = (),
        condition: CacheCondition = None,
        prefix: str = "",
        **options: Any,
    ) -> None:
        require(
            isinstance(cache, Cache),
            f"cache={cache!r} is no cache of cashews: pass the one that is set up, as in "
            "@stream_cached(cache, ttl=60)",
        )
        for name in _NEEDLESS:
            require(
                name not in options,
                f"{name}= is for plain values: many requests for one stream run once anyway; "
                "leave it out",
            )
        require(
            not isinstance(tags, str), f"tags={tags!r} is one text: pass a list of them, [{tags!r}]"
        )
        makes_ttl = callable(ttl) and not isinstance(ttl, type)
        super().__init__(
            ttl=None if makes_ttl else ttl_in_seconds(ttl), cache="memory://", **options
        )
        self.hooks: CashewsHooks = CashewsHooks(
            self, cache, ttl, key=key, tags=tags, condition=condition, prefix=prefix
        )

    def __call__(self, f: Callable[..., Any]) -> Any:
        self.hooks.register(f)
        return super().__call__(f)

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
        """Return the key of a call, as cashews does if there is a template."""
        template = self.hooks.template_of(f)
        if template is None:
            return super().get_cache_key(f, args, kwargs)
        return get_cache_key(f, template, args, kwargs)
