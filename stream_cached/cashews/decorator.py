"""The front door for cashews: its words, and the engine underneath."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from aiocache.plugins import BasePlugin
from cashews import Cache, Command, context_cache_detect
from cashews._typing import TTL, CacheCondition, Tags
from cashews.backends.interface import Backend as CashewsBackend
from cashews.cache_condition import get_cache_condition
from cashews.exceptions import WrongKeyError
from cashews.key import get_cache_key, get_cache_key_template
from cashews.ttl import ttl_to_seconds
from cashews.validation import _INVALIDATE_FURTHER
from cashews.wrapper.transaction import _transaction

from stream_cached import decorator
from stream_cached.backends.binding import Backend, Binding
from stream_cached.cashews import tags as tags_of
from stream_cached.cashews.stores import Raw
from stream_cached.cashews.views import backend_of, secrets_of, view_of
from stream_cached.checks import require, require_ttl
from stream_cached.decorator import Asked
from stream_cached.engine.collapse import Opened
from stream_cached.engine.values import Use, current_use
from stream_cached.entries.resource import Resource
from stream_cached.errors import ConfigurationError
from stream_cached.keys.names import is_segment_key, tag_key
from stream_cached.responses.live import ReplayResponse

#: What stands for a value that cashews does not have.
_MISSING = object()

#: For how long, and with which tags, the running call stores a plain value.
_settled: ContextVar[tuple[float | None, list[str]]] = ContextVar("stream_cached_settled")

#: What cashews' own decorators take, and this one sees to by itself.
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
        self._makes_ttl = callable(ttl) and not isinstance(ttl, type)
        super().__init__(
            ttl=None if self._makes_ttl else _seconds(ttl), cache="memory://", **options
        )
        self._cashews = cache
        self._ttl_of = ttl
        self._ttl_takes_result = self._makes_ttl and _takes_result(ttl)
        self._key_template = key
        self._tag_templates = tuple(tags)
        self._condition = get_cache_condition(condition)
        self._tags_of_cache = tags_of.Tags(cache)
        self._prefix = prefix
        self._templates: dict[int, str] = {}
        self._route = ""
        self._backend: CashewsBackend | None = None

    def __call__(self, f: Callable[..., Any]) -> Any:
        if self._key_template is None:
            # Those of its keys begin with its name.
            self._route = getattr(f, "__module__", "")
        else:
            try:
                template = get_cache_key_template(f, key=self._key_template)
                for tag in self._tag_templates:
                    get_cache_key_template(f, key=tag)
            except WrongKeyError as exc:
                raise ConfigurationError(
                    f"key={self._key_template!r}, tags={self._tag_templates!r}: {exc}; name "
                    "parameters of the function"
                ) from exc
            self._templates[id(f)] = template
            self._route = template.partition("{")[0]
            try:
                for tag in self._tag_templates:
                    self._cashews.register_tag(tag, self._full(template))
            except re.error as exc:
                raise ConfigurationError(
                    f"key={self._key_template!r}: cashews makes no pattern of it, which tags need: "
                    "name parameters and their attributes, without brackets"
                ) from exc
        if self._tag_templates:
            tags_of.delete_versions(self._cashews, self._full(self._route))
        return super().__call__(f)

    # -- the cache --------------------------------------------------------------------------

    def _bind_early(self, reporter: Any) -> None:
        """It may be set up later, and anew."""

    def _bound(self) -> Binding:
        backend = backend_of(self._cashews, self._full(self._route))
        if self._binding is None or backend is not self._backend:
            self._backend = backend
            self._tell_of_routes()
            return self._bind(view_of(self._cashews, backend, self._prefix, [_Watcher(self)]))
        return self._binding

    def _tell_of_routes(self) -> None:
        """Say that keys which begin alike are not all where cashews looks for them."""
        route = self._full(self._route)
        others = [
            prefix
            for prefix in self._cashews._backends
            if prefix.startswith(route) and prefix not in (route, self._cashews._tags_key_prefix)
        ]
        if self._templates and others:
            self._any_function.reporter.warn(
                f"its keys begin with {route!r}, and there are other backends for {others}: all of "
                "its entries are in one; let the key begin with the prefix of one backend"
            )

    def _is_switched_off(self) -> bool:
        return self._is_disabled(Command.GET) and self._is_disabled(Command.SET)

    def _secrets(self) -> Sequence[bytes]:
        if self._options.secrets or self._backend is None:
            return self._options.secrets
        return secrets_of(self._backend)

    def _signs_values(self, use: Use) -> bool:
        # With a secret of its own, cashews does.
        return use.backend.signs and bool(self._options.secrets)

    def _invalidates_nothing(self) -> bool:
        # Others may use it though it is disabled here.
        return False

    def _is_disabled(self, command: Command) -> bool:
        return bool(backend_of(self._cashews, self._full(self._route)).is_disable(command))

    def _full(self, key: str) -> str:
        """Return a key as cashews knows it."""
        return f"{self._prefix}:{key}" if self._prefix else key

    # -- one call ---------------------------------------------------------------------------

    async def decorator(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Answer one call of `f`: from the cache, or by running it and recording its answer."""
        if _INVALIDATE_FURTHER.get() or self._is_disabled(Command.GET):
            kwargs["cache_read"] = False
        if self._is_disabled(Command.SET):
            kwargs["cache_write"] = False
        return await super().decorator(f, *args, **kwargs)

    async def _open_in(self, use: Use, asked: Asked, read: bool, write: bool) -> Opened:
        if _INVALIDATE_FURTHER.get():
            with use.deadline:
                # Also what is being made now is not asked for any more.
                await self._resource(asked, use.backend).revoke()
        return await super()._open_in(use, asked, read, write)

    def _resource(self, asked: Asked, backend: Backend) -> Resource:
        names = self._tags(asked)
        versions = [tag_key(self._route, name) for name in names]
        resource = asked.engine.resource(
            backend.store, asked.key, asked.incoming, self._ttl(), versions
        )
        if self._makes_ttl or (names and self.ttl is not None):
            # Others may bear a tag, too.
            resource.lifetimes = dataclasses.replace(resource.lifetimes, differ=True)
        if names and not backend.is_fallback:
            shared = {asked.engine.version, *versions}
            resource.enlist = partial(self._enlist, resource, shared, names)
        return resource

    async def _enlist(
        self, resource: Resource, shared: set[str], tags: Sequence[str], keys: Sequence[str]
    ) -> None:
        """Let `cache.delete_tags` delete these keys, except those of other tags."""
        # Segments of which nothing tells any more expire: a set would only grow by them.
        expires = resource.lifetimes.ttl is not None
        own = [
            self._full(key)
            for key in keys
            if key not in shared and not (expires and is_segment_key(key))
        ]
        for tag in tags:
            members = [self._full(tag_key(self._route, tag)), *own]
            await self._tag(tag, members, resource.lifetimes.versions)

    async def _tag(self, tag: str, keys: Sequence[str], seconds: float | None) -> None:
        await self._tags_of_cache.add(tag, keys, seconds, self._backend)

    def _is_wanted(self, asked: Asked, resource: Resource, result: Any) -> bool:
        ttl = resource.lifetimes.ttl
        if self._makes_ttl:
            named = {"result": result} if self._ttl_takes_result else {}
            make: Any = self._ttl_of
            made = make(*asked.args, **{**named, **asked.kwargs})
            try:
                ttl = _seconds(made)
            except ConfigurationError as exc:
                self._functions[id(asked.function)].reporter.warn(f"it is not stored: {exc}")
                return False
            resource.lifetimes = dataclasses.replace(resource.lifetimes, ttl=ttl)
        _settled.set((ttl, self._tags(asked)))
        stores = self._condition(result, asked.args, asked.kwargs, key=self._full(asked.key))
        # Other answers are for exceptions.
        is_wanted = isinstance(stores, bool) and stores
        # By now the function itself may have switched it off.
        is_wanted = is_wanted and not self._is_disabled(Command.SET)
        return is_wanted and super()._is_wanted(asked, resource, result)

    def _tags(self, asked: Asked) -> list[str]:
        function, args, kwargs = asked.function, asked.args, asked.kwargs
        return [get_cache_key(function, tag, args, kwargs) for tag in self._tag_templates]

    # -- the key ----------------------------------------------------------------------------

    def _keys_by_request(self) -> bool:
        return self._key_template is None

    def get_cache_key(
        self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        """Return the key of a call, as cashews does where there is a template."""
        template = self._templates.get(id(f))
        if template is None:
            return super().get_cache_key(f, args, kwargs)
        return get_cache_key(f, template, args, kwargs)

    # -- plain values -----------------------------------------------------------------------

    @property
    def _has_own_values(self) -> bool:
        return False

    async def get_from_cache(self, key: str) -> Any:
        """Return a plain value by `cache.get`; None where there is none."""
        use = current_use() or await self._use(self._any_function)
        if use.backend.is_fallback:
            return await use.get(key)
        try:
            with _outside_transaction():
                value = await self._cashews.get(self._full(key), default=_MISSING)
        # Whatever a backend, a pickler or a middleware raises is a miss.
        except Exception as exc:
            use.unreadable(exc)
            return None
        return None if value is _MISSING or isinstance(value, Raw) else value

    async def set_in_cache(self, key: str, value: Any) -> None:
        """Store a plain value by `cache.set`."""
        use = current_use() or await self._use(self._any_function)
        if use.backend.is_fallback:
            await use.set(key, value, self._ttl())
            return
        ttl, tags = _settled.get()
        full = self._full(key)
        try:
            for tag in tags:
                await self._tag(tag, [full], ttl)
            with _outside_transaction():
                await self._cashews.set(full, value, expire=ttl)
        # The caller gets its value all the same.
        except Exception as exc:
            use.unwritable(exc)


class _Watcher(BasePlugin):  # type: ignore[misc]
    """Tells cashews' detectors and callbacks of hits."""

    def __init__(self, decorator: stream_cached) -> None:
        self._decorator = decorator

    async def post_get(
        self, cache: Any, key: str, took: float = 0.0, ret: Any = None, **kwargs: Any
    ) -> None:
        """Called after a look-up."""
        if ret is None:
            return
        cached = self._decorator
        full, template = cached._full(key), cached._full(cached._key_template or key)
        # `CacheEtagMiddleware` makes an ETag of it: a stream has no body at hand.
        value = ret.generation if isinstance(ret, ReplayResponse) else ret
        context_cache_detect._set(  # type: ignore[attr-defined]
            full, ttl=cached._ttl(), name="stream_cached", template=template, value=value
        )
        cashews, backend = cached._cashews, cached._backend
        assert backend is not None
        for callback in tuple(cashews.callbacks._callbacks.values()):
            await callback(Command.GET, key=full, result=ret, backend=backend)


@contextmanager
def _outside_transaction() -> Iterator[None]:
    """Do at once what is done, whatever transaction of the application is open."""
    token = _transaction.set(None)
    try:
        yield
    finally:
        _transaction.reset(token)


def _takes_result(ttl: Any) -> bool:
    parameters = inspect.signature(ttl).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    return "result" in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def _seconds(ttl: TTL) -> float | None:
    try:
        seconds = ttl_to_seconds(ttl)
    except ValueError as exc:
        raise ConfigurationError(
            f'ttl={ttl!r}: pass seconds, a timedelta, or a text such as "1h30m"'
        ) from exc
    return require_ttl(seconds)
