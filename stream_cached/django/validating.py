"""The function that says whether the answer of a view would still be the same."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from stream_cached.django.requests import find_request
from stream_cached.endpoint.validator import Validator


class ViewValidator(Validator):
    """The validator of a view. It runs where the view would."""

    async def value(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], request: Any
    ) -> str | None:
        """Return what it says of a call. It raises what the function raises."""
        function, own = self._function, args[find_request(tuple(args)) or 0 :]
        here = copy.copy(self)
        if not inspect.iscoroutinefunction(function):
            # It may ask the database.
            here._function = lambda *a, **k: request.place.call(
                functools.partial(function, *a, **k)
            )
        return await Validator.value(here, own, kwargs, request.django)
