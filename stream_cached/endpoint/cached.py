"""The public interface of a decorated function."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Cached(Protocol):
    """What all decorated functions have."""

    cache: Any
    """The aiocache cache; None until its alias is configured."""

    async def cache_key(self, *args: Any, **kwargs: Any) -> str:
        """
        Return the key of a call with these arguments.

        Args:
            args: The positional arguments.
            kwargs: The keyword arguments. If the function has no parameter for its request, pass
                the request as `request=`.

        Raises:
            BypassError: The call can't be cached, or its key is made from a request that is not
                passed; the message gives the reason and the fix.
        """
        ...

    async def invalidate(self, *, key: str | None = None) -> bool:
        """
        Invalidate the endpoint's stored responses and its running runs.

        If the store is away, the invalidation is kept and carried out before this process uses the
        store again. Until then, other processes that reach the store may serve old responses.

        Args:
            key: Invalidate only this key, as returned by `key`, `key_builder` or `cache_key`.
                Plain values are stored in aiocache's own format. On a server, they can be
                invalidated only by their key.

        Returns:
            True if the invalidation was carried out, False if it waits for the store's return, or
            the cache is switched off.

        Raises:
            StoreError: The store refused the invalidation; old responses may still be served.
            ConfigurationError: The function has plain values on a server, which are still served.
        """
        ...


class CachedEndpoint(Cached, Protocol[P, R_co]):
    """A decorated function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R_co]: ...


class CachedGenerator(Cached, Protocol[P, R_co]):
    """A decorated generator function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[R_co, None]: ...
