"""What the cashews decorator adds to the engine: templates, tags, conditions and switches."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from aiocache.plugins import BasePlugin
from cashews import Cache, Command, context_cache_detect
from cashews._typing import TTL, CacheCondition, Tags
from cashews.backends.interface import Backend as CashewsBackend
from cashews.cache_condition import get_cache_condition
from cashews.exceptions import WrongKeyError
from cashews.key import get_cache_key, get_cache_key_template
from cashews.validation import _INVALIDATE_FURTHER
from cashews.wrapper.transaction import _transaction

from stream_cached.backends.binding import Backend, Binding
from stream_cached.cashews.stores import Raw
from stream_cached.cashews.tags import TagSets, TagStore, delete_versions
from stream_cached.cashews.ttls import takes_result, ttl_in_seconds
from stream_cached.cashews.views import backend_of, secrets_of, view_of
from stream_cached.decorated.hooks import AiocacheHooks
from stream_cached.endpoint.tags import ResponseTags, texts_of
from stream_cached.engine.outcome import Call, PlainValue
from stream_cached.engine.storable import told_by_answers
from stream_cached.engine.values import Use
from stream_cached.entries.lifetimes import Lifetimes
from stream_cached.entries.resource import KeySets, Resource
from stream_cached.errors import ConfigurationError
from stream_cached.events import Reporter
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.names import tag_key
from stream_cached.responses.replayed import ReplayResponse

if TYPE_CHECKING:
    from stream_cached.cashews.decorator import stream_cached

#: The default of `cache.get`; a stored None is another value.
_MISSING = object()

#: The ttl and the tags of the plain value that the running call stores.
_value_terms: ContextVar[tuple[float | None, list[str], ResponseTags | None]] = ContextVar(
    "stream_cached_value_terms"
)


class CashewsHooks(AiocacheHooks):
    """The cache of cashews, with its templates, tags, conditions and switches."""

    def __init__(
        self,
        decorator: stream_cached,
        cache: Cache,
        ttl: TTL,
        *,
        key: str | None,
        tags: Tags | Callable[..., Iterable[str]],
        condition: CacheCondition,
        prefix: str,
    ) -> None:
        super().__init__(decorator, {})
        self.cashews = cache
        self.key_template = key
        self.backend: CashewsBackend | None = None
        self._ttl_of: Any = ttl if callable(ttl) and not isinstance(ttl, type) else None
        self._ttl_takes_result = self._ttl_of is not None and takes_result(ttl)
        self._tag_function = tags if callable(tags) else None
        self._tag_templates = () if callable(tags) else tuple(tags)
        self._has_tags = callable(tags) or bool(tags)
        self._condition = get_cache_condition(condition)
        self._tag_store = TagStore(cache)
        self._prefix = prefix
        self._templates: dict[int, str] = {}
        self._route = ""
        self._reporter: Reporter | None = None

    # -- decoration -------------------------------------------------------------------------

    def for_function(self, function: Callable[..., Any]) -> AiocacheHooks:
        """Check the templates for a function, and register its tags with cashews."""
        if self.key_template is None:
            # The keys of a function without a template begin with its module.
            self._route = getattr(function, "__module__", "")
        else:
            template = self._template(function, self.key_template)
            self._templates[id(function)] = template
            self._route = template.partition("{")[0]
            self._register_tags(template)
        if self._has_tags:
            has_function = self._tag_function is not None
            delete_versions(self.cashews, self.full(self._route), of_responses=has_function)
        return super().for_function(function)

    def _template(self, function: Callable[..., Any], key: str) -> str:
        try:
            template = get_cache_key_template(function, key=key)
            for tag in self._tag_templates:
                get_cache_key_template(function, key=tag)
        except WrongKeyError as exc:
            raise ConfigurationError(
                f"key={key!r}, tags={self._tag_templates!r}: {exc}; use parameters of the function"
            ) from exc
        return template

    def _register_tags(self, template: str) -> None:
        try:
            for tag in self._tag_templates:
                self.cashews.register_tag(tag, self.full(template))
        except re.error as exc:
            raise ConfigurationError(
                f"key={self.key_template!r}: tags require a pattern, and cashews can't make one of "
                "this template: use parameters and their attributes, without brackets"
            ) from exc

    def template_of(self, function: Callable[..., Any]) -> str | None:
        """Return the key template of a function, None if it has none."""
        return self._templates.get(id(function))

    def full(self, key: str) -> str:
        """Return a key as cashews knows it."""
        return f"{self._prefix}:{key}" if self._prefix else key

    # -- the cache --------------------------------------------------------------------------

    @property
    def keys_by_request(self) -> bool:
        """Whether the key is built from the request, and not from a template."""
        return self.key_template is None

    @property
    def namespace(self) -> str | None:
        """By what the user says which functions have keys in common; None if nothing is said."""
        return self._prefix or None

    @property
    def has_own_values(self) -> bool:
        """Whether plain values are stored elsewhere, too."""
        return False

    def bind_early(self, reporter: Reporter) -> None:
        """Leave the cache open at decoration: it may be set up later, and set up again."""
        self._reporter = reporter

    def binding(self) -> Binding:
        """Return the cache that is used now."""
        backend = backend_of(self.cashews, self.full(self._route))
        if self._binding is not None and self.backend is backend:
            return super().binding()
        self.backend = backend
        self._warn_of_other_backends()
        return self.bind(view_of(self.cashews, backend, self._prefix, [_HitReporter(self)]))

    def _warn_of_other_backends(self) -> None:
        """Warn if cashews may look for some of the keys in another backend."""
        route = self.full(self._route)
        others = [
            prefix
            for prefix in self.cashews._backends
            if prefix.startswith(route) and prefix not in (route, self.cashews._tags_key_prefix)
        ]
        if self._templates and others and self._reporter is not None:
            self._reporter.warn(
                f"its keys begin with {route!r}, and cashews has other backends for {others}: all "
                "entries are stored in one backend; let the key begin with that backend's prefix"
            )

    def secrets(self) -> tuple[bytes, ...]:
        """Return the secrets that sign entries in the store."""
        own = super().secrets()
        return own if own or self.backend is None else tuple(secrets_of(self.backend))

    def signs_values(self, backend: Backend) -> bool:
        """Whether plain values are stored in signed records; cashews signs with its own secret."""
        return backend.signs and bool(super().secrets())

    def is_switched_off(self) -> bool:
        """Whether the cache is neither read nor written now."""
        return self.is_disabled(Command.GET) and self.is_disabled(Command.SET)

    def is_invalidation_off(self) -> bool:
        """Return False, because other processes may still use the cache."""
        return False

    def is_disabled(self, command: Command) -> bool:
        """Whether cashews has disabled a command."""
        return bool(backend_of(self.cashews, self.full(self._route)).is_disable(command))

    # -- one call ---------------------------------------------------------------------------

    @property
    def deciding(self) -> str:
        """What the user has to say whether a result is to be stored."""
        return "ttl=, tags=, condition= or skip_cache_func="

    prepares = True

    async def prepare(self, call: Call, resource: Resource) -> None:
        """Revoke a resource under `invalidate_further`, so that current runs are not stored."""
        if _INVALIDATE_FURTHER.get():
            await resource.revoke()

    def tag_key(self, tag: str) -> str:
        """Return the key of a tag's version, in the backend of the entries."""
        return tag_key(self._route, tag)

    def versions(self, call: Call) -> Sequence[str]:
        """Return the keys of the versions of the call's tags, if these are templates."""
        return [] if self._tag_function else [self.tag_key(tag) for tag in self.tags(call)]

    def adapt_lifetimes(self, call: Call, lifetimes: Lifetimes) -> Lifetimes:
        """Let the version of a tag outlive entries with other ttls."""
        if self._ttl_of is not None:
            return told_by_answers(call.service, lifetimes)
        has_ttl = self._has_tags and lifetimes.ttl is not None
        return dataclasses.replace(lifetimes, differ=True) if has_ttl else lifetimes

    def key_sets(self, call: Call, backend: Backend) -> KeySets | None:
        """Return the sets of the call's tags."""
        return TagSets(self, call) if self._has_tags and not backend.is_fallback else None

    def tags(self, call: Call) -> list[str]:
        """Return the tags of a call that its arguments tell."""
        execution = call.execution
        function, args, kwargs = execution.function, execution.args, dict(execution.kwargs)
        if call.tags_of is not None:
            return []
        try:
            if self._tag_function is not None:
                return texts_of(self._tag_function(*args, **kwargs))
            return [get_cache_key(function, tag, args, kwargs) for tag in self._tag_templates]
        # A template reads attributes of the arguments, whose classes may raise anything.
        except Exception as exc:
            subject = f"tags= raised {type(exc).__name__}"
            raise BypassError(Finding(NotCached.FUNCTION, subject)) from exc

    def accepts(self, call: Call, resource: Resource, result: Any) -> bool:
        """Whether a result is to be stored. A ttl that depends on the result is set here."""
        args, kwargs = call.execution.args, dict(call.execution.kwargs)
        if self._ttl_of is not None:
            named = {"result": result} if self._ttl_takes_result else {}
            try:
                resource.set_ttl(ttl_in_seconds(self._ttl_of(*args, **{**named, **kwargs})))
            except ConfigurationError as exc:
                call.service.reporter.warn(f"a response is not stored: {exc}")
                return False
        _value_terms.set((resource.lifetimes.ttl, self.tags(call), call.tags_of))
        stores = self._condition(result, args, kwargs, key=self.full(call.key))
        # A condition may return an exception class. The function may disable SET while it runs.
        is_wanted = isinstance(stores, bool) and stores and not self.is_disabled(Command.SET)
        return is_wanted and super().accepts(call, resource, result)

    async def tag(self, tag: str, keys: Sequence[str], seconds: float | None) -> None:
        """Add keys to a tag, so that `cache.delete_tags` deletes them."""
        await self._tag_store.add(tag, keys, seconds, self.backend)

    def tag_version(self, tag: str) -> str:
        """Return the key of a tag's version, as cashews knows it."""
        return self.full(self.tag_key(tag))

    def detected(self, key: str, value: Any) -> None:
        """Tell `cache.detect` of a hit."""
        full, template = self.full(key), self.full(self.key_template or key)
        context_cache_detect._set(  # type: ignore[attr-defined]
            full, ttl=self.ttl(), name="stream_cached", template=template, value=value
        )

    # -- plain values -----------------------------------------------------------------------

    def keeps_objects(self, use: Use) -> bool:
        """Whether the memory stands in for cashews, which decides itself what it can store."""
        return use.backend.is_fallback and use.keeps_objects

    async def load_value(self, use: Use, key: str) -> PlainValue | None:
        """Return a plain value by `cache.get`; None if there is none."""
        if use.backend.is_fallback:
            value = await use.get(key)
            return None if value is None else PlainValue(value)
        try:
            with _outside_transaction():
                value = await self.cashews.get(self.full(key), default=_MISSING)
        # Backends, picklers and middlewares raise errors of any kind; each means a miss.
        except Exception as exc:
            use.unreadable(exc)
            return None
        if value is _MISSING or isinstance(value, Raw):
            return None
        # `cache.get` has called the callbacks itself.
        self.detected(key, value)
        return PlainValue(value)

    async def save_value(self, use: Use, key: str, value: Any) -> None:
        """Store a plain value by `cache.set`."""
        if use.backend.is_fallback:
            await use.set(key, value, self.ttl())
            return
        ttl, tags, tags_of = _value_terms.get()
        full = self.full(key)
        try:
            for tag in tags if tags_of is None else tags_of.named:
                await self.tag(tag, [full], ttl)
            with _outside_transaction():
                await self.cashews.set(full, value, expire=ttl)
            use.invalidated_before.was_set(key)
        # The caller receives a value that could not be stored, too.
        except Exception as exc:
            use.unwritable(exc, value)


class _HitReporter(BasePlugin):  # type: ignore[misc]
    """Reports hits to cashews' detectors and callbacks."""

    def __init__(self, hooks: CashewsHooks) -> None:
        self._hooks = hooks

    async def post_get(
        self, cache: Any, key: str, took: float = 0.0, ret: Any = None, **kwargs: Any
    ) -> None:
        """Report a hit; aiocache calls this after each look-up."""
        if ret is None:
            return
        hooks = self._hooks
        # `CacheEtagMiddleware` makes an ETag of this value. The body of a stream is not in memory.
        hooks.detected(key, ret.generation if isinstance(ret, ReplayResponse) else ret)
        cashews, backend = hooks.cashews, hooks.backend
        assert backend is not None
        for callback in tuple(cashews.callbacks._callbacks.values()):
            await callback(Command.GET, key=hooks.full(key), result=ret, backend=backend)


@contextmanager
def _outside_transaction() -> Iterator[None]:
    """Bypass an open transaction of the application, so that calls take effect at once."""
    token = _transaction.set(None)
    try:
        yield
    finally:
        _transaction.reset(token)
