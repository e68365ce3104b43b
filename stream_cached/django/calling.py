"""How a view is called, and the functions of its options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from stream_cached.django.execution import Place
from stream_cached.options import Options

T = TypeVar("T")


def signature_of(view: Callable[..., Any], place: int) -> inspect.Signature:
    """Return the signature of a view from its request on, which is at this place."""
    if isinstance(view, functools.partial) and not (view.args or view.keywords):
        # What `method_decorator` makes of a bound method.
        view = view.func
    try:
        signature = inspect.signature(view)
    except (TypeError, ValueError):
        signature = inspect.signature(lambda request, *args, **kwargs: None)
    parameters = list(signature.parameters.values())
    return signature.replace(parameters=parameters[place:])


def for_django(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function of a connection that gives Django's request to another one."""
    return lambda connection: function(connection.django)


def has_functions(options: Options) -> bool:
    """Whether options have functions of the request, which may read its user or the database."""
    given = (options.tags, options.refresh, options.honor_request)
    if options.key_args or any(map(callable, given)):
        return True
    # A tag may have an attribute: "{request.user.pk}".
    return not callable(options.tags) and any("." in tag or "[" in tag for tag in options.tags)


async def called(function: Callable[[], T], place: Place, *, in_thread: bool) -> T:
    """Call a function, in the thread of the request if it may wait for something."""
    if in_thread:
        found: T = await place.call(function)
        return found
    return function()
