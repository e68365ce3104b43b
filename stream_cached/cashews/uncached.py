"""Keeps calls out of cashews whose key holds an object's address, or a request."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from functools import wraps
from typing import Any

from cashews import Cache
from cashews.key import get_cache_key_template

from stream_cached.cashews.addresses import KeyCheck
from stream_cached.cashews.encoding import function_of
from stream_cached.cashews.entries import reporter_of
from stream_cached.http.reasons import Finding, NotCached
from stream_cached.keys.names import shows_object


def patch_wrap(original: Callable[..., Any]) -> Callable[..., Any]:
    """Patch the method of cashews that makes the wrapper of `@cache` and most others."""

    def wrap(self: Cache, *args: Any, **kwargs: Any) -> Any:
        decorate = original(self, *args, **kwargs)

        def decorator(func: Callable[..., Any]) -> Any:
            call = decorate(func)
            has_address = _address_check(self, func, kwargs)

            @wraps(call)
            async def checked(*args: Any, **kwargs: Any) -> Any:
                return await (func if has_address(args, kwargs) else call)(*args, **kwargs)

            return checked

        return decorator

    return wrap


def patch_iterator(original: Callable[..., Any]) -> Callable[..., Any]:
    """Patch `@cache.iterator`."""

    def iterator(self: Cache, *args: Any, **kwargs: Any) -> Any:
        decorate = original(self, *args, **kwargs)

        def decorator(func: Callable[..., Any]) -> Any:
            call = decorate(func)
            # Its parameters are (ttl, key, condition).
            key = args[1] if len(args) > 1 else kwargs.get("key")
            has_address = _address_check(self, func, {"key": key})

            @wraps(call)
            async def checked(*args: Any, **kwargs: Any) -> Any:
                items = (func if has_address(args, kwargs) else call)(*args, **kwargs)
                async with aclosing(items):
                    async for item in items:
                        yield item

            return checked

        return decorator

    return iterator


def _address_check(
    cache: Cache, func: Callable[..., Any], options: dict[str, Any]
) -> Callable[[tuple[Any, ...], dict[str, Any]], bool]:
    """Return what says of a call, and logs once, that its key holds an address."""
    key, prefix = options.get("key"), options.get("prefix", "")
    template = get_cache_key_template(func, key=key, prefix=prefix)
    check = KeyCheck(func, template, is_default=key is None)

    def has_address(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if cache.is_full_disable:
            # cashews makes no key then.
            return False
        findings = check.findings(args, kwargs)
        if findings:
            reporter_of(f"{func.__module__}.{func.__qualname__}").not_cached(*findings)
        return bool(findings)

    return has_address


# -- functions that were decorated before the patches -------------------------------------------


def patch_get(original: Callable[..., Any]) -> Callable[..., Any]:
    """Patch `cache.get`: nothing is found under an object's address."""

    async def get(self: Cache, key: Any, default: Any = None) -> Any:
        return default if _is_of_object(key) else await original(self, key, default=default)

    return get


def patch_set(original: Callable[..., Any]) -> Callable[..., Any]:
    """Patch `cache.set`: nothing is stored under an object's address."""

    async def set(self: Cache, key: Any, *args: Any, **kwargs: Any) -> Any:
        return False if _is_of_object(key) else await original(self, key, *args, **kwargs)

    return set


def _is_of_object(key: Any) -> bool:
    if not isinstance(key, str) or not shows_object(key):
        return False
    fix = "call install() before functions are decorated: the log then names the argument"
    subject = "a key holds an address in memory, which another object is given later"
    reporter_of(function_of(key)).not_cached(Finding(NotCached.ARGUMENT, subject, fix))
    return True
