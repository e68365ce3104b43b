"""The function of a call's arguments that tells whether its answer would still be the same."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from stream_cached.checks import require
from stream_cached.endpoint.signatures import signature_of
from stream_cached.http.validators import Said, opaque_of

#: The option `validator`.
Validates = Callable[..., Awaitable[Said] | Said]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Validator:
    """
    The validator of one function.

    It takes the arguments of the function, or some of them by their names, and the request as
    `request`.

    Args:
        function: The function that `validator=` is.
        declared: The signature of the decorated function.
        name: The name of the decorated function.

    Raises:
        ConfigurationError: It has a parameter that no argument is for.
    """

    def __init__(self, function: Validates, declared: inspect.Signature, name: str) -> None:
        self._function = function
        self._declared = declared
        self._signature = signature_of(function)
        self._taken = {
            parameter.name
            for parameter in self._signature.parameters.values()
            if parameter.kind not in (*_VARIADIC, inspect.Parameter.POSITIONAL_ONLY)
        }
        own = declared.parameters
        is_open = any(each.kind in _VARIADIC for each in own.values())
        unknown = sorted(
            each.name
            for each in self._signature.parameters.values()
            if each.kind not in _VARIADIC
            and each.default is each.empty
            and each.name not in {*own, "request"}
        )
        listed = ", ".join(own) or "nothing"
        require(
            not unknown or is_open or self._binds([None] * len(own), {}),
            f"validator= takes {', '.join(unknown)}, but {name} takes {listed}",
        )

    def _binds(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError:
            return False
        return True

    async def value(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], request: Any
    ) -> str | None:
        """Return what it says of a call. It raises what the function raises."""
        if not self._binds(args, kwargs):
            bound = self._declared.bind(*args, **kwargs)
            bound.apply_defaults()
            values = {"request": request, **bound.arguments}
            args, kwargs = (), {name: values[name] for name in values if name in self._taken}
        said = self._function(*args, **kwargs)
        return opaque_of(await said if inspect.isawaitable(said) else said)
