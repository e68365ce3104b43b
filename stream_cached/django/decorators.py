"""The decorator of a view."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, ParamSpec, TypeVar, cast

from aiocache.base import SENTINEL
from asgiref.sync import _restore_context, iscoroutinefunction, sync_to_async

from stream_cached.checks import require
from stream_cached.decorator import Ttl, stream_cached
from stream_cached.django.answering import respond
from stream_cached.django.beside import activate_language
from stream_cached.django.cached import CachedView
from stream_cached.django.calling import signature_of
from stream_cached.django.conf import caches
from stream_cached.django.entry import loop_for, loop_here, run_here
from stream_cached.django.execution import Place
from stream_cached.django.forms import Known
from stream_cached.django.guard import leave
from stream_cached.django.observed import note_user, plain_request
from stream_cached.django.requests import (
    DjangoConnection,
    connection_of,
    find_request,
    inner_request,
    is_of_server_loop,
)
from stream_cached.django.threads import inbox_here
from stream_cached.django.views import NO_USER, Settings, View
from stream_cached.endpoint.signatures import bare_function
from stream_cached.limits import LIMITS

P = ParamSpec("P")
R = TypeVar("R")

#: How many views are remembered: an application may make decorators without an end.
_MOST_VIEWS = 4096

#: Options of other doors, which have no meaning for a view.
_OF_OTHERS = frozenset(
    {
        *("alias", "cache", "fallback", "key", "key_builder", "kwargs", "namespace", "noself"),
        *("plugins", "request_key", "resume", "secret", "self", "serializer", "timeout", "values"),
    }
)

#: The names of `**options`.
_OPTIONS = frozenset({*inspect.signature(stream_cached.__init__).parameters, *LIMITS}) - _OF_OTHERS

#: Options that were checked, as something that can be hashed.
_checked: set[object] = set()

_views: dict[tuple[object, ...], View] = {}
_of_settings = 0


class cache_stream:  # noqa: N801
    """
    Cache what a view of Django answers, while it is streamed to its first client.

    Put it directly over the view, a function or a method, synchronous or not. Over a method of
    Django REST Framework such as `get`, authentication, permissions and throttles run on a hit,
    too. The view may return any response. The view gets `invalidate` and `ainvalidate`.

    ```python
    @cache_stream(60, vary=("Accept-Language",), tags=("report:{year}",))
    def export(request, year):
        return StreamingHttpResponse(rows(year), content_type="text/csv")


    export.invalidate(year=2024)
    ```

    Args:
        ttl: How long an entry is fresh once it is complete: seconds, a `timedelta`, a text such as
            `"10m"`, None for ever, or a function of the response. By default that of the cache.
        cache: The name of the cache in the setting `STREAM_CACHED`.
        vary: Request headers that select among responses. A mapping gives for each header a
            function that normalises its value, or None.
        tags: Tags by which entries are invalidated, with the arguments of the view in braces; or a
            function of the arguments, or of the response, that returns tags.
        query: The names of the query that are part of the key; by default all of it is.
        per_user: Whether each user has entries of its own: the key has `request.user.pk`.
        options: Other options of `stream_cached`: `key_args=`, `key_ignore=`, `unguarded=`,
            `methods=`, `statuses=`, `stale_while_revalidate=`, `max_body=` and so on. Functions are
            given the request and the response of Django.

    Raises:
        ConfigurationError: An option is unknown or has no valid value; the message says what to
            write.
    """

    def __init__(
        self,
        ttl: Ttl | Callable[[Any], Ttl] = SENTINEL,
        *,
        cache: str = "default",
        vary: Any = (),
        tags: Any = (),
        query: str | Collection[str] = "all",
        per_user: bool = False,
        **options: Any,
    ) -> None:
        require(
            isinstance(cache, str), f"cache={cache!r}: pass the name of a cache in the settings"
        )
        require(isinstance(per_user, bool), f"per_user={per_user!r}: pass True or False")
        names = None if query == "all" else query
        require(
            names is None or not isinstance(names, str),
            f'query={query!r}: pass "all", or the names that the view reads, query=("page",)',
        )
        given = options if ttl is SENTINEL else {"ttl": ttl, **options}
        self._settings = Settings(
            alias=cache,
            per_user=per_user,
            query=None if names is None else frozenset(names),
            options={**given, "vary": vary, "tags": tags},
        )
        self._frozen = _frozen(vars(self._settings))
        self._baseline = contextvars.copy_context()
        self.__name__ = "cache_stream"
        if self._frozen not in _checked:
            _check(self._settings.options)
            _checked.add(self._frozen)

    def __call__(self, view: Callable[P, R]) -> CachedView[P, R]:
        """Return the view that answers from the cache."""
        known = Known(view)
        if iscoroutinefunction(view):

            @functools.wraps(view)
            async def cached(*args: Any, **kwargs: Any) -> Any:
                return await self._answer_async(known, args, kwargs)

        else:

            @functools.wraps(view)
            def cached(*args: Any, **kwargs: Any) -> Any:
                return self._answer(known, args, kwargs)

        wrapper = cast(Any, cached)
        wrapper.invalidate = functools.partial(_invalidate, self, view)
        wrapper.ainvalidate = functools.partial(_ainvalidate, self, view)
        return cast(CachedView[P, R], cached)

    # -- one call ---------------------------------------------------------------------------

    def _answer(self, known: Known, args: tuple[Any, ...], kwargs: Any) -> Any:
        at = find_request(args)
        if at is None:
            return known.view(*args, **kwargs)
        connection = connection_of(args[at])
        user = self._user(connection.django)
        inbox, context = inbox_here(), contextvars.copy_context()
        for_server = is_of_server_loop(inner_request(connection.django))
        place = Place(inbox, context, for_server=for_server)
        answering = self._answered(known, at, args, kwargs, connection, place, user)
        return _left(place, run_here(answering, loop_for(for_server=for_server), inbox, context))

    async def _answer_async(self, known: Known, args: tuple[Any, ...], kwargs: Any) -> Any:
        at = find_request(args)
        if at is None:
            return await known.view(*args, **kwargs)
        if not is_of_server_loop(inner_request(args[at])):
            # The loop of this call ends with it.
            return await sync_to_async(self._answer)(known, args, kwargs)
        connection = connection_of(args[at])
        user = await self._user_async(connection.django)
        context = contextvars.copy_context()
        place = Place(None, context, for_server=True)
        answering = self._answered(known, at, args, kwargs, connection, place, user)
        task = asyncio.get_running_loop().create_task(answering, context=context)
        return _left(place, await task)

    async def _answered(
        self,
        known: Known,
        at: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        connection: DjangoConnection,
        place: Place,
        user: object,
    ) -> Any:
        state = self.state(known.view, at)
        connection.place = place
        call = await state.call(known, args, kwargs, connection, place, user)
        return await respond(call, place)

    def _user(self, request: Any) -> object:
        if not self._settings.per_user:
            return NO_USER
        note_user(request)
        return _pk(plain_request(request).user)

    async def _user_async(self, request: Any) -> object:
        if not self._settings.per_user:
            return NO_USER
        note_user(request)
        plain = plain_request(request)
        auser = getattr(plain, "auser", None)
        return _pk(plain.user if auser is None else await auser())

    def state(self, view: Callable[..., Any], at: int) -> View:
        """Return what is the same for all calls of a view."""
        global _of_settings
        function = bare_function(view)
        module = getattr(function, "__module__", type(function).__module__)
        name = f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"
        # Several views of one name may take other arguments.
        code, bound = getattr(function, "__code__", None), _bound(view)
        place = (name, at, self._frozen, code, bound)
        if _of_settings != caches.number or len(_views) >= _MOST_VIEWS:
            _views.clear()
            _of_settings = caches.number
        found = _views.get(place)
        if found is None:
            signature = signature_of(view, at)
            cache = caches[self._settings.alias]
            found = View(name, signature, cache, self._settings, self._baseline)
            _views[place] = found
        return found


def _left(place: Place, response: Any) -> Any:
    """Leave a call, with what its view has set for middleware to read. Return its response."""
    _restore_context(place.changed)
    activate_language(response)
    leave(place.call_identity)
    return response


def _bound(view: Any) -> tuple[object, ...]:
    """Return what tells the signature of a partial from that of its function."""
    if isinstance(view, functools.partial):
        return len(view.args), *view.keywords, *_bound(view.func)
    return (inspect.ismethod(view),)


def _check(options: Mapping[str, Any]) -> None:
    """Check options while the settings may not be there yet."""
    for name in options:
        require(
            name in _OPTIONS,
            f"unknown parameter {name!r}: the options of a view are query=, per_user= and "
            f"{', '.join(f'{each}=' for each in sorted(_OPTIONS))}",
        )
    stream_cached(cache="memory://", **options)
    if len(_checked) >= _MOST_VIEWS:
        _checked.clear()


def _pk(user: Any) -> object:
    """Return what tells a user from others; None if nothing does."""
    if user is None or getattr(user, "is_anonymous", False):
        return "anonymous"
    pk = getattr(user, "pk", None)
    cls = user.__class__
    return None if pk is None else [cls.__module__, cls.__qualname__, pk]


def _frozen(value: Any) -> Any:
    """Return something to find the same options by."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(name), _frozen(each)) for name, each in value.items()))
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value


#: What `method_decorator` decorates beside the method, to see which attributes that has.
_PLACEHOLDER = "_update_method_wrapper.<locals>.dummy"


def _known(decorator: cache_stream, view: Callable[..., Any]) -> View:
    name = getattr(view, "__qualname__", "")
    require(
        name != _PLACEHOLDER,
        "method_decorator does not tell which method it decorates: put @cache_stream directly over "
        "the method, or give it tags= and invalidate these",
    )
    owner = name.rpartition(".")[0]
    is_method = bool(owner) and not owner.endswith("<locals>")
    is_bound = isinstance(view, functools.partial) or inspect.ismethod(view)
    return decorator.state(view, int(is_method and not is_bound))


def _invalidate(decorator: cache_stream, view: Callable[..., Any], **arguments: Any) -> bool:
    state = _known(decorator, view)
    return run_here(state.invalidate(arguments), loop_here())


async def _ainvalidate(decorator: cache_stream, view: Callable[..., Any], **arguments: Any) -> bool:
    return await _known(decorator, view).invalidate(arguments)
