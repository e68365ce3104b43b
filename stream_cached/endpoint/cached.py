"""The public interface of a decorated function."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

from stream_cached.events import EndpointStats

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")


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

    def stats(self) -> EndpointStats:
        """Return what this process has answered for the function."""
        ...

    async def invalidate(self, *, key: str | None = None, **arguments: Any) -> bool:
        """
        Invalidate the endpoint's stored responses and its running runs.

        If the store is away, the invalidation is kept and carried out before this process uses the
        store again. Until then, other processes that reach the store may serve old responses.

        Args:
            key: Invalidate only this key, as returned by `key`, `key_builder` or `cache_key`.
                Plain values are stored in aiocache's own format. On a server, they can be
                invalidated only by their key.
            arguments: One argument, `item=7`: invalidate only the entries of calls with this value.
                The decorator names the argument in `invalidate_by=`, or has a tag that consists of
                it, such as `"item:{item}"`; entries of other functions with that tag count, too.

        Returns:
            True if the invalidation was carried out, False if it waits for the store's return, or
            the cache is switched off.

        Raises:
            StoreError: The store refused the invalidation; old responses may still be served.
            ConfigurationError: The function has plain values on a server, which are still served,
                or no entries by this argument.
        """
        ...


class CachedEndpoint(Cached, Protocol[P, R_co]):
    """A decorated function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R_co]: ...

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: CachedEndpoint[Concatenate[S, Q], R], instance: S, owner: type, /
    ) -> Callable[Q, Awaitable[R]]: ...


class CachedGenerator(Cached, Protocol[P, R_co]):
    """A decorated generator function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[R_co, None]: ...

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: CachedGenerator[Concatenate[S, Q], R], instance: S, owner: type, /
    ) -> Callable[Q, AsyncGenerator[R, None]]: ...
