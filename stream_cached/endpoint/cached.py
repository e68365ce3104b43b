"""What a decorated function is, for type checkers and readers."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class CachedEndpoint(Protocol[P, R_co]):
    """What a decorated function is."""

    cache: Any
    """The aiocache cache; None as long as its alias is not configured."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R_co]: ...

    async def cache_key(self, *args: Any, **kwargs: Any) -> str:
        """
        Return the key that a call with these arguments uses.

        Args:
            args: The positional arguments.
            kwargs: The keyword arguments. A function without a parameter for its request takes it
                as `request=`.

        Raises:
            BypassError: The call is not for the cache; the message says why, and what to write.
        """
        ...

    async def invalidate(self, *, key: str | None = None) -> bool:
        """
        Let no response be served any more that was made, or began to be made, before.

        While the store is away this is kept, and carried out before this process uses the store
        again; other processes that still reach the store may serve the old response until then.

        Args:
            key: Only what is stored under this key, as `key` or `key_builder` gave it. Plain
                values, which are in aiocache's own format, are invalidated by their key only.

        Returns:
            Whether it is carried out; False where it is kept for the store's return.

        Raises:
            StoreError: The store does not take it; what it holds may still be served.
        """
        ...
