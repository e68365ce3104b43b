"""aiocache views of the backends of a cashews cache."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from aiocache.serializers import BaseSerializer
from cashews import Cache, Command, validation
from cashews.backends.interface import Backend
from cashews.backends.memory import Memory
from cashews.serialize import HashSigner
from cashews.wrapper import disable_control
from cashews.wrapper.auto_init import create_auto_init
from cashews.wrapper.wrapper import Wrapper

from stream_cached.backends.resolve import with_settings
from stream_cached.errors import ConfigurationError, StoreError

_AUTO_INIT = create_auto_init().__qualname__  # type: ignore[attr-defined]

#: The views with connections, one per backend.
_views: weakref.WeakKeyDictionary[Backend, Any] = weakref.WeakKeyDictionary()


def backend_of(cache: Cache, key: str) -> Backend:
    """Return the backend that is set up for a key, without any transaction."""
    return Wrapper._get_backend(cache, key)


def view_of(cache: Cache, backend: Backend, prefix: str, plugins: Sequence[Any]) -> Any:
    """Return an aiocache cache over a backend; its keys pass cashews' middlewares."""
    key_builder = partial(_native_key, cache, weakref.ref(backend))
    settings: dict[str, Any] = {"namespace": prefix, "plugins": plugins}
    if not isinstance(backend, Memory):
        settings["serializer"] = _Pickled(backend)
    return _view(backend, key_builder, settings)


def raw_view_of(backend: Backend) -> Any:
    """Return an aiocache cache over a backend, whose keys are the backend's keys."""
    return _view(backend, _same_key, {})


def _view(backend: Backend, key_builder: Callable[..., str], settings: dict[str, Any]) -> Any:
    if isinstance(backend, Memory):
        from stream_cached.cashews.stores import CashewsMemory

        return CashewsMemory(backend, key_builder=key_builder, **settings)
    kind = f"{type(backend).__module__}.{type(backend).__qualname__}"
    if kind.startswith("cashews.backends.redis."):
        # Imported here, because the client libraries of both backends are optional.
        from stream_cached.cashews.redis import redis_view

        if backend not in _views:
            _views[backend] = redis_view(backend)
        return with_settings(_views[backend], {**settings, "build_key": key_builder})
    if kind.startswith("cashews.backends.diskcache."):
        from stream_cached.cashews.stores import CashewsDisk

        disk: Any = backend
        return CashewsDisk(disk, key_builder=key_builder, **settings)
    raise ConfigurationError(
        f"a backend of the type {kind} can't store streams: set up mem://, redis:// or disk:// "
        "for the prefix of these keys"
    )


def _same_key(key: str, namespace: str | None = None) -> str:
    return key


def secrets_of(backend: Backend) -> list[bytes]:
    """Return the secret with which cashews signs the backend's values, if any."""
    signer: Any = None if backend.serializer is None else backend.serializer._signer
    return [signer._secret] if isinstance(signer, HashSigner) else []


class _Pickled(BaseSerializer):  # type: ignore[misc]
    """Pickles plain values with cashews' pickler, without its signature."""

    DEFAULT_ENCODING = None

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        pickler: Any = None if backend.serializer is None else backend.serializer._pickler
        self.dumps, self.loads = pickler.dumps, pickler.loads


def _native_key(
    cache: Cache, reference: weakref.ref[Backend], key: str, namespace: str | None = None
) -> str:
    """Return the backend's key after the middlewares and the backend's own prefix."""
    backend = reference()
    assert backend is not None
    if namespace:
        key = f"{namespace}:{key}"
    call = through_middlewares(cache, backend, Command.EXISTS, _given_key)
    native = key if call is _given_key else _result_of(call(key=key))
    prefix = getattr(backend, "_prefix", "")
    return f"{prefix}{native}"


async def _given_key(key: str) -> str:
    """Return the key that the last middleware passes on."""
    return key


def through_middlewares(
    cache: Cache, backend: Backend, command: Command, call: Callable[..., Any]
) -> Callable[..., Any]:
    """Return the call wrapped in the application's middlewares."""
    for middleware in (*cache._default_middlewares, *cache._middlewares.get(backend._id, ())):
        if not _is_cashews_own(cache, middleware):
            call = partial(middleware, call, command, backend)
    return call


def _is_cashews_own(cache: Cache, middleware: Any) -> bool:
    """Whether a middleware is one of cashews' own, which do not change keys."""
    own = (validation._invalidate_middleware, disable_control._is_disable_middleware)
    is_auto_init = getattr(middleware, "__qualname__", "") == _AUTO_INIT
    return middleware in own or middleware is cache.callbacks or is_auto_init


def _result_of(coroutine: Coroutine[Any, Any, Any]) -> str:
    try:
        coroutine.send(None)
    except StopIteration as done:
        if isinstance(done.value, str):
            return done.value
        raise StoreError("a middleware of the cache does not pass on every key") from None
    coroutine.close()
    raise StoreError("a middleware of the cache awaits something before it passes on a key")
