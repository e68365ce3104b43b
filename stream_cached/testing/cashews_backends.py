"""Memory in the place of the backends that are set up in caches of cashews."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from cashews.backends.interface import Backend
from cashews.backends.memory import Memory
from cashews.wrapper.wrapper import Wrapper

from stream_cached.cashews.stores import CashewsMemory, Raw

#: The attribute of a backend that says, in each context, which commands are disabled.
_DISABLED = "_ControlMixin__disable"

_SIZE = 100_000


class _Maker(Wrapper):
    """Makes backends, and uses none."""

    def _add_backend(self, *args: Any, **kwargs: Any) -> None:
        return


class _Twins(dict[str, Backend]):
    """The backends of one cache by their prefixes: for each, memory that stands for it."""

    def __init__(self, backends: dict[str, Backend]) -> None:
        super().__init__({prefix: _twin(each) for prefix, each in backends.items()})
        self._backends = backends

    def __setitem__(self, prefix: str, backend: Backend) -> None:
        # What a test sets up is there after it, too, as without the plugin.
        self._backends[prefix] = backend
        super().__setitem__(prefix, _twin(backend))


def _twin(backend: Backend) -> Backend:
    twin = _Maker().setup("mem://", size=_SIZE, check_interval=0)
    # Its middlewares are found by this.
    twin._id = backend._id
    if hasattr(backend, _DISABLED):
        setattr(twin, _DISABLED, getattr(backend, _DISABLED))
        twin._control_set = backend._control_set
    return twin


class CashewsBackends:
    """What stands for the backends of all caches in one test."""

    def __init__(self, patch: pytest.MonkeyPatch, clock: Callable[[], float]) -> None:
        self._twins = WeakKeyDictionary[Wrapper, _Twins]()
        # As a property of the class, it comes before the attribute of each instance.
        patch.setattr(Wrapper, "_backends", property(self._of, _set), raising=False)
        defaults: Any = CashewsMemory.__init__.__kwdefaults__
        patch.setitem(defaults, "clock", clock)

    def forget(self) -> None:
        """Begin with nothing stored."""
        self._twins.clear()

    def values(self) -> Iterator[object]:
        """Yield what is stored for streams."""
        for twins in list(self._twins.values()):
            for backend in list(twins.values()):
                assert isinstance(backend, Memory)
                for _, value in list(backend.store.values()):
                    if isinstance(value, Raw):
                        yield value.value

    def _of(self, wrapper: Wrapper) -> _Twins:
        twins = self._twins.get(wrapper)
        if twins is None:
            twins = self._twins[wrapper] = _Twins(vars(wrapper)["_backends"])
        return twins


def _set(wrapper: Wrapper, backends: dict[str, Backend]) -> None:
    vars(wrapper)["_backends"] = backends
