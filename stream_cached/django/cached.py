"""The public interface of a decorated view."""

from __future__ import annotations

from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")


class CachedView(Protocol[P, R_co]):
    """A view that answers from the cache."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Answer a request."""
        ...

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...

    @overload
    def __get__(
        self: CachedView[Concatenate[Any, Q], S], instance: object, owner: type | None = None
    ) -> CachedView[Q, S]: ...

    def invalidate(self, **arguments: Any) -> bool:
        """
        Invalidate the stored responses of the view, and its runs.

        Args:
            arguments: One argument, `year=2024`: only the entries of calls with this value. The
                decorator names the argument in `invalidate_by=`, or has a tag that consists of it,
                such as `"report:{year}"`.

        Returns:
            True if it was carried out, False if it waits for the store's return.

        Raises:
            StoreError: The store refused; old responses may still be served.
            ConfigurationError: It is not an argument by which entries can be invalidated.
        """
        ...

    async def ainvalidate(self, **arguments: Any) -> bool:
        """Do the same as `invalidate`."""
        ...
